"""Prompts in, token ids out: text, conversations, or ids made beforehand as TRL's scripts do."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.generation import Messages, check_lengths, encode_prompt
from rlhf.ppo.rollout import Prompts
from rlhf.scoring import NO_FURTHER_COLUMNS, data_columns

DataCollator = Callable[[list[dict[str, Any]]], Mapping[str, Tensor]]


def require_rows(dataset: object, name: str) -> None:
    """Raise UserError unless `dataset` is one data set whose rows can be counted and taken in any order."""
    if isinstance(dataset, Mapping):
        raise UserError(f"{name}: it is several data sets by name ({', '.join(map(str, dataset))}); give one of them")
    if isinstance(dataset, str | Path):
        raise UserError(f"{name}: found {str(dataset)!r}, a text; load the data set, as by datasets.load_dataset")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise UserError(
            f"{name}: a {type(dataset).__name__} has no number of rows; load it as a whole (streaming=False), or give "
            "a list of its rows"
        )


class PromptSet:
    """A data set of prompts with its token ids. All are read at once: a bad one is known before the first rollout."""

    def __init__(
        self,
        dataset: Sequence[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        max_new_tokens: int,
        context_length: int | None,
        vocab_size: int | None = None,
        max_prompt_length: int | None = None,
        truncate: bool = False,
        collator: DataCollator | None = None,
    ) -> None:
        """`dataset` has `input_ids`, or `prompt` as text or messages; its other columns go to reward functions.

        A column that some rows lack is None there.
        A prompt over `max_prompt_length` tokens, or that leaves no room for `max_new_tokens` in the context, loses its
        beginning if `truncate`, else raises UserError naming the row (from 0). So do empty rows, a missing column,
        tokens outside a vocabulary of `vocab_size`, and what is no list of rows.
        """
        require_rows(dataset, name)
        if len(dataset) == 0:
            raise UserError(f"{name}: it has no rows; give at least one prompt")
        self._dataset = dataset
        self._tokenizer = tokenizer
        columns = set(dataset[0])
        if not columns & {"input_ids", "prompt"}:
            raise UserError(f"{name}: it needs a column `prompt` or `input_ids`; found {', '.join(sorted(columns))}")
        self._columns: set[str] = set()
        rows = []
        for i in range(len(dataset)):
            record = dataset[i]
            self._columns.update(record)
            rows.append(_encode(record, i, tokenizer, name, collator))
        limits = [n for n in (max_prompt_length, context_length and context_length - max_new_tokens) if n is not None]
        if limits and min(limits) < 1:
            raise UserError(
                f"response_length: {max_new_tokens} tokens leave no room for a prompt in a context of {context_length}"
            )
        if truncate and limits:
            rows = [row[-min(limits) :] for row in rows]
        lengths = [len(row) for row in rows]
        check_lengths(lengths, max_new_tokens, context_length, name)
        if max_prompt_length is not None:
            check_lengths(lengths, 0, max_prompt_length, f"{name} (max_prompt_length {max_prompt_length})")
        for i, row in enumerate(rows):
            if vocab_size is not None and not 0 <= min(row) <= max(row) < vocab_size:
                raise UserError(
                    f"{name}: row {i} has the token {max(row)}, the model's vocabulary has {vocab_size}; take the "
                    "model's own tokenizer, or give it the new tokens: model.resize_token_embeddings(len(tokenizer))"
                )
        # 4 bytes a token; a list of Python integers would take 36.
        self._ids = [np.asarray(row, dtype=np.int32) for row in rows]

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self._ids))

    @property
    def columns(self) -> list[str]:
        """The further columns that scorers are handed."""
        return sorted(self._columns - NO_FURTHER_COLUMNS)

    def batch(self, rows: Sequence[int]) -> Prompts:
        """The prompts of these rows, in their order."""
        ids = [torch.from_numpy(self._ids[i]).long() for i in rows]
        records = [self._dataset[i] for i in rows]
        texts = [self._text(record, row) for record, row in zip(records, ids, strict=True)]
        return Prompts(ids, texts, data_columns(records, self._columns))

    def _text(self, record: Mapping[str, Any], ids: Tensor) -> str | Messages:
        if "prompt" in record:
            return cast("str | Messages", record["prompt"])
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


class PromptOrder:
    """Which rows belong to which batch: a new seeded order each epoch, the ragged rest left out.

    It is a function of the seed and the batch's number alone, so a position in the data is one integer.
    """

    def __init__(self, num_prompts: int, batch_size: int, seed: int) -> None:
        """Raises UserError when the prompts do not fill one batch."""
        if num_prompts < batch_size:
            raise UserError(
                f"train_dataset: {num_prompts} prompts do not fill one batch of {batch_size} "
                "(per_device_train_batch_size * gradient_accumulation_steps); give more prompts or a smaller batch"
            )
        self.batches_per_epoch = num_prompts // batch_size
        self._num_prompts = num_prompts
        self._batch_size = batch_size
        self._seed = seed

    def rows(self, batch: int) -> list[int]:
        """Rows of batch number `batch`, counted from 0 over all epochs."""
        epoch, index = divmod(batch, self.batches_per_epoch)
        order = np.random.default_rng([self._seed, epoch]).permutation(self._num_prompts)
        return [int(i) for i in order[index * self._batch_size : (index + 1) * self._batch_size]]


def _encode(
    record: Mapping[str, Any],
    row: int,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    collator: DataCollator | None,
) -> list[int]:
    """Token ids of one record without padding."""
    if "input_ids" not in record:
        prompt = record.get("prompt")
        if not isinstance(prompt, (str, list)) or not prompt:
            raise UserError(
                f"{name}: row {row} has no prompt (found {prompt!r}); remove it or give it text or messages"
            )
        return encode_prompt(tokenizer, prompt)
    if collator is not None:
        batch = collator([dict(record)])
        record = {key: batch[key][0] for key in ("input_ids", "attention_mask") if key in batch}
    ids = [int(i) for i in record["input_ids"]]
    if "attention_mask" in record:
        return [i for i, real in zip(ids, record["attention_mask"], strict=True) if int(real)]
    pad_id = tokenizer.pad_token_id
    if pad_id is not None and pad_id not in {tokenizer.eos_token_id, tokenizer.bos_token_id}:
        return [i for i in ids if i != pad_id]
    return ids
