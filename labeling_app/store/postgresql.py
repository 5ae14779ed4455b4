"""PostgreSQL: several transactions at a time, in this process and in others.

Whatever fails before the commit because somebody else was at the same rows, or because the connection was lost, has
changed nothing and is run again. A connection lost during the commit leaves it open whether it was stored: the caller
hears `NotStored`, and the same key tells the store the next time.
"""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from labeling_app.store.running import LastingConnection, Setup, Work, Workers, read_once
from labeling_app.store.transaction import Tx

T = TypeVar("T")

NUM_WRITERS = 8
NUM_READERS = 4

MAX_ATTEMPTS = 10
MAX_RECONNECTS = 1

AGAIN = {"40001": "serialization failure", "40P01": "deadlock", "23505": "another was the first to insert it"}
"""SQLSTATE of what may go better the next time."""


class PostgresqlRunner:
    """Runs operations on one PostgreSQL database."""

    def __init__(self, engine: Engine, setup: Setup) -> None:
        self._setup = setup
        self._closed = False
        self._gate = threading.Lock()  # nothing is put into a queue after what ends it
        self._writers = Workers(NUM_WRITERS, "labels-writer", lambda: LastingConnection(engine, _plain), self._write)
        self._readers = Workers(
            NUM_READERS, "labels-reader", lambda: LastingConnection(engine, _for_readers), read_once(setup)
        )

    def write(self, work: Callable[[Tx], T]) -> "Future[T]":
        """Run `work` in a transaction of its own."""
        with self._gate:
            assert not self._closed, "the store is closed"
            return self._writers.submit(work)

    def read(self, work: Callable[[Tx], T]) -> "Future[T]":
        """Run `work` in a transaction that sees one moment."""
        with self._gate:
            assert not self._closed, "the store is closed"
            return self._readers.submit(work)

    def close(self) -> None:
        """Finish what waits, then close the connections."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
        self._writers.close()
        self._readers.close()

    def _write(self, lasting: LastingConnection, work: Work) -> Any:
        num_attempts = num_lost = 0
        while True:
            committing = False
            try:
                connection = lasting.get()
                with connection.begin() as transaction:
                    result = work(self._setup.tx(connection))
                    committing = True
                    transaction.commit()
                    return result
            except DBAPIError as error:
                lost = error.connection_invalidated
                if lost:
                    lasting.drop()
                num_attempts, num_lost = num_attempts + 1, num_lost + lost
                may_help = (lost and not committing) or getattr(error.orig, "sqlstate", None) in AGAIN
                if not may_help or num_attempts >= MAX_ATTEMPTS or num_lost > MAX_RECONNECTS:
                    raise
                time.sleep(random.uniform(0, 0.005) * num_attempts)  # noqa: S311 - so that two do not meet again


def _plain(connection: Connection) -> None:
    """Nothing to set."""


def _for_readers(connection: Connection) -> None:
    connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
