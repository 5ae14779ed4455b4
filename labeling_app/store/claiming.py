"""Giving tasks to people: who gets which, for how long, and how it lies before them."""

import random
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from labeling_app.answers import Answer
from labeling_app.schema import leases, prompts, responses, submissions, task_responses, tasks, users
from labeling_app.store import slots
from labeling_app.store.errors import Conflict, LeaseLost, NotYours, UnknownTask, UnknownUser
from labeling_app.store.people import check_active, lock
from labeling_app.store.prepared import Prepared
from labeling_app.store.transaction import ACTIVE, QUEUE, TASK, USER, Tx
from labeling_app.store.values import Claimed, Content

# a literal: the index ix_tasks_open holds these rows only
_IS_OPEN = tasks.c.open_slots > sa.literal_column("0")

_IS_GOLD = sa.and_(tasks.c.gold.is_not(None), tasks.c.withdrawn_at.is_(None))

WITHDRAWN = "This task was withdrawn: it is given to nobody any more."

# What a person had is not given to them again, unless it slipped from their hands.
_HAD = sa.select(leases.c.id).where(
    leases.c.task_id == tasks.c.id, leases.c.user_id == USER, leases.c.state != sa.literal_column("'expired'")
)


def claim(tx: Tx, user_id: int, queue: str | None = None) -> Claimed | None:
    """The task this person has in hand, or else a new one; None when there is nothing for them.

    Tasks of higher priority come first, then those that somebody was already given, then in the order in which they
    were added. Gold tasks are mixed in at `settings.gold_share`, and come when nothing else is left. What the person
    has answered or skipped is not given again; a task that slipped from their hands by time may be.

    Raises:
        UnknownUser, Quarantined, Disabled
    """
    lock(tx, user_id)
    row = _situation(queue is not None).first(tx, {"user": user_id, "queue": queue})
    if row is None:
        raise UnknownUser(f"user {user_id}: there is none")
    check_active(row)
    if row.held is not None:
        return take(tx, user_id, row.held)
    share = tx.settings.gold_share if row.has_gold else 0.0
    is_gold_due = share > 0 and _draw(tx, user_id, "whether gold").random() < share
    task_id = _next_gold(tx, user_id, queue) if is_gold_due else None
    if task_id is None:
        task_id = _next_open(tx, user_id, queue)
    if task_id is None and (slots.sweep(tx) or tx.on_server):  # there, another may have swept it while we waited
        task_id = _next_open(tx, user_id, queue)
    if task_id is None and share > 0:
        task_id = _next_gold(tx, user_id, queue)
    return None if task_id is None else take(tx, user_id, task_id)


def take(tx: Tx, user_id: int, task_id: int) -> Claimed:
    """Give this task to this person, or prolong what they have of it. A slot must be free, or theirs.

    Raises:
        LeaseLost: there is no slot, or it was withdrawn; only for a task that this person had before.
        Conflict: they have answered it.
    """
    row = _CONTENT.one(tx, {"user": user_id, "task": task_id})
    if row.state == "answered":
        raise Conflict("You have already answered this task; to change the answer, revise it.")
    contents = _contents(tx, task_id)
    expires_at = tx.now + timedelta(seconds=tx.settings.lease_seconds)
    if row.state == "active":
        if row.expires_at > tx.now:
            expires_at = row.expires_at
        else:  # the time was up, and nobody has taken it away yet
            _prolong(tx, row.lease_id, user_id, task_id, expires_at)
        return _claimed(row, contents, row.presented, lease=row.token, expires_at=expires_at)
    if row.is_gold and row.withdrawn_at is not None:
        raise LeaseLost(WITHDRAWN)
    if not row.is_gold and not slots.take(tx, task_id):
        raise LeaseLost("Somebody else has been given this task in the meantime.")
    if row.lease_id is None:
        token, presented = secrets.token_urlsafe(24), _shuffled(contents, task_id, user_id)
        new = {"token": token, "task_id": task_id, "user_id": user_id, "queue": row.queue, "presented": presented}
        _ADD_LEASE.insert(tx, new | {"state": "active", "claimed_at": tx.now, "expires_at": expires_at})
    else:
        token, presented = row.token, row.presented
        tx.connection.execute(_RENEW, {"lease": row.lease_id, "now": tx.now, "expires": expires_at})
    body = {"presented": presented, "expires_at": expires_at.isoformat()}
    tx.record("claimed", body, user_id=user_id, task_id=task_id)
    return _claimed(row, contents, presented, lease=token, expires_at=expires_at)


