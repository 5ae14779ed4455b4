"""Taking answers. Each comes with a key that the page has made up for it: sent again, it is not stored again."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from labeling_app.answers import Answer, problem_with
from labeling_app.schema import leases, responses, submissions, tasks, users
from labeling_app.store import slots
from labeling_app.store.claiming import LAST_SUBMISSION, WITHDRAWN
from labeling_app.store.errors import BadAnswer, Conflict, LeaseLost, NotYours, UnknownTask, UnknownUser
from labeling_app.store.people import check_active, guidelines_of, lock
from labeling_app.store.prepared import Prepared
from labeling_app.store.transaction import KEY, TASK, USER, Tx
from labeling_app.store.values import Receipt, Skipped

MAX_KEY, MAX_MS = 64, 2**53 - 1


def submit(
    tx: Tx,
    user_id: int,
    lease: str,
    key: str,
    answer: Answer,
    active_ms: int,
    guidelines_version: int | None = None,
) -> Receipt:
    """Store a person's answer to the task they hold.

    The same key with the same answer gets the first receipt again. An answer that comes when the time is up is taken
    as long as a slot is free.

    Args:
        tx: the transaction.
        user_id: who answers.
        lease: of `Claimed`.
        key: 1 to 64 characters, made up when the answer is first sent.
        answer: names the responses by their ids.
        active_ms: how long the person was at it.
        guidelines_version: of the guidelines that the person was shown; None: of none.

    Raises:
        NotYours: the lease is somebody else's.
        LeaseLost: the time was up, and others have been given the task.
        Conflict: the task was answered or skipped with another key, or the key used for another answer.
        BadAnswer: the answer does not fit the task, or there are no such guidelines.
        UnknownUser, Quarantined, Disabled
    """
    _check_form(key, active_ms)
    lock(tx, user_id)
    row = _LEASE.first(tx, {"user": user_id, "token": lease, "key": key})
    if row is None:
        raise UnknownUser(f"user {user_id}: there is none")
    if row.lease_id is None or row.lease_user_id != user_id:
        raise NotYours("This task was given to somebody else.")
    if row.submission_id is not None:
        return _known(row, row.task_id, answer)
    check_active(row)
    _check_answer(tx, answer, row.mode, row.presented)
    _check_guidelines(guidelines_version, row.last_guidelines)
    if row.state == "answered":
        raise Conflict("You have already answered this task; to change the answer, revise it.")
    if row.state == "skipped":
        raise Conflict("You have skipped this task; take it up again to answer it.")
    if row.state == "expired":
        _take_again(tx, user_id, row)
    new = {"revision": 1, "guidelines_version": guidelines_version}
    return _store(tx, user_id, row, key, answer, active_ms, new, since=row.claimed_at)


def revise(
    tx: Tx,
    user_id: int,
    task_id: int,
    key: str,
    answer: Answer,
    active_ms: int,
    based_on: int | None = None,
    guidelines_version: int | None = None,
) -> Receipt:
    """Store what a person now thinks of a task they have answered. All revisions are kept; the last one counts.

    `based_on` is the revision that the person had before them (None: whichever is the last); the others are `submit`'s.

    Raises:
        UnknownTask: they have not answered it.
        Conflict: the key was used for another answer, or there is a newer revision than `based_on`.
        BadAnswer: the answer does not fit the task, or there are no such guidelines.
        UnknownUser, Quarantined, Disabled
    """
    _check_form(key, active_ms)
    lock(tx, user_id)
    row = tx.connection.execute(_OWN_LEASE, {"user": user_id, "task": task_id, "key": key}).one_or_none()
    if row is None:
        raise UnknownUser(f"user {user_id}: there is none")
    if row.submission_id is not None:
        return _known(row, task_id, answer)
    check_active(row)
    if row.lease_id is None or row.state != "answered":
        raise UnknownTask(f"You have not answered task {task_id}.")
    last = tx.connection.execute(LAST_SUBMISSION, {"user": user_id, "task": task_id}).one()
    if based_on is not None and based_on != last.revision:
        raise Conflict("You have changed this answer since, on another page; look at it again before you change it.")
    # a complaint that the config has dropped since may stay in an answer that has it
    kept = {name for names in Answer.model_validate(last.answer).flags.values() for name in names}
    _check_answer(tx, answer, row.mode, row.presented, kept)
    _check_guidelines(guidelines_version, row.last_guidelines)
    new = {"revision": last.revision + 1, "guidelines_version": guidelines_version}
    return _store(tx, user_id, row, key, answer, active_ms, new, since=last.created_at)


def skip(tx: Tx, user_id: int, lease: str, key: str, reason: str, note: str = "") -> Skipped:
    """Put a task aside: it is free for others, and this person is not given it again.

    The same key again changes nothing.

    Raises:
        NotYours: the lease is somebody else's.
        Conflict: it was answered, or skipped with another key.
        BadAnswer: key, reason or note are too long.
        UnknownUser, Quarantined, Disabled
    """
    _check_form(key, 0)
    if not 1 <= len(reason) <= 200 or len(note) > 10_000:
        raise BadAnswer("A skip needs a reason of at most 200 characters, and its note has at most 10,000.")
    lock(tx, user_id)
    row = _LEASE.first(tx, {"user": user_id, "token": lease, "key": key})
    if row is None:
        raise UnknownUser(f"user {user_id}: there is none")
    if row.lease_id is None or row.lease_user_id != user_id:
        raise NotYours("This task was given to somebody else.")
    if row.skip is not None and row.skip["key"] == key:
        return Skipped(row.task_id, row.skip["reason"], datetime.fromisoformat(row.skip["at"]))
    check_active(row)
    if row.state == "answered":
        raise Conflict("You have already answered this task.")
    if row.state == "skipped":
        raise Conflict("You have already skipped this task.")
    skipped = {"key": key, "reason": reason, "note": note, "at": tx.now.isoformat()}
    ended = {"lease": row.lease_id, "state": "skipped", "now": tx.now, "skipped": skipped}
    tx.connection.execute(_SKIP, ended)
    if row.state == "active":
        slots.free(tx, row.task_id)
    tx.record("skipped", skipped, user_id=user_id, task_id=row.task_id)
    return Skipped(row.task_id, reason, tx.now)


def _check_form(key: str, active_ms: int) -> None:
    if not 1 <= len(key) <= MAX_KEY or not key.isprintable():
        raise BadAnswer(f"key: has 1 to {MAX_KEY} printable characters")
    if not 0 <= active_ms <= MAX_MS:
        raise BadAnswer(f"active_ms = {active_ms}: is a time in milliseconds")


def _check_answer(
    tx: Tx, answer: Answer, mode: Any, presented: Sequence[int], kept_flags: Collection[str] = ()
) -> None:
    problem = problem_with(answer, mode, presented, {*tx.settings.flags, *kept_flags})
    if problem is not None:
        raise BadAnswer(problem)
    if answer.edit is not None:
        own = tx.connection.execute(_CONTENT, {"response": answer.edit.response_id}).scalar_one()
        if _lines(answer.edit.text) == _lines(own if isinstance(own, str) else own[-1].get("content")):
            raise BadAnswer("edit: changes nothing, it is the response as it was; drop the edit")


def _lines(text: object) -> str:
    """As a browser's text field has it."""
    return str(text).replace("\r\n", "\n").replace("\r", "\n")


