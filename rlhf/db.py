"""Databases: SQLite on one machine, PostgreSQL for several, and one way of using both.

`engine` opens one, `read` and `write` are its transactions, `migrate` brings its tables up to date. SQLite's file
must lie on a disk of this machine (its log needs shared memory); what several machines share goes to PostgreSQL.
"""

import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Dialect, Engine
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from rlhf.errors import UserError

BUSY_TIMEOUT_SECONDS = 30.0
"""How long a writer waits for another one to finish."""

CONNECT_TIMEOUT_SECONDS = 10

_WRITES = "rlhf_writes"


class UtcDateTime(sa.TypeDecorator[datetime]):
    """A moment, in UTC on the way in and out; SQLite keeps no time zone, so it is put back on reading."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; a moment without a time zone is our own bug."""
        assert value is None or value.tzinfo is not None, "a moment without a time zone"
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """With its time zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def engine(url: str | URL) -> Engine:
    """Open the database `sqlite:///FILE` or `postgresql+psycopg://USER@HOST/DATABASE`, and try it once.

    SQLite: write-ahead log, every commit synced to disk, foreign keys enforced, the file's folder made if
    need be. Connections are not pooled: nothing to close, nothing that a fork could share, no connection that
    idles away through days of training, and SQLite's file is whole whenever nobody works on it.

    Raises:
        UserError: the URL is malformed or of another database, the driver is missing, the server is out of
            reach or refuses, the folder or file cannot be written, or the file is no database.
    """
    parsed = _parse(url)
    opened = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed)
    try:
        with opened.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
    except DBAPIError as error:
        raise _cannot_use(parsed, error) from error
    return opened


def exists(url: str | URL) -> bool:
    """Whether there is a database yet; asking makes none. A server's is always taken to be there.

    Raises:
        UserError: the URL is malformed.
    """
    parsed = _parse(url)
    return parsed.get_backend_name() != "sqlite" or Path(parsed.database or "").exists()


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads: all its statements see the same moment, whatever others write meanwhile."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")  # SQLite has no less
        yield connection


@contextmanager
def write(engine: Engine, lock: str | None = None) -> Iterator[Connection]:
    """A transaction that changes things: all of it is kept, or on any exception nothing.

    With `lock`, one writer at a time among those that name the same lock. SQLite has one writer at a time in
    any case (BEGIN IMMEDIATE: what was read inside cannot have been overtaken when the writing comes).

    Raises:
        UserError: the database stayed locked for `BUSY_TIMEOUT_SECONDS`, or cannot be written.
    """
    with engine.connect() as connection:
        for_writing(connection)
        try:
            transaction = connection.begin()
        except DBAPIError as error:
            raise _cannot_use(engine.url, error) from error
        with transaction:
            if lock is not None and engine.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(zlib.crc32(lock.encode()))))
            yield connection


def for_writing(connection: Connection) -> None:
    """Let the transactions of a connection that is kept open be as `write`'s are: on SQLite, one at a time."""
    connection.execution_options(**{_WRITES: True})


def migrate(engine: Engine, folder: Path, name: str) -> None:
    """Bring one part's tables up to date by the Alembic revisions in `folder`.

    Many processes may do so at once. Revisions form one line and are numbered: `r0001_first.py` holds
    `revision = "0001"`. The number that a database stands at is kept in its table `NAME_version`, so that
    several parts can share one server.

    Raises:
        UserError: the database was written by a newer version of this package.
    """
    known = sorted(path.name[1:5] for path in folder.glob("r[0-9][0-9][0-9][0-9]_*.py"))
    table = f"{name}_version"
    with engine.connect() as connection:
        found = _version(connection, table)
    if found == known[-1]:
        return
    with write(engine, lock=f"{name} schema") as connection:
        found = _version(connection, table)  # another process may have been faster
        if found is not None and found not in known:
            raise UserError(
                f"{show(engine.url)}: its {name} tables are at version {found}, and this package knows only "
                f"up to {known[-1]}: a newer version of it wrote here; upgrade with `pip install -U "
                "rlhf-framework`, or use another RLHF_HOME or RLHF_DATABASE_URL"
            )
        if found != known[-1]:
            _upgrade(connection, folder, table)


def show(url: URL) -> str:
    """The URL as it may be shown: without the password."""
    return url.render_as_string(hide_password=True)


def _parse(url: str | URL) -> URL:
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        # The URL is not repeated here: it may hold a password, and could not be taken apart to hide it.
        raise UserError(
            "RLHF_DATABASE_URL: not a database URL; expected "
            "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE or sqlite:///FILE"
        ) from None
    if backend in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise UserError(f"{show(parsed)}: `{backend}` is not supported; use postgresql+psycopg:// or sqlite:///")
    if parsed.database in (None, "", ":memory:"):
        raise UserError(f"{show(parsed)}: names no file; write sqlite:///FILE")
    return parsed.set(drivername="sqlite")


def _postgresql(url: URL) -> Engine:
    try:
        return sa.create_engine(
            url,
            poolclass=NullPool,
            connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "rlhf"},
        )
    except ModuleNotFoundError as error:
        raise UserError(
            f"{show(url)}: no PostgreSQL driver; install it with `pip install 'rlhf-framework[postgres]'`"
        ) from error


def _sqlite(url: URL) -> Engine:
    assert url.database is not None
    folder = Path(url.database).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made a folder ({error.strerror}); set RLHF_HOME to a folder you can write"
        ) from error
    opened = sa.create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})
    sa.event.listen(opened, "connect", _prepare_sqlite)
    sa.event.listen(opened, "begin", _begin_sqlite)
    return opened


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver would open transactions by itself, but too late; _begin_sqlite does it instead.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    _use_write_ahead_log(connection)


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch the file over once; SQLite does not wait for its turn here by itself, so this does."""
    give_up = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _cannot_use(url: URL, error: DBAPIError) -> UserError:
    """What the driver complains of, with the way out."""
    reason = " ".join(str(error.orig).split())
    if url.get_backend_name() == "postgresql":
        return UserError(f"{show(url)}: {reason}; see that the server runs and RLHF_DATABASE_URL is right")
    if "locked" in reason:
        way_out = f"another process has been writing for {BUSY_TIMEOUT_SECONDS:.0f} s; try again later"
    elif "not a database" in reason or "malformed" in reason:
        way_out = "the file is damaged or not ours; move it away or set RLHF_HOME to another folder"
    else:
        way_out = "see that the file and its folder can be written, or set RLHF_HOME to another folder"
    return UserError(f"{url.database}: {reason}; {way_out}")


def _version(connection: Connection, table: str) -> str | None:
    if not sa.inspect(connection).has_table(table):
        return None
    return connection.execute(sa.select(sa.column("version_num")).select_from(sa.table(table))).scalar()


def _upgrade(connection: Connection, folder: Path, table: str) -> None:
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    revisions = ScriptDirectory(str(folder), version_locations=[str(folder)])
    context = MigrationContext.configure(
        connection,
        opts={"version_table": table, "fn": lambda found, _: revisions._upgrade_revs("head", found)},
    )
    with Operations.context(context):
        context.run_migrations()
