"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """From nothing."""
    op.create_table(
        "names",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("last_version", sa.Integer, nullable=False),
    )
    op.create_table(
        "artefacts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(200), sa.ForeignKey("names.name"), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("run_id", sa.String(200)),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("deleted_at", MOMENT),
        sa.UniqueConstraint("name", "version"),
    )
    op.create_index("ix_artefacts_digest", "artefacts", ["digest"])
    op.create_table(
        "edges",
        sa.Column("child_id", sa.Integer, sa.ForeignKey("artefacts.id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("role", sa.String(64), nullable=False),
        sa.Column("parent_id", sa.Integer, sa.ForeignKey("artefacts.id"), nullable=False),
    )
    op.create_index("ix_edges_parent_id", "edges", ["parent_id"])
    op.create_table(
        "aliases",
        sa.Column("name", sa.String(200), sa.ForeignKey("names.name"), primary_key=True),
        sa.Column("alias", sa.String(100), primary_key=True),
        sa.Column("artefact_id", sa.Integer, sa.ForeignKey("artefacts.id"), nullable=False),
        sa.Column("moved_at", MOMENT, nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("command", sa.JSON, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("heartbeat_at", MOMENT, nullable=False),
        sa.Column("finished_at", MOMENT),
    )
    op.create_table(
        "run_inputs",
        sa.Column("run_id", sa.String(200), sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("artefact_id", sa.Integer, sa.ForeignKey("artefacts.id"), primary_key=True),
    )
