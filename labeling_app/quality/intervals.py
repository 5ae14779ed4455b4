"""Shares with what is known about their error. Nothing here is ever NaN: what cannot be said is None."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtrc, stdtrit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_Z = 1.959963984540054
"""95% of a normal distribution lies within this many standard deviations."""


@dataclass(frozen=True)
class Share:
    """A share with its 95% interval; the three are None where there was nothing to take a share of.

    Attributes:
        value: between 0 and 1.
        low: end of the interval.
        high: end of the interval.
        num: how many comparisons it is a share of.
        num_tasks: over how many tasks they are spread: the independent pieces that the interval rests on.
    """

    value: float | None
    low: float | None
    high: float | None
    num: int
    num_tasks: int


NOTHING = Share(None, None, None, 0, 0)


def share(sums: ArrayLike, sizes: ArrayLike) -> Share:
    """The pooled share `sum(sums) / sum(sizes)` of clustered comparisons, with its 95% interval.

    The interval is Wilson's with an effective number of comparisons: what a sample of independent ones with the same
    standard error (robust to clusters, Liang & Zeger 1986) would hold, brought down for few clusters by Student's t
    (Korn & Graubard 1998; Dean & Pagano 2015 compare it with others). Where all clusters say the same there is no
    spread to go by, and every cluster counts as one comparison: three of three is not certainty.

    Args:
        sums: [N], the sum in each cluster (a task, say) of values between 0 and 1.
        sizes: [N], how many values that is; clusters of none are left out.
    """
    sums, sizes = np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    sums, sizes = sums[sizes > 0], sizes[sizes > 0]
    clusters, total = len(sizes), float(sizes.sum())
    if not clusters:
        return NOTHING
    value = float(sums.sum()) / total
    spread = float(np.sum((sums - sizes * value) ** 2))
    effective = float(clusters)
    if spread > 1e-12 * total and 0 < value < 1:  # below that it is rounding
        variance = clusters / (clusters - 1) * spread / total**2
        few = (_Z / float(stdtrit(clusters - 1, 0.975))) ** 2
        effective = min(value * (1 - value) / variance, total) * few
    low, high = _wilson(value, effective)
    return Share(value, low, high, round(total), clusters)


def tally(index: Ints, values: Floats, num: int) -> Floats:
    """[num]: the sum of the `values` of each index."""
    return np.bincount(index, values, minlength=num).astype(np.float64)


def tail(count: int, num: int, chance: float) -> float:
    """The probability of `count` or more successes in `num` trials of probability `chance`."""
    return 1.0 if count <= 0 else float(bdtrc(count - 1, num, chance))


def _wilson(value: float, num: float) -> tuple[float, float]:
    middle = (value + _Z**2 / (2 * num)) / (1 + _Z**2 / num)
    half = _Z / (1 + _Z**2 / num) * float(np.sqrt(value * (1 - value) / num + _Z**2 / (4 * num**2)))
    return max(0.0, middle - half), min(1.0, middle + half)