def _check_guidelines(version: int | None, last: int | None) -> None:
    if version is not None and not 1 <= version <= (last or 0):
        raise BadAnswer(f"guidelines_version: there is no version {version} of the guidelines for this queue")


def _known(row: Any, task_id: int, answer: Answer) -> Receipt:
    if row.submission_task_id != task_id or Answer.model_validate(row.answer) != answer:
        raise Conflict("This key was used for another answer.")
    return Receipt(row.submission_id, task_id, row.revision, row.created_at)


def _take_again(tx: Tx, user_id: int, row: Any) -> None:
    if row.is_gold and row.withdrawn_at is not None:
        raise LeaseLost(WITHDRAWN)
    if not row.is_gold:
        free = slots.take(tx, row.task_id) or (slots.sweep_task(tx, row.task_id) > 0 and slots.take(tx, row.task_id))
        if not free:
            raise LeaseLost("The time for this task was up, and others have been given it.")
    body = {"presented": row.presented, "expires_at": tx.now.isoformat()}
    tx.record("claimed", body, user_id=user_id, task_id=row.task_id)


def _store(
    tx: Tx, user_id: int, row: Any, key: str, answer: Answer, active_ms: int, new: Mapping[str, Any], *, since: datetime
) -> Receipt:
    """`new`: number and guidelines of the revision; `since`: when the person had begun with it."""
    submission = {
        **new,
        "idempotency_key": key,
        "answer": answer.model_dump(exclude_defaults=True),
        "presented": row.presented,
        "active_ms": active_ms,
        "wall_ms": max(0, round((tx.now - since).total_seconds() * 1000)),
    }
    where = {"task_id": row.task_id, "user_id": user_id}
    submission_id = _ADD.insert(tx, submission | where | {"created_at": tx.now})
    _ANSWERED.change(tx, {"lease": row.lease_id, "now": tx.now})
    revision: int = new["revision"]
    kind = "submitted" if revision == 1 else "revised"
    tx.record(kind, {"submission_id": submission_id, **submission}, **where)
    return Receipt(submission_id, row.task_id, revision, tx.now)


