"""Scorers as the reward functions that RLOOTrainer calls."""

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.generation import Messages, decode_completion
from rlhf.scoring import NO_FURTHER_COLUMNS, Columns, Scorer, WeightedScorer, data_columns, with_token_ids
from rlhf.training.prompts import PromptRows

REWARD_TIMEOUT_SECONDS = 1800.0
"""Of one call of a reward function."""


class ScorerFunction:
    """One scorer as a reward function of TRL's: completions are handed over as text behind their prompt.

    TRL's data has each prompt's `row` beside it: the other columns are looked up there, whatever their types.
    """

    def __init__(self, scorer: Scorer, tokenizer: PreTrainedTokenizerBase, rows: PromptRows) -> None:
        self.__name__ = scorer.name
        self._scorer = scorer
        self._tokenizer = tokenizer
        self._rows = rows

    def __call__(self, *, completion_ids: Sequence[Sequence[int]], row: Sequence[int], **_: Any) -> list[float]:
        """Scores of B completions."""
        ids = [list(completion) for completion in completion_ids]
        texts = [decode_completion(self._tokenizer, self._rows.ids[i], one) for i, one in zip(row, ids, strict=True)]
        scores: list[float] = self._scorer.score(
            prompts_of(self._rows, row), texts, columns_of(self._rows, row, ids)
        ).tolist()
        return scores


def prompts_of(rows: PromptRows, picked: Sequence[int]) -> list[str | Messages]:
    """The prompts of these rows."""
    return [rows.records[i]["prompt"] for i in picked]


def columns_of(rows: PromptRows, picked: Sequence[int], completion_ids: Sequence[Sequence[int]]) -> Columns:
    """What scorers are told of completions of these rows: the data's further columns, and the token ids."""
    names = {name for record in rows.records for name in record}
    columns = data_columns([rows.records[i] for i in picked], names)
    return with_token_ids(columns, [rows.ids[i] for i in picked], completion_ids)


def missing_eos(stop_ids: Sequence[int]) -> Callable[..., list[float]]:
    """A reward function that is 1 for a completion which does not end and 0 for others; its weight is the penalty."""
    ends = frozenset(stop_ids)

    def missing_eos(*, completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        return [float(ends.isdisjoint(ids[-1:])) for ids in completion_ids]

    return missing_eos


def whole(scorer: Scorer, rows: PromptRows) -> WeightedScorer:
    """`scorer` as a mix, one of one if need be, that has been told what columns there are and how long it may take."""
    mix = scorer if isinstance(scorer, WeightedScorer) else WeightedScorer([scorer])
    names = {name for record in rows.records for name in record}
    mix.prepare(names - NO_FURTHER_COLUMNS, REWARD_TIMEOUT_SECONDS)
    return mix
