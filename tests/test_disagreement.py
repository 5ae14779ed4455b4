import math

import pytest
import torch

from rlhf.errors import UserError
from rlhf.scoring import disagreement

LN3 = math.log(3)


def test_a_pair_counts_with_the_deviation_of_the_members_probabilities() -> None:
    """Differences ln 3 and -ln 3 are probabilities 0.75 and 0.25, whose deviation is 0.25."""
    assert disagreement(torch.tensor([[LN3, 0.0], [0.0, LN3]])) == pytest.approx(0.25)


def test_it_is_the_mean_over_all_pairs() -> None:
    """Completions 0 and 2 are alike to both members: pairs (0, 1) and (1, 2) count 0.25 each, (0, 2) nothing."""
    assert disagreement(torch.tensor([[LN3, 0.0], [0.0, LN3], [LN3, 0.0]])) == pytest.approx(0.5 / 3)


def test_what_a_member_adds_to_every_score_is_no_disagreement() -> None:
    scores = torch.tensor([[0.5, 100.5], [-1.0, 99.0], [2.0, 102.0]])
    assert disagreement(scores) == pytest.approx(0, abs=1e-6)


def test_members_that_are_sure_of_opposite_orders_disagree_by_a_half() -> None:
    assert disagreement(torch.tensor([[50.0, -50.0], [0.0, 0.0]])) == pytest.approx(0.5)


def test_one_completion_leaves_nothing_to_disagree_on() -> None:
    assert disagreement(torch.tensor([[1.0, 2.0]])) == 0


def test_one_member_is_no_ensemble() -> None:
    with pytest.raises(UserError, match="it is between two or more reward models, and there are 1; train an ensemble"):
        disagreement(torch.tensor([[1.0], [2.0]]))
