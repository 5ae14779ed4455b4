"""One annotator: claims, ranks at random, submits; and does what browsers on bad networks do to a server."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import orjson

from benchmarks.labels.http import Connection, Gone
from benchmarks.labels.ledger import Ledger, Tiers

DUPLICATES = 0.02
"""Of the submissions, those that are sent twice with the same key: half of them at the same time, as by a double
click, half once the first is acknowledged."""

ABORTED = 0.01
"""Of the submissions, those whose connection is ended before the reply, and that are then sent again."""

ABORT_WITHIN_SECONDS = 0.02
RETRY_SECONDS = 0.1
PATIENCE_SECONDS = 300.0


@dataclass
class Request:
    """When a request was first sent and when its reply was there, in `time.perf_counter` seconds."""

    kind: str
    began: float
    ended: float


@dataclass
class Tally:
    """What all annotators saw.

    Attributes:
        acknowledged: answers so far.
        retries: requests sent again because the server was not there, by itself or by this program's hand.
        problems: replies that should not have come, in words.
    """

    requests: list[Request] = field(default_factory=list)
    acknowledged: int = 0
    duplicates: int = 0
    aborted: int = 0
    retries: int = 0
    problems: list[str] = field(default_factory=list)


class Annotator:
    """Works through `num_submissions` tasks; what was acknowledged stands in the ledger.

    Args:
        user_id: whose session `token` is.
        connection: the person's own, kept open.
        twin: a second one, for what is sent at the same time.
        think_seconds: the mean of the time between a task's arrival and its answer, exponentially distributed.
        separately: ask for every task by a claim of its own, and not only take what comes with a receipt.
    """

    def __init__(
        self,
        user_id: int,
        connection: Connection,
        twin: Connection,
        ledger: Ledger,
        tally: Tally,
        rng: random.Random,
        think_seconds: float,
        separately: bool,
    ) -> None:
        self.user_id = user_id
        self._connection, self._twin = connection, twin
        self._ledger, self._tally, self._random = ledger, tally, rng
        self._think_seconds, self._separately = think_seconds, separately

    async def work(self, num_submissions: int) -> None:
        """Answer that many tasks, or all there are."""
        await self._think()  # people do not come all at once
        task = None
        for number in range(num_submissions):
            if task is None or self._separately:
                claimed = (await self._ask("claim", b"{}"))["task"]
                if task is not None and (claimed is None or claimed["lease"] != task["lease"]):
                    self._tally.problems.append("claim: gave another task than the one in hand")
                task = claimed
            if task is None:
                self._tally.problems.append(f"claim: nothing for user {self.user_id} after {number} answers")
                break
            await self._think()
            task = await self._submit(task, f"{self.user_id}-{number}")
        self._connection.abort()
        self._twin.abort()

    async def _submit(self, task: dict[str, Any], key: str) -> dict[str, Any] | None:
        tiers = self._ranking([card["id"] for card in task["cards"]])
        answer = {"tiers": tiers, "strength": self._random.randint(1, 4) if len(tiers) > 1 else None}
        sent = {"user": task["user"], "lease": task["lease"], "key": key, "answer": answer, "active_ms": 1500}
        body = orjson.dumps(sent | {"guidelines_version": None})
        fate = self._random.random()
        if fate < DUPLICATES / 2:
            reply, other = await asyncio.gather(self._ask("submit", body), self._ask("submit", body, self._twin))
            self._compare(reply, other)
        elif fate < DUPLICATES:
            reply = await self._ask("submit", body)
            self._compare(reply, await self._ask("submit", body))
        elif fate < DUPLICATES + ABORTED:
            self._tally.aborted += 1
            self._tally.retries += 1
            leave_after = self._random.uniform(0, ABORT_WITHIN_SECONDS)
            await self._connection.post_and_leave("/api/submit", body, leave_after)
            reply = await self._ask("submit", body)
        else:
            reply = await self._ask("submit", body)
        receipt = reply["receipt"]
        if receipt["task_id"] != task["task_id"] or receipt["revision"] != 1:
            self._tally.problems.append(f"submit: receipt {receipt} for task {task['task_id']}")
        self._ledger.acknowledge(self.user_id, key, task["task_id"], receipt["submission_id"], tiers)
        self._tally.acknowledged += 1
        following: dict[str, Any] | None = reply["task"]
        return following

    async def _ask(self, kind: str, body: bytes, connection: Connection | None = None) -> dict[str, Any]:
        """The reply with status 200, however often it has to be asked for; it is timed from the first attempt."""
        connection = connection or self._connection
        began = time.perf_counter()
        while True:
            try:
                status, reply = await connection.post(f"/api/{kind}", body)
            except Gone:
                status, reply = 503, None
            else:
                if status != 200:
                    self._tally.problems.append(f"{kind}: {status} {reply}")
                    if status != 503:
                        raise SystemExit(f"{kind}: {status} {reply}")
            if status == 200:
                self._tally.requests.append(Request(kind, began, time.perf_counter()))
                return reply
            if time.perf_counter() - began > PATIENCE_SECONDS:
                raise SystemExit(f"{kind}: no reply for {PATIENCE_SECONDS:.0f} s")
            self._tally.retries += 1
            await asyncio.sleep(RETRY_SECONDS * self._random.uniform(0.5, 1.5))

    def _compare(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        self._tally.duplicates += 1
        if one["receipt"] != other["receipt"]:
            self._tally.problems.append(f"submit: one key, receipts {one['receipt']} and {other['receipt']}")

    async def _think(self) -> None:
        if self._think_seconds > 0:
            await asyncio.sleep(self._random.expovariate(1 / self._think_seconds))

    def _ranking(self, ids: list[int]) -> Tiers:
        """A random order in which one in four is tied with the one before."""
        tiers: Tiers = []
        for one in self._random.sample(ids, len(ids)):
            if tiers and self._random.random() < 0.25:
                tiers[-1].append(one)
            else:
                tiers.append([one])
        return tiers
