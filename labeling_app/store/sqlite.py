"""SQLite: one thread writes for everybody in this process.

It takes all operations that wait, runs them one after the other in one transaction, each under a savepoint, and
commits once: that costs one sync of the disk for all of them (group commit). Only then do callers hear that it is done.
Other processes may write the same file: transactions take turns (BEGIN IMMEDIATE), and this one lets go between groups.
"""

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from labeling_app.store.errors import NotStored
from labeling_app.store.running import Setup, Work, not_stored
from labeling_app.store.transaction import Tx
from rlhf import db
from rlhf.errors import UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_GROUP = 128
"""Operations in one transaction: other processes wait no longer than these take."""

NUM_READERS = 2

POLL_SECONDS = 0.001
"""How often to ask whether another process has finished writing. SQLite's own waiting backs off to 0.1 s, and whoever
writes all the time would be ahead of it nearly always."""

Job = tuple[Work, Future[Any]]


class SqliteRunner:
    """Runs operations on one SQLite file."""

    def __init__(self, engine: Engine, setup: Setup) -> None:
        self._engine, self._setup = engine, setup
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._closed = False
        self._local = threading.local()
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="labels-reader")
        self._writer = threading.Thread(target=self._write_groups, name="labels-writer", daemon=True)
        self._writer.start()

    def write(self, work: Callable[[Tx], T]) -> "Future[T]":
        """Let the writer run `work` in its next transaction."""
        assert not self._closed, "the store is closed"
        future: Future[T] = Future()
        self._waiting.put((work, future))
        return future

    def read(self, work: Callable[[Tx], T]) -> "Future[T]":
        """Run `work` on a connection of its own, beside the writer."""
        return self._readers.submit(self._read, work)

    def close(self) -> None:
        """Finish what waits, then let go of the file."""
        if self._closed:
            return
        self._closed = True
        self._waiting.put(None)
        self._writer.join()
        barrier = threading.Barrier(NUM_READERS)
        for done in [self._readers.submit(self._close_reader, barrier) for _ in range(NUM_READERS)]:
            done.result()
        self._readers.shutdown()

    def _read(self, work: Callable[[Tx], T]) -> T:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._engine.connect()
        try:
            with connection.begin():
                return work(self._tx(connection))
        except DBAPIError as error:
            self._local.connection = None
            connection.close()
            raise not_stored(error) from error

    def _close_reader(self, barrier: threading.Barrier) -> None:
        barrier.wait()  # one for each thread
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()

    def _write_groups(self) -> None:
        while (job := self._waiting.get()) is not None:
            group = [job]
            last = False
            while len(group) < MAX_GROUP and not last:
                try:
                    another = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if another is None:
                    last = True
                else:
                    group.append(another)
            self._write_group([(work, future) for work, future in group if future.set_running_or_notify_cancel()])
            if last:
                break
        if self._connection is not None:
            self._connection.close()

    def _write_group(self, group: Sequence[Job]) -> None:
        try:
            outcomes = self._transaction([work for work, _ in group])
        except Exception as error:
            self._drop_connection()
            if not isinstance(error, UserError | DBAPIError):
                logger.exception("the label store's writer failed")
            failed = not_stored(error) if isinstance(error, DBAPIError) else NotStored(str(error))
            failed.__cause__ = error
            outcomes = [failed] * len(group)
        for (_, future), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _transaction(self, works: Sequence[Work]) -> list[Any]:
        """Results, or the exceptions by which operations were refused. One that was refused has changed nothing."""
        connection = self._open()
        self._begin(connection)
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        outcomes: list[Any] = []
        for work in works:
            raw.execute("SAVEPOINT operation")
            try:
                outcomes.append(work(self._tx(connection)))
            except Exception as error:
                if isinstance(error, DBAPIError) and not isinstance(error, IntegrityError):
                    raise  # no room, no file: nothing of this transaction can be trusted
                outcomes.append(error)
                raw.execute("ROLLBACK TO operation")
            raw.execute("RELEASE operation")
        connection.commit()
        return outcomes

    def _open(self) -> Connection:
        if self._connection is None:
            connection = self._engine.connect()
            db.for_writing(connection)
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.execute("PRAGMA busy_timeout = 0")  # `_begin` waits by itself
            self._connection = connection
        return self._connection

    def _begin(self, connection: Connection) -> None:
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

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def _tx(self, connection: Connection) -> Tx:
        return Tx(connection, self._setup.clock(), self._setup.settings)
