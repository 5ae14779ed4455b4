"""The registry's tables as the last revision in `migrations/` leaves them (a test holds the two equal)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Row

from rlhf.db import UtcDateTime

MIGRATIONS = Path(__file__).parent / "migrations"

if TYPE_CHECKING:
    AnyRow: TypeAlias = Row[*tuple[Any, ...]]
else:
    AnyRow = Row  # SQLAlchemy 2.0's cannot be subscripted so

metadata = sa.MetaData()

names = sa.Table(
    "names",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False),
    # Counts on when versions are deleted: a number is never given twice.
    sa.Column("last_version", sa.Integer, nullable=False),
)

artefacts = sa.Table(
    "artefacts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.ForeignKey("names.name"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("run_id", sa.String(200)),
    sa.Column("created_at", UtcDateTime, nullable=False),
    # Rows stay when gc takes the content, so that an old ref is answered with what became of it.
    sa.Column("deleted_at", UtcDateTime),
    sa.UniqueConstraint("name", "version"),
)

edges = sa.Table(
    "edges",
    metadata,
    sa.Column("child_id", sa.ForeignKey("artefacts.id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("role", sa.String(64), nullable=False),
    sa.Column("parent_id", sa.ForeignKey("artefacts.id"), nullable=False, index=True),
)

aliases = sa.Table(
    "aliases",
    metadata,
    sa.Column("name", sa.ForeignKey("names.name"), primary_key=True),
    sa.Column("alias", sa.String(100), primary_key=True),
    sa.Column("artefact_id", sa.ForeignKey("artefacts.id"), nullable=False),
    sa.Column("moved_at", UtcDateTime, nullable=False),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("command", sa.JSON, nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("status", sa.String(32), nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("heartbeat_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime),
)

run_inputs = sa.Table(
    "run_inputs",
    metadata,
    sa.Column("run_id", sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("artefact_id", sa.ForeignKey("artefacts.id"), primary_key=True),
)
