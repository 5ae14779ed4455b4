"""The losses on numbers worked by hand, and against independent ways to the same."""

import itertools
import math

import pytest
import torch

from reward.losses import bradley_terry_loss, ordinal_loss, plackett_luce_nll, squared_error


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def column(*values):
    return t(*values)[:, None]


def compare(chosen, rejected, weight, margin, smoothing=0.0):
    columns = [torch.as_tensor(values, dtype=torch.float64)[:, None] for values in (chosen, rejected, weight)]
    return bradley_terry_loss(*columns, t(*margin), smoothing).item()


def test_the_loss_of_an_undecided_model_is_log_two():
    assert compare([3, -1], [3, -1], [1, 1], [0, 0]) == pytest.approx(2 * math.log(2))


def test_bradley_terry_on_numbers_worked_by_hand():
    # -log sigmoid(2) = 0.126928, -log sigmoid(-1) = 1.313262; weights 1/3 and 1: 0.042309 + 1.313262
    assert compare([2.5, 0], [0.5, 1], [1 / 3, 1], [0, 0]) == pytest.approx(1.355571, abs=1e-6)


def test_a_margin_is_taken_from_the_difference():
    # -log sigmoid(2 - 1) = 0.313262
    assert compare([2], [0], [1], [1]) == pytest.approx(0.313262, abs=1e-6)


def test_a_smoothed_label_is_the_other_way_round_by_its_share():
    # 0.9 * 0.126928 + 0.1 * 2.126928
    assert compare([2], [0], [1], [0], 0.1) == pytest.approx(0.326928, abs=1e-6)


def test_the_loss_is_finite_and_pushes_however_wrong_the_model_is():
    chosen = column(-1000).requires_grad_()
    loss = bradley_terry_loss(chosen, column(1000), column(1), t(0))
    loss.backward()
    assert loss.item() == pytest.approx(2000) and chosen.grad.item() == pytest.approx(-1)


def test_each_member_has_its_own_scores_and_weights():
    chosen, rejected = torch.tensor([[2.5, 0.0], [0.0, 0.0]]), torch.tensor([[0.5, 1.0], [1.0, 0.0]])
    both = bradley_terry_loss(chosen, rejected, torch.tensor([[1.0, 0.5], [0.0, 2.0]]), torch.zeros(2))
    assert both.tolist() == pytest.approx([0.126928, 0.5 * 1.313262 + 2 * math.log(2)], abs=1e-5)


def test_plackett_luce_of_equal_scores_counts_the_orders():
    equal = torch.zeros(4, 1)
    assert plackett_luce_nll(equal, [[2], [0], [3], [1]]).item() == pytest.approx(math.log(24), abs=1e-6)
    # the best of four, then the worst of the other three: 1/4 * 1/3
    assert plackett_luce_nll(equal, [[2], [0, 3], [1]]).item() == pytest.approx(math.log(12), abs=1e-5)
    assert plackett_luce_nll(equal, [[0, 1], [2, 3]]).item() == pytest.approx(math.log(6), abs=1e-5)
    many = torch.zeros(60, 1, dtype=torch.float64)
    halves = [list(range(50)), list(range(50, 60))]
    assert plackett_luce_nll(many, halves).item() == pytest.approx(math.log(math.comb(60, 50)), abs=1e-9)


def test_plackett_luce_on_numbers_worked_by_hand():
    # odds 4, 2, 1: that the first two come before the third is 4/7 * 2/3 + 2/7 * 4/5 = 64/105
    scores = column(math.log(4), math.log(2), 0)
    assert plackett_luce_nll(scores, [[0, 1], [2]]).item() == pytest.approx(-math.log(64 / 105), abs=1e-9)
    assert plackett_luce_nll(scores, [[0], [1], [2]]).item() == pytest.approx(-math.log(4 / 7 * 2 / 3), abs=1e-9)


@pytest.mark.parametrize("scale", [1.0, 5.0, 20.0])
@pytest.mark.parametrize(
    "tiers", [[[2], [0, 3], [1]], [[0, 1], [2, 3]], [[4, 2, 0], [1], [3]], [[3, 1, 4, 0], [2, 5]], [[4], [0], [5], [2]]]
)
def test_a_tie_is_any_order_within_the_tier(scale, tiers):
    scores = scale * torch.randn(6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def probability(order):
        return math.exp(sum((scores[at] - scores[order[place:]].logsumexp(0)).item() for place, at in enumerate(order)))

    orders = itertools.product(*(itertools.permutations(tier) for tier in tiers))
    expected = -math.log(sum(probability([at for tier in order for at in tier]) for order in orders))
    assert plackett_luce_nll(scores, tiers).item() == pytest.approx(expected, rel=1e-8)


def test_a_pair_is_bradley_terry_and_one_tier_says_nothing():
    scores = column(2.5, 0.5)
    assert plackett_luce_nll(scores, [[0], [1]]).item() == pytest.approx(0.126928, abs=1e-6)
    assert plackett_luce_nll(scores, [[0, 1]]).tolist() == [0.0]


def test_the_gradient_of_plackett_luce_is_right_and_finite_at_the_ends():
    scores = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: plackett_luce_nll(each, [[0, 1, 2], [3, 4], [5]]), scores)
    for size in (-1e3, 1e3):
        far = (size * torch.tensor([[1.0], [0.9], [0.1], [-1.0]])).requires_grad_()
        plackett_luce_nll(far, [[0, 1], [2, 3]]).sum().backward()
        assert far.grad.isfinite().all()


def test_the_likelihood_of_grades_worked_by_hand():
    # P(above 0) = sigmoid(1 - 0), P(above 1) = sigmoid(1 - 2): levels have 0.268941, 0.731059 - 0.268941, 0.268941
    scores, thresholds = column(1, 1, 1), column(0, 2)
    for level, share in enumerate((0.268941, 0.462117, 0.268941)):
        weight = torch.zeros(3, 1)
        weight[level] = 2.0
        loss = ordinal_loss(scores, torch.tensor([0, 1, 2]), thresholds, weight)
        assert loss.item() == pytest.approx(-2 * math.log(share), abs=1e-5)


def test_the_likelihoods_of_all_grades_add_up_to_one():
    thresholds = column(-2, -0.5, 0.1, 3)
    for score in (-9.0, -0.3, 0.0, 7.0):
        nll = [ordinal_loss(column(score), torch.tensor([level]), thresholds, column(1)).item() for level in range(5)]
        assert sum(math.exp(-each) for each in nll) == pytest.approx(1, abs=1e-9)


def test_the_gradient_of_grades_is_right_and_finite_at_the_ends():
    scores = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).requires_grad_()
    thresholds = torch.tensor([[-1.0, -2.0], [0.5, 0.0], [1.0, 2.0]], dtype=torch.float64).requires_grad_()
    levels, weight = torch.tensor([0, 3, 1, 2, 1]), torch.ones(5, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s, b: ordinal_loss(s, levels, b, weight), (scores, thresholds))
    far = torch.tensor([[1e4], [-1e4], [1e4]]).requires_grad_()
    ordinal_loss(far, torch.tensor([0, 2, 1]), torch.tensor([[0.0], [1.0]]), torch.ones(3, 1)).sum().backward()
    assert far.grad.isfinite().all()


def test_the_squared_error_worked_by_hand():
    # 2 * (1 - 3)^2 / 2 + 0.5 * (4 - 3)^2 / 2
    assert squared_error(column(1, 4), t(3, 3), column(2, 0.5)).item() == pytest.approx(4.25)
