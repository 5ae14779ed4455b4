"""Krippendorff's alpha: agreement beyond chance, whoever answered whatever (Krippendorff 2018, chapter 12).

The figure is evalica's. Its bootstrap draws single disagreements, but those of one task belong together: here whole
tasks are drawn, and what chance would give is worked out anew for every resample.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse

from labeling_app.quality.intervals import Floats, Ints
from labeling_app.quality.panel import Panel, panel_of
from labeling_app.store import Judgement

Level = Literal["places", "pairs", "grades"]

NUM_BOOTSTRAP = 1000

MIN_TASKS = 10
"""Resamples of fewer tasks are too much alike: their quantiles promise more than is known.

Of two simulated people with an alpha of 0.6 on pairs (120 runs for each number of tasks) the interval held the truth,
where there was one, in 43% with 3 tasks, 80% with 5, 92% with 8, 98% with 10, 94% with 20 and 93% with 40.
"""

_NO_SPREAD = 1e-9

_CELLS = 4_000_000
"""How many counts of a bootstrap are held in memory at once."""


@dataclass(frozen=True)
class Alpha:
    """Krippendorff's alpha with its 95% bootstrap interval: 1 is agreement, 0 is chance, below 0 is contradiction.

    Attributes:
        value: None where nothing was judged twice, or where all said the same and chance cannot be told.
        low: end of the interval; None where the bootstrap gives none, see `why_no_interval`.
        high: end of the interval.
        num_units: how many pairs (or responses) were judged by at least two people.
        num_tasks: of how many tasks those are.
    """

    value: float | None
    low: float | None
    high: float | None
    num_units: int
    num_tasks: int

    @property
    def why_no_interval(self) -> str | None:
        """What is missing for an interval, in words; None where there is one.

        Drawing tasks anew tells how far alpha would move with other tasks. Of fewer than MIN_TASKS it tells too little,
        and where every draw gives the same figure (all agree) it tells nothing: the interval would be a point.
        """
        if self.low is not None:
            return None
        if not self.num_tasks:
            return "no task that two people answered"
        tasks = "1 task" if self.num_tasks == 1 else f"{self.num_tasks} tasks"
        if self.value is None:
            return f"in {tasks} with two people all said one and the same"
        if self.num_tasks < MIN_TASKS:
            return f"no interval: only {tasks} with two people, {MIN_TASKS} are needed"
        if self.value > 1 - _NO_SPREAD:
            return f"no interval: full agreement in all {tasks}"
        return f"no interval: too little differs between the {tasks}"


@dataclass(frozen=True)
class _Stratum:
    """Values that may be compared with each other.

    Attributes:
        slots: [most values of a unit, U], the values of a unit one below the other, NaN where there are fewer. Who
            gave a value does not matter to alpha.
        task: [U], the task of a unit.
        scale: what disagreements are divided by, to be the same thing in every stratum.
    """

    slots: Floats
    task: Ints
    ordinal: bool


def krippendorff_alpha(
    judgements: Panel | Sequence[Judgement], level: Level, *, num_bootstrap: int = NUM_BOOTSTRAP, seed: int = 0
) -> Alpha:
    """Alpha of all who are not quarantined; tasks with gold are left out.

    - `places`: ordinal, the places of responses in full orders; who ties shares the mean of the places. Places among
      three and among five are different things, so disagreement, observed and by chance, is counted for each
      number of responses by itself and then added.
    - `pairs`: nominal, the three votes (first, tie, second) on a pair in the order in which it was added.
    - `grades`: ordinal, the grades of mode `rate`.
    """
    panel = panel_of(judgements)
    strata = _strata(panel, level)
    num_units = sum(len(stratum.task) for stratum in strata)
    tasks = np.unique(np.concatenate([stratum.task for stratum in strata])) if strata else np.zeros(0, dtype=np.int64)
    if not strata or (value := _alpha(strata)) is None:
        return Alpha(None, None, None, num_units, len(tasks))
    low, high = _interval(strata, tasks, num_bootstrap, seed)
    return Alpha(value, low, high, num_units, len(tasks))


def _alpha(strata: Sequence[_Stratum]) -> float | None:
    import pandas as pd
    from evalica import alpha

    observed = expected = 0.0
    for stratum in strata:
        found = alpha(pd.DataFrame(stratum.slots), "ordinal" if stratum.ordinal else "nominal")
        scale = _scale(int(np.count_nonzero(~np.isnan(stratum.slots))), stratum.ordinal)
        observed += found.observed / scale
        expected += found.expected / scale
    return 1 - observed / expected if expected > 0 else None


def _scale(num_values: float, ordinal: bool) -> float:
    """Ordinal distances are squared numbers of values in between: over all values squared, they are shares."""
    return num_values**2 if ordinal else 1.0


def _strata(panel: Panel, level: Level) -> list[_Stratum]:
    if level == "pairs":
        pairs = panel.pairs
        kept = panel.of_active(pairs.judgement) & ~panel.with_gold[pairs.task[pairs.item]]
        return [*_stratum(pairs.item[kept], pairs.vote[kept].astype(np.float64), pairs.task, ordinal=False)]
    units = panel.places if level == "places" else panel.grades
    kept = panel.of_active(units.judgement) & ~panel.with_gold[units.task[units.unit]]
    size = units.size[units.unit]
    return [
        stratum
        for each in np.unique(size[kept])
        for stratum in _stratum(
            units.unit[kept & (size == each)], units.value[kept & (size == each)], units.task, ordinal=True
        )
    ]


def _stratum(unit: Ints, value: Floats, task_of_unit: Ints, *, ordinal: bool) -> Iterator[_Stratum]:
    """The units with at least two values, if there are any."""
    number = np.bincount(unit)
    kept = number[unit] > 1
    unit, value = unit[kept], value[kept]
    if not len(unit):
        return
    order = np.argsort(unit, kind="stable")
    units, column, number = np.unique(unit[order], return_inverse=True, return_counts=True)
    row = np.arange(len(order)) - np.repeat(np.cumsum(number) - number, number)
    slots = np.full((int(number.max()), len(units)), np.nan)
    slots[row, column] = value[order]
    yield _Stratum(slots, task_of_unit[units], ordinal)


def _interval(
    strata: Sequence[_Stratum], tasks: Ints, num_bootstrap: int, seed: int
) -> tuple[float, float] | tuple[None, None]:
    """Quantiles of alpha over resamples of tasks; resamples in which all said the same have none and are left out.

    None of fewer than MIN_TASKS tasks, and none where all resamples have the same alpha.
    """
    if len(tasks) < MIN_TASKS:
        return None, None
    rng = np.random.default_rng(seed)
    coincidences = [_coincidences(stratum, tasks) for stratum in strata]
    at_once = max(1, _CELLS // len(tasks))
    found = []
    for start in range(0, num_bootstrap, at_once):
        num = min(at_once, num_bootstrap - start)
        drawn = rng.integers(len(tasks), size=(num, len(tasks))) + len(tasks) * np.arange(num)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=num * len(tasks)).reshape(num, len(tasks)).astype(np.float64)
        observed, expected = np.zeros(num), np.zeros(num)
        for stratum, of_task in zip(strata, coincidences, strict=True):
            size = round(of_task.shape[1] ** 0.5)
            parts = _disagreement((of_task.T @ counts.T).T.reshape(num, size, size), stratum.ordinal)
            observed += parts[0]
            expected += parts[1]
        found.append(1 - observed[expected > 0] / expected[expected > 0])
    alphas = np.concatenate(found)
    if len(alphas) < num_bootstrap / 2:
        return None, None
    low, high = np.quantile(alphas, [0.025, 0.975])
    return (float(low), float(high)) if high - low > _NO_SPREAD else (None, None)


def _coincidences(stratum: _Stratum, tasks: Ints) -> sparse.csr_array:
    """[T, values * values]: the coincidence matrix of each task, as in evalica; they add up."""
    codes = np.unique(stratum.slots[~np.isnan(stratum.slots)])
    counts = np.stack([(stratum.slots == code).sum(axis=0) for code in codes], axis=1).astype(np.float64)
    matrices = counts[:, :, None] * counts[:, None, :]
    diagonal = np.arange(len(codes))
    matrices[:, diagonal, diagonal] -= counts
    matrices /= (counts.sum(axis=1) - 1)[:, None, None]
    num = len(stratum.task)
    to_task = sparse.csr_array(
        (np.ones(num), (np.searchsorted(tasks, stratum.task), np.arange(num))), shape=(len(tasks), num)
    )
    return sparse.csr_array(to_task @ sparse.csr_array(matrices.reshape(num, -1)))


def _disagreement(coincidence: Floats, ordinal: bool) -> tuple[Floats, Floats]:
    """Observed disagreement and that of chance, [B] each, of coincidence matrices [B, values, values]."""
    size = coincidence.shape[-1]
    number = coincidence.sum(axis=-1)
    total = number.sum(axis=-1)
    if ordinal:
        middle = np.cumsum(number, axis=-1) - number / 2
        distance = (middle[:, :, None] - middle[:, None, :]) ** 2
    else:
        distance = np.broadcast_to(1 - np.eye(size), coincidence.shape)
    scale = np.maximum(total, 1) ** 2 if ordinal else np.ones_like(total)
    observed = (coincidence * distance).sum(axis=(1, 2))
    by_chance = (number[:, :, None] * number[:, None, :] * distance).sum(axis=(1, 2)) / np.maximum(total - 1, 1)
    return observed / scale, by_chance / scale
