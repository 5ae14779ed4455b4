"""The frontier of a PPO run: what a held-out judge and the training score say at each distance from the reference.

With a proxy for a reward, more optimisation first helps and then hurts (Gao et al. 2022, arXiv:2210.10760): the score
that is trained on keeps rising, and the judge's falls. `frontier_of` reads both from the run's metrics and says where
that begins, and whether the fall is more than noise. Imports no torch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from rlhf.errors import UserError
from rlhf.evaluation.publishing import rounded
from rlhf.evaluation.statistics import Floats
from rlhf.tracking import Figure, FigureSeries, Mark, read_figures, read_metrics, write_figures

SIGNIFICANT = 0.05
"""A fall that noise makes less often than this is one."""
_ONE_SIDED = 1.645
"""Standard errors that noise exceeds in one direction in 5 of 100 cases."""
_SIMULATED = 4000
_JUDGE = "_objective/judge"


@dataclass(frozen=True)
class Point:
    """One held-out evaluation: nats of KL divergence per sequence, mean scores, and their standard errors."""

    step: int
    kl: float
    score: float
    judge: float
    judge_se: float
    score_se: float


@dataclass(frozen=True)
class Frontier:
    """The evaluations of a run in their order, and what they say together.

    Attributes:
        points: T of them.
        smoothed: [T], the judge's score, each averaged with its neighbours.
        peak: the place of the highest smoothed judge's score.
        p_value: how often noise alone makes the judge fall as much from a height that it had reached.
        score_rise: how much the training score gained from the peak to the end.
        score_rise_se: the standard error of that, as if the two were of different prompts: the true one is smaller.
    """

    points: tuple[Point, ...]
    smoothed: tuple[float, ...]
    peak: int
    p_value: float
    score_rise: float
    score_rise_se: float

    @property
    def falls(self) -> bool:
        """Whether the judge's score falls by more than noise explains."""
        return self.p_value < SIGNIFICANT and self.peak < len(self.points) - 1

    @property
    def overoptimised(self) -> bool:
        """Whether it falls while the training score still rises by more than noise: the policy exploits its reward."""
        return self.falls and self.score_rise > _ONE_SIDED * self.score_rise_se

    def summary(self) -> dict[str, Any]:
        """The figures. `falls` says whether `peak_*` mark more than the highest of points that do not differ."""
        best, last = self.points[self.peak], self.points[-1]
        return {
            "num_evaluations": len(self.points),
            "falls": self.falls,
            "overoptimised": self.overoptimised,
            "p_value": self.p_value,
            "peak_step": best.step,
            "peak_kl": best.kl,
            "peak_judge": self.smoothed[self.peak],
            "last_step": last.step,
            "last_kl": last.kl,
            "last_judge": self.smoothed[-1],
            "score_rise_after_peak": self.score_rise,
            "score_rise_after_peak_se": self.score_rise_se,
        }

    def figure(self) -> Figure:
        """Both scores by the distance from the reference, in the order of training, with the peak marked."""
        points = self.points
        kl = tuple(point.kl for point in points)
        judged, trained = tuple(point.judge for point in points), tuple(point.score for point in points)
        steps = tuple(str(point.step) for point in points)
        judge = FigureSeries(
            name="held-out judge",
            x=kl,
            y=judged,
            low=tuple(point.judge - point.judge_se for point in points),
            high=tuple(point.judge + point.judge_se for point in points),
            labels=steps,
        )
        smoothed = FigureSeries(name="held-out judge, smoothed", x=kl, y=self.smoothed)
        said = {
            True: "It falls after the mark by more than noise explains, while the training score still rises: what is "
            "trained beyond the mark exploits the reward.",
            False: "No fall of it is more than noise explains."
            if not self.falls
            else "It falls after the mark by "
            "more than noise explains, and the training score does not rise there either.",
        }[self.overoptimised]
        step = points[self.peak].step  # not "from this divergence": later updates may come back to it
        label = f"over-optimised after update {step}" if self.overoptimised else f"the judge falls after update {step}"
        return Figure(
            name="frontier",
            title="Reward by distance from the reference",
            description="Each point is one held-out evaluation of the run, with its update beside it and one standard "
            f"error either way; lines join them in the order of training. The judge is not trained on. {said}",
            kind="lines",
            x="KL divergence from the reference (nats per sequence)",
            y="mean score",
            series=(judge, smoothed, FigureSeries(name="training score", x=kl, y=trained, labels=steps)),
            marks=(Mark(label=label, x=self.points[self.peak].kl),) if self.falls else (),
        )


