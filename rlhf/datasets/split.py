"""Which rows are held out, and how the rows of several sources come together. All of it follows from seeds."""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

from rlhf.datasets.config import Mixing
from rlhf.datasets.transcripts import is_transcript, opening, parse_transcript
from rlhf.records import Conversation, Document, Message, Record, Text, prompt_key

T = TypeVar("T")


class PromptKeys:
    """The keys of the prompts of many records, each computed once.

    Unlike `prompt_key` they do not depend on the form: a text, one user message with that text, and a conversation
    as messages or as an HH transcript have the same key.
    """

    def __init__(self) -> None:
        self._keys: dict[int, tuple[Record, str]] = {}

    def whole(self, record: Record) -> str:
        """The key of the whole prompt."""
        known = self._keys.get(id(record))
        if known is None:
            # The record is kept beside its key, so that no other can be given its id.
            known = self._keys[id(record)] = (record, form_free_key(prompt_of(record)))
        return known[1]

    def opening(self, record: Record) -> str:
        """The key of the prompt up to its first answer: equal for all stages of one conversation."""
        prompt = prompt_of(record)
        start = opening(prompt)
        return self.whole(record) if start is prompt else form_free_key(start)


def form_free_key(prompt: Text) -> str:
    """`prompt_key` of `prompt` in its simplest form."""
    if isinstance(prompt, str) and is_transcript(prompt):
        prompt = [Message.model_validate(turn) for turn in parse_transcript(prompt)] or prompt
    if isinstance(prompt, list) and len(prompt) == 1 and prompt[0].role == "user":
        prompt = prompt[0].content
    return prompt_key(prompt)


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
    draw = random.Random(f"mix:{seed}")  # noqa: S311 - a shuffle
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
