import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from rlhf import db
from rlhf.errors import UserError

THING = sa.Table("thing", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))

FIRST = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0001", None
def upgrade():
    op.create_table("thing", sa.Column("id", sa.Integer, primary_key=True))
"""
SECOND = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0002", "0001"
def upgrade():
    op.add_column("thing", sa.Column("colour", sa.Text))
"""
BROKEN = SECOND + '    raise RuntimeError("half way")\n'


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'some' / 'thing.db'}"


@pytest.fixture
def revisions(tmp_path: Path) -> Path:
    folder = tmp_path / "revisions"
    folder.mkdir()
    (folder / "r0001_first.py").write_text(FIRST)
    return folder


def _columns(engine: sa.Engine) -> list[str]:
    return [column["name"] for column in sa.inspect(engine).get_columns("thing")]


def test_sqlite_syncs_every_commit_and_enforces_foreign_keys(url: str) -> None:
    with db.engine(url).connect() as connection:
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas}
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_a_database_that_nobody_uses_is_one_file(url: str, revisions: Path, tmp_path: Path) -> None:
    db.migrate(db.engine(url), revisions, "thing")
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["thing.db"]


def test_a_transaction_is_kept_whole_or_not_at_all(url: str) -> None:
    engine = db.engine(url)
    with pytest.raises(ZeroDivisionError), db.write(engine) as connection:
        THING.create(connection)
        connection.execute(sa.insert(THING).values(id=1))
        raise ZeroDivisionError
    assert sa.inspect(engine).get_table_names() == [], "tables are made in the transaction too"


def test_a_writer_keeps_others_waiting_from_its_first_statement(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "BUSY_TIMEOUT_SECONDS", 0.05)
    engine = db.engine(url)
    THING.create(engine)
    with db.write(engine) as first:
        first.execute(sa.select(THING))
        locked = r"thing\.db: database is locked; another process has been writing"
        with pytest.raises(UserError, match=locked), db.write(engine):
            pytest.fail("two writers at once")
        with engine.connect() as reader:
            assert reader.execute(sa.select(THING)).all() == []
        first.execute(sa.insert(THING).values(id=1))
    with db.write(engine) as second:
        assert second.execute(sa.select(THING)).all() == [(1,)]


def test_a_reader_sees_one_moment(url: str) -> None:
    engine = db.engine(url)
    THING.create(engine)
    with db.read(engine) as reader:
        assert reader.execute(sa.select(THING)).all() == []
        with db.write(engine) as writer:
            writer.execute(sa.insert(THING).values(id=1))
        assert reader.execute(sa.select(THING)).all() == []
    with db.read(engine) as reader:
        assert reader.execute(sa.select(THING)).all() == [(1,)]


def test_moments_come_back_in_utc(url: str) -> None:
    engine = db.engine(url)
    table = sa.Table("moments", sa.MetaData(), sa.Column("at", db.UtcDateTime))
    noon = datetime(2026, 11, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    with db.write(engine) as connection:
        table.create(connection)
        connection.execute(sa.insert(table), [{"at": noon}, {"at": None}])
        found = connection.execute(sa.select(table.c.at)).scalars().all()
    assert found == [datetime(2026, 11, 1, 10, tzinfo=UTC), None]
    assert found[0] is not None
    assert found[0].tzinfo is UTC


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "not a database URL; expected postgresql"),
        ("postgresql://u:secret@host:port/d", "not a database URL"),
        ("mysql://u:secret@host/d", r"mysql://u:\*\*\*@host/d: `mysql` is not supported"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////proc/nowhere/a.db", "/proc/nowhere: cannot be made a folder"),
        ("sqlite:////dev/null/a.db", "/dev/null: cannot be made a folder"),
        ("sqlite:////proc", "/proc: unable to open database file; see that the file and its folder can be written"),
        (
            "postgresql://u:secret@/d?host=/nowhere",
            r"postgresql\+psycopg://u:\*\*\*@/d\?host=%2Fnowhere: .*see that the",
        ),
    ],
)
def test_a_database_that_cannot_be_opened_is_explained_without_its_password(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        db.engine(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    file.write_text("a shopping list, for all anybody knows" * 100)
    before = file.read_bytes()
    with pytest.raises(UserError, match=r"a\.db: file is not a database; the file is damaged or not ours"):
        db.engine(f"sqlite:///{file}")
    assert file.read_bytes() == before


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match=r"no PostgreSQL driver; install it with `pip install .*\[postgres\]"):
        db.engine("postgres://u@host/d")


def test_asking_whether_a_database_exists_makes_none(url: str, tmp_path: Path) -> None:
    assert not db.exists(url)
    assert list(tmp_path.iterdir()) == []
    db.engine(url)
    assert db.exists(url)
    assert db.exists("postgresql://host/d")


def test_migrations_run_once_each_and_in_order(url: str, revisions: Path) -> None:
    engine = db.engine(url)
    db.migrate(engine, revisions, "thing")
    assert _columns(engine) == ["id"]
    (revisions / "r0002_colour.py").write_text(SECOND)
    db.migrate(engine, revisions, "thing")
    db.migrate(engine, revisions, "thing")
    assert _columns(engine) == ["id", "colour"]


def test_a_migration_that_fails_changes_nothing(url: str, revisions: Path) -> None:
    engine = db.engine(url)
    db.migrate(engine, revisions, "thing")
    (revisions / "r0002_colour.py").write_text(BROKEN)
    with pytest.raises(RuntimeError, match="half way"):
        db.migrate(engine, revisions, "thing")
    assert _columns(engine) == ["id"]
    (revisions / "r0002_colour.py").write_text(SECOND)
    db.migrate(engine, revisions, "thing")
    assert _columns(engine) == ["id", "colour"]


def test_two_parts_share_one_database(url: str, revisions: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "r0001_first.py").write_text(FIRST.replace('"thing"', '"label"'))
    engine = db.engine(url)
    db.migrate(engine, revisions, "thing")
    db.migrate(engine, other, "label")
    assert sa.inspect(engine).get_table_names() == ["label", "label_version", "thing", "thing_version"]


def test_a_database_from_a_newer_version_is_refused(url: str, revisions: Path) -> None:
    engine = db.engine(url)
    second = revisions / "r0002_colour.py"
    second.write_text(SECOND)
    db.migrate(engine, revisions, "thing")
    second.unlink()
    with pytest.raises(UserError, match="its thing tables are at version 0002, and this package knows only up to 0001"):
        db.migrate(engine, revisions, "thing")


def test_processes_that_start_together_migrate_once(url: str, revisions: Path) -> None:
    program = "import sys; from pathlib import Path; from rlhf import db\n"
    program += "db.migrate(db.engine(sys.argv[1]), Path(sys.argv[2]), 'thing')"
    command = [sys.executable, "-c", program, url, str(revisions)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0, 0]
    assert _columns(db.engine(url)) == ["id"]
