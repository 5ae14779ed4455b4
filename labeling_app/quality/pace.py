"""How fast answers come in, and when the queue will be empty."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from labeling_app.quality.panel import Panel, panel_of
from labeling_app.store import Judgement

WINDOW = timedelta(days=1)
_LEAST_WINDOW = timedelta(minutes=15)
_MOST_HOURS = 3 * 365 * 24
_MIN_ANSWERS = 5
"""Of fewer answers no pace is told."""


@dataclass(frozen=True)
class Pace:
    """People's pace; imported votes and simulated annotators have none.

    Attributes:
        num_last_day: answers in the last 24 hours.
        per_hour: the same an hour, since the first answer if that is less than 24 hours ago; None below five answers.
        per_person_hour: answers in an hour of active work.
        end: when nothing will remain at `per_hour`; None where that cannot be told, is years away, or nothing remains.
    """

    num_last_day: int
    per_hour: float | None
    per_person_hour: float | None
    end: datetime | None


def pace(judgements: Panel | Sequence[Judgement], num_remaining: int, now: datetime) -> Pace:
    """The pace of those who are not quarantined, and when `num_remaining` answers will have come at it."""
    panel = panel_of(judgements)
    simulated = np.array([judgement.simulated for judgement in panel.judgements], dtype=np.bool_)
    by_people = panel.active[panel.person] & ~simulated & ~np.isnan(panel.seconds)
    times = [panel.judgements[index].first_at for index in np.flatnonzero(by_people)]
    recent = sum(now - time <= WINDOW for time in times)
    seconds = float(panel.seconds[by_people].sum())
    per_person_hour = 3600 * len(times) / seconds if len(times) >= _MIN_ANSWERS and seconds else None
    if recent < _MIN_ANSWERS:
        return Pace(recent, None, per_person_hour, None)
    per_hour = recent / (min(WINDOW, max(now - min(times), _LEAST_WINDOW)) / timedelta(hours=1))
    hours = num_remaining / per_hour
    end = now + timedelta(hours=hours) if 0 < hours < _MOST_HOURS else None
    return Pace(recent, per_hour, per_person_hour, end)
