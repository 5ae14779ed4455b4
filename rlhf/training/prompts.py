"""Prompts as the stages that sample take them: those that leave room for a completion, and those that are held out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from rlhf.generation import encode_prompt
from rlhf.records import Problem, Record

logger = logging.getLogger(__name__)

NUM_DEV_PROMPTS = 256
"""Held-out prompts that are evaluated on; where there are more, so many are drawn by the seed."""


@dataclass(frozen=True)
class PromptRows:
    """N prompts that fit.

    Attributes:
        records: each with its `prompt` and further columns.
        ids: the prompts' tokens, as the policy reads them.
        too_long: the prompts that do not fit.
    """

    records: list[dict[str, Any]]
    ids: list[list[int]]
    too_long: list[Problem]

    def __len__(self) -> int:
        return len(self.records)

    def only(self, rows: Sequence[int]) -> "PromptRows":
        """These rows, in this order."""
        return PromptRows([self.records[i] for i in rows], [self.ids[i] for i in rows], self.too_long)


def prompt_rows(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, limit: int | None, shorten: str
) -> PromptRows:
    """The prompts of at most `limit` tokens; of the others it is said to lower `shorten`, a key of the config."""
    rows = PromptRows([], [], [])
    for number, record in enumerate(records, start=1):
        row = record.row()
        ids = encode_prompt(tokenizer, row["prompt"])
        if limit is None or len(ids) <= limit:
            rows.records.append(row)
            rows.ids.append(ids)
        else:
            what = f"the prompt has {len(ids)} tokens, at most {limit} fit; lower {shorten} or shorten it"
            rows.too_long.append(Problem("data (after cleaning)", number, what))
    return rows


def drawn_to_evaluate(rows: PromptRows, seed: int) -> PromptRows:
    """At most NUM_DEV_PROMPTS of the rows, from all places: they stand in the order of their sources."""
    if len(rows) <= NUM_DEV_PROMPTS:
        return rows
    logger.info("%d of %d held-out prompts are evaluated on, drawn by the seed", NUM_DEV_PROMPTS, len(rows))
    return rows.only(np.random.default_rng(seed).permutation(len(rows))[:NUM_DEV_PROMPTS].tolist())
