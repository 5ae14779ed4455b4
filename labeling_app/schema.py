"""The tables of the label store, as the last revision in `migrations/` leaves them (a test holds the two equal).

One judgement passes through them from left to right: prompt and responses, the task that shows them, the lease that
gives the task to one person, the submission that person sends. `events` keeps what happened, for good.
"""

from pathlib import Path

import sqlalchemy as sa

from rlhf.db import UtcDateTime

MIGRATIONS = Path(__file__).parent / "migrations"

metadata = sa.MetaData()

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    # A pseudonym: it is what exports and lineage show.
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),  # annotator | admin
    sa.Column("simulated", sa.Boolean, nullable=False),
    sa.Column("password_hash", sa.String(200)),  # argon2id; None until the invitation is taken up
    sa.Column("failed_logins", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failed_at", UtcDateTime),  # the last time; after a while nothing has failed
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("disabled_at", UtcDateTime),
    # Answers of a quarantined annotator stay in the store and out of exports.
    sa.Column("quarantined_at", UtcDateTime),
)

invitations = sa.Table(
    "invitations",
    metadata,
    sa.Column("token_sha256", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.ForeignKey("users.id"), nullable=False),
    # password: lets its bearer choose one; session: logs its bearer in (the link that `serve` prints on loopback)
    sa.Column("purpose", sa.String(16), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("used_at", UtcDateTime),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("token_sha256", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.ForeignKey("users.id"), nullable=False, index=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
)

guidelines = sa.Table(
    "guidelines",
    metadata,
    # Empty: they hold in every queue that has none of its own.
    sa.Column("queue", sa.String(100), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

prompts = sa.Table(
    "prompts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("content", sa.JSON, nullable=False),  # text, or a list of messages
)

responses = sa.Table(
    "responses",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("prompt_id", sa.ForeignKey("prompts.id"), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("content", sa.JSON, nullable=False),  # text, or a list of messages
    sa.UniqueConstraint("prompt_id", "sha256"),
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("queue", sa.String(100), nullable=False),
    sa.Column("mode", sa.String(16), nullable=False),  # rank | pair | rate | ab
    sa.Column("prompt_id", sa.ForeignKey("prompts.id"), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("overlap", sa.Integer, nullable=False),
    # Overlap, less the answers of trusted people, less the leases in force: what may still be given out. Zero for gold
    # tasks, which go to everybody, and for what was withdrawn.
    sa.Column("open_slots", sa.Integer, nullable=False),
    # Somebody was given it once: such tasks are finished before others are begun.
    sa.Column("begun", sa.Boolean, nullable=False),
    # What is known to be right: {"tiers": [[response id, ...], ...]} or {"ratings": {response id: grade}}
    sa.Column("gold", sa.JSON(none_as_null=True)),
    sa.Column("origin", sa.JSON, nullable=False),  # the columns that came with it: ids, topics, an imported vote's file
    sa.Column("withdrawn_at", UtcDateTime),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.CheckConstraint("open_slots >= 0"),
    sa.CheckConstraint("overlap >= 1"),
)

task_responses = sa.Table(
    "task_responses",
    metadata,
    sa.Column("task_id", sa.ForeignKey("tasks.id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("response_id", sa.ForeignKey("responses.id"), nullable=False),
    # All that wrote this very text for this task: [{"model": ref or null, "generation": {...} or null}, ...]
    sa.Column("sources", sa.JSON, nullable=False),
    sa.UniqueConstraint("task_id", "response_id"),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("token", sa.String(64), nullable=False, unique=True),
    sa.Column("task_id", sa.ForeignKey("tasks.id"), nullable=False),
    sa.Column("user_id", sa.ForeignKey("users.id"), nullable=False),
    sa.Column("queue", sa.String(100), nullable=False),  # the task's, so that a person's work is counted in an index
    sa.Column("state", sa.String(16), nullable=False),  # active | answered | skipped | expired
    sa.Column("presented", sa.JSON, nullable=False),  # response ids, as this person saw them
    sa.Column("claimed_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),  # when it was answered (the last time), skipped or expired
    sa.Column("skip", sa.JSON(none_as_null=True)),  # {"key", "reason", "note", "at"} of the last time it was skipped
    # One row a person and task: nobody gets a task twice. One that expired is taken up again in the same row.
    sa.UniqueConstraint("task_id", "user_id"),
)

submissions = sa.Table(
    "submissions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("idempotency_key", sa.String(64), nullable=False),
    sa.Column("task_id", sa.ForeignKey("tasks.id"), nullable=False),
    sa.Column("user_id", sa.ForeignKey("users.id"), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),  # 1, 2, ...: the last one counts, all are kept
    sa.Column("answer", sa.JSON, nullable=False),  # labeling_app.answers.Answer
    sa.Column("presented", sa.JSON, nullable=False),
    sa.Column("active_ms", sa.BigInteger, nullable=False),  # with the page in front and somebody at it
    sa.Column(
        "wall_ms", sa.BigInteger, nullable=False
    ),  # since the claim or the revision before, by the server's clock
    sa.Column("guidelines_version", sa.Integer),  # that the page showed; None: a file, a program, no guidelines
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("user_id", "idempotency_key"),
    sa.UniqueConstraint("task_id", "user_id", "revision"),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("user_id", sa.ForeignKey("users.id")),  # who did it; None: the store itself
    sa.Column("task_id", sa.ForeignKey("tasks.id")),
    sa.Column("body", sa.JSON, nullable=False),
)

# What may be given out, in the order in which it is.
sa.Index(
    "ix_tasks_open",
    tasks.c.queue,
    tasks.c.priority.desc(),
    tasks.c.begun.desc(),
    tasks.c.id,
    sqlite_where=sa.text("open_slots > 0"),
    postgresql_where=sa.text("open_slots > 0"),
)
sa.Index(
    "ix_tasks_gold",
    tasks.c.queue,
    tasks.c.id,
    sqlite_where=sa.text("gold IS NOT NULL"),
    postgresql_where=sa.text("gold IS NOT NULL"),
)
sa.Index("ix_tasks_prompt", tasks.c.prompt_id)
sa.Index("ix_leases_of_user", leases.c.user_id, leases.c.state, leases.c.queue, leases.c.ended_at)
sa.Index(
    "ix_leases_in_force",
    leases.c.expires_at,
    sqlite_where=sa.text("state = 'active'"),
    postgresql_where=sa.text("state = 'active'"),
)
sa.Index(
    "ix_submissions_of_user",
    submissions.c.user_id,
    submissions.c.created_at,
    submissions.c.revision,
    submissions.c.active_ms,
    submissions.c.task_id,
)
