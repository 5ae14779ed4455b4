"""What is asked of the store and changes nothing."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from labeling_app.answers import Answer
from labeling_app.schema import events, leases, prompts, responses, submissions, task_responses, tasks, users
from labeling_app.store.transaction import Tx
from labeling_app.store.values import Content, Event, Handled, Judgement, Response

PREVIEW = 120
"""Characters of a prompt in a list."""


def history(tx: Tx, user_id: int, queue: str | None = None, limit: int = 50) -> list[Handled]:
    """The tasks this person is done with, in one queue or in all, the last one first."""
    where = [] if queue is None else [leases.c.queue == queue]
    done = (
        sa.select(leases.c.id, leases.c.task_id, leases.c.user_id, leases.c.ended_at, leases.c.state)
        .where(leases.c.user_id == user_id, leases.c.state.in_(["answered", "skipped"]), *where)
        .order_by(leases.c.ended_at.desc(), leases.c.id.desc())
        .limit(limit)
        .subquery()
    )
    revision = (
        sa.select(sa.func.max(submissions.c.revision))
        .where(submissions.c.task_id == done.c.task_id, submissions.c.user_id == done.c.user_id)
        .scalar_subquery()
    )
    found = (
        sa.select(done, revision.label("revision"), prompts.c.content)
        .join(tasks, tasks.c.id == done.c.task_id)
        .join(prompts, prompts.c.id == tasks.c.prompt_id)
        .order_by(done.c.ended_at.desc(), done.c.id.desc())
    )
    return [
        Handled(row.task_id, row.ended_at, row.state, row.revision or 0, preview(row.content))
        for row in tx.connection.execute(found)
    ]


def judgements(
    tx: Tx, queue: str | None = None, with_quarantined: bool = False, with_gold: bool = True
) -> list[Judgement]:
    """What each person last said of each task, in the order of tasks and people."""
    where = [] if queue is None else [tasks.c.queue == queue]
    if not with_quarantined:
        where.append(users.c.quarantined_at.is_(None))
    if not with_gold:
        where.append(tasks.c.gold.is_(None))
    latest = (
        sa.select(
            submissions.c.task_id,
            submissions.c.user_id,
            sa.func.max(submissions.c.revision).label("revision"),
            sa.func.sum(submissions.c.active_ms).label("active_ms"),
        )
        .group_by(submissions.c.task_id, submissions.c.user_id)
        .subquery()
    )
    first = submissions.alias()
    found = (
        sa.select(
            submissions,
            latest.c.active_ms.label("all_active_ms"),
            first.c.wall_ms.label("first_wall_ms"),
            first.c.created_at.label("first_at"),
            tasks.c.queue,
            tasks.c.mode,
            tasks.c.prompt_id,
            tasks.c.gold,
            tasks.c.origin,
            users.c.name,
            users.c.simulated,
            users.c.quarantined_at,
        )
        .join(
            latest,
            sa.and_(
                latest.c.task_id == submissions.c.task_id,
                latest.c.user_id == submissions.c.user_id,
                latest.c.revision == submissions.c.revision,
            ),
        )
        .join(
            first,
            sa.and_(
                first.c.task_id == submissions.c.task_id,
                first.c.user_id == submissions.c.user_id,
                first.c.revision == 1,
            ),
        )
        .join(tasks, tasks.c.id == submissions.c.task_id)
        .join(users, users.c.id == submissions.c.user_id)
        .where(*where)
        .order_by(submissions.c.task_id, submissions.c.user_id)
    )
    rows = tx.connection.execute(found).all()
    shown, contents = _shown(tx, queue), _prompts(tx, queue)
    return [_judgement(row, contents[row.prompt_id], shown[row.task_id]) for row in rows]


def all_events(tx: Tx, after: int = 0, limit: int | None = None) -> list[Event]:
    """What happened since the event `after`, oldest first.

    On PostgreSQL an event's number is given before its transaction ends: one with a smaller number may still follow.
    """
    found = sa.select(events).where(events.c.id > after).order_by(events.c.id).limit(limit)
    return [
        Event(row.id, row.created_at, row.kind, row.user_id, row.task_id, row.body)
        for row in tx.connection.execute(found)
    ]


def preview(content: Content) -> str:
    """The beginning of a text, or of a conversation's last message, in one line."""
    text = content if isinstance(content, str) else str(content[-1].get("content", "")) if content else ""
    line = " ".join(text[: 4 * PREVIEW].split())
    return line if len(line) <= PREVIEW else line[: PREVIEW - 1] + "…"


def _shown(tx: Tx, queue: str | None) -> dict[int, list[Response]]:
    """The responses of every task that was answered."""
    answered = sa.select(submissions.c.task_id)
    found = (
        sa.select(task_responses.c.task_id, responses.c.id, responses.c.content, task_responses.c.sources)
        .join(responses, responses.c.id == task_responses.c.response_id)
        .where(task_responses.c.task_id.in_(answered))
        .order_by(task_responses.c.task_id, task_responses.c.position)
    )
    if queue is not None:
        found = found.join(tasks, tasks.c.id == task_responses.c.task_id).where(tasks.c.queue == queue)
    shown: dict[int, list[Response]] = {}
    for row in tx.connection.execute(found):
        shown.setdefault(row.task_id, []).append(Response(row.id, row.content, row.sources))
    return shown


def _prompts(tx: Tx, queue: str | None) -> dict[int, Content]:
    asked = sa.select(tasks.c.prompt_id).join(submissions, submissions.c.task_id == tasks.c.id)
    if queue is not None:
        asked = asked.where(tasks.c.queue == queue)
    found = sa.select(prompts.c.id, prompts.c.content).where(prompts.c.id.in_(asked))
    return {row.id: row.content for row in tx.connection.execute(found)}


def _judgement(row: Any, prompt: Content, shown: Sequence[Response]) -> Judgement:
    return Judgement(
        submission_id=row.id,
        task_id=row.task_id,
        queue=row.queue,
        mode=row.mode,
        prompt=prompt,
        responses=list(shown),
        presented=row.presented,
        answer=Answer.model_validate(row.answer),
        revision=row.revision,
        user_id=row.user_id,
        user=row.name,
        simulated=row.simulated,
        quarantined=row.quarantined_at is not None,
        gold=row.gold,
        origin=row.origin,
        guidelines_version=row.guidelines_version,
        created_at=row.created_at,
        first_at=row.first_at,
        active_ms=int(row.all_active_ms),
        wall_ms=row.first_wall_ms,
    )
