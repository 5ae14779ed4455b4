"""Cleaning one row, and finding rows that are there twice."""

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

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


# Near duplicates

_RUN = 5
_NUM_PERM = 64

Runs = npt.NDArray[np.uint64]


def _runs(text: str) -> Runs:
    """All runs of five letters (bytes of UTF-8) of `text`, case and spacing apart, each once, as sorted numbers."""
    data = np.frombuffer(" ".join(text.lower().split()).encode().ljust(_RUN), dtype=np.uint8).astype(np.uint64)
    starts = len(data) - _RUN + 1
    packed = np.zeros(starts, dtype=np.uint64)
    for place in range(_RUN):
        packed |= data[place : place + starts] << np.uint64(8 * place)
    return np.unique(packed)


def _jaccard(a: Runs, b: Runs) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


class NearIndex:
    """Finds texts that are nearly the same; MinHash and LSH propose, the exact Jaccard similarity decides."""

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHash, MinHashLSH

        self.threshold = threshold
        # Proposals cost little and a missed pair is lost: the index looks a little below the threshold.
        self._lsh = MinHashLSH(threshold=max(0.2, threshold - 0.1), num_perm=_NUM_PERM)
        self._empty = MinHash(num_perm=_NUM_PERM, hashfunc=int, seed=1)
        self._kept: list[tuple[Any, list[str]]] = []

    def is_near(self, texts: list[str], group: Any = None) -> bool:
        """Whether each of `texts` is near the same text of something added under the same `group`."""
        return self._find([_runs(text) for text in texts], group)[0]

    def add_if_new(self, texts: list[str], group: Any = None) -> bool:
        """Add `texts` unless they are near something there; True if they were new."""
        near, sketch = self._find([_runs(text) for text in texts], group)
        if not near:
            self._lsh.insert(len(self._kept), sketch)
            self._kept.append((group, texts))
        return not near

    def _find(self, runs: list[Runs], group: Any) -> tuple[bool, Any]:
        sketch = self._empty.copy()
        # 40 bits a run, 32 for MinHash: the upper half of a product (Fibonacci hashing).
        hashed = (np.concatenate(runs) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
        sketch.update_batch(hashed.tolist())
        for place in sorted(self._lsh.query(sketch)):
            other_group, others = self._kept[place]
            if other_group != group or len(others) != len(runs):
                continue
            if all(_jaccard(a, _runs(b)) >= self.threshold for a, b in zip(runs, others, strict=True)):
                return True, sketch
        return False, sketch


def first_of_near(records: Sequence[Record], threshold: float) -> Iterator[bool]:
    """True for each record whose texts are not all near those of an earlier one with the same verdict."""
    index = NearIndex(threshold)
    for record in records:
        yield index.add_if_new([plain(text) for text in texts_of(record)], (type(record), verdict_of(record)))
