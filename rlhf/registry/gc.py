"""Garbage collection: mark from aliases, unfinished runs and edges; what is left over goes.

Versions are first struck from the tables, and only then do folders go that no row asks for: dying in between
leaves folders without rows, which the next collection finds, and never rows without folders.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf.registry import queries, runs, schema
from rlhf.registry.artefact import Garbage, GcPlan, Kept
from rlhf.registry.names import LATEST
from rlhf.registry.objects import TRASH, ObjectStore, remove
from rlhf.registry.schema import AnyRow

GRACE = timedelta(hours=1)
"""What is younger is left alone: somebody may just be publishing it, or about to build on it."""


def plan(connection: Connection, store: ObjectStore, grace: timedelta, *, deleted: bool = False) -> GcPlan:
    """What a collection would do at this moment."""
    rows = queries.artefact_rows(connection, schema.artefacts.c.deleted_at.is_(None))
    why = _mark(connection, rows, grace)
    found = queries.artefacts(connection, store.objects, rows)
    pairs = list(zip(rows, found, strict=True))
    return GcPlan(
        kept=tuple(Kept(artefact, tuple(why[row.id])) for row, artefact in pairs if row.id in why),
        delete=tuple(artefact for row, artefact in pairs if row.id not in why),
        garbage=tuple(_garbage(connection, store, {row.digest for row in rows if row.id in why}, grace)),
        deleted=deleted,
    )


def collect(write: Callable[[], AbstractContextManager[Connection]], store: ObjectStore, grace: timedelta) -> GcPlan:
    """Do it. `write` opens a transaction under the registry's writer lock: publishers wait meanwhile."""
    with write() as connection:
        done = plan(connection, store, grace, deleted=True)
        column = schema.artefacts.c
        for artefact in done.delete:
            this = sa.and_(column.name == artefact.name, column.version == artefact.version)
            connection.execute(sa.update(schema.artefacts).where(this).values(deleted_at=datetime.now(UTC)))
        gone = sa.select(column.id).where(column.deleted_at.is_not(None))
        connection.execute(sa.delete(schema.run_inputs).where(schema.run_inputs.c.artefact_id.in_(gone)))
    with write() as connection:
        kept = sa.select(column.digest).where(column.deleted_at.is_(None))
        asked_for = set(connection.execute(kept).scalars())
        garbage = [found for found in done.garbage if found.path.name not in asked_for]
        waste = [store.set_aside(found.path) for found in garbage if found.path.exists()]
    for folder in waste:
        remove(folder)
    return GcPlan(kept=done.kept, delete=done.delete, garbage=tuple(garbage), deleted=True)


def _mark(connection: Connection, rows: Sequence[AnyRow], grace: timedelta) -> dict[int, list[str]]:
    """Every reason to keep an artefact, by id; those without one are missing."""
    why: dict[int, list[str]] = {}
    newest = queries.newest_versions(connection)
    held = runs.unfinished(connection)
    shown = {row.id: f"{row.name}@v{row.version}" for row in rows}
    for row in rows:
        if newest[row.name] == row.version:
            why.setdefault(row.id, []).append(f"alias {LATEST}")
        if row.run_id in held:
            why.setdefault(row.id, []).append(held[row.run_id])
        if datetime.now(UTC) - row.created_at < grace:
            why.setdefault(row.id, []).append(f"younger than {grace}")
    for alias in connection.execute(sa.select(schema.aliases)):
        why.setdefault(alias.artefact_id, []).append(f"alias {alias.alias}")
    for used in connection.execute(sa.select(schema.run_inputs)):
        # a run that could no longer be resumed has lost its inputs, and may have been taken up again with others
        if used.run_id in held and used.artefact_id in shown:
            why.setdefault(used.artefact_id, []).append(held[used.run_id])
    parents: dict[int, list[AnyRow]] = {}
    for edge in connection.execute(sa.select(schema.edges)):
        parents.setdefault(edge.child_id, []).append(edge)
    reached = list(why)
    for child in reached:  # grows while it is walked
        for edge in parents.get(child, []):
            if edge.parent_id not in why:
                reached.append(edge.parent_id)
            why.setdefault(edge.parent_id, []).append(f"{edge.role} of {shown[child]}")
    return why


def _garbage(connection: Connection, store: ObjectStore, kept: set[str], grace: timedelta) -> list[Garbage]:
    """The folders on disk that go when only the digests in `kept` stay."""
    published = set(connection.execute(sa.select(schema.artefacts.c.digest)).scalars())
    found = []
    for folder in _folders(store.objects):
        if folder.name in kept:
            continue
        if folder.name in published:
            found.append(Garbage(folder, _num_bytes(folder), "no version that is kept has this content"))
        elif _age(folder) > grace:
            found.append(Garbage(folder, _num_bytes(folder), "was never published: its publisher died"))
    for folder in _folders(store.staging):
        if folder.name.startswith(TRASH) or _age(folder) > grace:
            found.append(Garbage(folder, _num_bytes(folder), "left behind by a publisher or a gc that died"))
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.exists() else []


def _num_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _age(folder: Path) -> timedelta:
    """Since anything in it was last written."""
    newest = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    return timedelta(seconds=time.time() - newest)
