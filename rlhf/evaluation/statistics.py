"""Shares and means with what is known about their error: pure functions on numbers and texts. Imports no torch."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]

_CELLS = 4_000_000
"""How many counts of a bootstrap are held in memory at once."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its bootstrap interval `[low, high]`; `num_clusters` is how many independent pieces it rests on."""

    value: float
    low: float
    high: float
    num_clusters: int

    @property
    def interval(self) -> list[float]:
        """`[low, high]`, as summaries hold it."""
        return [self.low, self.high]


def bootstrap_mean(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    num_bootstrap: int = 10000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """The mean of `values` [N] with a percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13).

    Values of one cluster (one prompt, say) are not independent, so whole clusters are drawn with replacement.
    The interval has no width where all values are equal: of n prompts that all went one way, the share that would
    go the other way can still be as much as 3/n (the rule of three).

    Args:
        values: at least one, all finite.
        clusters: what each value belongs to; every value stands alone when left out.
        num_bootstrap: how many resamples.
        confidence: the share of resampled means inside the interval.
        seed: of the resampling.
    """
    values = _finite(values)
    sums, sizes = by_cluster(values, clusters)
    drawn = bootstrap_sums(np.stack([sums, sizes], axis=1), num_bootstrap=num_bootstrap, seed=seed)
    low, high = quantile_interval(drawn[:, 0] / drawn[:, 1], confidence)
    return Estimate(float(values.mean()), low, high, len(sums))


def bootstrap_sums(sums: Floats, *, num_bootstrap: int = 10000, seed: int = 0) -> Floats:
    """Column sums [B, K] over B draws, with replacement, of C of the C rows of `sums` [C, K].

    One row is what one cluster adds to K sums. Whatever is a function of sums over clusters has its bootstrap in this.
    """
    return np.concatenate([counts @ sums for counts in drawn_counts(len(sums), num_bootstrap, seed=seed)])


def drawn_counts(num: int, num_bootstrap: int, *, seed: int, cells: int = _CELLS) -> Iterator[NDArray[np.int64]]:
    """How often each of `num` clusters is drawn [b, num], in parts of at most `cells` counts, `num_bootstrap` in all.

    The draws are the same in parts of any size.
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, cells // num)
    for start in range(0, num_bootstrap, at_once):
        yield rng.multinomial(num, np.full(num, 1 / num), size=min(at_once, num_bootstrap - start))


def quantile_interval(values: ArrayLike, confidence: float) -> tuple[float, float]:
    """The two ends between which the middle `confidence` of `values` [B] lies."""
    low, high = np.quantile(np.asarray(values), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def standard_error(values: ArrayLike, clusters: Sequence[Hashable] | None = None) -> float | None:
    """Standard error of the mean of `values` [N], robust to clusters (Liang & Zeger 1986); None for one cluster.

    With every value a cluster of its own it is the sample standard deviation over sqrt(N).
    """
    values = _finite(values)
    sums, sizes = by_cluster(values, clusters)
    num = len(sums)
    if num < 2:
        return None
    residuals = sums - sizes * values.mean()
    return float(np.sqrt(num / (num - 1) * np.sum(residuals**2)) / len(values))


def wins(first: ArrayLike, second: ArrayLike) -> Floats:
    """Row by row [N]: 1 where `first` is larger than `second`, 0 where it is smaller, a half where they are equal."""
    difference = _finite(first) - _finite(second)
    outcomes: Floats = (np.sign(difference) + 1) / 2
    return outcomes


def accuracy_with_interval(
    chosen_scores: ArrayLike,
    rejected_scores: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    num_bootstrap: int = 10000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """The share of pairs whose chosen completion scores higher; equal scores count half.

    Args:
        chosen_scores: [N].
        rejected_scores: [N].
        clusters: the prompt (its key) of each pair: pairs of one prompt are drawn together.
        num_bootstrap: how many resamples.
        confidence: of the interval.
        seed: of the resampling.
    """
    return bootstrap_mean(
        wins(chosen_scores, rejected_scores),
        clusters,
        num_bootstrap=num_bootstrap,
        confidence=confidence,
        seed=seed,
    )


def longest_wins(chosen: Sequence[str], rejected: Sequence[str]) -> float:
    """The accuracy of always preferring the text with more characters; equal lengths count half.

    What a reward model must beat to have learned more than length (AlpacaFarm, Dubois et al. 2023: 62.2%).
    """
    return float(wins([len(text) for text in chosen], [len(text) for text in rejected]).mean())


def distinct_n(texts: Sequence[str], n: int = 2) -> float | None:
    """Distinct n-grams of words over all n-grams of `texts` together (Li et al. 2016); None where there are none.

    Words are what white space separates, in lower case, so that models with different tokenizers compare. The share
    falls with the amount of text: compare it for the same prompts only.
    """
    words = [text.lower().split() for text in texts]
    grams = [tuple(line[start : start + n]) for line in words for start in range(len(line) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def by_cluster(values: Floats, clusters: Sequence[Hashable] | None) -> tuple[Floats, Floats]:
    """Sum and number of the values of each cluster, in the order in which clusters first appear."""
    if clusters is None:
        return values, np.ones_like(values)
    assert len(clusters) == len(values), f"{len(clusters)} clusters for {len(values)} values"
    positions = cluster_positions(clusters)
    sums, sizes = np.bincount(positions, weights=values), np.bincount(positions)
    return sums.astype(np.float64), sizes.astype(np.float64)


def cluster_positions(clusters: Sequence[Hashable]) -> NDArray[np.int64]:
    """The number [N] of each value's cluster, counted from 0 in the order in which clusters first appear."""
    index: dict[Any, int] = {}
    return np.array([index.setdefault(cluster, len(index)) for cluster in clusters], dtype=np.int64)


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's correlation of two rows [N], ties with their mean rank; None where one of them does not vary."""
    ranks = [rankdata(_finite(values)) for values in (first, second)]
    if any(np.ptp(each) == 0 for each in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def rank_correlation_within(first: ArrayLike, second: ArrayLike, clusters: Sequence[Hashable]) -> float | None:
    """The mean over clusters of Spearman's correlation inside each; None where it is defined in none."""
    first, second, positions = _finite(first), _finite(second), cluster_positions(clusters)
    order = np.argsort(positions, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(positions[order])) + 1)
    found = [value for part in parts if (value := rank_correlation(first[part], second[part])) is not None]
    return float(np.mean(found)) if found else None


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    assert array.ndim == 1 and len(array), f"expected one row of values, found the shape {array.shape}"
    assert np.isfinite(array).all(), "values must be finite"
    return array
