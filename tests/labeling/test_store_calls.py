"""How operations are called: by name, as functions, put together, awaited; how a store is opened and closed."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import sqlalchemy as sa
from label_tools import Clock, as_shown, new_task, new_tasks
from pydantic import ValidationError

from labeling_app.settings import FLAGS, LabelingConfig
from labeling_app.store import (
    Claimed,
    Conflict,
    LeaseLost,
    NotYours,
    Receipt,
    Store,
    StoreSettings,
    Tx,
    UnknownTask,
    UnknownUser,
    User,
)
from labeling_app.store.adding import would_withdraw
from labeling_app.store.answering import submit
from labeling_app.store.claiming import claim, take
from labeling_app.store.people import add_user, all_users
from rlhf import db
from rlhf.errors import UserError


def test_operations_can_be_awaited_by_name_or_as_functions(store: Store) -> None:
    store.add_tasks(new_tasks(20))

    async def work() -> list[Claimed]:
        people: list[User] = await asyncio.gather(*[store.call("add_user", f"u{number}") for number in range(20)])
        claims = await asyncio.gather(*[store.call(claim, user.id, "default") for user in people])
        assert await store.call("users") == await store.call(all_users) == await store.call_read(all_users)
        with pytest.raises(NotYours):
            await store.call("submit", people[0].id, claims[1].lease, "key", as_shown(claims[1]), 1)
        return claims

    claims = asyncio.run(work())
    assert sorted(claimed.task_id for claimed in claims) == list(range(1, 21))
    assert store.audit() == []


def test_several_operations_can_be_one_transaction(store: Store) -> None:
    store.add_tasks(new_tasks(2))
    ana = store.add_user("ana")
    first = store.claim(ana.id)

    def submit_and_claim(tx: Tx, key: str) -> tuple[Receipt, Claimed | None]:
        return submit(tx, ana.id, first.lease, key, as_shown(first), 1), claim(tx, ana.id)

    receipt, following = store.write(submit_and_claim, "key")
    assert (receipt.task_id, following.task_id) == (1, 2)
    assert store.write(submit_and_claim, "key") == (receipt, following)

    def submit_and_fail(tx: Tx) -> None:
        submit(tx, ana.id, following.lease, "key 2", as_shown(following), 1)
        raise Conflict("after all")

    with pytest.raises(Conflict, match="after all"):
        store.write(submit_and_fail)
    assert len(store.judgements()) == 1
    assert store.audit() == []


def test_who_does_not_wait_any_more_is_left_out(local: Store) -> None:
    blocked, release = threading.Event(), threading.Event()

    def block(tx: Tx) -> None:
        blocked.set()
        release.wait(timeout=10)

    async def work() -> None:
        first = asyncio.ensure_future(local.call(block))
        await asyncio.to_thread(blocked.wait, 10)
        gone = asyncio.ensure_future(local.call("add_user", "gone"))
        stays = asyncio.ensure_future(local.call("add_user", "stays"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        release.set()
        await asyncio.gather(first, stays)
        assert gone.cancelled()

    asyncio.run(work())
    assert [user.name for user in local.users()] == ["stays"]


def test_what_was_begun_is_finished_before_the_store_closes(open_store: Callable[..., Store]) -> None:
    store = open_store()
    futures = [store._runner.write(lambda tx, n=n: add_user(tx, f"u{n}")) for n in range(20)]
    store.close()
    assert {future.result(timeout=0).name for future in futures} == {f"u{number}" for number in range(20)}
    store.close()
    with pytest.raises(AssertionError, match="closed"):
        store.users()
    assert len(open_store().users()) == 20


def test_an_operation_does_not_wait_for_itself(local: Store) -> None:
    with pytest.raises(AssertionError, match="calls another as a function"):
        local.write(lambda tx: local.add_user("ana"))


def test_the_store_lies_in_the_home_or_where_the_environment_says(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RLHF_DATABASE_URL", raising=False)
    with Store.open(home) as store:
        store.add_user("ana")
    assert [path.name for path in home.iterdir()] == ["labels.db"]
    monkeypatch.setenv("RLHF_DATABASE_URL", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    with Store.open(home) as store, pytest.raises(UnknownUser):
        store.user("ana")
    with pytest.raises(UserError, match="not a database URL"):
        Store.open(home, "nonsense")


def test_labels_from_a_newer_version_are_refused(open_store: Callable[..., Store], home: Path, url: str) -> None:
    open_store().close()
    with db.write(db.engine(url)) as connection:
        connection.execute(sa.text("UPDATE labels_version SET version_num = '9999'"))
    with pytest.raises(UserError, match="its labels tables are at version 9999"):
        open_store()


def test_the_store_takes_its_settings_from_the_config(home: Path, clock: Clock) -> None:
    config = LabelingConfig(lease_seconds=60, gold_share=0.3, flags={"rude": "Rude"}, seed=4)
    assert config.store == StoreSettings(60.0, 0.3, frozenset({"rude"}), 4)
    assert LabelingConfig().store == StoreSettings(flags=frozenset(FLAGS))
    with Store.open(home, settings=config.store, clock=clock) as store:
        ana = store.add_user("ana")
        store.add_tasks([new_task()])
        claimed = store.claim(ana.id)
        assert (claimed.expires_at - clock.now).total_seconds() == 60
        flagged = as_shown(claimed).model_copy(update={"flags": {claimed.responses[0][0]: ["rude"]}})
        store.submit(ana.id, claimed.lease, "key", flagged, 1)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"skip_reasons": ["a", "a"]}, "a reason stands there twice"),
        ({"skip_reasons": []}, "skip_reasons"),
        ({"flags": {"Not Plain": "x"}}, "flags"),
        ({"public_url": "https://x/path"}, "public_url"),
        ({"queue": "a b"}, "queue"),
        ({"lease_second": 60}, "lease_second"),
    ],
)
def test_a_config_that_cannot_be_served_is_refused(value: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        LabelingConfig.model_validate(value)


def test_what_withdrawing_would_do_can_be_asked_before(store: Store) -> None:
    gold = new_task("gold", gold={"tiers": [[0], [1, 2]]})
    first, second, third = store.add_tasks([new_task("one", overlap=2), new_task("two"), gold], "q").task_ids
    people = [store.add_user(name) for name in ("ana", "ben")]
    for user in people:
        claimed = store.write(take, user.id, first)
        store.submit(user.id, claimed.lease, "key", as_shown(claimed), 1)
    known = store.write(take, people[0].id, third)  # gold is exported never
    store.submit(people[0].id, known.lease, "gold", as_shown(known), 1)
    assert store.read(would_withdraw, "q") == (3, 2)
    assert store.read(would_withdraw, [first, first]) == (1, 2)
    assert store.read(would_withdraw, [second]) == (1, 0)
    store.set_quarantined(people[0].id, True)
    assert store.read(would_withdraw, [first, second]) == (2, 1)
    assert store.withdraw([first]) == 1
    assert store.read(would_withdraw, "q") == (2, 0)
    with pytest.raises(UnknownTask, match="99: there is no such task"):
        store.read(would_withdraw, [first, 99])


def test_any_number_of_tasks_can_be_withdrawn_at_once(store: Store) -> None:
    ids = store.add_tasks([new_task("one"), new_task("two")]).task_ids
    numbers = [*ids, *range(1000, 300_000)]
    with pytest.raises(UnknownTask, match=r"1000, 1001, .* and 298,990 more: there is no such task"):
        store.withdraw(numbers)
    with pytest.raises(UnknownTask, match="298,990 more"):
        store.read(would_withdraw, numbers)
    assert store.withdraw(ids * 200_000) == 2


def test_withdrawn_gold_is_given_to_nobody_again(open_store: Callable[..., Store], clock: Clock) -> None:
    store = open_store(settings=StoreSettings(gold_share=1.0, lease_seconds=60))
    gold = {"tiers": [[0], [1], [2]]}
    ids = store.add_tasks([new_task("one", gold=gold), new_task("two", gold=gold)]).task_ids
    ana = store.add_user("ana")
    skipped = store.claim(ana.id)
    store.skip(ana.id, skipped.lease, "key", "reason")
    held = store.claim(ana.id)
    store.withdraw(ids)
    clock.advance(61)
    store.sweep()
    with pytest.raises(LeaseLost, match="withdrawn"):
        store.reopen(ana.id, skipped.task_id, take_again=True)
    with pytest.raises(LeaseLost, match="withdrawn"):
        store.submit(ana.id, held.lease, "key 2", as_shown(held), 1)
    assert store.reopen(ana.id, skipped.task_id).lease is None, "it can be looked at"
    assert store.audit() == []


class ClosedMeanwhile(SimpleQueue):
    """Somebody closes the store just before something is put."""

    def __init__(self, close: Callable[[], None]) -> None:
        self.closer: threading.Thread | None = threading.Thread(target=close)

    def put(self, job: Any) -> None:
        if self.closer is not None and job is not None:
            closer, self.closer = self.closer, None
            closer.start()
            closer.join(0.2)  # it waits for its turn
        super().put(job)


@pytest.mark.parametrize("way", ["write", "read"])
def test_what_comes_just_before_the_store_closes_is_answered(open_store: Callable[..., Store], way: str) -> None:
    store = open_store()
    store.add_user("ana")
    runner: Any = store._runner
    if way == "read":
        workers = runner._readers
    else:
        workers = runner if hasattr(runner, "_waiting") else runner._writers
    before, workers._waiting = workers._waiting, ClosedMeanwhile(store.close)
    for _ in range(8):
        before.put(_wake_up())  # threads that wait at the queue there was
    future = getattr(runner, way)(all_users)
    assert [user.name for user in future.result(timeout=5)] == ["ana"]


def _wake_up() -> Any:
    return (lambda _tx: None), Future()
