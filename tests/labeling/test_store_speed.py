"""Claiming costs the same whether the queue holds ten tasks or fifty thousand."""

import time
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from label_tools import Clock, as_shown, new_task

from labeling_app import schema
from labeling_app.settings import StoreSettings
from labeling_app.store import Store, Tx
from labeling_app.store.claiming import _open, _situation
from rlhf import db

NUM_TASKS, NUM_DONE = 50_000, 5_000


@pytest.fixture
def full(store: Store) -> Store:
    """The first user has answered 5,000 of 50,000 tasks, all of which others are still to answer too."""
    store.add_tasks([new_task(texts="ab", overlap=2)])
    ana, _ = store.add_user("ana"), store.add_user("ben")
    store.write(_fill, ana.id)
    return store


def _fill(tx: Tx, user_id: int) -> None:
    """Copies of the first task, past the store: its own way would take minutes."""
    task = tx.connection.execute(sa.select(schema.tasks)).one()._asdict()
    ids = range(task["id"] + 1, task["id"] + NUM_TASKS)
    copies = [task | {"id": n, "overlap": 2, "open_slots": 2 - (n <= NUM_DONE), "begun": n <= NUM_DONE} for n in ids]
    tx.connection.execute(sa.insert(schema.tasks), copies)
    shown = [
        {"task_id": n, "position": place, "response_id": place + 1, "sources": []} for n in ids for place in range(2)
    ]
    tx.connection.execute(sa.insert(schema.task_responses), shown)
    lease = {"user_id": user_id, "queue": "default", "state": "answered", "presented": [1, 2], "skip": None}
    times = {"claimed_at": tx.now, "expires_at": tx.now, "ended_at": tx.now}
    had = [lease | times | {"token": f"t{n}", "task_id": n} for n in ids if n <= NUM_DONE]
    tx.connection.execute(sa.insert(schema.leases), had)
    submission = {"user_id": user_id, "revision": 1, "answer": {}, "presented": [1, 2], "active_ms": 1, "wall_ms": 1}
    done = [submission | {"idempotency_key": f"k{n}", "task_id": n, "created_at": tx.now} for n in ids if n <= NUM_DONE]
    tx.connection.execute(sa.insert(schema.submissions), done)
    if tx.on_server:  # Debian's autovacuum would do it in a minute
        tx.connection.execute(sa.text("ANALYZE"))


def plan(url: str, statement: sa.Select[*tuple[object, ...]]) -> str:
    engine = db.engine(url)
    values = {"user": 1, "queue": "default"}
    sql = statement.params(values).compile(engine, compile_kwargs={"literal_binds": True})
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN (COSTS OFF)"
    with db.read(engine) as connection:
        return "\n".join(str(row[-1]) for row in connection.execute(sa.text(f"{explain} {sql}")))


@pytest.mark.slow
def test_a_task_is_found_by_its_index_and_nothing_is_sorted(full: Store, url: str) -> None:
    how = plan(url, _open("now").statement)
    assert "ix_tasks_open" in how
    assert "leases" in how
    assert not any(word in how for word in ("TEMP B-TREE", "Sort", "SCAN tasks", "Seq Scan on tasks")), how
    situation = plan(url, _situation(True).statement)
    assert "ix_leases_" in situation
    assert "ix_tasks_gold" in situation
    scans = ("SCAN tasks", "SCAN leases", "Seq Scan on tasks", "Seq Scan on leases")
    assert not any(scan in situation for scan in scans), situation


@pytest.mark.slow
def test_claiming_from_fifty_thousand_tasks_takes_milliseconds(full: Store, clock: Clock) -> None:
    for name, limit in (("ana", 0.050), ("ben", 0.020)):
        user = full.user(name)
        seconds = []
        for number in range(20):
            begin = time.perf_counter()
            claimed = full.claim(user.id, "default")
            seconds.append(time.perf_counter() - begin)
            full.submit(user.id, claimed.lease, f"key {number}", as_shown(claimed), 1)
        assert sorted(seconds)[10] < limit, f"{name}: {seconds}"


@pytest.mark.slow
def test_progress_is_right_however_many_tasks_there_are(full: Store, clock: Clock) -> None:
    ana, ben = full.user("ana"), full.user("ben")
    assert full.progress(ana.id, "default").num_open_for_me == NUM_TASKS - NUM_DONE + 1
    for number in range(3):
        claimed = full.claim(ana.id, "default")
        full.submit(ana.id, claimed.lease, f"key {number}", as_shown(claimed), 1)
        assert full.progress(ana.id, "default").num_open_for_me == NUM_TASKS - NUM_DONE - number
    assert full.progress(ben.id, "default").num_open_for_me == NUM_TASKS


def test_a_sweep_of_many_ends_them_all(home: Path, clock: Clock) -> None:
    with Store.open(home, settings=StoreSettings(lease_seconds=60), clock=clock) as store:
        store.add_tasks([new_task(f"prompt {number}") for number in range(100)])
        for number in range(100):
            store.claim(store.add_user(f"u{number}").id)
        clock.now += timedelta(seconds=60)
        assert store.sweep() == 100
        assert store.status()[0].num_open == 100
