"""How operations are run: what the two databases have in common."""

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeVar

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from labeling_app.settings import StoreSettings
from labeling_app.store.errors import NotStored
from labeling_app.store.transaction import Tx
from rlhf.errors import UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")

Work = Callable[[Tx], Any]
"""An operation with its arguments."""

Job = tuple[Work, Future[Any]]


class Runner(Protocol):
    """Runs operations, each in a transaction; a future is resolved once its transaction is on the disk."""

    def write(self, work: Callable[[Tx], T]) -> "Future[T]":
        """Run something that changes the store."""
        ...

    def read(self, work: Callable[[Tx], T]) -> "Future[T]":
        """Run something that does not; it sees one moment of the store and waits for no writer."""
        ...

    def close(self) -> None:
        """Finish what was begun, then close all connections."""
        ...


@dataclass(frozen=True)
class Setup:
    """What operations are given besides the connection."""

    clock: Callable[[], datetime]
    settings: StoreSettings
    memo: dict[Any, Any] = field(default_factory=dict)

    def tx(self, connection: Connection) -> Tx:
        """A transaction that happens now."""
        driver = connection.connection.driver_connection
        raw = driver if isinstance(driver, sqlite3.Connection) else None
        return Tx(connection, self.clock(), self.settings, self.memo, raw)


class LastingConnection:
    """One thread's connection, kept open; `drop` it when it has failed, and the next `get` opens another."""

    def __init__(self, engine: Engine, prepare: Callable[[Connection], object]) -> None:
        self._engine, self._prepare = engine, prepare
        self._open: Connection | None = None

    def get(self) -> Connection:
        """The connection, in no transaction."""
        if self._open is None:
            connection = self._engine.connect()
            self._prepare(connection)
            self._open = connection
        return self._open

    def drop(self) -> None:
        """Close it, in whatever state it is."""
        connection, self._open = self._open, None
        if connection is not None:
            connection.invalidate()
            connection.close()


class Workers:
    """Threads that run what is submitted, each on a connection of its own."""

    def __init__(
        self,
        num: int,
        name: str,
        connect: Callable[[], LastingConnection],
        run: Callable[[LastingConnection, Work], Any],
    ) -> None:
        self._connect, self._run = connect, run
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        # daemons: a program that forgets to close the store can still end
        self._threads = [threading.Thread(target=self._serve, name=f"{name}-{n}", daemon=True) for n in range(num)]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[Tx], T]) -> "Future[T]":
        """Run `work` as soon as a thread is free."""
        future: Future[T] = Future()
        self._waiting.put((work, future))
        return future

    def close(self) -> None:
        """Finish what was submitted, then close the connections."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        connection = self._connect()
        while (job := self._waiting.get()) is not None:
            work, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = self._run(connection, work)
            except Exception as error:
                future.set_exception(as_store_error(error))
            else:
                future.set_result(result)
        connection.drop()


def read_once(setup: Setup) -> Callable[[LastingConnection, Work], Any]:
    """How workers read: in a transaction that sees one moment. A connection that was lost is opened again."""

    def run(connection: LastingConnection, work: Work) -> Any:
        for attempt in (1, 2):
            try:
                with connection.get().begin():
                    return work(setup.tx(connection.get()))
            except (DBAPIError, sqlite3.Error) as error:
                connection.drop()
                if attempt == 2 or not getattr(error, "connection_invalidated", False):
                    raise
        raise AssertionError

    return run


def as_store_error(error: Exception) -> Exception:
    """What the driver complains of as `NotStored`; what operations raise by themselves as it is."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, DBAPIError | sqlite3.Error):
        reason = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
        wrapped = NotStored(f"The database does not answer as it should ({reason}). Please try again.")
        wrapped.__cause__ = error
        return wrapped
    return error
