"""The win rate that would be left if both sides wrote texts of the same length. Imports no torch."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from rlhf.evaluation.statistics import Estimate, Floats, cluster_positions, drawn_counts, quantile_interval

_RIDGE = 1e-3
"""Times half the square of the slope: what keeps it finite where length tells all verdicts."""
_LARGEST = 15.0
"""Log-odds beyond this are certainty."""
_CELLS = 1_000_000
"""Weights of rows in resamples that are fitted at once: 8 MB in each of the few arrays that a fit takes."""
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
    positions = np.arange(len(won)) if clusters is None else cluster_positions(clusters)
    num = int(positions.max()) + 1
    value = float(expit(fit_logistic(longer, won, np.ones((1, len(won))))[0, 0]))
    # a fit holds a weight for each row, of which there are at least as many as clusters, a few times over
    draws = drawn_counts(num, min(num_bootstrap, _MOST_BOOTSTRAP), seed=seed, cells=_CELLS * num // len(won))
    resampled = [expit(fit_logistic(longer, won, counts[:, positions].astype(np.float64))[:, 0]) for counts in draws]
    low, high = quantile_interval(np.concatenate(resampled), confidence)
    return Estimate(value, low, high, num)


def fit_logistic(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Intercept and slope [B, 2] of B weighted logistic regressions of y [N], shares, on x [N], by Newton's method.

    Args:
        x: one regressor.
        y: between 0 and 1.
        weights: [B, N], how often each row counts in each regression.
    """
    found = np.zeros((len(weights), 2))
    for _ in range(100):
        chance = expit(found[:, :1] + found[:, 1:] * x)
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
