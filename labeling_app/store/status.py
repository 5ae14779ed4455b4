"""How the queues stand."""

import sqlalchemy as sa

from labeling_app.schema import leases, submissions, tasks, users
from labeling_app.store.transaction import Tx
from labeling_app.store.values import AnnotatorStatus, QueueStatus


def status(tx: Tx, queue: str | None = None) -> list[QueueStatus]:
    """How every queue stands, or the one named."""
    of_task = (
        sa.select(
            leases.c.task_id,
            *[
                sa.func.count(sa.case((leases.c.state == state, 1))).label(state)
                for state in ("active", "answered", "skipped")
            ],
            _count(sa.and_(leases.c.state == "answered", users.c.quarantined_at.is_(None))).label("trusted"),
        )
        .join(users, users.c.id == leases.c.user_id)
        .group_by(leases.c.task_id)
        .subquery()
    )
    active, answered, skipped, trusted = (
        sa.func.coalesce(of_task.c[name], 0) for name in ("active", "answered", "skipped", "trusted")
    )
    is_gold = tasks.c.gold.is_not(None)
    counts_in = sa.and_(~is_gold, tasks.c.withdrawn_at.is_(None))
    untouched = sa.and_(counts_in, active == 0, trusted == 0)
    done = sa.and_(counts_in, trusted >= tasks.c.overlap)
    counted = (
        sa.select(
            tasks.c.queue,
            _count(counts_in).label("num_tasks"),
            _count(done).label("num_done"),
            _count(untouched).label("num_open"),
            _count(sa.and_(untouched, skipped > 0)).label("num_skipped_by_all"),
            sa.func.sum(answered).label("num_answers"),
            _count(sa.and_(is_gold, tasks.c.withdrawn_at.is_(None))).label("num_gold"),
            _count(tasks.c.withdrawn_at.is_not(None)).label("num_withdrawn"),
        )
        .select_from(tasks)
        .outerjoin(of_task, of_task.c.task_id == tasks.c.id)
        .group_by(tasks.c.queue)
        .order_by(tasks.c.queue)
    )
    if queue is not None:
        counted = counted.where(tasks.c.queue == queue)
    people = _annotators(tx, queue)
    return [
        QueueStatus(
            queue=row.queue,
            num_tasks=row.num_tasks,
            num_done=row.num_done,
            num_in_progress=row.num_tasks - row.num_done - row.num_open,
            num_open=row.num_open,
            num_skipped_by_all=row.num_skipped_by_all,
            num_answers=int(row.num_answers),
            num_gold=row.num_gold,
            num_withdrawn=row.num_withdrawn,
            by_annotator=people.get(row.queue, []),
        )
        for row in tx.connection.execute(counted)
    ]


def _count(condition: sa.ColumnElement[bool]) -> sa.Function[int]:
    return sa.func.count(sa.case((condition, 1)))


def _annotators(tx: Tx, queue: str | None) -> dict[str, list[AnnotatorStatus]]:
    active_ms = (
        sa.select(sa.func.sum(submissions.c.active_ms))
        .where(submissions.c.task_id == leases.c.task_id, submissions.c.user_id == leases.c.user_id)
        .scalar_subquery()
    )
    found = (
        sa.select(
            tasks.c.queue,
            users.c.id,
            users.c.name,
            users.c.simulated,
            users.c.quarantined_at,
            _count(leases.c.state == "answered").label("num_answers"),
            _count(leases.c.state == "skipped").label("num_skipped"),
            sa.func.coalesce(sa.func.sum(active_ms), 0).label("active_ms"),
            sa.func.max(sa.case((leases.c.state.in_(["answered", "skipped"]), leases.c.ended_at))).label("last_at"),
        )
        .join(leases, leases.c.user_id == users.c.id)
        .join(tasks, tasks.c.id == leases.c.task_id)
        .group_by(tasks.c.queue, users.c.id, users.c.name, users.c.simulated, users.c.quarantined_at)
        .order_by(tasks.c.queue, users.c.name)
    )
    if queue is not None:
        found = found.where(tasks.c.queue == queue)
    people: dict[str, list[AnnotatorStatus]] = {}
    for row in tx.connection.execute(found):
        people.setdefault(row.queue, []).append(
            AnnotatorStatus(
                name=row.name,
                num_answers=row.num_answers,
                num_skipped=row.num_skipped,
                seconds=int(row.active_ms) / 1000,
                last_at=row.last_at,
                simulated=row.simulated,
                quarantined=row.quarantined_at is not None,
            )
        )
    return people
