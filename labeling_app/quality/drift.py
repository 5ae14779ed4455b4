"""Whether judgement changes over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np

from labeling_app.quality.agreement import Comparisons, with_gold, with_others
from labeling_app.quality.habits import Times, times
from labeling_app.quality.intervals import Ints, Share
from labeling_app.quality.panel import Panel, panel_of
from labeling_app.store import Judgement

ANSWERS = 50
"""A person's answers are looked at in blocks of so many."""


@dataclass(frozen=True)
class Block:
    """Some consecutive answers of one person, or of everybody.

    Attributes:
        start: when the first was given.
        end: when the last was.
        num_answers: how many they are.
        others: agreement with others, ties as a half.
        gold: the same with what is known to be right.
        times: of these answers.
    """

    start: datetime
    end: datetime
    num_answers: int
    others: Share
    gold: Share
    times: Times


def drift_by_answers(judgements: Panel | Sequence[Judgement], annotator: str, size: int = ANSWERS) -> list[Block]:
    """One person's answers in blocks of `size`, oldest first; what is left over at the end is added to the last."""
    panel = panel_of(judgements)
    return blocks(panel, annotator, with_others(panel), with_gold(panel), size)


def blocks(panel: Panel, annotator: str, others: Comparisons, gold: Comparisons, size: int = ANSWERS) -> list[Block]:
    """`drift_by_answers`, where the comparisons are at hand."""
    own = np.flatnonzero(panel.person == panel.people.index(annotator))
    starts = list(range(0, max(len(own) - size + 1, 1), size))
    return [
        _block(panel, own[start : None if start == starts[-1] else start + size], others, gold)
        for start in starts
        if len(own)
    ]


def drift_by_week(judgements: Panel | Sequence[Judgement]) -> list[tuple[date, Block]]:
    """Everybody who is not quarantined, by the week's Monday (UTC); weeks without an answer are missing.

    A comparison of answers of two weeks counts as half a one in either.
    """
    panel = panel_of(judgements)
    others, gold = with_others(panel).halved(), with_gold(panel)
    mondays: dict[date, list[int]] = {}
    for index in np.flatnonzero(panel.active[panel.person]).tolist():
        day = panel.judgements[index].first_at.date()
        mondays.setdefault(day - timedelta(days=day.weekday()), []).append(index)
    return [
        (monday, _block(panel, np.array(members, dtype=np.int64), others, gold)) for monday, members in mondays.items()
    ]


def _block(panel: Panel, members: Ints, others: Comparisons, gold: Comparisons) -> Block:
    chosen = np.zeros(len(panel.judgements), dtype=np.bool_)
    chosen[members] = True
    return Block(
        start=panel.judgements[members[0]].first_at,
        end=panel.judgements[members[-1]].first_at,
        num_answers=len(members),
        others=others.agreement(panel.task, chosen).with_ties,
        gold=gold.agreement(panel.task, chosen).with_ties,
        times=times(panel.seconds[members]),
    )
