"""Signs that somebody does not look at the responses. A sign is a reason to look, not a verdict.

Chance is held against each, so that an honest annotator shows one by luck in fewer than one case of a hundred.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import factorial
from statistics import median
from typing import Literal, TypeAlias

import numpy as np

from labeling_app.answers import HIGHEST_RATING, LOWEST_RATING
from labeling_app.quality.agreement import Agreement
from labeling_app.quality.drift import Block
from labeling_app.quality.intervals import Floats, Ints, Share, tail
from labeling_app.quality.panel import Panel, best_of, num_characters, panel_of
from labeling_app.quality.reliability import Reliability
from labeling_app.store import Judgement

Kind = Literal["same-place", "straight-lining", "too-quick", "contradicts", "guesses", "falling"]

_Patterns: TypeAlias = "defaultdict[tuple[str, int], Counter[tuple[float, ...]]]"
"""How often each answer was given, by mode and number of responses."""

MIN_ANSWERS = 10
"""Of fewer nothing is said."""

_BY_LUCK = 1e-4

_QUICK_OF_MEDIAN = 0.2
_QUICK_CHARACTERS_PER_SECOND = 300
_QUICK_AT_MOST_SECONDS = 10.0
"""A judgement is too quick below a fifth of what it usually takes (the normative threshold of Wise & Ma 2012, who try
10% to 30% and stop at 10 seconds too), or when nobody could have skimmed the text at five times the usual pace of
about 60 characters a second."""
_QUICK_SHARE = 0.2

_CLEARLY_MORE = 0.25
"""How far above chance a share must lie to matter, however sure it is."""

_GUESSING_WEIGHT = 0.25
_GUESSING_COMPARISONS = 100

_FALLING_STANDARD_ERRORS = 4.0
_FALLING_BY = 0.2
"""Less than that may be another's fault: whoever gets worse takes agreement from those who are compared with them."""


@dataclass(frozen=True)
class Signal:
    """A sign of carelessness.

    Attributes:
        kind: which.
        text: the same for people.
        share: how large a share of the answers show it; for `contradicts`, `guesses` and `falling`, the agreement.
        expected: the share that chance, the others, or the time before would give.
        num: how many answers it is a share of.
    """

    kind: Kind
    text: str
    share: float
    expected: float
    num: int


def careless_signals(judgements: Panel | Sequence[Judgement]) -> dict[str, list[Signal]]:
    """Each annotator's signs: the best always in the same place, always the same answer, too quick to have read.

    `assess` adds those that rest on agreement: `contradicting`, `guessing` and `falling`.
    """
    panel = panel_of(judgements)
    limits = _time_limits(panel)
    patterns: list[_Patterns] = [defaultdict(Counter) for _ in panel.people]
    everybody: _Patterns = defaultdict(Counter)
    for person, judgement in zip(panel.person.tolist(), panel.judgements, strict=True):
        pattern = _pattern(judgement)
        for counts in (patterns[person], everybody):
            counts[judgement.mode, len(pattern)][pattern] += 1
    return {
        name: [
            signal
            for found in (
                _same_place(panel, np.flatnonzero(panel.person == person)),
                _straight_lining(patterns[person], everybody),
                _too_quick(panel.seconds[panel.person == person], limits[panel.person == person]),
            )
            if (signal := found) is not None
        ]
        for person, name in enumerate(panel.people)
    }


def contradicting(others: Agreement, gold: Agreement) -> Signal | None:
    """Surely less agreement than a coin's, with others or with gold: the order turned round, or the task misread."""
    for name, against in (("the others", others.with_ties), ("gold", gold.with_ties)):
        if against.num_tasks >= MIN_ANSWERS and against.high is not None and against.high < 0.5:
            assert against.value is not None, "an interval has a value"
            text = f"contradicts {name}: agrees on {against.value:.0%} of pairs, and a coin on half"
            return Signal("contradicts", text, against.value, 0.5, against.num)
    return None


def guessing(reliability: Reliability | None, others: Agreement, everybody: Agreement) -> Signal | None:
    """What the others agree on, this one does not know, though much was compared: the weight is next to nothing."""
    if reliability is None or reliability.weight > _GUESSING_WEIGHT:
        return None
    own, usual = others.with_ties, everybody.with_ties
    if reliability.num_comparisons < _GUESSING_COMPARISONS or own.value is None or usual.value is None:
        return None
    text = (
        f"seems to guess: agrees with the others on {own.value:.0%} of pairs, where two people do on {usual.value:.0%}"
    )
    return Signal("guesses", text, own.value, usual.value, own.num)


def falling(blocks: Sequence[Block]) -> Signal | None:
    """Agreement with others in the latest block of answers is lower than in the ones before, beyond chance."""
    if len(blocks) < 2:
        return None
    known = [(each.others.value, _standard_error(each.others), each.num_answers) for each in blocks]
    latest, error, num = known[-1]
    before = [(value, own**2) for value, own, _ in known[:-1] if value is not None]
    if latest is None or not before or blocks[-1].others.num_tasks < MIN_ANSWERS:
        return None
    mean = sum(value for value, _ in before) / len(before)
    spread = (error**2 + sum(variance for _, variance in before) / len(before) ** 2) ** 0.5
    if mean - latest < max(_FALLING_STANDARD_ERRORS * spread, _FALLING_BY):
        return None
    text = f"agreement with the others fell from {mean:.0%} to {latest:.0%} in the last {num} answers"
    return Signal("falling", text, latest, mean, num)


