"""`python -m benchmarks.labels`, small: what was acknowledged while the server was killed is there, once."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from label_tools import as_shown, new_tasks

from labeling_app.store import Store

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.faults
def test_nothing_acknowledged_is_lost_when_the_server_is_killed_under_load() -> None:
    plan = ["--annotators", "8", "--submissions", "40", "--kills", "1", "--think-ms", "10", "--json"]
    command = [sys.executable, "-m", "benchmarks.labels", *plan]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    figures = json.loads(done.stdout)
    # how quick it is depends on who else is at work here: `make bench-labels` says
    broken = [name for name in figures["broken"] if not name.endswith("p99")]
    assert broken == [], figures
    assert (figures["acknowledged"], figures["kills"]) == (320, 1)
    assert min(figures["duplicates"], figures["aborted"], figures["latency"]["submit"]["outage"]["count"]) > 0
    assert figures["latency"]["claim"]["count"] + figures["latency"]["claim"]["outage"]["count"] == 4 * 40 + 4


def test_the_ledger_shows_what_is_not_in_the_store(local: Store) -> None:
    from benchmarks.labels.ledger import Findings, Ledger, compare

    local.add_tasks(new_tasks(2))
    ana, ledger = local.add_user("ana"), Ledger()
    for key in ("one", "two"):
        claimed = local.claim(ana.id)
        receipt = local.submit(ana.id, claimed.lease, key, as_shown(claimed), 5)
        ledger.acknowledge(ana.id, key, claimed.task_id, receipt.submission_id, as_shown(claimed).tiers)
    assert compare(ledger, local) == Findings(lost=0, doubled=0, answered_twice=0, over_quota=0, audit=0)

    entry = ledger.entries[ana.id, "two"]
    ledger.entries[ana.id, "two"] = replace(entry, tiers=entry.tiers[::-1])
    assert compare(ledger, local).lost == 1
    ledger.entries[ana.id, "three"] = ledger.entries.pop((ana.id, "two"))
    assert (compare(ledger, local).lost, compare(ledger, local).doubled) == (1, 1)


def test_the_ledger_shows_a_second_answer_and_a_task_given_too_often(local: Store) -> None:
    from sqlalchemy import update

    from benchmarks.labels.ledger import Ledger, compare
    from labeling_app.schema import tasks

    local.add_tasks(new_tasks(1, overlap=2))
    ledger = Ledger()
    for name in ("ana", "ben"):
        user = local.add_user(name)
        claimed = local.claim(user.id)
        receipt = local.submit(user.id, claimed.lease, "one", as_shown(claimed), 5)
        ledger.acknowledge(user.id, "one", claimed.task_id, receipt.submission_id, as_shown(claimed).tiers)
    local.revise(user.id, claimed.task_id, "again", as_shown(claimed), 5)
    local.write(lambda tx: tx.connection.execute(update(tasks).values(overlap=1)))
    found = compare(ledger, local)
    assert (found.lost, found.doubled, found.answered_twice, found.over_quota, found.audit) == (0, 1, 1, 1, 1)


def test_requests_that_met_an_outage_are_counted_apart(tmp_path: Path) -> None:
    from benchmarks.labels.server import Outage, Server

    server = Server(tmp_path, None)
    server.outages = [Outage(10.0, 14.0), Outage(20.0)]
    met = [server.was_out(*span) for span in [(9.0, 9.9), (9.0, 10.1), (13.9, 15.0), (14.0, 19.0), (21.0, 22.0)]]
    assert met == [False, True, True, False, True]
