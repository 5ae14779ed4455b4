"""All judges on all candidates: verdicts against the baseline, and against each other where that costs nothing."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.errors import UserError
from rlhf.evaluation.candidates import Texts
from rlhf.evaluation.config import BASELINE, EndpointSection, EvaluationConfig
from rlhf.evaluation.endpoint_judge import EndpointJudge, JudgeGone
from rlhf.evaluation.judges import Comparison, ScoreJudge, compare_in_both_orders, compare_scores
from rlhf.evaluation.reading import Inputs
from rlhf.evaluation.statistics import Floats
from rlhf.modeling import device
from rlhf.scorers import load_scorers

logger = logging.getLogger(__name__)

__all__ = ["JudgeGone", "Judged", "judge_all"]


@dataclass
class Judged:
    """What one judge said.

    Attributes:
        name: the judge's.
        compared: of each candidate against the baseline.
        disagreement: the share of its pairs that are judged differently in the other order.
        pairs: verdicts [N] of one candidate against another, where the judge scores one by one.
        scores: [N] of each candidate and the baseline, likewise.
        asked: of a judge behind a server: questions, and replies without a verdict.
        figures: of each candidate, what `verdict_figures` made of all this.
    """

    name: str
    compared: dict[str, Comparison] = field(default_factory=dict)
    disagreement: dict[str, float | None] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Floats] = field(default_factory=dict)
    scores: dict[str, Floats] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)


def judge_all(config: EvaluationConfig, inputs: Inputs, texts: Texts, folder: Path) -> list[Judged]:
    """Each judge of the config in its order; reward models and functions are one, where the first of them stands.

    Endpoints come last in time: what can go wrong before anything is paid for has gone wrong by then.

    Raises:
        JudgeGone: a server cannot be asked any more.
        UserError: a judge gives no verdicts.
    """
    order: list[int] = []
    found: dict[int, Judged] = {}
    with ExitStack() as stack:
        endpoints: list[tuple[int, EndpointJudge]] = []
        for index, section in enumerate(config.judge):
            if isinstance(section, EndpointSection):
                judge = stack.enter_context(EndpointJudge(section, folder, key=f"judge.{index}"))
                endpoints.append((index, judge))
                order.append(index)
            elif not found:
                found[index] = _by_scores(config, inputs, texts)
                order.append(index)
        for index, judge in endpoints:
            found[index] = _by_endpoint(judge, texts, inputs.candidates, f"judge.{index}")
    return [found[index] for index in order]


def _by_scores(config: EvaluationConfig, inputs: Inputs, texts: Texts) -> Judged:
    """Every text is scored once; all comparisons follow from that."""
    judge = ScoreJudge(load_scorers(inputs.judges, device=device(), dtype=config.dtype))
    judged = Judged(judge.name)
    prompts = texts.prompts
    judged.scores = {name: judge.scores(prompts, texts.answers(name)) for name in inputs.writers}
    for name in inputs.candidates:
        judged.compared[name] = compare_scores(judged.scores[name], judged.scores[BASELINE])
        judged.disagreement[name] = 0.0
    for one, other in combinations(inputs.candidates, 2):
        judged.pairs[one, other] = compare_scores(judged.scores[one], judged.scores[other]).verdicts
    return judged


def _by_endpoint(judge: EndpointJudge, texts: Texts, candidates: Sequence[str], key: str) -> Judged:
    judged = Judged(judge.name)
    prompts, baseline = texts.prompts, texts.answers(BASELINE)
    for name in candidates:
        compared, disagreement = compare_in_both_orders(judge, prompts, texts.answers(name), baseline)
        if not np.isfinite(compared.verdicts).any():
            raise UserError(
                f"{key}: {judge.name} gave no verdict on any pair of {name} and the baseline "
                f"({judge.num_unparsed} of {judge.num_questions} replies held none); see `prompt`"
            )
        judged.compared[name], judged.disagreement[name] = compared, disagreement
    judged.asked = {"num_questions": judge.num_questions, "num_unparsed": judge.num_unparsed}
    if judge.num_unparsed:
        logger.warning(
            "%s: %d of %d replies of %s held no verdict; their pairs are left out",
            key, judge.num_unparsed, judge.num_questions, judge.name,
        )  # fmt: skip
    return judged


def unjudged(compared: Comparison) -> int:
    """How many pairs have no verdict."""
    return int(np.isnan(compared.verdicts).sum())


def as_sample(value: Any) -> float | None:
    """A verdict as a sample shows it."""
    return None if np.isnan(value) else float(value)
