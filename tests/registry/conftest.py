"""A registry on SQLite and on a real PostgreSQL that is brought up for the tests; every test runs on both."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlhf.registry import Registry

Files = dict[str, object]


def _postgresql_program(name: str) -> str | None:
    """Debian keeps the servers' programs off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(debian[-1]) if debian else None)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The socket folder of a PostgreSQL server with the superuser `rlhf` and no password."""
    initdb, server = _postgresql_program("initdb"), _postgresql_program("postgres")
    if initdb is None or server is None:
        pytest.skip("no PostgreSQL server on this machine (apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="rlhf-", dir="/tmp"))  # short: it holds a socket; and all may pass
    as_user: dict[str, object] = {"cwd": folder}
    if os.getuid() == 0:  # it refuses to run as root
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        as_user |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    cluster = ["-D", str(folder / "cluster")]
    try:
        with open(folder / "log", "wb") as log:
            options = ["-A", "trust", "-U", "rlhf", "-E", "UTF8", "--locale=C", "--no-sync"]
            subprocess.run([initdb, *cluster, *options], check=True, stdout=log, stderr=log, **as_user)
            only_here = ["-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
            process = subprocess.Popen([server, *cluster, *only_here], stdout=log, stderr=log, **as_user)
        try:
            _wait_until_it_answers(folder, process)
            yield str(folder)
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: nobody wants this data
            process.wait(timeout=30)
    finally:
        shutil.rmtree(folder)


def _wait_until_it_answers(folder: Path, process: subprocess.Popen[bytes]) -> None:
    import psycopg

    give_up = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(host=str(folder), user="rlhf", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > give_up:
                pytest.fail(f"PostgreSQL did not start: {(folder / 'log').read_text()}")
            time.sleep(0.02)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, or on the server an empty schema, which is quicker made."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'home' / 'registry.db'}"
    import psycopg

    folder = request.getfixturevalue("postgresql")
    name = f"test_{time.time_ns()}"
    with psycopg.connect(host=folder, user="rlhf", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"postgresql+psycopg://rlhf@/postgres?host={folder}&options=-csearch_path%3D{name}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path, url: str) -> Registry:
    return Registry(home, url)


@pytest.fixture
def local(home: Path) -> Registry:
    """On SQLite only, for what has nothing to do with the database."""
    return Registry(home, f"sqlite:///{home / 'registry.db'}")


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder out of `{relative path: content}`; bytes as they are, anything else as JSON."""
    count = 0

    def make(files: Files | None = None) -> Path:
        nonlocal count
        count += 1
        made = tmp_path / f"source{count}"
        made.mkdir()
        for name, content in (files if files is not None else {"config.json": {"count": count}}).items():
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return made

    return make
