"""What a scorer is, and what it is told beside prompts and completions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rlhf.errors import StoppedByMonitor
from rlhf.generation import Messages

Columns = Mapping[str, Sequence[Any]]
"""What a scorer is told beside prompts and completions, each column with one value a row: the further columns of the
data set, and `prompt_ids` and `completion_ids` as `with_token_ids` adds them."""

NO_FURTHER_COLUMNS = frozenset(
    {"prompt", "prompts", "completions", "prompt_ids", "completion_ids"}
    | {"input_ids", "attention_mask", "token_type_ids"}
)
"""Columns of a data set that are handed over under another name, or whose names are taken."""


def data_columns(rows: Sequence[Mapping[str, Any]], names: Iterable[str] | None = None) -> dict[str, list[Any]]:
    """The further columns of B rows of a data set, None where a row has no such column.

    `names` are the data set's, where `rows` are a part of it: a scorer gets the same columns for every part. Left out,
    they are what any of the rows has.
    """
    if names is None:
        names = {name for row in rows for name in row}
    return {name: [row.get(name) for row in rows] for name in sorted(set(names) - NO_FURTHER_COLUMNS)}


def with_token_ids(
    columns: Columns, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]]
) -> Columns:
    """`columns` with the token ids of B prompts and completions, as whoever wrote the completions has them.

    Every call of a scorer on sampled completions goes through here: a function that works in training works on samples
    and in evaluation too. A completion's stop token, if it was reached, is among its ids, as in TRL.
    """
    return {**columns, "prompt_ids": prompt_ids, "completion_ids": completion_ids}


class NonFiniteError(StoppedByMonitor):
    """A NaN or an infinity turned up where training would have been ruined by it; the message names the source."""


class NonFiniteScoreError(NonFiniteError):
    """It was among a scorer's scores; what is trained is as it was before it was asked."""


@runtime_checkable
class Scorer(Protocol):
    """Anything that gives each completion one number."""

    name: str

    def score(
        self, prompts: Sequence[str | Messages], completions: Sequence[str], columns: Columns | None = None
    ) -> Tensor:
        """Scores [B], float32 on the CPU, all finite; higher is better."""


def require_finite(scores: Tensor, source: str) -> Tensor:
    """Scores [B], or [B, M] of M members, as they are; NonFiniteScoreError naming `source` and the first bad row."""
    bad = ~torch.isfinite(scores)
    rows = (bad if scores.dim() == 1 else bad.any(1)).nonzero()
    if len(rows):
        row = int(rows[0])
        value = scores[row][bad[row]].flatten()[0].item()
        raise NonFiniteScoreError(
            f"{source}: score of row {row} of the batch is {value} ({len(rows)} of {len(scores)} rows are not finite)"
        )
    return scores
