"""The slots of a task: how many people may still be given it.

`tasks.open_slots` is overlap, less the answers of people who are trusted, less the leases in force; 0 where there are
more of these than were asked for, since somebody quarantined is trusted again. Gold tasks have none to count, and what
was withdrawn gets none back.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from labeling_app.schema import leases, tasks, users
from labeling_app.store.prepared import Prepared
from labeling_app.store.transaction import ACTIVE, TASK, USER, Tx

_TAKE = Prepared(
    sa.update(tasks)
    .where(tasks.c.id == TASK, tasks.c.gold.is_(None), tasks.c.open_slots > 0)
    .values(open_slots=tasks.c.open_slots - 1, begun=True)
)
_NUM_TAKEN = (
    sa.select(sa.func.count())
    .select_from(leases)
    .join(users, users.c.id == leases.c.user_id)
    .where(
        leases.c.task_id == tasks.c.id,
        sa.or_(leases.c.state == "active", sa.and_(leases.c.state == "answered", users.c.quarantined_at.is_(None))),
    )
    .correlate(tasks)
    .scalar_subquery()
)
_COUNTED = (tasks.c.gold.is_(None), tasks.c.withdrawn_at.is_(None))
_RECOUNT = (
    sa.update(tasks)
    .where(*_COUNTED)
    .values(open_slots=sa.case((tasks.c.overlap > _NUM_TAKEN, tasks.c.overlap - _NUM_TAKEN), else_=0))
)
_ANSWERED_BY = sa.select(leases.c.task_id).where(leases.c.user_id == USER, leases.c.state == "answered")
_EXPIRE = (
    sa.update(leases)
    .where(leases.c.id == sa.bindparam("lease"), leases.c.state == "active")
    .values(state="expired", ended_at=sa.bindparam("now"))
    .returning(leases.c.task_id, leases.c.user_id)
)


def take(tx: Tx, task_id: int) -> bool:
    """Take one slot of a task that is not gold; False if there is none."""
    return _TAKE.change(tx, {"task": task_id}) == 1


def free(tx: Tx, task_id: int) -> None:
    """Give back the slot of a lease that has ended."""
    _recount(tx, tasks.c.id == TASK, {"task": task_id})


def recount_answered(tx: Tx, user_id: int) -> None:
    """This person's answers count no more, or count again: so do their slots."""
    _recount(tx, tasks.c.id.in_(_ANSWERED_BY), {"user": user_id})


def _recount(tx: Tx, which: sa.ColumnElement[bool], values: dict[str, int]) -> None:
    if tx.on_server:  # first wait for others at these tasks: a statement counts what was there when it began
        mine = sa.select(tasks.c.id).where(which, *_COUNTED).order_by(tasks.c.id).with_for_update(key_share=True)
        tx.connection.execute(mine, values).all()
    tx.connection.execute(_RECOUNT.where(which), values)


def expire(tx: Tx, lease_ids: Sequence[int]) -> int:
    """End leases in force and free their slots; returns how many."""
    num_expired = 0
    for lease_id in lease_ids:
        row = tx.connection.execute(_EXPIRE, {"lease": lease_id, "now": tx.now}).one_or_none()
        if row is not None:
            free(tx, row.task_id)
            tx.record("expired", {"user_id": row.user_id}, task_id=row.task_id)
            num_expired += 1
    return num_expired


def sweep(tx: Tx) -> int:
    """End all leases whose time is up; returns how many."""
    return expire(tx, overdue(tx))


def sweep_task(tx: Tx, task_id: int) -> int:
    """End the leases of one task whose time is up; returns how many."""
    return expire(tx, overdue(tx, leases.c.task_id == task_id))


def overdue(tx: Tx, *where: Any) -> Sequence[int]:
    """Leases in force whose time is up; on PostgreSQL locked, after all who work at one of them have finished."""
    found = (
        sa.select(leases.c.id)
        .where(leases.c.state == ACTIVE, leases.c.expires_at <= tx.now, *where)
        .order_by(leases.c.id)
        .with_for_update(key_share=True)
    )
    return tx.connection.execute(found).scalars().all()