def extend(tx: Tx, user_id: int, lease: str) -> datetime:
    """Somebody is still at it: the lease runs its full time again, from now. Returns when it ends.

    Raises:
        NotYours, LeaseLost, Quarantined, Disabled
    """
    lock(tx, user_id)
    row = tx.connection.execute(_LEASE_OF, {"user": user_id, "token": lease}).one_or_none()
    if row is None or row.user_id != user_id:
        raise NotYours("This task was given to somebody else.")
    check_active(row)
    if row.state != "active":
        raise LeaseLost("The time for this task was up.")
    expires_at = tx.now + timedelta(seconds=tx.settings.lease_seconds)
    _prolong(tx, row.id, user_id, row.task_id, expires_at)
    return expires_at


def reopen(tx: Tx, user_id: int, task_id: int, take_again: bool = False) -> Claimed:
    """A task this person was given before: answered, to look at and revise; what they hold; skipped or expired.

    To look back at what was skipped or slipped away changes nothing and gives no lease, unless it is taken again.

    Raises:
        UnknownTask: they never had it.
        LeaseLost: it was to be taken again, and others have it now.
        Quarantined, Disabled
    """
    lock(tx, user_id)
    state = tx.connection.execute(_STATE_OF, {"user": user_id, "task": task_id}).one_or_none()
    if state is None:
        raise UnknownTask(f"Task {task_id} was never given to you.")
    check_active(state)
    row = _CONTENT.one(tx, {"user": user_id, "task": task_id})
    if row.state != "answered":
        if take_again:
            slots.sweep_task(tx, task_id)
        if take_again or (row.state == "active" and row.expires_at > tx.now):
            return take(tx, user_id, task_id)
        return _claimed(row, _contents(tx, task_id), row.presented)
    last = tx.connection.execute(LAST_SUBMISSION, {"user": user_id, "task": task_id}).one()
    answer, revision = Answer.model_validate(last.answer), last.revision
    return _claimed(row, _contents(tx, task_id), row.presented, answer=answer, revision=revision)


def _draw(tx: Tx, user_id: int, what: str) -> random.Random:
    """By person and number of tasks given to them: the same again when a claim is tried again."""
    num_claims = tx.connection.execute(_NUM_CLAIMS, {"user": user_id}).scalar_one()
    return random.Random(f"{what} {tx.settings.seed} {user_id} {num_claims}")  # noqa: S311 - no secret


def _next_gold(tx: Tx, user_id: int, queue: str | None) -> int | None:
    unseen = tx.connection.execute(_unseen_gold(queue is not None), {"user": user_id, "queue": queue}).scalars().all()
    return _draw(tx, user_id, "which gold").choice(unseen) if unseen else None


def _next_open(tx: Tx, user_id: int, queue: str | None) -> int | None:
    """The next task with a slot free for this person, on PostgreSQL locked until the transaction ends."""
    if queue is not None:
        row = _first_open(tx, user_id, queue)
        return None if row is None else int(row.id)
    found = [row for name in _open_queues(tx) if (row := _first_open(tx, user_id, name)) is not None]
    return min(found, key=lambda row: (-row.priority, not row.begun, row.id)).id if found else None


def _first_open(tx: Tx, user_id: int, queue: str) -> Any:
    values = {"user": user_id, "queue": queue}
    if not tx.on_server:
        return _open("now").first(tx, values)
    while True:
        row = _open("skip locked").first(tx, values)
        if row is not None or _open("look").first(tx, values) is None:
            return row
        # There is one, but another transaction holds it: wait for its end. It may then be gone, so look again.
        row = _open("wait").first(tx, values)
        if row is not None:
            return row


def _open_queues(tx: Tx) -> list[str]:
    """Queues with open tasks: one look into the index for each, however many tasks there are."""
    names: list[str] = []
    while True:
        name = tx.connection.execute(_NEXT_QUEUE, {"queue": names[-1] if names else ""}).scalar()
        if name is None:
            return names
        names.append(name)


def _contents(tx: Tx, task_id: int) -> dict[int, Content]:
    """A task's responses by their ids, in the order in which they were added."""
    return {row.id: row.content for row in _RESPONSES.all(tx, {"task": task_id})}


def _shuffled(response_ids: Iterable[int], task_id: int, user_id: int) -> list[int]:
    shown = list(response_ids)
    random.Random(f"presented {task_id} {user_id}").shuffle(shown)  # noqa: S311 - no secret
    return shown


def _prolong(tx: Tx, lease_id: int, user_id: int, task_id: int, expires_at: datetime) -> None:
    tx.connection.execute(_PROLONG, {"lease": lease_id, "expires": expires_at})
    tx.record("extended", {"expires_at": expires_at.isoformat()}, user_id=user_id, task_id=task_id)


