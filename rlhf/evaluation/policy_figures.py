"""What an evaluation of policies has to show: win rates with their intervals, and scores beside lengths."""

from rlhf.evaluation.candidates import Texts
from rlhf.evaluation.config import BASELINE, EvaluationConfig
from rlhf.evaluation.judging import Judged
from rlhf.evaluation.reading import Inputs
from rlhf.tracking import Figure, FigureSeries, Mark

POINTS = 300
"""Completions of each side in the cloud of points."""


def figures(config: EvaluationConfig, inputs: Inputs, texts: Texts, judged: list[Judged]) -> list[Figure]:
    """All that can be drawn of these verdicts."""
    drawn = [_win_rates(config, inputs, judged)]
    if judged[0].scores:
        drawn.append(_score_by_length(inputs, texts, judged[0]))
    return drawn


def _win_rates(config: EvaluationConfig, inputs: Inputs, judged: list[Judged]) -> Figure:
    series = []
    for one in judged:
        found = [one.figures[name] for name in inputs.candidates]
        series.append(
            FigureSeries(
                name=one.name,
                x=tuple(inputs.candidates),
                y=tuple(each["win_rate"] for each in found),
                low=tuple(each["win_rate_ci"][0] for each in found),
                high=tuple(each["win_rate_ci"][1] for each in found),
            )
        )
    return Figure(
        name="win_rates",
        title=f"Win rates over {inputs.writers[BASELINE].ref}",
        description="How often the judge prefers each candidate to the baseline on the same prompts, a tie counting "
        f"half, with {config.confidence:.0%} intervals over prompts. An interval that holds 0.5 says nothing either "
        "way.",
        kind="bars",
        x="candidate",
        y="win rate over the baseline",
        series=tuple(series),
        marks=(Mark(label="as good as the baseline", y=0.5),),
    )


def _score_by_length(inputs: Inputs, texts: Texts, judged: Judged) -> Figure:
    series = []
    for name in (*inputs.candidates, BASELINE):
        lengths = [len(ids) for ids in texts.written[name].token_ids]
        scores = [float(score) for score in judged.scores[name]]
        series.append(FigureSeries(name=name, x=tuple(lengths[:POINTS]), y=tuple(scores[:POINTS])))
    return Figure(
        name="score_by_length",
        title="Scores by length",
        description="Each point is one completion. Where longer ones score higher on both sides, a higher score may be "
        "no more than length: the win rate at equal lengths says what is left.",
        kind="points",
        x="length (tokens)",
        y=f"score by {judged.name}",
        series=tuple(series),
    )