def frontier_of(run: str | Path, home: Path, *, seed: int = 0) -> Frontier:
    """The frontier of a PPO run.

    Args:
        run: its id below `home`/runs, or its folder.
        home: the workspace's.
        seed: of the noise that the fall is compared with.

    Raises:
        UserError: there is no such run, or its held-out evaluations had no judge.
    """
    folder = find_run(run, home)
    points = read_points(read_metrics(folder))
    if not points:
        raise UserError(
            f"run {folder.name}: none of its evaluations had a judge that is not trained on; give `rlhf ppo` held-out "
            "prompts and a `judge`, and evaluate while it trains (trainer.eval_strategy: steps)"
        )
    if len(points) < 3:
        raise UserError(
            f"run {folder.name}: {len(points)} evaluations with a judge, and a frontier needs 3; lower "
            "trainer.eval_steps"
        )
    return fit_frontier(points, seed=seed)


def find_run(run: str | Path, home: Path) -> Path:
    """The folder of a run that is given by its id below `home`/runs or by its folder; raises UserError for none."""
    for path in (home / "runs" / str(run), Path(run).expanduser()):
        if path.is_dir():
            return path
    raise UserError(f"run {run}: there is none of that id in {home / 'runs'}, and no such folder")


def read_points(rows: Sequence[Mapping[str, Any]]) -> tuple[Point, ...]:
    """The held-out evaluations among a run's metrics that had a judge; of several sets of prompts, the first."""
    keys = [key for row in rows for key in row if key.startswith("eval_") and key.endswith(_JUDGE)]
    if not keys:
        return ()
    prefix = keys[0].removesuffix("judge")
    found = {}
    for row in rows:
        values = [row.get(prefix + name) for name in ("kl", "scores", "judge", "judge_se", "score_se")]
        if all(isinstance(value, int | float) and math.isfinite(value) for value in values[:4]):
            kl, score, judge, judge_se, score_se = (float(value or 0.0) for value in values)
            # of a step that was evaluated twice, as before and after a resumption, the last
            found[int(row["step"])] = Point(int(row["step"]), kl, score, judge, judge_se, score_se)
    return tuple(found[step] for step in sorted(found))


def fit_frontier(points: Sequence[Point], *, seed: int = 0) -> Frontier:
    """Where the judge's smoothed score is highest, and whether it falls after that.

    Of many evaluations one is the highest by chance, so the largest fall from any earlier height is compared with those
    that noise of the same standard errors makes about the curve that never falls and fits best (isotonic regression).
    Evaluations are of the same prompts, whose noise is shared: the true chance is smaller than this p-value.
    """
    judged = np.array([point.judge for point in points])
    errors = np.maximum([point.judge_se for point in points], 1e-12)
    smoothed = smooth(judged)
    never_falling = isotonic_regression(judged, weights=1 / errors**2).x
    noise = np.random.default_rng(seed).normal(size=(_SIMULATED, len(points))) * errors
    by_noise = largest_fall(smooth(never_falling + noise))
    fall = largest_fall(smoothed[None])[0]
    p_value = (1 + int((by_noise >= fall).sum())) / (1 + _SIMULATED)
    peak = int(smoothed.argmax())
    scores = np.array([point.score for point in points])
    # the rise as a weighted sum of the scores: smoothing is the same for each of them
    weights = smooth(np.eye(len(points)))[:, [peak, -1]] @ [-1.0, 1.0]
    error = np.sqrt(np.sum((weights * [point.score_se for point in points]) ** 2))
    return Frontier(tuple(points), tuple(smoothed.tolist()), peak, p_value, float(weights @ scores), float(error))


def smooth(values: ArrayLike) -> Floats:
    """[..., T]: each value averaged with its neighbours, which are fewer at the ends."""
    values = np.asarray(values, dtype=np.float64)
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(1, 1)])
    counts = np.pad(np.ones(values.shape[-1]), 1)
    sums = padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]
    return np.asarray(sums / (counts[:-2] + counts[1:-1] + counts[2:]), dtype=np.float64)


def largest_fall(curves: Floats) -> Floats:
    """[B]: of curves [B, T], how far each falls at most below a height that it had reached before."""
    return np.asarray((np.maximum.accumulate(curves, axis=1) - curves).max(axis=1), dtype=np.float64)


def report_frontier(run: str | Path, home: Path, *, seed: int = 0) -> dict[str, Any]:
    """`rlhf eval frontier`: the figures, and the drawing among those of the run's folder.

    Raises:
        UserError: as `frontier_of`.
    """
    folder = find_run(run, home)
    frontier = frontier_of(folder, home, seed=seed)
    figure = frontier.figure()
    write_figures(folder, [*(other for other in read_figures(folder) if other.name != figure.name), figure])
    points = [{name: getattr(point, name) for name in Point.__dataclass_fields__} for point in frontier.points]
    return {
        "run": folder.name,
        **rounded({**frontier.summary(), "points": points}),
        "figures": str(folder / "figures.json"),
    }
