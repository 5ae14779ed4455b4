"""The slots of a task: how many people may still be given it.

`tasks.open_slots` is overlap, less the answers, less the leases in force; the database refuses a negative one. Gold
tasks have none to count, and what was withdrawn gets none back.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from labeling_app.schema import leases, tasks
from labeling_app.store.prepared import Prepared
from labeling_app.store.transaction import ACTIVE, TASK, Tx

_TAKE = Prepared(
    sa.update(tasks)
    .where(tasks.c.id == TASK, tasks.c.gold.is_(None), tasks.c.open_slots > 0)
    .values(open_slots=tasks.c.open_slots - 1, begun=True)
)
_FREE = (
    sa.update(tasks)
    .where(tasks.c.id == TASK, tasks.c.gold.is_(None), tasks.c.withdrawn_at.is_(None))
    .values(open_slots=tasks.c.open_slots + 1)
)
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
    """Give one slot back."""
    tx.connection.execute(_FREE, {"task": task_id})


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
