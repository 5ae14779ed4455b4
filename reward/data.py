"""From judgements to batches: tokenised texts, and where in the batch those stand that were judged."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from reward.judgements import Group
from reward.shared_prefix import shared_rows
from rlhf.records import Text, exchange, prompt_key

COLUMNS = (
    *("input_ids", "chosen", "rejected", "weight", "margin"),
    *("tiers", "order_weight", "rated", "rating", "rating_weight"),
)

Encode = Callable[[Any, str], list[int]]
"""Token ids of a prompt and a completion, as the reward model reads them."""

Weigh = Callable[[str, str | None], Sequence[float]]
"""What a judgement of a prompt (its `prompt_key`) by an annotator counts for each of the M members, [M]."""


def once(prompt: str, annotator: str | None) -> Sequence[float]:
    """One member, for which every judgement counts as its record says."""
    return (1.0,)


@dataclass(frozen=True)
class Rows:
    """A data set and what was left out of it."""

    dataset: Dataset | None
    """None where nothing is left."""
    num_compared: int = 0
    """Rows that compare completions."""
    num_pairs: int = 0
    num_ratings: int = 0
    num_equal_pairs: int = 0
    """Pairs whose texts the model reads as one and the same."""
    num_weightless: int = 0
    """Groups whose judgements weigh nothing for any member."""


def to_dataset(
    groups: Iterable[Group], encode: Encode, weigh: Weigh = once, grade: Callable[[float], float] = float
) -> Rows:
    """One row a group.

    Columns: `input_ids`, the K distinct texts; of P pairs `chosen`, `rejected` (positions in 0..K-1), `margin` and
    `weight` [P][M]; `tiers` of positions with `order_weight` [M], where the pairs are learned as a whole; of R grades
    `rated` (positions), `rating` and `rating_weight` [R][M].

    Args:
        groups: what was said.
        encode: called once for each distinct text, in however many groups it stands.
        weigh: multiplies the weights of the records.
        grade: a grade as the loss takes it.
    """
    encoded: dict[tuple[str, str], list[int]] = {}

    def ids(prompt: Text, completion: Text) -> list[int]:
        before, text = exchange(prompt, completion)
        key = (json.dumps(before), text)
        if key not in encoded:
            encoded[key] = encode(before, text)
        return encoded[key]

    rows: list[dict[str, Any]] = []
    num_equal = num_weightless = 0
    for group in groups:
        used = {at for pair in group.pairs for at in (pair.better, pair.worse)} | {one.text for one in group.grades}
        if group.order:  # a text that equals all the others that it is compared with stands in no pair
            used |= {at for tier in group.order.tiers for at in tier}
        row, equal = _row(group, {at: ids(*group.texts[at]) for at in sorted(used)}, weigh, grade)
        num_equal += equal
        if row["weight"] or row["rating_weight"]:
            rows.append(row)
        elif len(group.pairs) > equal or group.grades:
            num_weightless += 1
    return Rows(
        Dataset.from_list(rows) if rows else None,
        sum(bool(row["chosen"]) for row in rows),
        sum(len(row["chosen"]) for row in rows),
        sum(len(row["rated"]) for row in rows),
        num_equal,
        num_weightless,
    )


def _row(
    group: Group, encoded: dict[int, list[int]], weigh: Weigh, grade: Callable[[float], float]
) -> tuple[dict[str, Any], int]:
    """A group as one row, and how many of its pairs are of equal tokens. What weighs nothing is left out."""
    places: dict[tuple[int, ...], int] = {}
    at = {text: places.setdefault(tuple(ids), len(places)) for text, ids in encoded.items()}
    keys = [prompt_key(prompt) for prompt, _ in group.texts]
    row: dict[str, Any] = {name: [] for name in COLUMNS}
    row["input_ids"] = [list(ids) for ids in places]
    num_equal = 0
    for pair in group.pairs:
        if at[pair.better] == at[pair.worse]:
            num_equal += 1
            continue
        weight = [pair.weight * factor for factor in weigh(keys[pair.better], pair.annotator)]
        if any(weight):
            values = (at[pair.better], at[pair.worse], weight, pair.margin)
            for name, value in zip(("chosen", "rejected", "weight", "margin"), values, strict=True):
                row[name].append(value)
    order = group.order
    if order and row["chosen"]:
        tiers = [[at[text] for text in tier] for tier in order.tiers]
        placed = [text for tier in tiers for text in tier]
        if len(set(placed)) == len(placed):  # else one text stands in two places, and its pairs are what can be learned
            row["tiers"] = tiers
            row["order_weight"] = [order.weight * factor for factor in weigh(keys[0], order.annotator)]
    for one in group.grades:
        weight = list(weigh(keys[one.text], one.annotator))
        if any(weight):
            row["rated"].append(at[one.text])
            row["rating"].append(grade(one.value))
            row["rating_weight"].append(weight)
    return row, num_equal


def total_weights(dataset: Dataset) -> Tensor:
    """What the judgements of all rows weigh, [M]."""
    total: list[Tensor] = []
    for row in dataset.select_columns(["weight", "order_weight", "rating_weight"]):
        total += [torch.tensor(each) for each in (row["weight"], row["rating_weight"]) if each and not _is_order(row)]
        total += [torch.tensor([row["order_weight"]])] if _is_order(row) else []
    return torch.cat(total).sum(0)


def _is_order(row: dict[str, Any]) -> bool:
    return bool(row["order_weight"])


@dataclass
class JudgementCollator:
    """Rows to one batch in which every distinct text stands once, in however many judgements it stands."""

    pad_token_id: int
    shares_prompts: bool = False
    """Whether the model `can_share`."""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Tensors of N texts, P pairs, R grades and M members, and a list of O orders.

        `input_ids` and `attention_mask` [N, T]. `chosen`, `rejected` [P] and `rated` [R] hold positions in 0..N-1, and
        so do the tiers of `orders`. `weight` [P, M] is 0 where a pair is part of an order, of `order_weight` [O, M];
        `margin` [P]; `rating` [R], `rating_weight` [R, M]; `num_rows` [] is the number of rows. `shared` are the fields
        of `SharedRows`, where the model can read them and they are worth it.
        """
        position: dict[tuple[int, ...], int] = {}
        groups: list[int] = []
        num_members = next(len(each) for row in rows for each in (*row["weight"], *row["rating_weight"]))
        batch: dict[str, list[Any]] = {name: [] for name in (*COLUMNS, "orders")}
        for number, row in enumerate(rows):
            at = [position.setdefault(tuple(ids), len(position)) for ids in row["input_ids"]]
            groups += [number] * (len(position) - len(groups))
            for name in ("chosen", "rejected", "rated"):
                batch[name] += [at[text] for text in row[name]]
            for name in ("margin", "rating", "rating_weight"):
                batch[name] += row[name]
            if _is_order(row):
                batch["orders"].append([[at[text] for text in tier] for tier in row["tiers"]])
                batch["order_weight"].append(row["order_weight"])
                batch["weight"] += [[0.0] * num_members for _ in row["weight"]]
            else:
                batch["weight"] += row["weight"]
        texts = [torch.tensor(ids) for ids in position]
        masks = [torch.ones_like(ids) for ids in texts]
        shared = shared_rows(list(position), groups, self.pad_token_id) if self.shares_prompts else None
        weights = {
            name: torch.tensor(batch[name], dtype=torch.float32).view(-1, num_members)
            for name in ("weight", "order_weight", "rating_weight")
        }
        return {
            "input_ids": torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": torch.nn.utils.rnn.pad_sequence(masks, batch_first=True),
            **{name: torch.tensor(batch[name], dtype=torch.long) for name in ("chosen", "rejected", "rated")},
            **{name: torch.tensor(batch[name], dtype=torch.float32) for name in ("margin", "rating")},
            **weights,
            "orders": batch["orders"],
            "shared": None if shared is None else vars(shared),
            "num_rows": torch.tensor(len(rows)),
        }
