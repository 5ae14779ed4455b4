"""Which rows are held out, and how the rows of several sources come together. All of it follows from seeds."""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

from rlhf.datasets.config import Mixing
from rlhf.datasets.transcripts import opening
from rlhf.records import Conversation, Document, Message, Record, Text, prompt_key

T = TypeVar("T")


def split_key(record: Record) -> str:
    """What decides the half of `record`: its prompt up to the first answer.

    Equal prompts have equal keys, and so have prompts that are stages of one conversation.
    """
    text = prompt_of(record)
    if isinstance(text, str):
        return prompt_key(opening(text))  # type: ignore[arg-type]
    turns = opening([turn.model_dump() for turn in text])
    return prompt_key([Message.model_validate(turn) for turn in turns])


def prompt_of(record: Record) -> Text:
    """The prompt of `record`; a conversation's is what comes before its first answer, a document's is all of it."""
    if isinstance(record, Document):
        return record.text
    if isinstance(record, Conversation):
        turns = record.messages
        first = next((place for place, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
        return turns[:first] or turns
    prompt: Text = record.prompt  # type: ignore[attr-defined]
    return prompt


def is_held_out(key: str, fraction: float, seed: int) -> bool:
    """Whether the prompt `key` belongs to the held-out share: a hash decides, so other rows have no say in it."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8]) < fraction * 2**64


def shares(sizes: Sequence[int], weights: Sequence[float], mixing: Mixing) -> list[int]:
    """How many rows each source gives, from its size and weight (see `Mixing`)."""
    total = mixing.total
    if total is None:
        total = round(sum(size * weight for size, weight in zip(sizes, weights, strict=True)))
    power = 1 / mixing.temperature
    parts = [weight * size**power if size else 0.0 for size, weight in zip(sizes, weights, strict=True)]
    exact = [total * part / sum(parts) for part in parts]
    counts = [int(value) for value in exact]
    # Largest remainders first, so that the counts add up to the total.
    by_remainder = sorted(range(len(exact)), key=lambda place: counts[place] - exact[place])
    for place in by_remainder[: total - sum(counts)]:
        counts[place] += 1
    return counts


def mix(sources: Sequence[Sequence[T]], weights: Sequence[float], mixing: Mixing, seed: int) -> list[T]:
    """The rows of all sources in their shares: whole passes, and for the rest a sample without repetition."""
    draw = random.Random(f"mix:{seed}")
    mixed: list[T] = []
    for rows, count in zip(sources, shares([len(rows) for rows in sources], weights, mixing), strict=True):
        if not rows:
            continue
        passes, rest = divmod(count, len(rows))
        mixed += [row for _ in range(passes) for row in rows]
        mixed += [rows[place] for place in sorted(draw.sample(range(len(rows)), rest))]
    if mixing.shuffle:
        draw.shuffle(mixed)
    return mixed
