"""Putting tasks into the store, and taking them out of circulation."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import sqlalchemy as sa

from labeling_app.answers import HIGHEST_RATING, LOWEST_RATING, Mode
from labeling_app.schema import leases, prompts, responses, task_responses, tasks, users
from labeling_app.store.errors import UnknownTask
from labeling_app.store.transaction import Tx, insert
from labeling_app.store.values import Added, Content, NewResponse, NewTask, Rejected
from rlhf.errors import UserError
from rlhf.records import has_lone_surrogate

MAX_RESPONSES = 9
"""As many as there are digits to place them with."""

TASKS_A_STATEMENT = 10_000
"""SQLite takes 32,766 parameters and more, PostgreSQL 65,535."""

QUEUE_NAME = re.compile(r"[A-Za-z0-9._/-]{1,100}")


def add_tasks(tx: Tx, new_tasks: Sequence[NewTask], queue: str) -> Added:
    """Add tasks to a queue; those that cannot be are reported, and the others are added all the same.

    Identical completions of a task are shown once, and keep the sources of both; who wrote the same text for another
    task is that one's affair. A task that the queue holds already
    (the same prompt, mode and completions) is not added again: its `Rejected` names the one that is there.

    Raises:
        UserError: the queue's name is malformed.
    """
    if QUEUE_NAME.fullmatch(queue) is None:
        raise UserError(f"queue {queue!r}: a name has 1 to 100 characters out of A-Z, a-z, 0-9, `.`, `_`, `-` and `/`")
    if tx.on_server:  # two who add the same text: the second one waits here, and then finds it
        tx.connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext("labels: tasks"))))
    task_ids: list[int] = []
    rejected: list[Rejected] = []
    num_responses = num_identical = 0
    for index, task in enumerate(new_tasks):
        why = _problem(task)
        if why is not None:
            rejected.append(Rejected(index, why))
            continue
        merged = _merge(task.responses)
        num_identical += len(task.responses) - len(merged)
        prompt_id = _prompt(tx, task.prompt)
        ids = {digest: _response(tx, prompt_id, digest, same[0].content) for digest, same in merged.items()}
        same_task = _same_task(tx, queue, task.mode, prompt_id, set(ids.values()))
        if same_task is not None:
            rejected.append(Rejected(index, f"the queue holds it already, as task {same_task}", same_task))
            continue
        positions = [ids[_digest(response.content)] for response in task.responses]
        task_ids.append(_add(tx, task, queue, prompt_id, merged, ids, positions))
        num_responses += len(merged)
    return Added(task_ids, len(task_ids), num_responses, num_identical, rejected)


def withdraw(tx: Tx, which: Sequence[int] | str, by: int | None = None) -> int:
    """Give these tasks, or the tasks of this queue, to nobody any more; returns how many they were.

    Whoever has one on the screen may still answer it, and what was answered stays.

    Raises:
        UnknownTask: there is no such task or queue.
    """
    gone = sa.update(tasks).values(withdrawn_at=tx.now, open_slots=0).returning(tasks.c.id)
    task_ids: list[int] = []
    for meant in _to_withdraw(tx, which):
        task_ids += tx.connection.execute(gone.where(meant)).scalars()
    for task_id in sorted(task_ids):
        tx.record("withdrawn", {}, user_id=by, task_id=task_id)
    return len(task_ids)


def would_withdraw(tx: Tx, which: Sequence[int] | str) -> tuple[int, int]:
    """How many tasks `withdraw` would take out of circulation, and how many answers to them would still be exported.

    Raises:
        UnknownTask: there is no such task or queue.
    """
    of_tasks = sa.select(sa.func.count()).select_from(tasks)
    of_answers = (
        of_tasks.join(leases, leases.c.task_id == tasks.c.id)
        .join(users, users.c.id == leases.c.user_id)
        .where(leases.c.state == "answered", users.c.quarantined_at.is_(None), tasks.c.gold.is_(None))
    )
    num_tasks = num_answers = 0
    for meant in _to_withdraw(tx, which):
        num_tasks += tx.connection.execute(of_tasks.where(meant)).scalar_one()
        num_answers += tx.connection.execute(of_answers.where(meant)).scalar_one()
    return num_tasks, num_answers


def _to_withdraw(tx: Tx, which: Sequence[int] | str) -> list[sa.ColumnElement[bool]]:
    """Which tasks are meant and in circulation; of many numbers, as many at a time as fit into a statement."""
    column = tasks.c.queue if isinstance(which, str) else tasks.c.id
    wanted: Sequence[int | str] = [which] if isinstance(which, str) else sorted(set(which))
    chunks = [wanted[start : start + TASKS_A_STATEMENT] for start in range(0, len(wanted), TASKS_A_STATEMENT)]
    named = [column.in_(chunk) for chunk in chunks]
    known = {name for one in named for name in tx.connection.execute(sa.select(column).where(one).distinct()).scalars()}
    unknown = [str(name) for name in wanted if name not in known]
    if unknown:
        shown = ", ".join(unknown[:10]) + (f" and {len(unknown) - 10:,} more" if len(unknown) > 10 else "")
        raise UnknownTask(f"{shown}: there is no such {column.name.replace('id', 'task')}")
    return [sa.and_(one, tasks.c.withdrawn_at.is_(None)) for one in named]


def _problem(task: NewTask) -> str | None:
    if task.mode not in get_args(Mode):
        return f"mode: {task.mode!r} is not one of {', '.join(get_args(Mode))}"
    if _is_empty(task.prompt):
        return "prompt: is empty"
    if any(_is_empty(response.content) for response in task.responses):
        return "a completion is empty"
    sources = [[response.content, response.model, response.generation] for response in task.responses]
    if has_lone_surrogate([task.prompt, *sources, task.origin]):
        return "holds half a character (a lone surrogate, \\ud800 to \\udfff), which no file can hold"
    num_different = len({_digest(response.content) for response in task.responses})
    least = 1 if task.mode == "rate" else 2
    if num_different < least:
        return f"has {num_different} different completion{'s' * (num_different != 1)}; {task.mode} needs {least}"
    if task.mode in ("pair", "ab") and num_different > 2:
        return f"has {num_different} different completions; {task.mode} compares 2"
    if num_different > MAX_RESPONSES:
        return f"has {num_different} different completions; more than {MAX_RESPONSES} cannot be shown"
    if task.overlap < 1:
        return f"overlap: {task.overlap} is less than 1"
    if not -(2**31) <= task.priority < 2**31 or task.overlap >= 2**31:
        return "priority or overlap: is too large a number"
    try:
        json.dumps([task.origin, [response.generation for response in task.responses]], allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"cannot be kept as JSON: {error}"
    return None if task.gold is None else _problem_with_gold(task)


def _problem_with_gold(task: NewTask) -> str | None:
    """Gold names positions: each once, and identical completions at the same height."""
    assert task.gold is not None
    key = "ratings" if task.mode == "rate" else "tiers"
    if set(task.gold) != {key}:
        return f"gold: a task in mode {task.mode} has `{key}` and nothing else"
    try:
        heights = _heights(task.gold)
    except (TypeError, ValueError, AttributeError):
        return f"gold: `{key}` is malformed"
    if not heights:
        return "gold: names no completion"
    if len({position for position, _ in heights}) < len(heights):
        return "gold: names a completion twice"
    of_text: dict[str, float] = {}
    for position, height in heights:
        if not 0 <= position < len(task.responses):
            return f"gold: there is no completion {position}; they are counted from 0"
        if key == "ratings" and not LOWEST_RATING <= height <= HIGHEST_RATING:
            return f"gold: a rating of {height} is outside {LOWEST_RATING} to {HIGHEST_RATING}"
        if of_text.setdefault(_digest(task.responses[position].content), height) != height:
            return "gold: sets identical completions apart"
    return None


def _heights(gold: Mapping[str, Any]) -> list[tuple[int, int]]:
    if "ratings" in gold:
        return [(int(position), int(grade)) for position, grade in gold["ratings"].items()]
    return [(int(position), number) for number, tier in enumerate(gold["tiers"]) for position in tier]


def _gold_by_id(gold: Mapping[str, Any], positions: Sequence[int]) -> dict[str, Any]:
    """Gold as it is kept: by response ids, each once."""
    if "ratings" in gold:
        return {"ratings": {str(positions[int(place)]): int(grade) for place, grade in gold["ratings"].items()}}
    tiers = [list(dict.fromkeys(positions[int(place)] for place in tier)) for tier in gold["tiers"]]
    return {"tiers": [tier for tier in tiers if tier]}


def _merge(new: Sequence[NewResponse]) -> dict[str, list[NewResponse]]:
    """Responses by the digest of their text, in the order in which they first come."""
    merged: dict[str, list[NewResponse]] = {}
    for response in new:
        merged.setdefault(_digest(response.content), []).append(response)
    return merged


def _prompt(tx: Tx, content: Content) -> int:
    digest = _digest(content)
    found = tx.connection.execute(_PROMPT, {"digest": digest}).scalar()
    if found is not None:
        return int(found)
    return insert(tx, _ADD_PROMPT, {"sha256": digest, "content": content})


def _response(tx: Tx, prompt_id: int, digest: str, content: Content) -> int:
    """The row of this text, made if need be."""
    found = tx.connection.execute(_RESPONSE, {"prompt": prompt_id, "digest": digest}).scalar()
    if found is not None:
        return int(found)
    return insert(tx, _ADD_RESPONSE, {"prompt_id": prompt_id, "sha256": digest, "content": content})


def _same_task(tx: Tx, queue: str, mode: str, prompt_id: int, response_ids: set[int]) -> int | None:
    shown: dict[int, set[int]] = {}
    for row in tx.connection.execute(_TASKS_OF_PROMPT, {"prompt": prompt_id, "queue": queue, "mode": mode}):
        shown.setdefault(row.id, set()).add(row.response_id)
    return next((task_id for task_id, ids in shown.items() if ids == response_ids), None)


def _add(
    tx: Tx,
    task: NewTask,
    queue: str,
    prompt_id: int,
    merged: Mapping[str, Sequence[NewResponse]],
    ids: Mapping[str, int],
    positions: Sequence[int],
) -> int:
    row = {
        "queue": queue,
        "mode": task.mode,
        "prompt_id": prompt_id,
        "priority": task.priority,
        "overlap": task.overlap,
        "gold": None if task.gold is None else _gold_by_id(task.gold, positions),
        "origin": dict(task.origin),
    }
    counted = {"open_slots": task.overlap if task.gold is None else 0, "begun": False, "created_at": tx.now}
    task_id = insert(tx, _ADD_TASK, row | counted)
    shown = [
        {"response_id": ids[digest], "sources": _different([_source(response) for response in same])}
        for digest, same in merged.items()
    ]
    places = [{"task_id": task_id, "position": position} for position in range(len(shown))]
    tx.connection.execute(_ADD_SHOWN, [place | one for place, one in zip(places, shown, strict=True)])
    told = [{"id": one["response_id"], "sources": one["sources"]} for one in shown]
    tx.record("added", row | {"responses": told}, task_id=task_id)
    return task_id


def _source(response: NewResponse) -> dict[str, Any]:
    return {"model": response.model, "generation": None if response.generation is None else dict(response.generation)}


def _different(sources: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [source for number, source in enumerate(sources) if source not in sources[:number]]


def _digest(content: Content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_empty(content: Content) -> bool:
    return not content.strip() if isinstance(content, str) else not content


_PROMPT = sa.select(prompts.c.id).where(prompts.c.sha256 == sa.bindparam("digest"))
_ADD_PROMPT = sa.insert(prompts)
_RESPONSE = sa.select(responses.c.id).where(
    responses.c.prompt_id == sa.bindparam("prompt"), responses.c.sha256 == sa.bindparam("digest")
)
_ADD_RESPONSE = sa.insert(responses)
_TASKS_OF_PROMPT = (
    sa.select(tasks.c.id, task_responses.c.response_id)
    .join(task_responses, task_responses.c.task_id == tasks.c.id)
    .where(
        tasks.c.prompt_id == sa.bindparam("prompt"),
        tasks.c.queue == sa.bindparam("queue"),
        tasks.c.mode == sa.bindparam("mode"),
        tasks.c.withdrawn_at.is_(None),
    )
    .order_by(tasks.c.id)
)
_ADD_TASK = sa.insert(tasks)
_ADD_SHOWN = sa.insert(task_responses)