def _claimed(row: Any, contents: Mapping[int, Content], presented: Sequence[int], **now: Any) -> Claimed:
    return Claimed(
        **{"lease": None, "expires_at": None} | now,
        task_id=row.task_id,
        mode=row.mode,
        queue=row.queue,
        prompt=row.prompt,
        responses=[(response, contents[response]) for response in presented],
    )


@lru_cache
def _situation(in_queue: bool) -> Prepared:
    """The user, the task that they took last and still have, and whether there is gold at all."""
    held = (
        sa.select(leases.c.task_id)
        .where(
            leases.c.user_id == users.c.id, leases.c.state == ACTIVE, *([leases.c.queue == QUEUE] if in_queue else [])
        )
        .order_by(leases.c.claimed_at.desc(), leases.c.id.desc())
        .limit(1)
    )
    gold = sa.select(tasks.c.id).where(_IS_GOLD, *_of_queue(in_queue))
    return Prepared(
        sa.select(
            users.c.disabled_at,
            users.c.quarantined_at,
            held.scalar_subquery().label("held"),
            gold.exists().label("has_gold"),
        ).where(users.c.id == USER)
    )


@lru_cache
def _open(how: str) -> Prepared:
    """Tasks for this person in the order in which they are given out."""
    found = (
        sa.select(tasks.c.id, tasks.c.priority, tasks.c.begun)
        .where(tasks.c.queue == QUEUE, _IS_OPEN, ~sa.exists(_HAD))
        .order_by(tasks.c.priority.desc(), tasks.c.begun.desc(), tasks.c.id)
        .limit(1)
    )
    if how in ("skip locked", "wait"):
        # not FOR UPDATE: rows that point to the task may be written meanwhile
        found = found.with_for_update(key_share=True, skip_locked=how == "skip locked", of=tasks)
    return Prepared(found)


@lru_cache
def _unseen_gold(in_queue: bool) -> Any:
    found = sa.select(tasks.c.id).where(_IS_GOLD, ~sa.exists(_HAD), *_of_queue(in_queue))
    return found.order_by(tasks.c.id)


def _of_queue(in_queue: bool) -> list[sa.ColumnElement[bool]]:
    return [tasks.c.queue == QUEUE] if in_queue else []


_NUM_CLAIMS = sa.select(sa.func.count()).select_from(leases).where(leases.c.user_id == USER)

_NEXT_QUEUE = sa.select(sa.func.min(tasks.c.queue)).where(tasks.c.queue > QUEUE, _IS_OPEN)

_CONTENT = Prepared(
    sa.select(
        tasks.c.id.label("task_id"),
        tasks.c.mode,
        tasks.c.queue,
        tasks.c.gold.is_not(None).label("is_gold"),
        tasks.c.withdrawn_at,
        prompts.c.content.label("prompt"),
        leases.c.id.label("lease_id"),
        leases.c.token,
        leases.c.state,
        leases.c.presented,
        leases.c.expires_at,
    )
    .join(prompts, prompts.c.id == tasks.c.prompt_id)
    .outerjoin(leases, sa.and_(leases.c.task_id == tasks.c.id, leases.c.user_id == USER))
    .where(tasks.c.id == TASK)
)

_RESPONSES = Prepared(
    sa.select(responses.c.id, responses.c.content)
    .join(task_responses, task_responses.c.response_id == responses.c.id)
    .where(task_responses.c.task_id == TASK)
    .order_by(task_responses.c.position)
)

_ADD_LEASE = Prepared(
    sa.insert(leases),
    ["token", "task_id", "user_id", "queue", "presented", "state", "claimed_at", "expires_at"],
)

_RENEW = (
    sa.update(leases)
    .where(leases.c.id == sa.bindparam("lease"))
    .values(state="active", claimed_at=sa.bindparam("now"), expires_at=sa.bindparam("expires"), ended_at=None)
)

_PROLONG = sa.update(leases).where(leases.c.id == sa.bindparam("lease")).values(expires_at=sa.bindparam("expires"))

_LEASE_OF = (
    sa.select(
        leases.c.id, leases.c.user_id, leases.c.task_id, leases.c.state, users.c.disabled_at, users.c.quarantined_at
    )
    .join(users, users.c.id == USER)
    .where(leases.c.token == sa.bindparam("token"))
)

_STATE_OF = (
    sa.select(leases.c.state, users.c.disabled_at, users.c.quarantined_at)
    .join(users, users.c.id == leases.c.user_id)
    .where(leases.c.user_id == USER, leases.c.task_id == TASK)
)

LAST_SUBMISSION = (
    sa.select(submissions)
    .where(submissions.c.user_id == USER, submissions.c.task_id == TASK)
    .order_by(submissions.c.revision.desc())
    .limit(1)
)
