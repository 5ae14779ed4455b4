"""Judgements as arrays: who said what of which pair, place and grade. Every statistic starts here.

Three things are judged: a *pair* of responses of one task (the better one, or a tie), the *place* of a response in a
full order, the *grade* of a response. Orders give pairs and places; grades give pairs and grades.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from labeling_app.quality.intervals import Bools, Floats, Ints
from labeling_app.store import Content, Judgement

UNKNOWN = 2
"""Stands where a vote would: nothing is known to be right."""


@dataclass(frozen=True)
class Pairs:
    """Votes on pairs: 1 the first of the two is better, -1 the second, 0 neither; first is what was added first.

    Attributes:
        judgement: [V], which judgement a vote is part of.
        item: [V], which pair of which task it is about.
        vote: [V].
        task: [I], the task of a pair.
        size: [I], how many responses that task has.
        gold: [I], the vote that is known to be right, or UNKNOWN.
        longer: [I], 1 if the first response has more characters, -1 if the second has, 0 if neither.
    """

    judgement: Ints
    item: Ints
    vote: Ints
    task: Ints
    size: Ints
    gold: Ints
    longer: Ints


@dataclass(frozen=True)
class Units:
    """Numbers given to single responses: places (1 is best, ties share their mean place), or grades.

    Attributes:
        judgement: [N], which judgement a value is part of.
        unit: [N], which response of which task it is about.
        value: [N].
        task: [U], the task of a unit.
        size: [U], values are compared among tasks of one size: the number of places (grades are all of one: 0).
        gold: [U], the value that is known to be right, or NaN.
    """

    judgement: Ints
    unit: Ints
    value: Floats
    task: Ints
    size: Ints
    gold: Floats


@dataclass(frozen=True)
class Panel:
    """Everybody's judgements, in the order in which the tasks were answered: a revision changes no place.

    Attributes:
        judgements: [J].
        people: [P] names, in alphabetical order.
        person: [J], who it was.
        task: [J], numbers of tasks from 0 on.
        active: [P], whether the person counts: the quarantined are measured, but nobody is measured against them.
        with_gold: [T], whether what is right is known of a task.
        pairs: what was said of pairs.
        places: full orders. Who saw part of the responses only gives pairs, no places.
        grades: what was said in mode `rate`.
    """

    judgements: tuple[Judgement, ...]
    people: tuple[str, ...]
    person: Ints
    task: Ints
    active: Bools
    with_gold: Bools
    pairs: Pairs
    places: Units
    grades: Units

    @cached_property
    def seconds(self) -> Floats:
        """[J], how long each took, NaN where nobody knows (imported votes).

        It is what the page measured, but not more than the server saw pass between claim and first answer.
        Simulated annotators state a time that does not pass.
        """
        return np.array([_seconds(judgement) for judgement in self.judgements], dtype=np.float64)

    @cached_property
    def best_by_place(self) -> Floats:
        """[J, most responses]: the part of being best that fell to each shown place; NaN where nothing was.

        All NaN where all are equally good, and where the answer came in a file: that says nothing of places.
        """
        most = max((len(judgement.presented) for judgement in self.judgements), default=0)
        credit = np.full((len(self.judgements), most), np.nan)
        for row, judgement in enumerate(self.judgements):
            best, shown = best_of(judgement), judgement.presented
            if len(best) < len(shown) and not judgement.is_imported:
                credit[row, : len(shown)] = [(response in best) / len(best) for response in shown]
        return credit

    def of_active(self, judgement: Ints) -> Bools:
        """Which of these judgements are of people who count."""
        return self.active[self.person[judgement]]


def panel_of(judgements: Panel | Sequence[Judgement]) -> Panel:
    """The judgements as arrays; a panel stays what it is."""
    if isinstance(judgements, Panel):
        return judgements
    ordered = tuple(sorted(judgements, key=lambda judgement: (judgement.first_at, judgement.submission_id)))
    quarantined = {judgement.user: judgement.quarantined for judgement in ordered}
    people = sorted(quarantined)
    number = {name: index for index, name in enumerate(people)}
    tasks: dict[int, int] = {}
    pairs, places, grades = _PairsBuilder(), _UnitsBuilder(), _UnitsBuilder()
    for index, judgement in enumerate(ordered):
        task = tasks.setdefault(judgement.task_id, len(tasks))
        ids = [response.id for response in judgement.responses]
        said = _scores(judgement.answer.tiers, judgement.answer.ratings)
        right = _gold_scores(judgement.gold)
        pairs.add(index, task, judgement, ids, said, right)
        if judgement.answer.ratings is not None:
            grades.add(index, task, 0, judgement.answer.ratings, right)
        elif len(ids) > 1 and said.keys() >= set(ids):
            places.add(index, task, len(ids), _mean_places(said), _mean_places(right) if len(right) == len(ids) else {})
    with_gold = np.zeros(len(tasks), dtype=np.bool_)
    for judgement in ordered:
        with_gold[tasks[judgement.task_id]] |= judgement.gold is not None
    return Panel(
        judgements=ordered,
        people=tuple(people),
        person=_ints([number[judgement.user] for judgement in ordered]),
        task=_ints([tasks[judgement.task_id] for judgement in ordered]),
        active=np.array([not quarantined[name] for name in people], dtype=np.bool_),
        with_gold=with_gold,
        pairs=pairs.arrays(),
        places=places.arrays(),
        grades=grades.arrays(),
    )


def best_of(judgement: Judgement) -> set[int]:
    """The ids of the responses that this person put first: the best tier, or the highest grade."""
    ratings = judgement.answer.ratings
    if ratings is not None:
        highest = max(ratings.values(), default=0)
        return {response for response, grade in ratings.items() if grade == highest}
    return set(judgement.answer.tiers[0]) if judgement.answer.tiers else set(judgement.presented)


def num_characters(content: Content) -> int:
    """The length of a text, or of all messages of a conversation."""
    if isinstance(content, str):
        return len(content)
    return sum(len(message["content"]) for message in content if isinstance(message.get("content"), str))


class _PairsBuilder:
    def __init__(self) -> None:
        self.votes: list[tuple[int, int, int]] = []
        self.items: list[tuple[int, int, int, int]] = []
        self.index: dict[tuple[int, int, int], int] = {}

    def add(
        self,
        index: int,
        task: int,
        judgement: Judgement,
        ids: list[int],
        said: dict[int, float],
        right: dict[int, float],
    ) -> None:
        for (at, first), (other_at, second) in combinations(enumerate(ids), 2):
            if first not in said or second not in said:
                continue
            item = self.index.get((task, first, second))
            if item is None:
                item = self.index[task, first, second] = len(self.items)
                known = first in right and second in right
                gold = _sign(right[first] - right[second]) if known else UNKNOWN
                lengths = [num_characters(judgement.responses[place].content) for place in (at, other_at)]
                self.items.append((task, len(ids), gold, _sign(lengths[0] - lengths[1])))
            self.votes.append((index, item, _sign(said[first] - said[second])))

    def arrays(self) -> Pairs:
        judgement, item, vote = _ints(self.votes).reshape(-1, 3).T
        task, size, gold, longer = _ints(self.items).reshape(-1, 4).T
        return Pairs(judgement, item, vote, task, size, gold, longer)


class _UnitsBuilder:
    def __init__(self) -> None:
        self.values: list[tuple[int, int, float]] = []
        self.units: list[tuple[int, int, float]] = []
        self.index: dict[tuple[int, int], int] = {}

    def add(self, index: int, task: int, size: int, said: Mapping[int, float], right: Mapping[int, float]) -> None:
        for response, value in said.items():
            unit = self.index.get((task, response))
            if unit is None:
                unit = self.index[task, response] = len(self.units)
                self.units.append((task, size, right.get(response, np.nan)))
            self.values.append((index, unit, value))

    def arrays(self) -> Units:
        values, units = (np.array(rows, dtype=np.float64).reshape(-1, 3).T for rows in (self.values, self.units))
        return Units(
            values[0].astype(np.int64),
            values[1].astype(np.int64),
            values[2],
            units[0].astype(np.int64),
            units[1].astype(np.int64),
            units[2],
        )


def _scores(tiers: Sequence[Sequence[int]], ratings: Mapping[int, float] | None) -> dict[int, float]:
    """The higher, the better: grades as they are, tiers counted down."""
    if ratings is not None:
        return {int(response): float(grade) for response, grade in ratings.items()}
    return {response: -float(tier) for tier, members in enumerate(tiers) for response in members}


def _gold_scores(gold: Mapping[str, Any] | None) -> dict[int, float]:
    return {} if gold is None else _scores(gold.get("tiers") or [], gold.get("ratings"))


def _mean_places(scores: Mapping[int, float]) -> dict[int, float]:
    """Places from 1 (best) on; those who tie share the mean of the places that they fill."""
    values = sorted(scores.values(), reverse=True)
    return {response: 1 + values.index(score) + (values.count(score) - 1) / 2 for response, score in scores.items()}


def _seconds(judgement: Judgement) -> float:
    active, wall = judgement.active_ms / 1000, judgement.wall_ms / 1000
    if judgement.simulated or judgement.revision > 1 or wall <= 0:
        return active if active > 0 else np.nan
    return min(active, wall) if active > 0 else wall


def _sign(difference: float) -> int:
    return (difference > 0) - (difference < 0)


def _ints(values: Sequence[Any]) -> Ints:
    return np.array(values, dtype=np.int64)
