"""`make bench-labels`: 50 annotators x 1,000 answers over HTTP, three kill -9 of the server, and what was promised.

Exit code 0 when every promise was kept, 1 when one was broken. docs/labeling-load.md explains the figures.
"""

import asyncio
import json
import os
import random
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.labels.annotator import Annotator, Tally
from benchmarks.labels.http import Connection
from benchmarks.labels.ledger import Ledger, compare
from benchmarks.labels.postgresql import postgresql
from benchmarks.labels.server import Server
from benchmarks.labels.tasks import NUM_GOLD, OVERLAP, new_tasks
from labeling_app import accounts
from labeling_app.store import Store

LIMIT_MS = 250.0
KINDS = ("claim", "submit")


class Database(StrEnum):
    sqlite = "sqlite"
    postgresql = "postgresql"


@dataclass(frozen=True)
class Plan:
    annotators: int
    submissions: int
    kills: int
    think_ms: float
    database: str
    seed: int


def main(
    annotators: Annotated[int, typer.Option(min=1, help="At the same time.")] = 50,
    submissions: Annotated[int, typer.Option(min=1, help="Of each annotator.")] = 1000,
    kills: Annotated[int, typer.Option(min=0, help="kill -9 of the server, at random moments.")] = 3,
    think_ms: Annotated[float, typer.Option(min=0, help="Mean time between a task and its answer.")] = 250.0,
    database: Annotated[Database, typer.Option(help="Where the labels lie.")] = Database.sqlite,
    seed: Annotated[int, typer.Option(help="Of answers, mishaps and moments.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Put the ranking app under load, kill it meanwhile, and count what is lost."""
    plan = Plan(annotators, submissions, kills, think_ms, database.value, seed)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rlhf-bench-labels-")))
        url = stack.enter_context(postgresql()) if database is Database.postgresql else f"sqlite:///{home}/labels.db"
        figures = asyncio.run(measure(plan, home, url))
    print(json.dumps(figures, indent=2) if as_json else as_text(figures))
    raise typer.Exit(1 if figures["broken"] else 0)


async def measure(plan: Plan, home: Path, url: str) -> dict[str, Any]:
    """Run the plan on an empty database at `url`; returns all figures."""
    people = prepare(plan, home, url)
    server, ledger, tally = Server(home, url), Ledger(), Tally()
    await server.start()
    began = time.perf_counter()
    rng = random.Random(plan.seed)
    work = [
        Annotator(
            user_id,
            Connection(server.port, token),
            Connection(server.port, token),
            ledger,
            tally,
            random.Random(rng.random()),
            plan.think_ms / 1000,
            separately=number % 2 == 0,
        ).work(plan.submissions)
        for number, (user_id, token) in enumerate(people)
    ]
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(kill_now_and_then(plan, server, tally, rng))
            for one in work:
                group.create_task(one)
        seconds = time.perf_counter() - began
    finally:
        server.stop()
    with Store.open(home, url) as store:
        findings = compare(ledger, store)
    return report(plan, server, tally, asdict(findings), seconds)


def prepare(plan: Plan, home: Path, url: str) -> list[tuple[int, str]]:
    """Tasks, and people who are logged in: ids and the tokens of their sessions."""
    with Store.open(home, url) as store:
        added = store.add_tasks(new_tasks(plan.annotators * plan.submissions, plan.annotators, plan.seed))
        assert not added.rejected
        store.set_guidelines("Put the reply that helps most first.")
        users = [store.add_user(f"annotator-{number}") for number in range(plan.annotators)]
        return [(user.id, store.write(accounts.open_session, user.id, timedelta(days=1))) for user in users]


async def kill_now_and_then(plan: Plan, server: Server, tally: Tally, rng: random.Random) -> None:
    """Kill the server when random shares of all answers are in, and a random moment later."""
    total = plan.annotators * plan.submissions
    for share in sorted(rng.uniform(0.1, 0.9) for _ in range(plan.kills)):
        while tally.acknowledged < share * total:
            await asyncio.sleep(0.005)
        await asyncio.sleep(rng.uniform(0, 0.05))
        await server.kill_and_restart()


def report(plan: Plan, server: Server, tally: Tally, findings: dict[str, int], seconds: float) -> dict[str, Any]:
    """All figures, and which promises were broken."""
    latency: dict[str, Any] = {}
    for kind in KINDS:
        found = [request for request in tally.requests if request.kind == kind]
        met_outage = [request for request in found if server.was_out(request.began, request.ended)]
        regular = [request for request in found if not server.was_out(request.began, request.ended)]
        latency[kind] = quantiles(regular) | {"outage": quantiles(met_outage)}
    log = server.log.read_text(encoding="utf-8", errors="replace").splitlines()
    out = sum(outage.ended - outage.began for outage in server.outages)
    expected = plan.annotators * plan.submissions
    broken = [name for name, number in findings.items() if number]
    broken += [f"{kind} p99" for kind in KINDS if latency[kind]["count"] and latency[kind]["p99_ms"] >= LIMIT_MS]
    broken += ["unfinished"] if tally.acknowledged != expected else []
    broken += ["unexpected replies"] if tally.problems else []
    broken += ["kills"] if len(server.outages) != plan.kills else []
    broken += ["server log"] if any("database is locked" in line or "Traceback" in line for line in log) else []
    return {
        "plan": asdict(plan) | {"overlap": OVERLAP, "gold_tasks": NUM_GOLD, "cpus": len(os.sched_getaffinity(0))},
        "acknowledged": tally.acknowledged,
        "expected": expected,
        "duplicates": tally.duplicates,
        "aborted": tally.aborted,
        "retries": tally.retries,
        "kills": len(server.outages),
        **findings,
        "latency": latency,
        "seconds": round(seconds, 2),
        "outage_seconds": round(out, 2),
        "submissions_per_second": round(tally.acknowledged / (seconds - out), 1),
        "server_cpu_ms_per_submission": round(1000 * server.cpu_seconds / max(1, tally.acknowledged), 3),
        "server_peak_rss_mib": round(server.peak_rss_mib, 1),
        "problems": tally.problems[:20],
        "num_problems": len(tally.problems),
        "server_log": log[:20],
        "broken": broken,
    }


def quantiles(requests: list[Any]) -> dict[str, Any]:
    """Milliseconds from the first attempt to the reply."""
    if not requests:
        return {"count": 0}
    took = np.array([1000 * (request.ended - request.began) for request in requests])
    p50, p95, p99 = np.percentile(took, [50, 95, 99])
    figures = {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": took.max()}
    return {"count": len(requests)} | {name: round(float(value), 1) for name, value in figures.items()}


def as_text(figures: dict[str, Any]) -> str:
    """The figures for people."""
    plan = figures["plan"]
    lines = [
        f"{plan['annotators']} annotators x {plan['submissions']} submissions on {plan['database']}, "
        f"think time {plan['think_ms']:g} ms on average (exponential), {plan['cpus']} cores for server and clients",
        f"acknowledged {figures['acknowledged']} of {figures['expected']}; sent twice {figures['duplicates']}, "
        f"aborted {figures['aborted']}, retries {figures['retries']}, kill -9 {figures['kills']}",
        f"lost {figures['lost']}, doubled {figures['doubled']}, answered twice {figures['answered_twice']}, "
        f"over quota {figures['over_quota']}, audit {figures['audit']}",
        "",
        "ms               count      p50      p95      p99      max",
    ]
    for kind in KINDS:
        for name, found in ((kind, figures["latency"][kind]), (f"{kind}, outage", figures["latency"][kind]["outage"])):
            values = [f"{found[key]:9.1f}" for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms") if found["count"]]
            lines.append(f"{name:14} {found['count']:7}{''.join(values)}")
    lines += [
        "(outage: requests that met a server that was down, timed from their first attempt; in no other figure)",
        "",
        f"{figures['submissions_per_second']:.0f} submissions/s over {figures['seconds']:.0f} s, "
        f"without the {figures['outage_seconds']:.1f} s that the server was down",
        f"server: {figures['server_cpu_ms_per_submission']:.2f} ms of processor a submission, "
        f"at most {figures['server_peak_rss_mib']:.0f} MiB",
    ]
    lines += [f"problem: {problem}" for problem in figures["problems"]]
    lines += [f"server log: {line}" for line in figures["server_log"]]
    lines.append(f"BROKEN: {', '.join(figures['broken'])}" if figures["broken"] else "every promise was kept")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
