"""Several processes on one store, and processes, disks and connections that fail."""

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from label_tools import Clock, as_shown, new_task, new_tasks
from postgresql import postgresql_server

from labeling_app.store import LeaseLost, NotStored, Store, Tx
from labeling_app.store.claiming import claim
from labeling_app.store.people import add_user
from rlhf import db

WORKER = Path(__file__).parent / "store_worker.py"


def start(home: Path, url: str, run: str, user_ids: list[int]) -> subprocess.Popen[str]:
    """A worker that has opened the store and waits for its first line."""
    command = [sys.executable, str(WORKER), str(home), url, run, *map(str, user_ids)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_two_processes_share_the_work_without_a_slip(open_store: Callable[..., Store], home: Path, url: str) -> None:
    store = open_store()
    num_tasks, overlap = 60, 3
    store.add_tasks(new_tasks(num_tasks, overlap=overlap))
    people = [store.add_user(f"u{number}").id for number in range(8)]
    processes = [start(home, url, "run", people[:4]), start(home, url, "run", people[4:])]
    for process in processes:
        go(process)
    said = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
        said += out.splitlines()
    ledger = {tuple(line.split(maxsplit=3)) for line in said if not line.endswith("nothing")}
    found = store.judgements()
    assert {(str(one.user_id), str(one.task_id), str(one.submission_id)) for one in found} == {
        line[:3] for line in ledger
    }
    assert set(Counter(one.task_id for one in found).values()) == {overlap}
    assert len(found) == num_tasks * overlap, "nobody was told `nothing` while something was open to them"
    assert store.audit() == []


@pytest.mark.faults
def test_a_killed_process_loses_nothing_it_has_acknowledged(
    open_store: Callable[..., Store], home: Path, url: str
) -> None:
    store = open_store()
    store.add_tasks(new_tasks(400, overlap=2))
    people = [store.add_user(f"u{number}").id for number in range(6)]
    ledger: set[str] = set()
    for run, num_lines in enumerate([40, 25, 60]):
        process = start(home, url, f"run{run}", people)
        go(process)
        assert process.stdout is not None
        for _ in range(num_lines):
            ledger.add(process.stdout.readline().strip())
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate(timeout=60)
        ledger |= {line for line in out.splitlines() if line.count(" ") == 4 and out.endswith("\n")}
        rows = _answers(url)
        assert {line.split(maxsplit=2)[2] for line in ledger} <= rows
        assert store.audit() == []
    process = start(home, url, "last", people)
    go(process)
    process.communicate(timeout=120)
    assert process.returncode == 0
    counts = Counter(one.task_id for one in store.judgements())
    assert (len(counts), set(counts.values())) == (400, {2})
    assert store.audit() == []


def _answers(url: str) -> set[str]:
    with db.read(db.engine(url)) as connection:
        rows = connection.execute(sa.text("SELECT id, idempotency_key FROM submissions"))
        return {f"{row.id} {row.idempotency_key}" for row in rows}


def test_one_person_in_many_windows_gets_one_task(store: Store) -> None:
    store.add_tasks(new_tasks(5))
    ana = store.add_user("ana")
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: store.claim(ana.id, "default"), range(8)))
        assert len({claimed.lease for claimed in claims}) == 1
        held = claims[0]
        receipts = list(pool.map(lambda _: store.submit(ana.id, held.lease, "key", as_shown(held), 1), range(8)))
    assert len(set(receipts)) == 1
    assert len(store.judgements()) == 1
    assert store.audit() == []


def test_people_who_come_at_once_get_different_tasks(store: Store) -> None:
    store.add_tasks(new_tasks(8))
    people = [store.add_user(f"u{number}").id for number in range(9)]
    with ThreadPoolExecutor(9) as pool:
        claims = list(pool.map(lambda user_id: store.claim(user_id, "default"), people))
    tasks = [claimed.task_id for claimed in claims if claimed is not None]
    assert sorted(tasks) == list(range(1, 9))