_DETAILS = (
    leases.c.id.label("lease_id"),
    leases.c.user_id.label("lease_user_id"),
    leases.c.task_id,
    leases.c.state,
    leases.c.presented,
    leases.c.claimed_at,
    leases.c.skip,
    tasks.c.mode,
    tasks.c.gold.is_not(None).label("is_gold"),
    tasks.c.withdrawn_at,
    users.c.disabled_at,
    users.c.quarantined_at,
    guidelines_of(tasks.c.queue).label("last_guidelines"),
    submissions.c.id.label("submission_id"),
    submissions.c.task_id.label("submission_task_id"),
    submissions.c.answer,
    submissions.c.revision,
    submissions.c.created_at,
)

_SAME_KEY = sa.and_(submissions.c.user_id == USER, submissions.c.idempotency_key == KEY)

_LEASE = Prepared(
    sa.select(*_DETAILS)
    .select_from(users)
    .outerjoin(leases, leases.c.token == sa.bindparam("token"))
    .outerjoin(tasks, tasks.c.id == leases.c.task_id)
    .outerjoin(submissions, _SAME_KEY)
    .where(users.c.id == USER)
)

_OWN_LEASE = (
    sa.select(*_DETAILS)
    .select_from(users)
    .outerjoin(leases, sa.and_(leases.c.user_id == USER, leases.c.task_id == TASK))
    .outerjoin(tasks, tasks.c.id == leases.c.task_id)
    .outerjoin(submissions, _SAME_KEY)
    .where(users.c.id == USER)
)

_CONTENT = sa.select(responses.c.content).where(responses.c.id == sa.bindparam("response"))

_ADD = Prepared(
    sa.insert(submissions),
    [
        "idempotency_key",
        "revision",
        "answer",
        "presented",
        "active_ms",
        "wall_ms",
        "guidelines_version",
        "task_id",
        "user_id",
        "created_at",
    ],
)

_ANSWERED = Prepared(
    sa.update(leases).where(leases.c.id == sa.bindparam("lease")).values(state="answered", ended_at=sa.bindparam("now"))
)

_SKIP = (
    sa.update(leases)
    .where(leases.c.id == sa.bindparam("lease"))
    .values(state="skipped", ended_at=sa.bindparam("now"), skip=sa.bindparam("skipped", type_=sa.JSON))
)
