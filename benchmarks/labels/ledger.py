"""What the clients were promised, held against what the store has."""

from collections import Counter
from dataclasses import dataclass, field

import sqlalchemy as sa

from labeling_app.schema import leases, submissions, tasks
from labeling_app.store import Store, Tx

Tiers = list[list[int]]


@dataclass(frozen=True)
class Entry:
    """An answer that the server said is stored."""

    task_id: int
    submission_id: int
    tiers: Tiers


@dataclass
class Ledger:
    """Entries by user and key."""

    entries: dict[tuple[int, str], Entry] = field(default_factory=dict)

    def acknowledge(self, user_id: int, key: str, task_id: int, submission_id: int, tiers: Tiers) -> None:
        """A receipt has come."""
        assert (user_id, key) not in self.entries
        self.entries[user_id, key] = Entry(task_id, submission_id, tiers)


@dataclass(frozen=True)
class Findings:
    """Counts of what must not be; all are zero when every promise was kept.

    Attributes:
        lost: acknowledged answers that are not there, or not as they were sent.
        doubled: stored answers that nobody was given a receipt for: one that was stored twice has two keys.
        answered_twice: pairs of a person and a task with more than one answer.
        over_quota: tasks with more answers and leases in force than their overlap.
        audit: differences between the tables and the events.
    """

    lost: int
    doubled: int
    answered_twice: int
    over_quota: int
    audit: int


def compare(ledger: Ledger, store: Store) -> Findings:
    """Hold the ledger against the store, row by row, without the store's own view of its tables."""
    rows, over_quota = store.read(_stored), store.read(_over_quota)
    stored = {
        (row.user_id, row.idempotency_key): Entry(row.task_id, row.id, row.answer.get("tiers", [])) for row in rows
    }
    lost = sum(stored.get(key) != entry for key, entry in ledger.entries.items())
    doubled = len(stored.keys() - ledger.entries.keys())
    people = Counter((row.user_id, row.task_id) for row in rows)
    answered_twice = sum(number > 1 for number in people.values())
    return Findings(lost, doubled, answered_twice, over_quota, len(store.audit()))


def _stored(tx: Tx) -> list[sa.Row]:
    return list(tx.connection.execute(sa.select(submissions)))


def _over_quota(tx: Tx) -> int:
    """Tasks that too many people were given, gold apart, which is for everybody."""
    taken = (
        sa.select(leases.c.task_id, sa.func.count().label("number"))
        .where(leases.c.state.in_(["active", "answered"]))
        .group_by(leases.c.task_id)
        .subquery()
    )
    found = (
        sa.select(sa.func.count())
        .select_from(tasks.join(taken, taken.c.task_id == tasks.c.id))
        .where(tasks.c.gold.is_(None), taken.c.number > tasks.c.overlap)
    )
    return int(tx.connection.execute(found).scalar_one())