def test_an_operation_that_is_refused_leaves_the_others_of_its_group_alone(local: Store) -> None:
    """All that waits for the writer goes into one transaction."""
    blocked = threading.Event()
    release = threading.Event()

    def block(tx: Tx) -> None:
        blocked.set()
        release.wait(timeout=10)

    def half(tx: Tx, name: str) -> None:
        add_user(tx, name)
        raise RuntimeError("no")

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(local.write, block)
        blocked.wait(timeout=10)
        good = pool.submit(local.add_user, "ana")
        bad = pool.submit(local.write, half, "ben")
        also_good = pool.submit(local.add_user, "chi")
        release.set()
        first.result()
        assert (good.result().name, also_good.result().name) == ("ana", "chi")
        with pytest.raises(RuntimeError, match="no"):
            bad.result()
    assert sorted(user.name for user in local.users()) == ["ana", "chi"]
    assert local.audit() == []


def test_reading_does_not_wait_for_a_writer_and_cannot_write(store: Store) -> None:
    store.add_user("ana")
    seen: list[int] = []

    def slow(tx: Tx) -> None:
        seen.append(len(store.users()))

    store.write(slow)
    assert seen == [1]
    with pytest.raises(NotStored, match=r"readonly|read-only"):
        store.read(add_user, "ben")
    assert [user.name for user in store.users()] == ["ana"]


def test_another_process_that_writes_is_waited_for(home: Path, clock: Clock) -> None:
    url = f"sqlite:///{home / 'labels.db'}"
    with Store.open(home, url, clock=clock) as store, ThreadPoolExecutor(1) as pool:
        other = sqlite3.connect(home / "labels.db", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        waiting = pool.submit(store.add_user, "ana")
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.1)
        other.execute("COMMIT")
        assert waiting.result(timeout=10).name == "ana"
        other.close()


