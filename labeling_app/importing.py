"""Putting what files hold into the store: tasks, and with them what people elsewhere have said of them."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa

from labeling_app.drafts import AddOptions, Draft, Drafts, KnownModel, draft_tasks
from labeling_app.schema import leases, prompts, tasks, users
from labeling_app.settings import QUEUE
from labeling_app.store import Added, Store, Tx, UnknownUser, User
from labeling_app.store.adding import add_tasks
from labeling_app.store.answering import submit
from labeling_app.store.claiming import take
from labeling_app.store.people import LONGEST_NAME, add_user, user
from labeling_app.store.store import TASKS_A_TRANSACTION
from labeling_app.store.values import IMPORTED
from labeling_app.task_rows import Verdict, read_entries
from rlhf.datasets import DataSource
from rlhf.datasets.rows import RawRow
from rlhf.datasets.sources import OpenRef
from rlhf.errors import UserError
from rlhf.records import Problem
from rlhf.registry import Registry

_HASH = 8

_REF = re.compile(r"[^/@\s]+/[^/@\s]+@[^/@\s]+")


@dataclass(frozen=True)
class Outcome:
    """What came of adding tasks. `problems` are rows left out, `notes` are remarks on rows that were used.

    `num_already` are the tasks that the queue had, which is no problem.
    """

    task_ids: list[int]
    num_responses: int
    num_identical: int
    num_votes: int
    num_already: int
    problems: list[Problem]
    notes: list[Problem]


def read_tasks(
    sources: Sequence[DataSource],
    options: AddOptions,
    pinned: KnownModel = lambda name: name,
    open_ref: OpenRef | None = None,
) -> Drafts:
    """The tasks that files hold, and what is wrong with rows that hold none.

    Raises:
        UserError: a file is missing, unreadable or empty, or no format fits its rows.
    """
    read = [read_entries(source, open_ref) for source in sources]
    drafts = draft_tasks([entry for entries, _ in read for entry in entries], options, pinned)
    drafts.problems[:0] = [problem for _, problems in read for problem in problems]
    return drafts


def known_model(registry: Registry) -> KnownModel:
    """Pins refs (`group/name@alias`) to versions. A name without `@` may be anybody's: unknown here, it stays."""

    def pinned(name: str) -> str:
        try:
            artefact = registry.find(name) if registry.exists() else None
            if artefact is None and _REF.fullmatch(name):
                if registry.exists():
                    registry.resolve(name)  # says what there is instead
                raise UserError(f"there is no registry in {registry.home}")
        except UserError as error:
            raise ValueError(f"model {name!r}: {error}") from None
        return name if artefact is None else artefact.ref

    return pinned


def add_drafts(store: Store, drafts: Drafts, queue: str = QUEUE) -> Outcome:
    """Add tasks to a queue, each with the answers that came with it. A task that the queue has already is counted.

    Raises:
        UserError: the queue's name is malformed.
    """
    outcome = Outcome([], 0, 0, 0, 0, list(drafts.problems), [])
    told_before = set()
    for start in range(0, len(drafts.tasks), TASKS_A_TRANSACTION):
        batch = drafts.tasks[start : start + TASKS_A_TRANSACTION]
        added, num_votes, notes = store.write(_add_batch, batch, queue)
        outcome = Outcome(
            outcome.task_ids + added.task_ids,
            outcome.num_responses + added.num_responses,
            outcome.num_identical + added.num_identical,
            outcome.num_votes + num_votes,
            outcome.num_already + sum(one.task_id is not None for one in added.rejected),
            outcome.problems
            + [batch[one.index].place.problem(one.why) for one in added.rejected if one.task_id is None],
            outcome.notes + notes,
        )
        told_before |= {_place(batch[one.index].place) for one in added.rejected}
    problems = sorted(set(outcome.problems), key=_place)
    untold = {_place(problem) for problem in problems} | told_before
    notes = [note for note in drafts.notes if _place(note) not in untold]
    return replace(outcome, problems=problems, notes=sorted(notes + outcome.notes, key=_place))


