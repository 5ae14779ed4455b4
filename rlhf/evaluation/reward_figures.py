"""What the evaluation of a reward model wants drawn."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlhf.evaluation.calibration import Calibration, Reliability
from rlhf.evaluation.judged_pairs import JudgedPairs
from rlhf.evaluation.statistics import Floats
from rlhf.tracking import Figure, FigureSeries, Mark

NUM_HISTOGRAM_BINS = 20

MAX_POINTS = 400
"""Of a cloud: more cannot be told apart."""


def histogram(chosen: Floats, rejected: Floats) -> dict[str, list[float]]:
    """Pairs by score [P] in equal bins: `edges`, one more than there are bins, and the counts of both sides."""
    both = np.concatenate([chosen, rejected])
    edges = np.histogram_bin_edges(both, NUM_HISTOGRAM_BINS)
    counts = {name: np.histogram(side, edges)[0] for name, side in (("chosen", chosen), ("rejected", rejected))}
    return {"edges": edges.tolist(), **{name: of.tolist() for name, of in counts.items()}}


def reward_figures(
    pairs: JudgedPairs,
    chosen: Floats,
    rejected: Floats,
    summary: Mapping[str, Any],
    calibration: Calibration | None,
    seed: int,
) -> list[Figure]:
    """Those that the data allows, in the order in which they are to be read.

    Args:
        pairs: in the order that people gave them.
        chosen: scores [P].
        rejected: scores [P].
        summary: what has been found; `groups` and the reference lines are taken from it.
        calibration: None where it could not be measured.
        seed: of the choice of points.
    """
    figures = [_groups(name, groups, summary) for name, groups in summary["groups"].items() if len(groups) > 1]
    if calibration is not None:
        figures.append(_reliability(calibration))
    return [*figures, _distribution(summary["scores"]), _by_length(pairs, chosen, rejected, seed)]


def _groups(name: str, groups: Mapping[str, Mapping[str, Any]], summary: Mapping[str, Any]) -> Figure:
    labels = tuple(groups)
    intervals = [of["accuracy_ci"] or [of["accuracy"]] * 2 for of in groups.values()]
    marks = [
        Mark(label="all pairs", y=summary["accuracy"]),
        Mark(label="longest wins", y=summary["accuracy_longest"]),
    ]
    if summary["agreement_people"] is not None:
        marks.append(Mark(label="people among themselves", y=summary["agreement_people"]))
    return Figure(
        name=f"accuracy_by_{name}",
        title=f"Accuracy by {name}",
        description=f"How often the reward model puts a pair in the order that people did, for each {name}, with its "
        "interval. A group near “longest wins” is told apart by little more than length. What people agree on among "
        "themselves is no upper bound: the slips of two people are in it, and of one in the model’s accuracy.",
        kind="bars",
        x=name,
        y="accuracy",
        series=(
            FigureSeries(
                name="accuracy",
                x=labels,
                y=tuple(of["accuracy"] for of in groups.values()),
                low=tuple(low for low, _ in intervals),
                high=tuple(high for _, high in intervals),
                labels=tuple(f"{of['num_pairs']} pairs" for of in groups.values()),
            ),
        ),
        marks=tuple(marks),
    )


def _reliability(found: Calibration) -> Figure:
    return Figure(
        name="reliability",
        title="How sure the reward model may be",
        description=f"Of the pairs on which the model is so sure, how many it gets right. Below the diagonal it is too "
        f"sure, above it not sure enough. Calibration error {found.ece:.3f} as it is and {found.ece_scaled:.3f} after "
        f"scaling; so many pairs alone would show {found.ece_if_calibrated:.3f}.",
        kind="lines",
        x="confidence",
        y="accuracy",
        series=(_line("as it is", found.reliability), _line("temperature scaled", found.reliability_scaled)),
        diagonal=True,
    )


def _line(name: str, diagram: Reliability) -> FigureSeries:
    labels = tuple(f"{number} pairs" for number in diagram.num_pairs)
    return FigureSeries(name=name, x=tuple(diagram.confidence), y=tuple(diagram.accuracy), labels=labels)


def _distribution(counts: Mapping[str, list[float]]) -> Figure:
    edges = counts["edges"]
    centres = tuple((low + high) / 2 for low, high in itertools.pairwise(edges))
    return Figure(
        name="score_distribution",
        title="Scores of chosen and rejected completions",
        description="How many completions got which score. The further the two lie apart, the better they are told "
        "apart; a completion counts once for each pair that it is in.",
        kind="lines",
        x="score",
        y="completions",
        series=tuple(FigureSeries(name=side, x=centres, y=tuple(counts[side])) for side in ("chosen", "rejected")),
    )


def _by_length(pairs: JudgedPairs, chosen: Floats, rejected: Floats, seed: int) -> Figure:
    picked = np.random.default_rng(seed).permutation(len(chosen))[: MAX_POINTS // 2]
    series = []
    for side, (name, scores) in enumerate((("chosen", chosen), ("rejected", rejected))):
        lengths = tuple(float(len(pairs.texts[i][side])) for i in picked)
        series.append(FigureSeries(name=name, x=lengths, y=tuple(float(scores[i]) for i in picked)))
    shown = "" if len(picked) == len(chosen) else f" {len(picked)} of {len(chosen)} pairs, drawn at random."
    return Figure(
        name="score_by_length",
        title="Score by length",
        description=f"Each point is a completion. A cloud that rises says that length alone earns score.{shown}",
        kind="points",
        x="characters",
        y="score",
        series=tuple(series),
    )
