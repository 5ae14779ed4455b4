"""A real PostgreSQL server for tests, on a socket in a folder of its own."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Server:
    """A server with the superuser `rlhf` and no password; `folder` holds its socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._as_user: dict[str, object] = {"cwd": folder}
        if os.getuid() == 0:  # it refuses to run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            self._as_user |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None
        options = ["-A", "trust", "-U", "rlhf", "-E", "UTF8", "--locale=C", "--no-sync"]
        command = [_program("initdb"), "-D", str(folder / "cluster"), *options]
        with open(folder / "log", "wb") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, **self._as_user)

    def start(self) -> None:
        """Bring it up, and wait until it answers."""
        only_here = ["-k", str(self.folder), "-c", "listen_addresses=", "-c", "fsync=off"]
        command = [_program("postgres"), "-D", str(self.folder / "cluster"), *only_here]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._as_user)
        give_up = time.monotonic() + 30
        import psycopg

        while True:
            try:
                psycopg.connect(host=str(self.folder), user="rlhf", dbname="postgres").close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > give_up:
                    pytest.fail(f"PostgreSQL did not start: {(self.folder / 'log').read_text()}")
                time.sleep(0.02)

    def stop(self) -> None:
        """Take it down at once, as a crash would: it recovers from its log when it is started again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(timeout=30)

    def new_schema(self) -> str:
        """The URL of an empty schema, which is quicker made than a database."""
        import psycopg

        name = f"test_{time.time_ns()}"
        with psycopg.connect(host=str(self.folder), user="rlhf", dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"postgresql+psycopg://rlhf@/postgres?host={self.folder}&options=-csearch_path%3D{name}"


@contextmanager
def postgresql_server() -> Iterator[Server]:
    """A server that lives as long as the block; the test is skipped where none is installed."""
    if _program("initdb") is None or _program("postgres") is None:
        pytest.skip("no PostgreSQL server on this machine (apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="rlhf-", dir="/tmp"))  # short: it holds a socket; and all may pass
    try:
        server = Server(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _program(name: str) -> str | None:
    """Debian keeps the servers' programs off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(debian[-1]) if debian else None)
