"""From judgements to the rows that DPOTrainer takes."""

import logging
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.records import Preference, Ranking, Record, exchange, plain

logger = logging.getLogger(__name__)

KINDS = (Ranking, Preference)


def to_pairs(records: Sequence[Record]) -> tuple[list[Preference], int]:
    """All pairs in which one completion stands above another, those of rankings included.

    Returns:
        The pairs, and how many rankings give none: of one tier, or of nothing but equal or empty texts.
    """
    pairs: list[Preference] = []
    num_without_order = 0
    for record in records:
        if isinstance(record, Ranking):
            found = record.pairs()
            pairs += found
            num_without_order += not found
        elif isinstance(record, Preference):
            pairs.append(record)
    return pairs, num_without_order


def to_dataset(pairs: Sequence[Preference], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """TRL's columns `prompt`, `chosen` and `rejected`, all text or all messages, and `pair`, the place in `pairs`.

    Raises:
        UserError: plain text and conversations are mixed, there are conversations and no chat template, or a pair
            compares answers to two prompts.
    """
    rows = [{**_row(pair), "pair": place} for place, pair in enumerate(pairs)]
    conversational = {not isinstance(row["prompt"], str) for row in rows}
    if len(conversational) > 1:
        raise UserError("data: plain text and conversations are mixed; set `conversational: true` on the plain sources")
    if conversational == {True} and tokenizer.chat_template is None:
        raise UserError(
            "data: the rows are conversations and the tokenizer has no chat template; give the model one in `rlhf sft` "
            "(trainer.chat_template_path)"
        )
    return Dataset.from_list(rows)


def _row(pair: Preference) -> dict[str, Any]:
    before, chosen = exchange(pair.prompt, pair.chosen)
    other, rejected = exchange(pair.prompt, pair.rejected)
    if before != other:
        raise UserError(
            "data: DPO compares two answers to one prompt, and in this pair they come after different turns; leave it "
            f"out, or cut both before their last turn: {plain(pair.prompt)[:60]!r}"
        )
    if isinstance(before, str):
        return {"prompt": before, "chosen": chosen, "rejected": rejected}
    answers = {"chosen": chosen, "rejected": rejected}
    return {"prompt": before} | {side: [{"role": "assistant", "content": text}] for side, text in answers.items()}


def say_what_is_not_heard(pairs: Sequence[Preference]) -> None:
    """TRL's loss is a mean over pairs: weights and margins do not reach it."""
    weights = {round(pair.weight, 9) for pair in pairs}
    if len(weights) > 1:
        logger.warning(
            "the pairs weigh between %.3g and %.3g, and DPO's loss counts every pair alike: a ranking of K completions "
            "as its K(K - 1)/2 pairs",
            min(weights),
            max(weights),
        )
    if number := sum(pair.margin is not None for pair in pairs):
        logger.warning("%d of %d pairs have a margin, which DPO's loss does not read", number, len(pairs))
