"""What the admins' page asks of the store, and the one thing that it changes there."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from labeling_app.quality import Pace, Quality, assess, pace, plots
from labeling_app.schema import events, leases, tasks, users
from labeling_app.store import QueueStatus, Tx, people, reading
from labeling_app.store.status import status
from labeling_app.web import dashboard_text


@dataclass(frozen=True)
class Measured:
    """What the store holds, at one moment."""

    now: datetime
    statuses: list[QueueStatus]
    remaining: dict[str, int]
    quality: Quality
    pace: Pace
    answers_by_day: str | None
    because: dict[str, str]


def measure(tx: Tx, queue: str | None) -> Measured:
    """Take the figures of one queue, or of all; the judgements themselves are let go of here."""
    statuses, remaining = status(tx), _remaining(tx)
    judgements = reading.judgements(tx, queue, with_quarantined=True)
    to_come = sum(number for name, number in remaining.items() if queue in (None, name))
    return Measured(
        tx.now,
        statuses,
        remaining,
        assess(judgements),
        pace(judgements, to_come, tx.now),
        plots.answers_by_day(judgements),
        _because(tx),
    )


def set_quarantined(tx: Tx, name: str, quarantined: bool, by: int, reason: str) -> str:
    """Quarantine somebody or release them; returns what that changed, as HTML.

    Raises:
        UnknownUser: there is nobody of that name.
    """
    before = people.user(tx, name)
    num_held, num_to_come = _held(tx, before.id), sum(_remaining(tx).values())
    people.set_quarantined(tx, before.id, quarantined, by, reason)
    return dashboard_text.done(
        name,
        quarantined,
        changed=(before.quarantined_at is not None) != quarantined,
        num_answers=_answered(tx, before.id),
        num_more=sum(_remaining(tx).values()) - num_to_come,
        num_held=num_held,
    )


def _remaining(tx: Tx) -> dict[str, int]:
    """How many answers each queue still waits for, those on somebody's screen included."""
    on_screen = sa.select(sa.func.count()).where(leases.c.task_id == tasks.c.id, leases.c.state == "active")
    found = (
        sa.select(tasks.c.queue, sa.func.sum(tasks.c.open_slots + on_screen.scalar_subquery()))
        .where(tasks.c.gold.is_(None), tasks.c.withdrawn_at.is_(None))
        .group_by(tasks.c.queue)
    )
    return {queue: int(number) for queue, number in tx.connection.execute(found)}


def _held(tx: Tx, user_id: int) -> int:
    """How many tasks somebody has on the screen."""
    mine = sa.select(sa.func.count()).where(leases.c.user_id == user_id, leases.c.state == "active")
    return tx.connection.execute(mine).scalar_one()


def _answered(tx: Tx, user_id: int) -> int:
    """How many answers of somebody are for export: all but those to tasks with gold."""
    mine = (
        sa.select(sa.func.count())
        .select_from(leases)
        .join(tasks, tasks.c.id == leases.c.task_id)
        .where(leases.c.user_id == user_id, leases.c.state == "answered", tasks.c.gold.is_(None))
    )
    return tx.connection.execute(mine).scalar_one()


def _because(tx: Tx) -> dict[str, str]:
    """Of everybody who is quarantined: since when, by whom and why."""
    found = sa.select(users.c.id, users.c.name).where(users.c.quarantined_at.is_not(None))
    names = {row.id: row.name for row in tx.connection.execute(found)}
    if not names:
        return {}
    by = users.alias()
    told = (
        sa.select(events.c.created_at, events.c.body, by.c.name)
        .outerjoin(by, by.c.id == events.c.user_id)
        .where(events.c.kind == "quarantined")
        .order_by(events.c.id)
    )
    return {
        names[row.body["user_id"]]: dashboard_text.because(row.created_at, row.name, row.body.get("reason", ""))
        for row in tx.connection.execute(told)
        if row.body["user_id"] in names
    }
