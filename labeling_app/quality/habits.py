"""What people do whatever the responses say: which place they prefer, how long they take, whether length decides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labeling_app.quality.intervals import Floats, Share, share
from labeling_app.quality.panel import Panel, panel_of
from labeling_app.store import Judgement


@dataclass(frozen=True)
class Place:
    """How often the response shown at `place` (1 is the first) was the best.

    Attributes:
        best: the share of judgements; of several best, each counts its part.
        chance: the same share if places did not matter: the mean of 1 / (number of responses).
    """

    place: int
    best: Share
    chance: float


@dataclass(frozen=True)
class Times:
    """Seconds of active work a judgement; None where nobody knows.

    Attributes:
        median: half of the judgements took longer.
        low: a quarter took less.
        high: a quarter took more.
        num: judgements whose time is known.
    """

    median: float | None
    low: float | None
    high: float | None
    num: int


def position_bias(judgements: Panel | Sequence[Judgement], annotator: str | None = None) -> list[Place]:
    """The share of best responses by the place where they were shown, first to last; intervals clustered by task.

    Everybody sees an order of their own, so without bias each place has its `chance`. Of everybody who is not
    quarantined, or of one annotator; judgements in which all are equally good say nothing and are left out.
    """
    panel = panel_of(judgements)
    kept = panel.active[panel.person] if annotator is None else panel.person == _number(panel, annotator)
    credit = panel.best_by_place
    num_places = (~np.isnan(credit)).sum(axis=1)
    places = []
    for place in range(credit.shape[1]):
        shown = kept & (num_places > place)
        if shown.any():
            best = share(np.bincount(panel.task[shown], credit[shown, place]), np.bincount(panel.task[shown]))
            places.append(Place(place + 1, best, float(np.mean(1 / num_places[shown]))))
    return places


def time_per_task(judgements: Panel | Sequence[Judgement], annotator: str | None = None) -> Times:
    """How long a judgement takes, of everybody who is not quarantined or of one annotator."""
    panel = panel_of(judgements)
    kept = panel.active[panel.person] if annotator is None else panel.person == _number(panel, annotator)
    return times(panel.seconds[kept])


def times(seconds: Floats) -> Times:
    """Median and quartiles of the seconds that are known."""
    known = seconds[~np.isnan(seconds)]
    if not len(known):
        return Times(None, None, None, 0)
    low, median, high = (float(each) for each in np.quantile(known, [0.25, 0.5, 0.75]))
    return Times(median, low, high, len(known))


def longest_wins(judgements: Panel | Sequence[Judgement], annotator: str | None = None) -> Share:
    """How often the longer response of a pair was preferred; ties are left out, equal lengths count half.

    What agreement between people, and a reward model, has to beat (AlpacaFarm, Dubois et al. 2023: 62.2%).
    """
    panel = panel_of(judgements)
    pairs = panel.pairs
    person = panel.person[pairs.judgement]
    kept = (panel.active[person] if annotator is None else person == _number(panel, annotator)) & (pairs.vote != 0)
    task = panel.task[pairs.judgement[kept]]
    longer = (1 + pairs.longer[pairs.item[kept]] * pairs.vote[kept]) / 2
    return share(np.bincount(task, longer), np.bincount(task))


def _number(panel: Panel, annotator: str) -> int:
    return panel.people.index(annotator)
