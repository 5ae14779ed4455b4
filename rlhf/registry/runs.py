"""Who is at work: runs hold what they opened and made until they have ended."""

import os
import platform
from datetime import UTC, datetime, timedelta
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf.errors import UserError
from rlhf.registry.schema import AnyRow, run_inputs, runs

Ended = Literal["done", "failed", "stopped", "interrupted"]

RESUMABLE_FOR = timedelta(days=7)
"""A run that broke off keeps its inputs this long after its last sign of life, so that it can be resumed."""

_UNFINISHED = ("running", "interrupted", "failed")


def start(connection: Connection, run_id: str, command: list[str]) -> None:
    """Add the run, or take it up again in this process."""
    now = datetime.now(UTC)
    known = connection.execute(sa.select(runs).where(runs.c.id == run_id)).one_or_none()
    values = {
        "host": platform.node(),
        "pid": os.getpid(),
        "status": "running",
        "heartbeat_at": now,
        "finished_at": None,
    }
    if known is None:
        connection.execute(sa.insert(runs).values(id=run_id, command=command, started_at=now, **values))
        return
    connection.execute(sa.update(runs).where(runs.c.id == run_id).values(command=command, **values))


def beat(connection: Connection, run_id: str) -> None:
    """Note a sign of life."""
    _update(connection, run_id, heartbeat_at=datetime.now(UTC))


def finish(connection: Connection, run_id: str, status: Ended) -> None:
    """Note how it ended."""
    now = datetime.now(UTC)
    _update(connection, run_id, status=status, heartbeat_at=now, finished_at=now)


def of_this_process(connection: Connection) -> str | None:
    """The run that this process works at, if any."""
    here = sa.and_(runs.c.host == platform.node(), runs.c.pid == os.getpid(), runs.c.status == "running")
    newest = sa.select(runs.c.id).where(here).order_by(runs.c.started_at.desc()).limit(1)
    return connection.execute(newest).scalar()


def add_input(connection: Connection, run_id: str, artefact_id: int) -> None:
    """Note that the run uses this artefact."""
    beat(connection, run_id)
    same = sa.and_(run_inputs.c.run_id == run_id, run_inputs.c.artefact_id == artefact_id)
    if connection.execute(sa.select(run_inputs).where(same)).one_or_none() is None:
        connection.execute(sa.insert(run_inputs).values(run_id=run_id, artefact_id=artefact_id))


def unfinished(connection: Connection) -> dict[str, str]:
    """The runs that hold artefacts, each with the reason in words."""
    held = {}
    for run in connection.execute(sa.select(runs).where(runs.c.status.in_(_UNFINISHED))):
        if run.status == "running" and _process_lives(run):
            held[run.id] = f"run {run.id} is at work"
        elif datetime.now(UTC) - run.heartbeat_at < RESUMABLE_FOR:
            held[run.id] = f"run {run.id} can be resumed"
    return held


def _process_lives(run: AnyRow) -> bool:
    """Whether its process is there; False of another machine's, which only its heartbeat can tell of."""
    if run.host != platform.node():
        return False
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _update(connection: Connection, run_id: str, **values: object) -> None:
    done = connection.execute(sa.update(runs).where(runs.c.id == run_id).values(**values))
    if done.rowcount == 0:
        raise UserError(f"run {run_id}: no such run; it was never started")
