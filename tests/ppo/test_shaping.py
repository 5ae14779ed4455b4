from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlhf.ppo.shaping import Moments, ScoreShaper, clip, penalise


def settings(**changes: Any) -> Any:
    given = {
        "missing_eos_penalty": None,
        "length_penalty": 0.0,
        "length_penalty_after": 0,
        "score_normalization": "none",
        "score_clip": None,
    }
    return SimpleNamespace(**(given | changes))


SCORES = torch.tensor([1.0, 2.0, 3.0])
LENGTHS = torch.tensor([4, 10, 12])
ENDED = torch.tensor([True, False, True])


def test_without_penalties_scores_stay_what_they_are() -> None:
    assert penalise(SCORES, LENGTHS, ENDED, settings()) is SCORES


def test_a_missing_end_costs_once_and_length_by_the_token() -> None:
    assert penalise(SCORES, LENGTHS, ENDED, settings(missing_eos_penalty=0.5)).tolist() == [1.0, 1.5, 3.0]
    # 0, 2 and 4 tokens beyond 8
    found = penalise(SCORES, LENGTHS, ENDED, settings(length_penalty=0.25, length_penalty_after=8))
    assert found.tolist() == [1.0, 1.5, 2.0]
    both = settings(missing_eos_penalty=1.0, length_penalty=0.5)
    assert penalise(SCORES, LENGTHS, ENDED, both).tolist() == [-1.0, -4.0, -3.0]


def test_clipping_bounds_the_size() -> None:
    assert clip(torch.tensor([-7.0, 1.0, 1e30]), 5.0).tolist() == [-5.0, 1.0, 5.0]
    assert clip(SCORES, None) is SCORES


def test_moments_of_two_batches_are_those_of_one() -> None:
    parts, whole = Moments(), Moments()
    parts.add(torch.tensor([1.0, 2.0]))
    parts.add(torch.tensor([6.0]))
    whole.add(torch.tensor([1.0, 2.0, 6.0]))
    # mean 3, squared deviations 4 + 1 + 9, variance 14/3
    for moments in (parts, whole):
        assert (moments.count, moments.mean) == (3, pytest.approx(3.0))
        assert moments.std == pytest.approx((14 / 3) ** 0.5)
    assert parts.scale(torch.tensor([3.0, 6.0])).tolist() == pytest.approx([0.0, 3 / (14 / 3) ** 0.5])


def test_equal_scores_are_not_blown_up_by_their_rounding() -> None:
    moments = Moments()
    moments.add(torch.full((8,), 0.1))
    assert moments.std == 1.0
    assert moments.scale(torch.full((2,), 0.1)).tolist() == pytest.approx([0.0, 0.0], abs=1e-7)


def test_running_normalisation_goes_by_all_scores_so_far() -> None:
    shaper = ScoreShaper(settings(score_normalization="running"))
    assert shaper(torch.tensor([0.0, 2.0])).tolist() == [-1.0, 1.0]
    # all so far: 0, 2, 4, 6 with mean 3 and variance 5
    assert shaper(torch.tensor([4.0, 6.0])).tolist() == pytest.approx([1 / 5**0.5, 3 / 5**0.5])


def test_the_reference_scores_zero() -> None:
    shaper = ScoreShaper(settings(score_normalization="reference", score_clip=1.5))
    assert shaper.needs_reference
    shaper.measure(torch.tensor([2.0, 4.0]))
    assert not shaper.needs_reference
    assert shaper(torch.tensor([2.0, 4.0])).tolist() == [-1.0, 1.0]
    assert shaper(torch.tensor([9.0, 3.0])).tolist() == [1.5, 0.0]  # (9 - 3) / 1 clipped; the moments stay


def test_the_state_of_a_shaper_goes_into_another() -> None:
    one, other = (ScoreShaper(settings(score_normalization="running")) for _ in range(2))
    one(torch.tensor([0.3, 1.7, 2.2]))
    other.load_state_dict(one.state_dict())
    later = torch.tensor([5.0, -1.0])
    assert torch.equal(one(later), other(later))