def test_one_who_never_ends_is_not_waited_for_forever(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(home) as store:
        monkeypatch.setattr(db, "BUSY_TIMEOUT_SECONDS", 0.05)
        other = sqlite3.connect(home / "labels.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotStored, match="database is locked"):
            store.add_user("ana")
        other.execute("ROLLBACK")
        other.close()
        assert store.add_user("ana").name == "ana"


def test_what_does_not_fit_on_the_disk_is_not_acknowledged(local: Store, home: Path) -> None:
    """A limit on the file's size stands for a full disk: SQLite answers both with SQLITE_FULL."""
    ana = local.add_user("ana")
    local.add_tasks(new_tasks(3))
    claimed = local.claim(ana.id)

    def limit(tx: Tx, pages: int) -> None:
        tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    local.write(limit, 1)  # as many as there are, and no more
    with pytest.raises(NotStored, match="full"):
        local.add_tasks([new_task("x" * 100_000)])
    # the connection was opened anew, without the limit: there is room again
    receipt = local.submit(ana.id, claimed.lease, "key", as_shown(claimed), 1)
    assert [one.submission_id for one in local.judgements()] == [receipt.submission_id]
    assert local.status()[0].num_tasks == 3
    assert local.audit() == []


def test_a_lost_connection_is_opened_again(home: Path, postgresql_url: str) -> None:
    with Store.open(home, postgresql_url) as store:
        ana = store.add_user("ana")
        store.add_tasks(new_tasks(20))
        for _ in range(3):
            assert store.users() == [ana]
            claimed = store.claim(ana.id)
            with db.engine(postgresql_url).connect() as connection:
                ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                connection.execute(sa.text(ended + " AND backend_type = 'client backend'"))
            store.submit(ana.id, claimed.lease, f"key {claimed.task_id}", as_shown(claimed), 1)
            assert store.users() == [ana]
        assert len(store.judgements()) == 3
        assert store.audit() == []


class Held:
    """An operation that has done its work and does not commit until it is let go."""

    def __init__(self, store: Store, operation: Callable[..., Any], *args: Any) -> None:
        self._done, self._go = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self.result = self._pool.submit(store.write, self._run, operation, *args)
        assert self._done.wait(timeout=10)

    def _run(self, tx: Tx, operation: Callable[..., Any], *args: Any) -> Any:
        result = operation(tx, *args)
        self._done.set()
        assert self._go.wait(timeout=10)
        return result

    def commit_once_another_waits(self, url: str) -> None:
        waiting = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        give_up = time.monotonic() + 10
        with db.engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not connection.execute(waiting).scalar_one():
                assert time.monotonic() < give_up, "nobody waits"
        self._go.set()
        self._pool.shutdown()


@pytest.mark.parametrize("late", ["submit", "skip", "extend", "claim", "reopen"])
def test_somebody_back_at_the_moment_when_another_takes_over(
    home: Path, postgresql_url: str, clock: Clock, late: str
) -> None:
    with Store.open(home, postgresql_url, clock=clock) as store, ThreadPoolExecutor(1) as pool:
        ana, ben = store.add_user("ana"), store.add_user("ben")
        store.add_tasks([new_task()])
        claimed = store.claim(ana.id)
        clock.advance(1800)
        taking_over = Held(store, claim, ben.id)
        call = {
            "submit": lambda: store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 1),
            "skip": lambda: store.skip(ana.id, claimed.lease, "key", "no").task_id,
            "extend": lambda: store.extend(ana.id, claimed.lease),
            "claim": lambda: store.claim(ana.id),
            "reopen": lambda: store.reopen(ana.id, claimed.task_id, take_again=True),
        }[late]
        back = pool.submit(call)
        taking_over.commit_once_another_waits(postgresql_url)
        if late in ("claim", "skip"):
            assert back.result() == {"claim": None, "skip": claimed.task_id}[late]
        else:
            with pytest.raises(LeaseLost):
                back.result()
        assert store.audit() == []


def test_two_who_find_only_tasks_whose_time_is_up_both_get_one(home: Path, postgresql_url: str, clock: Clock) -> None:
    with Store.open(home, postgresql_url, clock=clock) as store, ThreadPoolExecutor(1) as pool:
        people = [store.add_user(name).id for name in ("ana", "ben", "chi", "dan")]
        store.add_tasks(new_tasks(2))
        for user_id in people[:2]:
            store.claim(user_id, "default")
        clock.advance(1800)
        first = Held(store, claim, people[2], "default")
        second = pool.submit(store.claim, people[3], "default")
        first.commit_once_another_waits(postgresql_url)
        assert {first.result.result().task_id, second.result().task_id} == {1, 2}
        assert store.audit() == []


@pytest.mark.faults
def test_a_server_that_is_down_stores_nothing_and_a_server_that_comes_back_goes_on(home: Path) -> None:
    with postgresql_server() as server, Store.open(home, server.new_schema()) as store:
        ana = store.add_user("ana")
        store.add_tasks(new_tasks(20))
        claimed = store.claim(ana.id)
        server.stop()
        with pytest.raises(NotStored):
            store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 1)
        with pytest.raises(NotStored):
            store.users()
        server.start()
        store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 1)
        assert len(store.judgements()) == 1
        assert store.audit() == []


@pytest.mark.faults
def test_a_full_disk_stores_nothing_and_says_so(tmp_path: Path, clock: Clock) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.decode().strip()}")
    try:
        with Store.open(disk, f"sqlite:///{disk / 'labels.db'}", clock=clock) as store:
            ana = store.add_user("ana")
            store.add_tasks(new_tasks(5))
            claimed = store.claim(ana.id)
            filler = disk / "filler"
            with pytest.raises(OSError, match="No space left"):
                filler.write_bytes(b"x" * 4_000_000)
            long = as_shown(claimed).model_copy(update={"rationale": "x" * 9000})
            with pytest.raises(NotStored, match=r"full|disk I/O"):
                for number in range(200):
                    receipt = store.submit(ana.id, claimed.lease, f"key {claimed.task_id}", long, 1)
                    claimed = store.reopen(ana.id, receipt.task_id)
                    store.revise(ana.id, receipt.task_id, f"revision {number}", long, number)
                    claimed = store.claim(ana.id) or claimed
            filler.unlink()
            store.add_tasks([new_task("there is room again")])
            assert store.audit() == []
    finally:
        subprocess.run(["umount", disk], check=True)
