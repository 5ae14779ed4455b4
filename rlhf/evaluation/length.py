"""The win rate that would be left if both sides wrote texts of the same length. Imports no torch."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf.evaluation.statistics import Estimate, Floats

_RIDGE = 1e-3
"""Times half the square of the slope: what keeps it finite where length tells all verdicts."""
_LARGEST = 15.0
"""Log-odds beyond this are certainty."""
_MOST_BOOTSTRAP = 2000
"""Each resample is fitted anew; more of them than this add nothing to an interval's ends."""


def length_controlled_win_rate(
    verdicts: ArrayLike,
    first_lengths: ArrayLike,
    second_lengths: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate | None:
    """The probability of a win at equal lengths, by a logistic regression of the verdict on the difference in length.

    As in AlpacaEval 2 (Dubois et al. 2024, arXiv:2404.04475): the regressor is tanh of the difference over its standard
    deviation. Their term for each prompt's difficulty is left out, since it needs many models on the same prompts.

    Args:
        verdicts: [N], 1 where the first side won, 0 where it lost, a half for a tie.
        first_lengths: [N], characters.
        second_lengths: [N], likewise.
        clusters: the prompt of each verdict: whole prompts are drawn.
        num_bootstrap: how many resamples, 2000 at most.
        confidence: of the interval.
        seed: of the resampling.

    Returns:
        None where the difference in length does not vary: there is nothing to control for.
    """
    won = np.asarray(verdicts, dtype=np.float64)
    difference = np.asarray(first_lengths, dtype=np.float64) - np.asarray(second_lengths, dtype=np.float64)
    spread = difference.std()
    if not spread:
        return None
    longer = np.tanh(difference / spread)
    positions, num = _positions(won, clusters)
    rng = np.random.default_rng(seed)
    draws = min(num_bootstrap, _MOST_BOOTSTRAP)
    counts = rng.multinomial(num, np.full(num, 1 / num), size=draws)[:, positions].astype(np.float64)
    value = float(_sigmoid(fit_logistic(longer, won, np.ones((1, len(won))))[0, 0]))
    resampled = _sigmoid(fit_logistic(longer, won, counts)[:, 0])
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high), num)


def fit_logistic(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Intercept and slope [B, 2] of B weighted logistic regressions of y [N], shares, on x [N], by Newton's method.

    Args:
        x: one regressor.
        y: between 0 and 1.
        weights: [B, N], how often each row counts in each regression.
    """
    found = np.zeros((len(weights), 2))
    for _ in range(100):
        chance = _sigmoid(found[:, :1] + found[:, 1:] * x)
        missing, curve = weights * (y - chance), weights * chance * (1 - chance)
        gradient = np.stack([missing.sum(1), missing @ x - _RIDGE * found[:, 1]], axis=1)
        a, b, d = curve.sum(1) + 1e-9, curve @ x, curve @ (x * x) + _RIDGE
        step = np.stack([d * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]], axis=1)
        step /= (a * d - b * b + 1e-12)[:, None]
        after = np.clip(found + np.clip(step, -2, 2), -_LARGEST, _LARGEST)
        settled = bool(np.abs(after - found).max() < 1e-9)
        found = after
        if settled:
            break
    return found


def _positions(values: Floats, clusters: Sequence[Hashable] | None) -> tuple[NDArray[np.int64], int]:
    """The cluster's number of each value, and how many clusters there are."""
    if clusters is None:
        return np.arange(len(values)), len(values)
    known = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    return np.array([known[cluster] for cluster in clusters]), len(known)


def _sigmoid(value: Floats) -> Floats:
    return 1 / (1 + np.exp(-value))
