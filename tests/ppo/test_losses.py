"""Every expected number here was worked out by hand; the working stands beside it."""

import math
from typing import Any

import pytest
import torch

from rlhf.ppo.losses import (
    advantages_towards_reference,
    approx_kl,
    explained_variance,
    gae,
    kl_loss,
    masked_mean,
    masked_var,
    masked_whiten,
    per_token_kl,
    per_token_rewards,
    policy_loss,
    score_positions,
    value_loss,
    value_mask,
)

MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])


def close(actual: torch.Tensor, expected: list[list[float]] | list[float] | float) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-6, rtol=1e-6)


def test_masked_statistics_ignore_what_is_masked() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 99.0]])
    mask = torch.tensor([[True, True, True, False]])
    close(masked_mean(x, mask), 2.0)  # (1 + 2 + 3) / 3
    close(masked_var(x, mask), 1.0)  # (1 + 0 + 1) / (3 - 1)
    close(masked_whiten(x, mask), [[-1.0, 0.0, 1.0, 0.0]])
    close(masked_whiten(x, mask, shift_mean=False), [[1.0, 2.0, 3.0, 0.0]])  # the mean of 2 is put back


def test_masked_statistics_of_one_or_no_cell_are_finite() -> None:
    x = torch.tensor([[5.0, 7.0]])
    close(masked_mean(x, torch.tensor([[False, False]])), 0.0)
    close(masked_var(x, torch.tensor([[True, False]])), 0.0)
    close(masked_whiten(x, torch.tensor([[True, False]])), [[0.0, 0.0]])


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # At the first token p = 1/2 and p_ref = 1/4, so log r = -log 2; at the second the other way round.
        ("k1", [math.log(2), -math.log(2)]),
        ("k2", [math.log(2) ** 2 / 2, math.log(2) ** 2 / 2]),
        ("k3", [1 / 2 - 1 + math.log(2), 2 - 1 - math.log(2)]),
    ],
)
def test_kl_estimators(estimator: str, expected: list[float]) -> None:
    logprobs = torch.tensor([[math.log(1 / 2), math.log(1 / 4), 7.0]])
    ref_logprobs = torch.tensor([[math.log(1 / 4), math.log(1 / 2), -7.0]])
    mask = torch.tensor([[True, True, False]])
    close(per_token_kl(logprobs, ref_logprobs, mask, estimator), [[*expected, 0.0]])  # type: ignore[arg-type]


def test_score_is_paid_at_the_last_real_token() -> None:
    assert score_positions(MASK, "eos").tolist() == [3, 1]
    assert torch.equal(value_mask(MASK, "eos"), MASK)


def test_in_trl_mode_the_score_is_paid_one_later_where_that_fits() -> None:
    assert score_positions(MASK, "trl").tolist() == [3, 2]
    assert value_mask(MASK, "trl").tolist() == [[True, True, True, True], [True, True, True, False]]


def test_rewards_are_the_kl_penalty_and_the_score() -> None:
    kl = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 0.0, 0.0]])
    rewards = per_token_rewards(kl, torch.tensor([10.0, 20.0]), torch.tensor([3, 1]), kl_coef=0.1)
    close(rewards, [[-0.1, -0.2, -0.3, 9.6], [-0.5, 19.4, 0.0, 0.0]])


def test_advantages_of_an_undiscounted_monte_carlo_return() -> None:
    # With gamma = lambda = 1 the return is the sum of rewards to come, the advantage that less the value.
    advantages, returns = gae(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 0.5, 0.5]]), gamma=1.0, lam=1.0)
    close(returns, [[6.0, 5.0, 3.0]])
    close(advantages, [[5.5, 4.5, 2.5]])


def test_advantages_with_discount_and_lambda() -> None:
    # gamma = 1/2, lambda = 1/2, values 1, 2, 4, rewards 1, 1, 1, nothing after the third token:
    # delta_2 = 1 + 0 - 4 = -3;         A_2 = -3
    # delta_1 = 1 + 1/2 * 4 - 2 = 1;    A_1 = 1 + 1/4 * -3 = 1/4
    # delta_0 = 1 + 1/2 * 2 - 1 = 1;    A_0 = 1 + 1/4 * 1/4 = 17/16
    advantages, returns = gae(torch.ones(1, 3), torch.tensor([[1.0, 2.0, 4.0]]), gamma=0.5, lam=0.5)
    close(advantages, [[17 / 16, 1 / 4, -3.0]])
    close(returns, [[33 / 16, 9 / 4, 1.0]])


