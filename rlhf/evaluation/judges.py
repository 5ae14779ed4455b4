"""Who won: two completions of each prompt in, verdicts out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rlhf.evaluation.statistics import Floats, wins
from rlhf.generation import Messages
from rlhf.scoring import Columns, Scorer

Prompts = Sequence[str | Messages]


@dataclass(frozen=True)
class Answers:
    """B completions of one side, and what scorers are told beside: columns of the data, token ids."""

    texts: Sequence[str]
    columns: Columns = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What a judge said of B pairs.

    Attributes:
        verdicts: [B], 1 where the first completion won, 0 where the second did, 0.5 for a tie, NaN where none was to be
            had.
        first_scores: [B] where the judge scores completions one by one, else None.
        second_scores: likewise.
    """

    verdicts: Floats
    first_scores: Floats | None = None
    second_scores: Floats | None = None


class Judge(Protocol):
    """Compares completions. `order_matters` says whether who stands first can change the verdict."""

    name: str
    order_matters: bool

    def compare(self, prompts: Prompts, first: Answers, second: Answers) -> Comparison:
        """The verdicts on `first[i]` against `second[i]` as answers to `prompts[i]`."""


class ScoreJudge:
    """The higher score wins; equal scores tie. Each completion is scored by itself, so order cannot matter."""

    order_matters = False

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.name = scorer.name

    def scores(self, prompts: Prompts, side: Answers) -> Floats:
        """[B], float64, what the scorer says of each completion."""
        found: Floats = self.scorer.score(prompts, side.texts, side.columns).double().numpy()
        return found

    def compare(self, prompts: Prompts, first: Answers, second: Answers) -> Comparison:
        """As `Judge.compare`, with scores."""
        return compare_scores(*(self.scores(prompts, side) for side in (first, second)))


def compare_scores(first: Floats, second: Floats) -> Comparison:
    """The higher of two scores [B] wins."""
    return Comparison(wins(first, second), first, second)


def compare_in_both_orders(
    judge: Judge, prompts: Prompts, first: Answers, second: Answers
) -> tuple[Comparison, float | None]:
    """The mean verdict of both orders of presentation, and the share of pairs on which the two orders disagree.

    A judge that favours whoever stands first so gives a tie, and the share tells how often it did; None where no pair
    has a verdict in both orders. A pair with one verdict alone has none: it may be no more than the order's. A judge
    whose verdict cannot depend on the order is asked once, and its share is 0.
    """
    there = judge.compare(prompts, first, second)
    if not judge.order_matters:
        return there, 0.0
    back = 1 - judge.compare(prompts, second, first).verdicts
    verdicts = (there.verdicts + back) / 2
    judged = np.isfinite(verdicts)
    disagreement = float((there.verdicts != back)[judged].mean()) if judged.any() else None
    return Comparison(verdicts, there.first_scores, there.second_scores), disagreement
