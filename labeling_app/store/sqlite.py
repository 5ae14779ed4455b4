"""SQLite: one thread writes for everybody in this process.

It takes all operations that wait, runs them one after the other in one transaction, each under a savepoint, and
commits once: that costs one sync of the disk for all of them (group commit). Only then do callers hear that it is done.
Other processes may write the same file: transactions take turns (BEGIN IMMEDIATE), and this one lets go between groups.
"""

import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from labeling_app.store.running import Job, LastingConnection, Setup, Work, Workers, as_store_error, read_once
from labeling_app.store.transaction import Tx
from rlhf import db

T = TypeVar("T")

MAX_GROUP = 128
"""Operations in one transaction: other processes wait no longer than these take."""

NUM_READERS = 2

POLL_SECONDS = 0.001
"""How often to ask whether another process has finished writing. SQLite's own waiting backs off to 0.1 s, and whoever
writes all the time would be ahead of it nearly always."""


_OF_ONE_OPERATION = (IntegrityError, sqlite3.IntegrityError)


class SqliteRunner:
    """Runs operations on one SQLite file."""

    def __init__(self, engine: Engine, setup: Setup) -> None:
        self._setup = setup
        self._connection = LastingConnection(engine, _for_the_writer)
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closed = False
        self._gate = threading.Lock()  # nothing is put into a queue after what ends it
        self._readers = Workers(
            NUM_READERS, "labels-reader", lambda: LastingConnection(engine, _for_readers), read_once(setup)
        )
        self._writer = threading.Thread(target=self._serve, name="labels-writer", daemon=True)
        self._writer.start()

    def write(self, work: Callable[[Tx], T]) -> "Future[T]":
        """Let the writer run `work` in its next transaction."""
        assert threading.current_thread() is not self._writer, "an operation calls another as a function, with its tx"
        future: Future[T] = Future()
        with self._gate:
            assert not self._closed, "the store is closed"
            self._waiting.put((work, future))
        return future

    def read(self, work: Callable[[Tx], T]) -> "Future[T]":
        """Run `work` beside the writer."""
        with self._gate:
            assert not self._closed, "the store is closed"
            return self._readers.submit(work)

    def close(self) -> None:
        """Finish what waits, then let go of the file."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
        self._waiting.put(None)
        self._writer.join()
        self._readers.close()

    def _serve(self) -> None:
        for group in self._groups():
            try:
                outcomes = self._transaction([work for work, _ in group])
            except Exception as error:
                self._connection.drop()
                outcomes = [as_store_error(error)] * len(group)
            for (_, future), outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
        self._connection.drop()

    def _groups(self) -> Iterator[list[Job]]:
        """What waits at one time, as long as the store is open."""
        job = self._waiting.get()
        while job is not None:
            group = [job]
            try:
                while len(group) < MAX_GROUP and (job := self._waiting.get_nowait()) is not None:
                    group.append(job)
            except queue.Empty:
                pass
            yield [(work, future) for work, future in group if future.set_running_or_notify_cancel()]
            if job is not None:
                job = self._waiting.get()

    def _transaction(self, works: Sequence[Work]) -> list[Any]:
        """Results, or the exceptions by which operations were refused; one that was refused has changed nothing."""
        connection = self._connection.get()
        _begin(connection)
        raw = _raw(connection)
        outcomes: list[Any] = []
        for work in works:
            raw.execute("SAVEPOINT operation")
            try:
                outcomes.append(work(self._setup.tx(connection)))
            except Exception as error:
                if isinstance(error, DBAPIError | sqlite3.Error) and not isinstance(error, _OF_ONE_OPERATION):
                    raise  # no room, no file: nothing of this transaction can be trusted
                outcomes.append(error)
                raw.execute("ROLLBACK TO operation")
            raw.execute("RELEASE operation")
        connection.commit()
        return outcomes


def _begin(connection: Connection) -> None:
    """Wait for our turn to write."""
    give_up = time.monotonic() + db.BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.begin()
            return
        except DBAPIError as error:
            code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
            if code != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            connection.rollback()
            time.sleep(POLL_SECONDS)


def _for_the_writer(connection: Connection) -> None:
    db.for_writing(connection)
    _raw(connection).execute("PRAGMA busy_timeout = 0")  # `_begin` waits by itself


def _for_readers(connection: Connection) -> None:
    _raw(connection).execute("PRAGMA query_only = ON")


def _raw(connection: Connection) -> sqlite3.Connection:
    """The driver's own connection: for statements whose way through SQLAlchemy would cost more than they do."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw
