"""The store as its events tell it. `audit` holds that against the tables: a row changed by hand shows."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from labeling_app.schema import guidelines, leases, submissions, task_responses, tasks, users
from labeling_app.store.people import sha256
from labeling_app.store.reading import all_events
from labeling_app.store.transaction import Tx
from labeling_app.store.values import Event

Fields = dict[str, Any]


@dataclass
class State:
    """What matters of the store, by key.

    Attributes:
        users: by id: name, role, simulated, quarantined, disabled.
        tasks: by id: what was added, open_slots, begun, withdrawn.
        sources: by task and response id: all that wrote it for this task.
        leases: by task and user: state, presented.
        submissions: by task, user and revision: everything that was submitted.
        guidelines: by queue ("" for all) and version: the text's sha256.
    """

    users: dict[int, Fields] = field(default_factory=dict)
    tasks: dict[int, Fields] = field(default_factory=dict)
    sources: dict[tuple[int, int], list[Fields]] = field(default_factory=dict)
    leases: dict[tuple[int, int], Fields] = field(default_factory=dict)
    submissions: dict[tuple[int, int, int], Fields] = field(default_factory=dict)
    guidelines: dict[tuple[str, int], Fields] = field(default_factory=dict)


def replay(events: Iterable[Event]) -> State:
    """The state that these events, from the first one on, lead to."""
    state = State()
    for event in events:
        _KINDS.get(event.kind, _nothing)(state, event)
    _count_slots(state)
    return state


def audit(tx: Tx) -> list[str]:
    """Where the tables are not what the events lead to, one line each; empty when all is well."""
    told, found = replay(all_events(tx)), _state(tx)
    problems = []
    for table in ("users", "tasks", "sources", "leases", "submissions", "guidelines"):
        by_events, by_tables = getattr(told, table), getattr(found, table)
        for key in sorted(by_events.keys() | by_tables.keys()):
            one, other = by_events.get(key), by_tables.get(key)
            if one != other:
                problems.append(f"{table} {key}: the events say {one}, the table {other}")
    return problems


def _user_added(state: State, event: Event) -> None:
    body = dict(event.body)
    user_id = body.pop("user_id")
    state.users[user_id] = body | {"quarantined": False, "disabled": False}


def _user_set(column: str, to: bool) -> Any:
    def apply(state: State, event: Event) -> None:
        state.users[event.body["user_id"]][column] = to

    return apply


def _guidelines_changed(state: State, event: Event) -> None:
    state.guidelines[event.body["queue"], event.body["version"]] = {"sha256": event.body["sha256"]}


def _added(state: State, event: Event) -> None:
    assert event.task_id is not None
    body = dict(event.body)
    shown = body.pop("responses")
    for response in shown:
        state.sources[event.task_id, response["id"]] = response["sources"]
    counted = {"open_slots": 0, "begun": False, "withdrawn": False}
    state.tasks[event.task_id] = body | counted | {"responses": [response["id"] for response in shown]}


def _withdrawn(state: State, event: Event) -> None:
    assert event.task_id is not None
    state.tasks[event.task_id]["withdrawn"] = True


def _claimed(state: State, event: Event) -> None:
    assert event.task_id is not None
    assert event.user_id is not None
    task = state.tasks[event.task_id]
    if task["gold"] is None:
        task["begun"] = True
    state.leases[event.task_id, event.user_id] = {"state": "active", "presented": event.body["presented"]}


def _submitted(state: State, event: Event) -> None:
    assert event.task_id is not None
    assert event.user_id is not None
    lease = state.leases[event.task_id, event.user_id]
    lease["state"] = "answered"
    details = event.body | {"created_at": event.created_at}
    state.submissions[event.task_id, event.user_id, event.body["revision"]] = details


def _ended(kind: str) -> Any:
    def apply(state: State, event: Event) -> None:
        assert event.task_id is not None
        user_id = event.body["user_id"] if kind == "expired" else event.user_id
        assert isinstance(user_id, int)
        state.leases[event.task_id, user_id]["state"] = kind

    return apply


def _count_slots(state: State) -> None:
    """What is still open of each task: overlap, less leases in force and answers of people who are trusted."""
    num_taken = Counter(
        task_id
        for (task_id, user_id), lease in state.leases.items()
        if lease["state"] == "active" or (lease["state"] == "answered" and not state.users[user_id]["quarantined"])
    )
    for task_id, task in state.tasks.items():
        if task["gold"] is None and not task["withdrawn"]:
            task["open_slots"] = max(0, task["overlap"] - num_taken[task_id])


def _nothing(state: State, event: Event) -> None:
    """What changes none of this."""


_KINDS = {
    "user_added": _user_added,
    "quarantined": _user_set("quarantined", True),
    "unquarantined": _user_set("quarantined", False),
    "disabled": _user_set("disabled", True),
    "enabled": _user_set("disabled", False),
    "guidelines_changed": _guidelines_changed,
    "added": _added,
    "withdrawn": _withdrawn,
    "claimed": _claimed,
    "submitted": _submitted,
    "revised": _submitted,
    "skipped": _ended("skipped"),
    "expired": _ended("expired"),
}

_TASK_COLUMNS = ["queue", "mode", "prompt_id", "priority", "overlap", "gold", "origin", "open_slots", "begun"]
_SUBMISSION_COLUMNS = [
    "idempotency_key",
    "revision",
    "answer",
    "presented",
    "active_ms",
    "wall_ms",
    "guidelines_version",
    "created_at",
]


def _state(tx: Tx) -> State:
    """The state as the tables hold it."""
    state = State()
    rows = tx.connection.execute
    for row in rows(sa.select(users)):
        known = {"name": row.name, "role": row.role, "simulated": row.simulated}
        ended = {"quarantined": row.quarantined_at is not None, "disabled": row.disabled_at is not None}
        state.users[row.id] = known | ended
    for row in rows(sa.select(tasks)):
        known = {column: getattr(row, column) for column in _TASK_COLUMNS}
        state.tasks[row.id] = known | {"withdrawn": row.withdrawn_at is not None, "responses": []}
    for row in rows(sa.select(task_responses).order_by(task_responses.c.task_id, task_responses.c.position)):
        state.tasks[row.task_id]["responses"].append(row.response_id)
        state.sources[row.task_id, row.response_id] = row.sources
    for row in rows(sa.select(leases)):
        state.leases[row.task_id, row.user_id] = {"state": row.state, "presented": row.presented}
    for row in rows(sa.select(submissions)):
        details = {column: getattr(row, column) for column in _SUBMISSION_COLUMNS}
        state.submissions[row.task_id, row.user_id, row.revision] = details | {"submission_id": row.id}
    for row in rows(sa.select(guidelines)):
        state.guidelines[row.queue, row.version] = {"sha256": sha256(row.text)}
    return state
