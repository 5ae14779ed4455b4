"""The first tables."""

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

MOMENT = sa.DateTime(timezone=True)

APPEND_ONLY = {
    "events": ["id"],
    "submissions": ["id", "user_id idempotency_key", "task_id user_id revision"],
}
"""Tables whose rows are neither changed nor deleted, and what is unique in them: by it REPLACE finds a row to take the
place of, past the triggers that watch UPDATE and DELETE."""


def upgrade() -> None:
    """From nothing."""
    _people()
    _tasks()
    _answers()
    _indexes()
    append_only = _on_sqlite if op.get_bind().dialect.name == "sqlite" else _on_postgresql
    for statement in append_only():
        op.execute(statement)


def _on_sqlite() -> Iterator[str]:
    for table, unique in APPEND_ONLY.items():
        same = [" AND ".join(f"{column} = NEW.{column}" for column in columns.split()) for columns in unique]
        is_there = f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {' OR '.join(same)})"  # noqa: S608 - our own names
        for what, when in (("UPDATE", ""), ("DELETE", ""), ("INSERT", is_there)):
            yield f"""CREATE TRIGGER {table}_append_only_{what.lower()} BEFORE {what} ON {table} {when}
                      BEGIN SELECT RAISE(ABORT, '{table} are only ever added'); END"""


def _on_postgresql() -> Iterator[str]:
    yield """CREATE FUNCTION only_ever_added() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION '% are only ever added', TG_TABLE_NAME; END $$"""
    for table in APPEND_ONLY:
        yield f"""CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table}
                  FOR EACH ROW EXECUTE FUNCTION only_ever_added()"""
        yield f"""CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}
                  FOR EACH STATEMENT EXECUTE FUNCTION only_ever_added()"""


def _people() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("simulated", sa.Boolean, nullable=False),
        sa.Column("password_hash", sa.String(200)),
        sa.Column("failed_logins", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failed_at", MOMENT),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("disabled_at", MOMENT),
        sa.Column("quarantined_at", MOMENT),
    )
    op.create_table(
        "invitations",
        sa.Column("token_sha256", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("used_at", MOMENT),
    )
    op.create_table(
        "sessions",
        sa.Column("token_sha256", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
    )
    op.create_table(
        "guidelines",
        sa.Column("queue", sa.String(100), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
    )


def _tasks() -> None:
    op.create_table(
        "prompts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("content", sa.JSON, nullable=False),
    )
    op.create_table(
        "responses",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("prompt_id", sa.Integer, sa.ForeignKey("prompts.id"), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.UniqueConstraint("prompt_id", "sha256"),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("queue", sa.String(100), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("prompt_id", sa.Integer, sa.ForeignKey("prompts.id"), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("overlap", sa.Integer, nullable=False),
        sa.Column("open_slots", sa.Integer, nullable=False),
        sa.Column("begun", sa.Boolean, nullable=False),
        sa.Column("gold", sa.JSON),
        sa.Column("origin", sa.JSON, nullable=False),
        sa.Column("withdrawn_at", MOMENT),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("open_slots >= 0"),
        sa.CheckConstraint("overlap >= 1"),
    )
    op.create_table(
        "task_responses",
        sa.Column("task_id", sa.Integer, sa.ForeignKey("tasks.id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("response_id", sa.Integer, sa.ForeignKey("responses.id"), nullable=False),
        sa.Column("sources", sa.JSON, nullable=False),
        sa.UniqueConstraint("task_id", "response_id"),
    )


def _answers() -> None:
    op.create_table(
        "leases",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("token", sa.String(64), nullable=False, unique=True),
        sa.Column("task_id", sa.Integer, sa.ForeignKey("tasks.id"), nullable=False),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("queue", sa.String(100), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("presented", sa.JSON, nullable=False),
        sa.Column("claimed_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT),
        sa.Column("skip", sa.JSON),
        sa.UniqueConstraint("task_id", "user_id"),
    )
    op.create_table(
        "submissions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("idempotency_key", sa.String(64), nullable=False),
        sa.Column("task_id", sa.Integer, sa.ForeignKey("tasks.id"), nullable=False),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("answer", sa.JSON, nullable=False),
        sa.Column("presented", sa.JSON, nullable=False),
        sa.Column("active_ms", sa.BigInteger, nullable=False),
        sa.Column("wall_ms", sa.BigInteger, nullable=False),
        sa.Column("guidelines_version", sa.Integer),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.UniqueConstraint("user_id", "idempotency_key"),
        sa.UniqueConstraint("task_id", "user_id", "revision"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id")),
        sa.Column("task_id", sa.Integer, sa.ForeignKey("tasks.id")),
        sa.Column("body", sa.JSON, nullable=False),
    )


def _indexes() -> None:
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    is_open, is_gold, in_force = map(sa.text, ("open_slots > 0", "gold IS NOT NULL", "state = 'active'"))
    op.create_index(
        "ix_tasks_open",
        "tasks",
        ["queue", sa.text("priority DESC"), sa.text("begun DESC"), "id"],
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
    op.create_index("ix_tasks_gold", "tasks", ["queue", "id"], sqlite_where=is_gold, postgresql_where=is_gold)
    op.create_index("ix_tasks_prompt", "tasks", ["prompt_id"])
    op.create_index("ix_leases_of_user", "leases", ["user_id", "state", "queue", "ended_at"])
    op.create_index("ix_leases_in_force", "leases", ["expires_at"], sqlite_where=in_force, postgresql_where=in_force)
    of_user = ["user_id", "created_at", "revision", "active_ms", "task_id"]
    op.create_index("ix_submissions_of_user", "submissions", of_user)