def voter(draft: Draft, verdict: Verdict) -> str:
    """The user's name for who judged a row of a file: `imported.FILE.ANNOTATOR`.

    A name that cannot stand as it is ends in a hash of file and annotator, so that no two people share one.
    """
    parts = [Path(draft.place.path).name.split(".")[0], *([verdict.annotator] if verdict.annotator else [])]
    given = ".".join(parts)
    name = IMPORTED + re.sub(r"[^a-z0-9._-]+", "-", given.lower())
    if name == IMPORTED + given and len(name) <= LONGEST_NAME:
        return name
    told_apart = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_HASH]
    return f"{name[: LONGEST_NAME - 1 - _HASH]}-{told_apart}"


def sampled_prompts(tx: Tx, queue: str, models: list[str]) -> set[str]:
    """The prompts, as JSON, to which these models together have written in this queue."""
    found = (
        sa.select(prompts.c.content, tasks.c.origin)
        .join(prompts, prompts.c.id == tasks.c.prompt_id)
        .where(tasks.c.queue == queue, tasks.c.withdrawn_at.is_(None))
    )
    rows = tx.connection.execute(found)
    return {json.dumps(row.content, sort_keys=True) for row in rows if row.origin.get("sampled_from") == models}


def _add_batch(tx: Tx, batch: Sequence[Draft], queue: str) -> tuple[Added, int, list[Problem]]:
    """Tasks and answers in one transaction, so that none is there without the other; notes on answers left out."""
    added = add_tasks(tx, [draft.task for draft in batch], queue)
    rejected = {one.index for one in added.rejected}
    kept = [draft for index, draft in enumerate(batch) if index not in rejected]
    people: dict[str, User] = {}
    num_votes = 0
    notes = []
    for one in added.rejected:
        draft = batch[one.index]
        known = set() if one.task_id is None else _answered_by(tx, one.task_id)
        num_new = sum(voter(draft, verdict) not in known for verdict in draft.verdicts)
        if one.task_id is not None and num_new:
            what = "an answer" if num_new == 1 else f"{num_new} answers"
            notes.append(draft.place.problem(f"{one.why}: {what} that it does not have yet left out"))
    for task_id, draft in zip(added.task_ids, kept, strict=True):
        voted: set[str] = set()
        for verdict in draft.verdicts:
            name = voter(draft, verdict)
            if name in voted:
                notes.append(draft.place.problem(f"{name} has judged it already: this answer is left out"))
                continue
            voted.add(name)
            if name not in people:
                people[name] = _voter(tx, name)
            person = people[name]
            if person.quarantined_at or person.disabled_at:
                notes.append(draft.place.problem(f"{name} is quarantined or closed: the answer is left out"))
                continue
            _vote(tx, person, task_id, draft, verdict)
            num_votes += 1
    return added, num_votes, notes


def _answered_by(tx: Tx, task_id: int) -> set[str]:
    found = (
        sa.select(users.c.name)
        .join(leases, leases.c.user_id == users.c.id)
        .where(leases.c.task_id == task_id, leases.c.state == "answered")
    )
    return set(tx.connection.execute(found).scalars())


def _voter(tx: Tx, name: str) -> User:
    try:
        return user(tx, name)
    except UnknownUser:
        return add_user(tx, name)


def _vote(tx: Tx, person: User, task_id: int, draft: Draft, verdict: Verdict) -> None:
    """What was said, as an answer: the person is given the task and submits."""
    claimed = take(tx, person.id, task_id)
    assert claimed.lease is not None
    ids = {json.dumps(content, sort_keys=True): response for response, content in claimed.responses}
    by_position = [ids[json.dumps(response.content, sort_keys=True)] for response in draft.task.responses]
    answer = verdict.answer(by_position, tx.settings.flags)
    submit(tx, person.id, claimed.lease, f"imported-{task_id}", answer, 0)


def _place(row: Problem | RawRow) -> tuple[str, int]:
    return row.path, row.line