def _standard_error(each: Share) -> float:
    return 0.0 if each.high is None or each.low is None else (each.high - each.low) / (2 * 1.96)


def _same_place(panel: Panel, own: Ints) -> Signal | None:
    """The one best response was shown in the same place far more often than the shuffle explains."""
    single = [
        (judgement.presented.index(next(iter(best))), len(judgement.presented))
        for judgement in (panel.judgements[index] for index in own)
        if len(best := best_of(judgement)) == 1 and len(judgement.presented) > 1 and not judgement.is_imported
    ]
    found = []
    for place in range(max((size for _, size in single), default=0)):
        shown = [(at == place, size) for at, size in single if size > place]
        chance = float(np.mean([1 / size for _, size in shown]))
        found.append((sum(hit for hit, _ in shown), len(shown), chance, place + 1))
    return _most_unlikely(
        found, lambda share, place: f"the best was shown in place {place} in {share:.0%} of the answers", "same-place"
    )


def _straight_lining(own: _Patterns, everybody: _Patterns) -> Signal | None:
    """One and the same answer, as seen on the screen, far more often than others give it."""
    found = []
    for (mode, size), counts in own.items():
        pattern, count = counts.most_common(1)[0]
        if mode != "rate" and size == 2 and len(set(pattern)) == 2:
            continue  # always the first, or always the second: `same-place` says so
        kinds = (HIGHEST_RATING - LOWEST_RATING + 1) ** size if mode == "rate" else factorial(size)
        all_counts = everybody[mode, size]
        num_others = all_counts.total() - counts.total()
        usual = (all_counts[pattern] - count) / num_others if num_others else 0.0
        found.append((count, counts.total(), max(usual, 1 / kinds), pattern))
    return _most_unlikely(
        found, lambda share, pattern: f"the same answer ({_words(pattern)}) in {share:.0%}", "straight-lining"
    )


def _most_unlikely(
    found: Sequence[tuple[int, int, float, object]], text: Callable[[float, object], str], kind: Kind
) -> Signal | None:
    """The worst of `(count, num, chance, what)` if it is large, surely above chance, and rests on enough answers."""
    signs = [
        (count / num - chance, Signal(kind, text(count / num, what), count / num, chance, num))
        for count, num, chance, what in found
        if num >= MIN_ANSWERS
        and count / num >= chance + _CLEARLY_MORE
        and tail(count, num, chance) * len(found) < _BY_LUCK
    ]
    return max(signs, key=lambda sign: sign[0])[1] if signs else None


def _too_quick(seconds: Floats, limits: Floats) -> Signal | None:
    known = ~np.isnan(seconds) & ~np.isnan(limits)
    num = int(known.sum())
    quick = int((seconds[known] < limits[known]).sum())
    if num < MIN_ANSWERS or quick / num < _QUICK_SHARE:
        return None
    limit = float(np.median(limits[known]))
    return Signal(
        "too-quick", f"too quick to have read in {quick / num:.0%} (under {limit:.1f} s)", quick / num, 0, num
    )


def _time_limits(panel: Panel) -> Floats:
    """[J]: below how many seconds each judgement is too quick; NaN where no times are known.

    What it usually takes is the median of the annotators' medians, so that one who answers much does not set it.
    """
    groups: dict[tuple[str, int], dict[int, list[float]]] = {}
    for person, judgement, seconds in zip(panel.person.tolist(), panel.judgements, panel.seconds, strict=True):
        if not np.isnan(seconds):
            groups.setdefault((judgement.mode, len(judgement.responses)), {}).setdefault(person, []).append(seconds)
    usual = {key: median(median(own) for own in people.values()) for key, people in groups.items()}
    characters: dict[int, int] = {}
    limits = np.full(len(panel.judgements), np.nan)
    for index, judgement in enumerate(panel.judgements):
        key = (judgement.mode, len(judgement.responses))
        if key not in usual:
            continue
        task = int(panel.task[index])
        if task not in characters:
            characters[task] = sum(num_characters(response.content) for response in judgement.responses)
        skimmed = characters[task] / _QUICK_CHARACTERS_PER_SECOND
        limits[index] = min(max(_QUICK_OF_MEDIAN * usual[key], skimmed), _QUICK_AT_MOST_SECONDS)
    return limits


def _pattern(judgement: Judgement) -> tuple[float, ...]:
    """The answer as it looked on the screen: tier or grade of the first shown, of the second, ..."""
    ratings = judgement.answer.ratings
    if ratings is None:
        ratings = {response: tier for tier, members in enumerate(judgement.answer.tiers, 1) for response in members}
    return tuple(ratings[response] for response in judgement.presented if response in ratings)


def _words(pattern: object) -> str:
    assert isinstance(pattern, tuple), "a pattern is the tuple of what was said"
    if len(set(pattern)) == 1 and len(pattern) > 1:
        return "all alike"
    return "-".join(f"{value:g}" for value in pattern)
