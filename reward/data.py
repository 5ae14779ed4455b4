"""From judgements to what the reward model is trained on: rankings of tokenised pairs.

One row of the dataset is one ranking with all its pairs, so that the pairs of one ranking are always in one batch
(InstructGPT, Ouyang et al. 2022, section 3.5: shuffled pairs overfit within an epoch).
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from rlhf.records import Preference, Ranking, Record, Text, exchange

KINDS = (Ranking, Preference)

Encode = Callable[[Any, str], list[int]]
"""Token ids of a prompt and a completion, as the reward model reads them."""


def to_groups(records: Iterable[Record]) -> list[list[Preference]]:
    """Pairs that belong together: those of one ranking, or of one `group_id`; a pair without one stands alone."""
    groups: dict[str, list[Preference]] = {}
    for number, record in enumerate(records):
        if isinstance(record, Ranking):
            pairs = record.pairs()
            groups.setdefault(f"{record.group_id}/{number}", []).extend(pairs)
        elif isinstance(record, Preference):
            groups.setdefault(record.group_id or f"pair {number}", []).append(record)
    return [pairs for pairs in groups.values() if pairs]


def to_dataset(groups: Sequence[Sequence[Preference]], encode: Encode) -> Dataset:
    """One row a group: lists of `chosen_ids`, `rejected_ids`, `weight` and `margin`, one entry a pair.

    `encode` is called once for each distinct text, in however many pairs it stands.
    """
    encoded: dict[tuple[str, str], list[int]] = {}

    def ids(prompt: Text, completion: Text) -> list[int]:
        before, text = exchange(prompt, completion)
        key = (json.dumps(before), text)
        if key not in encoded:
            encoded[key] = encode(before, text)
        return encoded[key]

    return Dataset.from_list(
        [
            {
                "chosen_ids": [ids(pair.prompt, pair.chosen) for pair in pairs],
                "rejected_ids": [ids(pair.prompt, pair.rejected) for pair in pairs],
                "weight": [pair.weight for pair in pairs],
                "margin": [pair.margin or 0.0 for pair in pairs],
            }
            for pairs in groups
        ]
    )


@dataclass
class PairCollator:
    """Groups of pairs to one batch in which every distinct text stands once.

    A ranking of K completions has up to C(K, 2) pairs but only K texts: each is scored once and compared K - 1 times.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Tensors of N texts and P pairs.

        `input_ids` and `attention_mask` [N, T]; `chosen` and `rejected` [P] hold positions in 0..N-1;
        `weight` and `margin` [P]; `num_rows` [] is the number of groups.
        """
        position: dict[tuple[int, ...], int] = {}
        chosen: list[int] = []
        rejected: list[int] = []
        for row in rows:
            for better, worse in zip(row["chosen_ids"], row["rejected_ids"], strict=True):
                chosen.append(position.setdefault(tuple(better), len(position)))
                rejected.append(position.setdefault(tuple(worse), len(position)))
        texts = [torch.tensor(ids) for ids in position]
        masks = [torch.ones_like(ids) for ids in texts]
        return {
            "input_ids": torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": torch.nn.utils.rnn.pad_sequence(masks, batch_first=True),
            "chosen": torch.tensor(chosen),
            "rejected": torch.tensor(rejected),
            "weight": torch.tensor([weight for row in rows for weight in row["weight"]]),
            "margin": torch.tensor([margin for row in rows for margin in row["margin"]]),
            "num_rows": torch.tensor(len(rows)),
        }
