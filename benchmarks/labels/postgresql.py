"""A PostgreSQL server for the run, with its default durability (fsync on), on a socket in a folder of its own."""

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


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of an empty database; the server ends with the block."""
    programs = {name: _program(name) for name in ("initdb", "postgres", "pg_isready")}
    if None in programs.values():
        raise SystemExit("there is no PostgreSQL server on this machine: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="rlhf-bench-"))
    owner: dict[str, object] = {"cwd": folder}
    if os.getuid() == 0:  # it refuses to run as root
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        owner |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    try:
        cluster = str(folder / "cluster")
        with (folder / "log").open("wb") as log:
            make = [programs["initdb"], "-D", cluster, "-A", "trust", "-U", "rlhf", "-E", "UTF8", "--locale=C"]
            subprocess.run(make, check=True, stdout=log, stderr=log, **owner)
            serve = [programs["postgres"], "-D", cluster, "-k", str(folder), "-c", "listen_addresses="]
            process = subprocess.Popen(serve, stdout=log, stderr=log, **owner)
        try:
            ask = [programs["pg_isready"], "-q", "-h", str(folder)]
            give_up = time.monotonic() + 60
            while subprocess.run(ask).returncode:
                if process.poll() is not None or time.monotonic() > give_up:
                    raise SystemExit(f"PostgreSQL did not start:\n{(folder / 'log').read_text()}")
                time.sleep(0.1)
            yield f"postgresql+psycopg://rlhf@/postgres?host={folder}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
    finally:
        shutil.rmtree(folder)


def _program(name: str) -> str | None:
    """Debian keeps the servers' programs off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(debian[-1]) if debian else None)
