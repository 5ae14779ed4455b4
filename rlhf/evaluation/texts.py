"""How much texts vary and repeat themselves: pure functions on texts. Imports no torch.

Words are what white space separates, in lower case, so that models with different tokenizers compare. All of these
depend on the prompts and on how many there are: compare models on the same ones only.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rlhf.evaluation.statistics import distinct_n

SELF_BLEU_TEXTS = 500
"""Self-BLEU is taken of the first so many texts: it falls with their number little by little."""

_SMOOTHING = 0.1
"""What an order without a common n-gram counts (Chen & Cherry 2014, method 1)."""


def diversity(texts: Sequence[str]) -> dict[str, Any]:
    """Distinct-1, -2 and -3, self-BLEU and the share of repeated 4-grams; None where texts are too short for one."""
    return {
        **{f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 3)},
        "self_bleu": self_bleu(texts[:SELF_BLEU_TEXTS]),
        "repeated_4grams": repeated_ngrams(texts, 4),
    }


def repeated_ngrams(texts: Sequence[str], n: int = 4) -> float | None:
    """The share of n-grams of words that stood in the same text before; None where no text has n words."""
    counted = [_grams(text.lower().split(), n) for text in texts]
    total = sum(map(Counter.total, counted))
    return 1 - sum(map(len, counted)) / total if total else None


def self_bleu(texts: Sequence[str], order: int = 4) -> float | None:
    """The mean BLEU of each text with all the others as its references (Zhu et al. 2018, arXiv:1802.01886).

    1 where all say the same, near 0 where no two share words. Texts without words are left out; None for fewer than
    two others.
    """
    words = [line for text in texts if (line := text.lower().split())]
    if len(words) < 2:
        return None
    lengths = sorted(map(len, words))
    grams = [[_grams(line, n) for line in words] for n in range(1, order + 1)]
    most = [_two_most(counted) for counted in grams]
    total = 0.0
    for i, line in enumerate(words):
        logs = []
        for counted, (first, second, holder) in zip((each[i] for each in grams), most, strict=True):
            size = counted.total()
            if not size:
                continue  # a text of two words has no trigram to be found again
            shared = sum(
                min(count, second[gram] if holder[gram] == i else first[gram]) for gram, count in counted.items()
            )
            logs.append(math.log(max(shared, _SMOOTHING) / size))
        others = list(lengths)
        others.remove(len(line))
        closest = min(others, key=lambda other: (abs(other - len(line)), other))
        brevity = min(0.0, 1 - closest / len(line))
        total += math.exp(brevity + sum(logs) / len(logs))
    return total / len(words)


def _two_most(counted: Sequence[Counter[Any]]) -> tuple[Counter[Any], Counter[Any], dict[Any, int]]:
    """How often each n-gram stands in the text that has it most, in the one that has it second most, and the former."""
    first: Counter[Any] = Counter()
    second: Counter[Any] = Counter()
    holder: dict[Any, int] = {}
    for index, counts in enumerate(counted):
        for gram, count in counts.items():
            if count > first[gram]:
                second[gram], first[gram], holder[gram] = first[gram], count, index
            elif count > second[gram]:
                second[gram] = count
    return first, second, holder


def _grams(words: Sequence[str], n: int) -> Counter[Any]:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
