"""The reward model's losses as pure functions: sums over judgements, each times its weight.

Sums and no means: what a judgement adds must not depend on what else is in its batch. Every function takes the scores
of M members of an ensemble at once (M = 1 is the plain reward model) and gives one number a member, [M].
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

_STEP = 0.1
"""Of the trapezoidal rule below. Its error in a tier of t is exp(-2 pi^2 / step^2 / (t + 1)): 5e-5 at t = 200."""
_FIRST, _LAST = -40.0, 7.0
"""Beyond these, the density of the standard Gumbel law is below 1e-17."""


def bradley_terry_loss(
    chosen: Tensor, rejected: Tensor, weight: Tensor, margin: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Negative log-likelihood of pairs under Bradley-Terry, each times its weight, added up.

    loss = sum_p w_p * -((1 - e) log sigmoid(d_p) + e log sigmoid(-d_p)), d_p = chosen_p - rejected_p - margin_p
    (Ouyang et al. 2022, eq. 1, with w = 1/C(K, 2); margins as in Touvron et al. 2023, eq. 2; smoothing by e as if that
    share of the judgements were turned round, as in conservative DPO, Mitchell 2023.)

    Args:
        chosen: scores of the better completions, [P, M].
        rejected: scores of the worse completions, [P, M].
        weight: not negative, [P, 1] or [P, M].
        margin: how much higher the better one should score, [P].
        label_smoothing: e, in [0, 0.5).

    Returns:
        [M], in nats.
    """
    difference = chosen - rejected - margin[:, None]
    nll = -logsigmoid(difference)
    if label_smoothing:
        nll = (1 - label_smoothing) * nll - label_smoothing * logsigmoid(-difference)
    return (weight * nll).sum(0)


def plackett_luce_nll(scores: Tensor, tiers: Sequence[Sequence[int]]) -> Tensor:
    """Negative log-likelihood of one ranking with ties under Plackett-Luce: of all orders that agree with its tiers.

    A ranking is made by choosing the best of what is left, again and again, each with a probability proportional to
    exp(score) (Plackett 1975). A tie is an order that was not said, so its likelihood is that of any order within the
    tier, added up: that all of a tier are taken before any of the rest (the marginal likelihood of Kalbfleisch and
    Prentice 1973, there for survival times). The last tier has no rest, and adds nothing.

    With T_i exponential of rate exp(s_i), a tier C comes before the rest R, of score r = log sum_R exp(s_j), with
    probability  int f(y) prod_C (1 - exp(-exp(y + s_i - r))) dy,  f(y) = exp(y - exp(y)),  y = log time + r
    (DeLong, Guirguis and So 1994). The trapezoidal rule is exact to rounding for such an integrand.

    Args:
        scores: [K, M].
        tiers: positions in 0..K-1, best tier first; each at most once.

    Returns:
        [M], in nats; 0 where there are fewer than two tiers.
    """
    total = scores.new_zeros(scores.shape[1])
    rest: Tensor | None = None  # log sum exp of the scores below, [M]
    for tier in reversed(tiers):
        own = scores[list(tier)]
        together = own.logsumexp(0)
        if rest is None:
            rest = together
            continue
        if len(tier) == 1:
            total = total - logsigmoid(own[0] - rest)
        else:
            total = total - _log_probability_of_coming_first(own - rest)
        rest = torch.logaddexp(rest, together)
    return total


def _log_probability_of_coming_first(scores: Tensor) -> Tensor:
    """Log probability [M] that all of a tier are taken before the rest; `scores` [t, M] are relative to the rest's."""
    y = torch.arange(_FIRST, _LAST, _STEP, dtype=scores.dtype, device=scores.device)
    log_density = (y - y.exp())[:, None]
    log_rate = y[:, None, None] + scores  # [Y, t, M]
    return (log_density + _log1mexp_of_exp(log_rate).sum(1)).logsumexp(0) + torch.log(scores.new_tensor(_STEP))


def _log1mexp_of_exp(x: Tensor) -> Tensor:
    """log(1 - exp(-exp(x))), precise and with a finite gradient everywhere."""
    # below, exp(x) leaves float32; there, 1 - exp(-exp(x)) is exp(x)
    small = x < -60
    rate = torch.where(small, torch.zeros_like(x), x).clamp(max=5).exp()
    return torch.where(small, x, torch.log(-torch.expm1(-rate)))


def squared_error(scores: Tensor, rating: Tensor, weight: Tensor) -> Tensor:
    """Half the squared difference of score and rating, each times its weight, added up.

    Args:
        scores: [R, M].
        rating: standardised, [R].
        weight: [R, 1] or [R, M].

    Returns:
        [M].
    """
    return (weight * (scores - rating[:, None]).square() / 2).sum(0)


def ordinal_loss(scores: Tensor, level: Tensor, thresholds: Tensor, weight: Tensor) -> Tensor:
    """Negative log-likelihood of grades under the proportional-odds model, each times its weight, added up.

    P(level > k) = sigmoid(score - threshold_k) with thresholds that rise (McCullagh 1980). Two scores differ by the
    log-odds of one grade being above any line rather than the other, which is Bradley-Terry's unit: grades and
    comparisons may be learned together.

    Args:
        scores: [R, M].
        level: 0..L-1, int64 [R].
        thresholds: [L-1, M], rising.
        weight: [R, 1] or [R, M].

    Returns:
        [M], in nats.
    """
    # P(level = k) = sigmoid(upper) - sigmoid(lower), upper = s - t_{k-1}, lower = s - t_k; infinite at the ends
    infinite = thresholds.new_full((1, thresholds.shape[1]), float("inf"))
    edges = torch.cat([-infinite, thresholds, infinite])
    first, last = level == 0, level == len(thresholds)
    upper = scores - torch.where(first[:, None], torch.zeros_like(scores), edges[level])
    lower = scores - torch.where(last[:, None], torch.zeros_like(scores), edges[level + 1])
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))
    log_upper = torch.where(first[:, None], torch.zeros_like(scores), logsigmoid(upper))
    log_lower = torch.where(last[:, None], torch.zeros_like(scores), logsigmoid(-lower))
    inner = ~(first | last)
    gap = (upper - lower)[inner].clamp(min=1e-6)
    log_gap = scores.new_zeros(scores.shape).index_put((inner.nonzero()[:, 0],), torch.log(-torch.expm1(-gap)))
    return -(weight * (log_upper + log_lower + log_gap)).sum(0)
