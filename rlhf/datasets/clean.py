"""Cleaning one row, and finding rows that are there twice."""

import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from rlhf.datasets.config import Cleaning
from rlhf.datasets.rows import Row
from rlhf.records import (
    Completion,
    Conversation,
    Document,
    Preference,
    Prompt,
    Ranking,
    Rating,
    Record,
    Text,
    plain,
)

Cleaner = Callable[[str], str]


def clean_row(row: Row, cleaning: Cleaning) -> Row:
    """`row` with its texts normalised and stripped as `cleaning` says."""
    form = _normaliser(cleaning)
    end: Cleaner = (lambda text: form(text).rstrip()) if cleaning.strip else form
    both: Cleaner = (lambda text: form(text).strip()) if cleaning.strip else form
    made = dict(row)
    for name, text_cleaner in (("prompt", form), ("completion", end), ("chosen", end), ("rejected", end)):
        if name in row:
            made[name] = _clean(row[name], text_cleaner, both)
    for name in ("text", "messages"):
        if name in row:
            made[name] = _clean(row[name], both, both)
    if isinstance(row.get("completions"), list):
        made["completions"] = [_clean(one, end, both) for one in row["completions"]]
    return made


def _clean(value: Any, of_text: Cleaner, of_message: Cleaner) -> Any:
    if isinstance(value, str):
        return of_text(value)
    if not isinstance(value, list):
        return value
    return [
        turn | {"content": of_message(turn["content"])}
        if isinstance(turn, dict) and isinstance(turn.get("content"), str)
        else turn
        for turn in value
    ]


def _normaliser(cleaning: Cleaning) -> Cleaner:
    form = cleaning.unicode
    if form == "none":
        return lambda text: text

    def normalise(text: str) -> str:
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        return text if text.isascii() else unicodedata.normalize(form, text)

    return normalise


def texts_of(record: Record) -> list[Text]:
    """The texts of `record`, the prompt first where there is one."""
    match record:
        case Ranking():
            return [record.prompt, *record.completions]
        case Preference():
            return [record.prompt, record.chosen, record.rejected]
        case Rating() | Completion():
            return [record.prompt, record.completion]
        case Prompt():
            return [record.prompt]
        case Conversation():
            return [record.messages]
        case Document():
            return [record.text]
    raise TypeError(f"no texts are known for {type(record).__name__}")


def verdict_of(record: Record) -> tuple[Any, ...]:
    """What besides its texts makes `record` a judgement of its own: two people may say the same of one pair."""
    match record:
        case Ranking():
            return (record.annotator, record.task, record.tiers)
        case Preference():
            return (record.annotator, record.group_id)
        case Rating():
            return (record.annotator, record.rating)
    return ()


def num_chars(record: Record) -> int:
    """The length of the prompt and the longest answer together."""
    first, *others = [len(plain(text)) for text in texts_of(record)]
    return first + max(others, default=0)


def identity(record: Record) -> bytes:
    """Equal for records with equal words and verdicts, whatever their spacing."""
    words = [" ".join(plain(text).split()) for text in texts_of(record)]
    forms = [isinstance(text, str) for text in texts_of(record)]
    body = repr((type(record).__name__, forms, words, verdict_of(record)))
    return hashlib.sha256(body.encode()).digest()


def first_of_each(identities: Sequence[bytes]) -> list[bool]:
    """True where an identity appears for the first time."""
    seen: set[bytes] = set()
    return [not (one in seen or seen.add(one)) for one in identities]  # type: ignore[func-returns-value]
