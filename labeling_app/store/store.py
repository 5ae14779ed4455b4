"""The store: all operations, for those who wait for them and for the server."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import sqlalchemy as sa

from labeling_app.answers import Answer
from labeling_app.schema import MIGRATIONS
from labeling_app.settings import QUEUE, StoreSettings
from labeling_app.store import adding, answering, claiming, people, reading, slots
from labeling_app.store.postgresql import PostgresqlRunner
from labeling_app.store.progress import progress
from labeling_app.store.replay import audit
from labeling_app.store.running import Runner, Setup
from labeling_app.store.sqlite import SqliteRunner
from labeling_app.store.status import status
from labeling_app.store.transaction import Tx, utcnow
from labeling_app.store.values import (
    Added,
    Claimed,
    Event,
    Handled,
    Judgement,
    NewTask,
    Progress,
    QueueStatus,
    Receipt,
    Rejected,
    Role,
    Skipped,
    User,
)
from rlhf import db

T = TypeVar("T")
P = ParamSpec("P")

Operation = Callable[Concatenate[Tx, P], T]

WRITES: dict[str, Callable[..., Any]] = {
    "add_user": people.add_user,
    "set_quarantined": people.set_quarantined,
    "set_disabled": people.set_disabled,
    "set_guidelines": people.set_guidelines,
    "add_tasks": adding.add_tasks,
    "withdraw": adding.withdraw,
    "claim": claiming.claim,
    "extend": claiming.extend,
    "reopen": claiming.reopen,
    "submit": answering.submit,
    "revise": answering.revise,
    "skip": answering.skip,
    "sweep": slots.sweep,
}

READS: dict[str, Callable[..., Any]] = {
    "users": people.all_users,
    "user": people.user,
    "guidelines": people.current_guidelines,
    "progress": progress,
    "history": reading.history,
    "status": status,
    "judgements": reading.judgements,
    "events": reading.all_events,
    "audit": audit,
}

TASKS_A_TRANSACTION = 500


class Store:
    """The label store of one home.

    `with Store.open(home) as store: store.claim(...)` waits for each operation. A server, which must not wait, writes
    `await store.call("claim", ...)`, or gives the function itself: every operation is a function of a `Tx` and its
    arguments, and several can be put together into one transaction by a function of one's own.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    @classmethod
    def open(
        cls,
        home: Path,
        url: str | sa.URL | None = None,
        settings: StoreSettings = StoreSettings(),  # noqa: B008 - immutable
        clock: Callable[[], datetime] = utcnow,
    ) -> Self:
        """The store at `url`, else at `$RLHF_DATABASE_URL`, else in `home`/labels.db; made if need be.

        Raises:
            UserError: the database is out of reach, or was written by a newer version of this package.
        """
        in_home = sa.URL.create("sqlite", database=str(Path(home).expanduser().absolute() / "labels.db"))
        chosen = url or os.environ.get("RLHF_DATABASE_URL") or in_home
        if not db.exists(chosen):
            _make_private(Path(str(sa.make_url(chosen).database)))
        engine = db.engine(chosen)
        db.migrate(engine, MIGRATIONS, "labels")
        runner = PostgresqlRunner if engine.dialect.name == "postgresql" else SqliteRunner
        return cls(runner(engine, Setup(clock, settings)))

    def close(self) -> None:
        """Finish what was begun and let go of the database."""
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def write(self, operation: Operation[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an operation that changes the store, in a transaction; returns once it is on the disk.

        Raises:
            NotStored: it is not known to be.
        """
        return self._runner.write(_with_tx(operation, *args, **kwargs)).result()

    def read(self, operation: Operation[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an operation that changes nothing; it waits for no writer."""
        return self._runner.read(_with_tx(operation, *args, **kwargs)).result()

    async def call(self, operation: str | Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run an operation without blocking the event loop: by its name, or a function `(tx, ...)` that may write."""
        if isinstance(operation, str):
            function = READS.get(operation) or WRITES[operation]
            is_read = operation in READS
        else:
            function = operation
            is_read = operation in READS.values()
        run = self._runner.read if is_read else self._runner.write
        future: Future[Any] = run(partial(_call, function, args, kwargs))
        return await asyncio.wrap_future(future)

    async def call_read(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a function `(tx, ...)` that changes nothing, without blocking the event loop."""
        return await asyncio.wrap_future(self._runner.read(partial(_call, operation, args, kwargs)))

    # People

    def add_user(self, name: str, role: Role = "annotator", simulated: bool = False) -> User:
        return self.write(people.add_user, name, role, simulated)

    def users(self) -> list[User]:
        return self.read(people.all_users)

    def user(self, id_or_name: int | str) -> User:
        return self.read(people.user, id_or_name)

    def set_quarantined(self, user_id: int, quarantined: bool, by: int | None = None, reason: str = "") -> User:
        return self.write(people.set_quarantined, user_id, quarantined, by, reason)

    def set_disabled(self, user_id: int, disabled: bool, by: int | None = None) -> User:
        return self.write(people.set_disabled, user_id, disabled, by)

    def set_guidelines(self, text: str, queue: str | None = None) -> int:
        return self.write(people.set_guidelines, text, queue)

    def guidelines(self, queue: str | None = None) -> tuple[int, str] | None:
        return self.read(people.current_guidelines, queue)

    # Tasks

    def add_tasks(self, new_tasks: Iterable[NewTask], queue: str = QUEUE) -> Added:
        """As `adding.add_tasks`, however many: every 500 of them are one transaction."""
        remaining = iter(new_tasks)
        total = Added([], 0, 0, 0, [])
        first = 0
        while batch := list(islice(remaining, TASKS_A_TRANSACTION)):
            added = self.write(adding.add_tasks, batch, queue)
            total = _together(total, added, first)
            first += len(batch)
        return total

    def withdraw(self, which: Sequence[int] | str, by: int | None = None) -> int:
        return self.write(adding.withdraw, which, by)

    # One person's work

    def claim(self, user_id: int, queue: str | None = None) -> Claimed | None:
        return self.write(claiming.claim, user_id, queue)

    def extend(self, user_id: int, lease: str) -> datetime:
        return self.write(claiming.extend, user_id, lease)

    def reopen(self, user_id: int, task_id: int, take_again: bool = False) -> Claimed:
        return self.write(claiming.reopen, user_id, task_id, take_again)

    def submit(
        self,
        user_id: int,
        lease: str,
        key: str,
        answer: Answer,
        active_ms: int,
        guidelines_version: int | None = None,
    ) -> Receipt:
        return self.write(answering.submit, user_id, lease, key, answer, active_ms, guidelines_version)

    def revise(
        self,
        user_id: int,
        task_id: int,
        key: str,
        answer: Answer,
        active_ms: int,
        based_on: int | None = None,
        guidelines_version: int | None = None,
    ) -> Receipt:
        return self.write(answering.revise, user_id, task_id, key, answer, active_ms, based_on, guidelines_version)

    def skip(self, user_id: int, lease: str, key: str, reason: str, note: str = "") -> Skipped:
        return self.write(answering.skip, user_id, lease, key, reason, note)

    def sweep(self) -> int:
        return self.write(slots.sweep)

    # Looking

    def progress(self, user_id: int, queue: str | None = None) -> Progress:
        return self.read(progress, user_id, queue)

    def history(self, user_id: int, queue: str | None = None, limit: int = 50) -> list[Handled]:
        return self.read(reading.history, user_id, queue, limit)

    def status(self, queue: str | None = None) -> list[QueueStatus]:
        return self.read(status, queue)

    def judgements(
        self, queue: str | None = None, with_quarantined: bool = False, with_gold: bool = True
    ) -> list[Judgement]:
        return self.read(reading.judgements, queue, with_quarantined, with_gold)

    def events(self, after: int = 0, limit: int | None = None) -> list[Event]:
        return self.read(reading.all_events, after, limit)

    def audit(self) -> list[str]:
        return self.read(audit)


def _make_private(file: Path) -> None:
    """Make an empty database that its owner alone can read: it will hold hashes of passwords.

    SQLite gives the files beside it the same mode.
    """
    with contextlib.suppress(OSError):  # `db.engine` comes to the same place, and says what is wrong with it
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600, exist_ok=False)


def _with_tx(operation: Operation[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[Tx], T]:
    return lambda tx: operation(tx, *args, **kwargs)


def _call(operation: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], tx: Tx) -> Any:
    return operation(tx, *args, **kwargs)


def _together(total: Added, added: Added, first: int) -> Added:
    """Sums; places of rejected tasks are those among all that were given."""
    return Added(
        total.task_ids + added.task_ids,
        total.num_tasks + added.num_tasks,
        total.num_responses + added.num_responses,
        total.num_identical + added.num_identical,
        total.rejected + [Rejected(first + one.index, one.why, one.task_id) for one in added.rejected],
    )
