"""How far one person is, and what may come. The page asks after every answer, so it must cost next to nothing."""

import time
from datetime import UTC, datetime
from datetime import time as time_of_day

import sqlalchemy as sa

from labeling_app.schema import leases, submissions, tasks
from labeling_app.store.prepared import Prepared
from labeling_app.store.transaction import ACTIVE, QUEUE, USER, Tx
from labeling_app.store.values import Outlook, Progress

RECOUNT_SECONDS = 5.0
MANY = 2000
"""Where more tasks than this are open, what others do to their number shows up to `RECOUNT_SECONDS` late."""


def progress(tx: Tx, user_id: int, queue: str | None = None) -> Progress:
    """How far this person is, in one queue or in all."""
    rows = _OWN[queue is not None].all(tx, {"user": user_id, "queue": queue})
    num: dict[str, int] = {row.state: row.num for row in rows}
    midnight = datetime.combine(tx.now, time_of_day(), UTC)
    today = _TODAY[queue is not None].one(tx, {"user": user_id, "midnight": midnight, "queue": queue})
    return Progress(
        num_answered=num.get("answered", 0),
        num_today=today.num,
        num_open_for_me=_num_open(tx, user_id, queue, sum(num.values()) - num.get("expired", 0)) + num.get("active", 0),
        num_skipped=num.get("skipped", 0),
        seconds_today=int(today.active_ms) / 1000,
    )


def outlook(tx: Tx, user_id: int, queue: str) -> Outlook:
    """Why there is no task for this person in the queue: to be asked when `claim` has found none."""
    values = {"user": user_id, "queue": queue}
    elsewhere = tx.connection.execute(_ELSEWHERE, values).one()
    return Outlook(
        num_tasks=tx.connection.execute(_ALL_TASKS, values).scalar_one(),
        num_with_others=elsewhere.num,
        seconds_to_next=None if elsewhere.first is None else max(0.0, (elsewhere.first - tx.now).total_seconds()),
        num_for_others=tx.connection.execute(_UNFINISHED, values).scalar_one() - elsewhere.num,
    )


def holds_task(tx: Tx, user_id: int, queue: str) -> bool:
    """Whether this person has a task of the queue on the screen."""
    return tx.connection.execute(_HELD, {"user": user_id, "queue": queue}).first() is not None


def _num_open(tx: Tx, user_id: int, queue: str | None, num_had: int) -> int:
    """Tasks that this person could still be given; `num_had` are those that they were and that did not expire."""
    key = ("open for", user_id, queue)
    counted_at, num_open_then, num_had_then = tx.memo.get(key, (0.0, 0, 0))
    if num_open_then > MANY and time.monotonic() < counted_at + RECOUNT_SECONDS:
        return int(num_open_then - (num_had - num_had_then))
    values = {"user": user_id, "queue": queue}
    # What is open, less what is open and was theirs: that spares looking into the leases for every open task.
    num_open: int = tx.connection.execute(_OPEN[queue is not None], values).scalar_one()
    num_open -= tx.connection.execute(_OPEN_AND_HAD[queue is not None], values).scalar_one()
    if tx.settings.gold_share > 0:
        num_open += tx.connection.execute(_UNSEEN_GOLD[queue is not None], values).scalar_one()
    tx.memo[key] = (time.monotonic(), num_open, num_had)
    return num_open


_IS_OPEN = tasks.c.open_slots > sa.literal_column("0")
_IS_GOLD = sa.and_(tasks.c.gold.is_not(None), tasks.c.withdrawn_at.is_(None))
_HAD = sa.and_(leases.c.user_id == USER, leases.c.state != sa.literal_column("'expired'"))

_OF_LEASE = leases.c.queue == QUEUE
_OF_TASK = tasks.c.queue == QUEUE


def _in_all_or_one(counted: sa.Select[int], in_queue: sa.ColumnElement[bool]) -> tuple[sa.Select[int], sa.Select[int]]:
    return counted, counted.where(in_queue)


_OWN_STATES = sa.select(leases.c.state, sa.func.count().label("num")).where(leases.c.user_id == USER)
_OWN = [Prepared(found.group_by(leases.c.state)) for found in (_OWN_STATES, _OWN_STATES.where(_OF_LEASE))]

_TODAYS = sa.select(
    sa.func.count(sa.case((submissions.c.revision == 1, 1))).label("num"),
    sa.func.coalesce(sa.func.sum(submissions.c.active_ms), 0).label("active_ms"),
).where(submissions.c.user_id == USER, submissions.c.created_at >= sa.bindparam("midnight"))
_TODAY = [
    Prepared(found) for found in (_TODAYS, _TODAYS.join(tasks, tasks.c.id == submissions.c.task_id).where(_OF_TASK))
]

_OPEN = _in_all_or_one(sa.select(sa.func.count()).select_from(tasks).where(_IS_OPEN), _OF_TASK)

_OPEN_AND_HAD = _in_all_or_one(
    sa.select(sa.func.count()).select_from(leases).join(tasks, tasks.c.id == leases.c.task_id).where(_HAD, _IS_OPEN),
    _OF_LEASE,
)

_UNSEEN_GOLD = _in_all_or_one(
    sa.select(sa.func.count())
    .select_from(tasks)
    .where(_IS_GOLD, ~sa.exists(sa.select(leases.c.id).where(leases.c.task_id == tasks.c.id, _HAD))),
    _OF_TASK,
)

_HELD = sa.select(leases.c.id).where(leases.c.user_id == USER, leases.c.state == ACTIVE, _OF_LEASE).limit(1)

_ALL_TASKS = sa.select(sa.func.count()).select_from(tasks).where(_OF_TASK, tasks.c.withdrawn_at.is_(None))

# on somebody else's screen, and not gold, which takes nothing from others
_ON_A_SCREEN = (
    sa.select(leases.c.task_id, sa.func.min(leases.c.expires_at).label("expires_at"))
    .join(tasks, tasks.c.id == leases.c.task_id)
    .where(leases.c.state == ACTIVE, _OF_LEASE, tasks.c.gold.is_(None), tasks.c.withdrawn_at.is_(None))
    .group_by(leases.c.task_id)
    .subquery()
)
_MINE = sa.select(leases.c.id).where(leases.c.task_id == _ON_A_SCREEN.c.task_id, _HAD)

_ELSEWHERE = sa.select(sa.func.count().label("num"), sa.func.min(_ON_A_SCREEN.c.expires_at).label("first")).where(
    ~sa.exists(_MINE)
)

_UNFINISHED = (
    sa.select(sa.func.count())
    .select_from(tasks)
    .where(_OF_TASK, sa.or_(_IS_OPEN, tasks.c.id.in_(sa.select(_ON_A_SCREEN.c.task_id))))
)
