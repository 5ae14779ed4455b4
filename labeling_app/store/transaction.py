"""What every operation of the store is given first."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from labeling_app.schema import events
from labeling_app.settings import StoreSettings
from labeling_app.store.prepared import Prepared

USER: sa.BindParameter[Any] = sa.bindparam("user")
TASK: sa.BindParameter[Any] = sa.bindparam("task")
QUEUE: sa.BindParameter[Any] = sa.bindparam("queue")
KEY: sa.BindParameter[Any] = sa.bindparam("key")

ACTIVE: sa.ColumnElement[str] = sa.literal_column("'active'")
"""A literal: SQLite looks into an index of such rows only if the statement itself says so."""

_ADD_EVENT = Prepared(sa.insert(events), ["created_at", "kind", "user_id", "task_id", "body"])


@dataclass(frozen=True)
class Tx:
    """One transaction: the connection it runs on, the moment at which it happens, the store's settings.

    `memo` outlives it: what this process has counted before and need not count every time. `raw` is SQLite's own
    connection, on SQLite.
    """

    connection: Connection
    now: datetime
    settings: StoreSettings
    memo: dict[Any, Any] = field(default_factory=dict)
    raw: sqlite3.Connection | None = None

    @property
    def on_server(self) -> bool:
        """Whether this is PostgreSQL, where other transactions run at the same time; SQLite's run one by one."""
        return self.connection.dialect.name == "postgresql"

    def record(
        self, kind: str, body: Mapping[str, Any], *, user_id: int | None = None, task_id: int | None = None
    ) -> None:
        """Write what happens to `events`; `user_id` is who does it."""
        row = {"created_at": self.now, "kind": kind, "user_id": user_id, "task_id": task_id, "body": dict(body)}
        _ADD_EVENT.insert(self, row)


def insert(tx: Tx, statement: sa.Insert, row: Mapping[str, Any]) -> int:
    """Insert a row; returns its id."""
    key = tx.connection.execute(statement, row).inserted_primary_key
    assert key is not None
    return int(key[0])


def utcnow() -> datetime:
    """The clock that the store goes by."""
    return datetime.now(UTC)
