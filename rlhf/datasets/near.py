"""Near duplicates. Imports numpy and datasketch, so it is imported where `dedupe: near` asks for it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from datasketch import MinHash, MinHashLSH

from rlhf.datasets.clean import texts_of, verdict_of
from rlhf.records import Record, plain

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