def test_advantages_of_a_short_row_do_not_depend_on_its_padding() -> None:
    short = gae(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), gamma=0.9, lam=0.8)
    padded = gae(torch.tensor([[1.0, 2.0, 0.0, 0.0]]), torch.tensor([[3.0, 4.0, 0.0, 0.0]]), gamma=0.9, lam=0.8)
    for a, b in zip(short, padded, strict=True):
        torch.testing.assert_close(a, b[:, :2])


def test_policy_loss_takes_the_worse_of_plain_and_clipped() -> None:
    # ratios 2, 1/2, 2, and a masked one; advantages 1, 1, -1; clip range 0.2:
    # A = 1:  -max gain: min(2, 1.2) = 1.2 (clipped); min(0.5, 0.8) = 0.5 (plain)
    # A = -1: min(-2, -1.2) = -2 (plain)            loss = -1.2 - 0.5 + 2 = 0.3
    logprobs = torch.tensor([[math.log(2), math.log(1 / 2), math.log(2), 50.0]], requires_grad=True)
    mask = torch.tensor([[True, True, True, False]])
    result = policy_loss(logprobs, torch.zeros(1, 4), torch.tensor([[1.0, 1.0, -1.0, 9.0]]), mask, cliprange=0.2)
    close(result.loss.detach(), 0.3)
    assert int(result.clipped) == 1
    result.loss.backward()
    close(logprobs.grad, [[0.0, -0.5, 2.0, 0.0]])  # d(-A r)/d log p = -A r, and nothing through a clipped ratio


def test_value_loss_takes_the_larger_of_plain_and_clipped() -> None:
    # old value 0, returns 1, clip range 0.2. Value 0.1: plain 0.81 = clipped. Value 0.9: plain 0.01, clipped
    # (0.2 - 1)^2 = 0.64. Value -0.5: plain 2.25, clipped (-0.2 - 1)^2 = 1.44.  Half the sum: (0.81 + 0.64 + 2.25) / 2
    values = torch.tensor([[0.1, 0.9, -0.5, 1e9]])
    mask = torch.tensor([[True, True, True, False]])
    result = value_loss(values, torch.zeros(1, 4), torch.ones(1, 4), mask, cliprange=0.2)
    close(result.loss, 1.85)
    assert int(result.clipped) == 1


def test_approximate_kl_is_half_the_squared_log_ratio() -> None:
    close(approx_kl(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[True, False]])), 0.5)


def test_explained_variance() -> None:
    returns, mask = torch.tensor([[1.0, 2.0, 3.0, 50.0]]), torch.tensor([[True, True, True, False]])
    close(explained_variance(returns, returns, mask), 1.0)
    close(explained_variance(torch.full_like(returns, 7.0), returns, mask), 0.0)
    close(explained_variance(returns / 2, returns, mask), 0.75)  # the rest is returns / 2: a quarter of the variance
    close(explained_variance(returns, torch.ones_like(returns), mask), 0.0)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("moved", [0.0, 0.3])
def test_the_gradient_of_kl_in_the_loss_is_that_of_what_it_estimates(estimator: Any, moved: float) -> None:
    """Summed over the vocabulary instead of sampled; `moved` is how far the policy is from the one that sampled."""
    torch.manual_seed(0)
    logits = torch.randn(6, dtype=torch.float64)
    old = logits.log_softmax(0)
    ref = torch.randn(6, dtype=torch.float64).log_softmax(0)
    logits = (logits + moved * torch.randn(6, dtype=torch.float64)).requires_grad_()
    new = logits.log_softmax(0)
    mask = torch.ones(6, 1, dtype=torch.bool)
    tokens = (new[:, None, None], old[:, None, None], ref[:, None, None])
    each = torch.stack([kl_loss(*(part[i] for part in tokens), mask[i : i + 1], estimator) for i in range(6)])
    (found,) = torch.autograd.grad((old.exp() * each).sum(), logits, retain_graph=True)
    if estimator == "k2":
        exact = (new.exp() * 0.5 * (new - ref) ** 2).sum()
    else:
        exact = (new.exp() * (new - ref)).sum()  # KL(policy || reference)
    (expected,) = torch.autograd.grad(exact, logits)
    torch.testing.assert_close(found, expected)


def test_advantages_towards_the_reference_are_minus_each_tokens_kl() -> None:
    logprobs, ref_logprobs = torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[-1.5, -1.0, -9.0]])
    mask = torch.tensor([[True, True, False]])
    # k1: 0.5, -1
    found = advantages_towards_reference(logprobs, ref_logprobs, mask)
    torch.testing.assert_close(found, torch.tensor([[-0.5, 1.0, 0.0]]))
