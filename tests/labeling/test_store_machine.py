"""Whatever two processes do in whatever order: quotas hold, nothing is lost, and the events tell it all.

Hypothesis makes up the order. Everything is held against a model that knows the rules in plain Python: who may be given
what, and what was acknowledged.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from label_tools import Clock, new_task
from store_remote import RemoteStore

from labeling_app.answers import Answer
from labeling_app.store import (
    Claimed,
    Conflict,
    LeaseLost,
    NewResponse,
    NewTask,
    Quarantined,
    Receipt,
    Store,
    StoreError,
    StoreSettings,
    UnknownTask,
)
from labeling_app.store.replay import replay

T = TypeVar("T")

LEASE_SECONDS = 100
NUM_PEOPLE = 4

people = st.integers(0, NUM_PEOPLE - 1)
processes = st.booleans()  # whether the other one does it
# A place in a list whose length depends on which process was faster; Hypothesis must not see that length.
anything = st.integers(0, 99)


def pick(choices: Collection[T], which: int) -> T:
    return list(choices)[-1 - which % len(choices)]


@dataclass
class Seat:
    """What the model knows of one person and task."""

    token: str
    state: str
    expires_at: datetime
    shown: list[int]
    answers: list[Answer] = field(default_factory=list)


class StoreMachine(RuleBasedStateMachine):
    """Two processes on one store, beside a model of it."""

    remote: RemoteStore
    clock: Clock
    new_place: Callable[[], tuple[Path, str]]

    def __init__(self) -> None:
        super().__init__()
        home, url = self.new_place()
        self.options = StoreSettings(lease_seconds=LEASE_SECONDS, gold_share=0.25)
        self.store = Store.open(home, url, self.options, self.clock)
        self.remote.call("open", home, url, self.options)
        self.ids = [self.store.add_user(f"u{number}").id for number in range(NUM_PEOPLE)]
        self.overlap: dict[int, int] = {}
        self.prompts: dict[int, str] = {}
        self.fuller: set[int] = set()  # may have more answers than were asked for: of somebody trusted again
        self.gold: set[int] = set()
        self.withdrawn: set[int] = set()
        self.quarantined: set[int] = set()
        self.seats: dict[tuple[int, int], Seat] = {}
        self.keys: dict[tuple[int, str], tuple[int, Answer, Receipt]] = {}
        self.num_keys = 0

    def teardown(self) -> None:
        try:
            self.the_store_is_what_the_events_tell()
        finally:
            self.remote.call("close")
            self.store.close()

    # what happens

    @initialize(overlaps=st.lists(st.integers(1, 3), min_size=1, max_size=4))
    def begin(self, overlaps: list[int]) -> None:
        self.add(overlaps, False, False)

    @rule(overlaps=st.lists(st.integers(1, 3), min_size=1, max_size=2), gold=processes, remote=processes)
    def add(self, overlaps: list[int], gold: bool, remote: bool) -> None:
        known = {"tiers": [[0], [1, 2]]} if gold else None
        first = len(self.overlap)
        tasks = [new_task(f"{first + n}", overlap=overlap, gold=known) for n, overlap in enumerate(overlaps)]
        added = self.call(remote, "add_tasks", tasks)
        self.overlap |= dict(zip(added.task_ids, overlaps, strict=True))
        self.prompts |= {task: str(first + n) for n, task in enumerate(added.task_ids)}
        self.gold |= set(added.task_ids) if gold else set()

    @rule(which=anything, remote=processes)
    def add_what_is_there(self, which: int, remote: bool) -> None:
        """The same question with other models behind it: nothing changes, unless the one before was withdrawn."""
        prompt = self.prompts[pick(self.overlap, which)]
        again = [task for task, one in self.prompts.items() if one == prompt and task not in self.withdrawn]
        added = self.call(remote, "add_tasks", [NewTask(prompt, [NewResponse(text, "other") for text in "abc"])])
        assert [one.task_id for one in added.rejected] == again
        self.overlap |= dict.fromkeys(added.task_ids, 1)
        self.prompts |= dict.fromkeys(added.task_ids, prompt)

    @rule(person=people, remote=processes)
    def claim_and_submit(self, person: int, remote: bool) -> None:
        self.claim(person, remote)
        self.submit(person, not remote, [0, 1, 2], False)

    @rule(person=people, remote=processes)
    def claim(self, person: int, remote: bool) -> None:
        user_id = self.ids[person]
        self.check_claim(user_id, self.attempt(remote, "claim", user_id, "default"))

    @rule(one=people, other=people)
    def claim_at_once(self, one: int, other: int) -> None:
        user_ids = [self.ids[one], self.ids[other]]
        self.remote.start("claim", user_ids[1], "default")
        here = self.attempt(False, "claim", user_ids[0], "default")
        there = self.finish()
        both = list(zip(user_ids, (here, there), strict=True))
        both.sort(key=lambda pair: pair[1] is None)  # who was told `nothing` came second
        for user_id, claimed in both:
            self.check_claim(user_id, claimed)

    @rule(person=people, remote=processes, order=st.permutations([0, 1, 2]), again=processes)
    def submit(self, person: int, remote: bool, order: list[int], again: bool) -> None:
        """The newest of what this person was given and has not answered, be the time up or not."""
        user_id = self.ids[person]
        held = [task for (task, user), seat in self.seats.items() if user == user_id and seat.state != "answered"]
        if not held:
            return
        task_id = held[-1]
        seat = self.seats[task_id, user_id]
        answer = Answer(tiers=[[seat.shown[place]] for place in order])
        key = self.new_key()
        receipt = self.attempt(remote, "submit", user_id, seat.token, key, answer, 1)
        if self.check_submitted(user_id, task_id, key, answer, receipt) and again:
            assert self.attempt(not remote, "submit", user_id, seat.token, key, answer, 1) == receipt

    @rule(one=people, order=st.permutations([0, 1, 2]))
    def submit_twice_at_once(self, one: int, order: list[int]) -> None:
        user_id = self.ids[one]
        held = [task for (task, user), seat in self.seats.items() if user == user_id and seat.state == "active"]
        if not held or self.gone(user_id, held[-1]):
            return
        task_id = held[-1]
        seat = self.seats[task_id, user_id]
        answer = Answer(tiers=[[seat.shown[place]] for place in order])
        key = self.new_key()
        self.remote.start("submit", user_id, seat.token, key, answer, 1)
        here = self.attempt(False, "submit", user_id, seat.token, key, answer, 1)
        assert self.finish() == here
        self.check_submitted(user_id, task_id, key, answer, here)

    @rule(which=anything, remote=processes)
    def send_an_old_answer_again(self, which: int, remote: bool) -> None:
        if not self.keys:
            return
        user_id, key = pick(self.keys, which)
        task_id, answer, receipt = self.keys[user_id, key]
        token = self.seats[task_id, user_id].token
        assert self.attempt(remote, "submit", user_id, token, key, answer, 1) == receipt
        other = Answer(tiers=[sorted(shown for tier in answer.tiers for shown in tier)])
        assert isinstance(self.attempt(remote, "submit", user_id, token, key, other, 1), Conflict)

    @rule(which=anything, remote=processes, order=st.permutations([0, 1, 2]))
    def revise(self, which: int, remote: bool, order: list[int]) -> None:
        if not self.keys:
            return
        user_id, key = pick(self.keys, which)
        task_id = self.keys[user_id, key][0]
        seat = self.seats[task_id, user_id]
        answer = Answer(tiers=[[seat.shown[place]] for place in order])
        new_key = self.new_key()
        result = self.attempt(remote, "revise", user_id, task_id, new_key, answer, 1)
        if user_id in self.quarantined:
            assert isinstance(result, Quarantined)
            return
        seat.answers.append(answer)
        assert result.revision == len(seat.answers)
        self.keys[user_id, new_key] = (task_id, answer, result)

    @rule(which=anything, remote=processes)
    def skip(self, which: int, remote: bool) -> None:
        if not self.seats:
            return
        task_id, user_id = pick(self.seats, which)
        seat = self.seats[task_id, user_id]
        result = self.attempt(remote, "skip", user_id, seat.token, self.new_key(), "no")
        if user_id in self.quarantined:
            assert isinstance(result, Quarantined)
        elif seat.state in ("answered", "skipped"):
            assert isinstance(result, Conflict)
        else:
            assert result.task_id == task_id
            seat.state = "skipped"

    @rule(which=anything, remote=processes, take_again=processes)
    def reopen(self, which: int, remote: bool, take_again: bool) -> None:
        if not self.seats:
            return
        task_id, user_id = pick(self.seats, which)
        seat = self.seats[task_id, user_id]
        free = self.num_free(task_id, user_id) > 0
        result = self.attempt(remote, "reopen", user_id, task_id, take_again)
        if user_id in self.quarantined:
            assert isinstance(result, Quarantined)
        elif seat.state == "answered":
            assert (result.lease, result.answer, result.revision) == (None, seat.answers[-1], len(seat.answers))
        elif not take_again and not self.holds(task_id, user_id):
            assert (result.lease, result.answer, result.revision) == (None, None, 0)
        elif task_id in self.withdrawn and not self.holds(task_id, user_id):
            assert isinstance(result, LeaseLost)
        elif not free and task_id not in self.gold:
            assert isinstance(result, LeaseLost)
            self.expire_where_due(task_id)
        else:
            if take_again:
                self.expire_where_due(task_id)
            self.give(task_id, user_id, result)

    @rule(person=people, remote=processes, to=processes)
    def quarantine(self, person: int, remote: bool, to: bool) -> None:
        user_id = self.ids[person]
        self.call(remote, "set_quarantined", user_id, to)
        if user_id in self.quarantined and not to:
            self.fuller |= {task for (task, user), seat in self.seats.items() if user == user_id and seat.answers}
        (self.quarantined.add if to else self.quarantined.discard)(user_id)
        for (_, user), seat in self.seats.items():
            if to and user == user_id and seat.state == "active":
                seat.state = "expired"

    @rule(seconds=st.sampled_from([1, LEASE_SECONDS // 2, LEASE_SECONDS]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(order=st.permutations(range(NUM_PEOPLE)), remote=processes)
    def all_come_and_their_time_passes_and_all_come_again(self, order: list[int], remote: bool) -> None:
        self.add([1], False, remote)
        for person in [*order, *order]:
            self.claim_and_submit(person, remote)
        self.add([1], False, remote)
        for person in order:
            self.claim(person, remote)
        self.clock.advance(LEASE_SECONDS)
        for person in reversed(order):
            self.claim(person, not remote)

    @rule(remote=processes)
    def sweep(self, remote: bool) -> None:
        self.call(remote, "sweep")
        for task_id in self.overlap:
            self.expire_where_due(task_id)

    @rule(which=anything, remote=processes)
    def withdraw(self, which: int, remote: bool) -> None:
        task_id = pick(self.overlap, which)
        self.call(remote, "withdraw", [task_id])
        self.withdrawn.add(task_id)

    # what must hold

    @invariant()
    def quotas_hold(self) -> None:
        in_use = Counter(task for (task, user), seat in self.seats.items() if self.takes(user, seat))
        for task_id, num in in_use.items():
            assert task_id in self.gold | self.fuller or num <= self.overlap[task_id]

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        found = self.store.judgements(with_quarantined=True)
        assert {(one.task_id, one.user_id): (one.answer, one.revision) for one in found} == {
            key: (seat.answers[-1], len(seat.answers)) for key, seat in self.seats.items() if seat.answers
        }
        assert len(found) == len({(one.task_id, one.user_id) for one in found})
        assert {one.user_id for one in self.remote.call("judgements")}.isdisjoint(self.quarantined)

    def the_store_is_what_the_events_tell(self) -> None:
        assert self.store.audit() == []
        state = replay(self.store.events())
        last: dict[tuple[int, int], tuple[Any, ...]] = {}
        for (task_id, user_id, revision), told in sorted(state.submissions.items()):
            user, task = state.users[user_id], state.tasks[task_id]
            shown = [(response, state.sources[task_id, response]) for response in task["responses"]]
            answer = Answer.model_validate(told["answer"])
            if not user["quarantined"]:
                columns = (told["submission_id"], revision, answer, told["presented"], told["created_at"])
                last[task_id, user_id] = (*columns, user["name"], shown, task["gold"], task["queue"], task["origin"])
        found = {
            (one.task_id, one.user_id): (
                *(one.submission_id, one.revision, one.answer, one.presented, one.created_at, one.user),
                *([(each.id, each.sources) for each in one.responses], one.gold, one.queue, one.origin),
            )
            for one in self.store.judgements()
        }
        assert found == last

    # the model

    def check_claim(self, user_id: int, result: Claimed | StoreError | None) -> None:
        if user_id in self.quarantined:
            assert isinstance(result, Quarantined)
            return
        assert not isinstance(result, Exception)
        if result is None:
            assert not any(self.may_be_given(task_id, user_id) for task_id in self.overlap), "something was open"
            assert not any(user == user_id and seat.state == "active" for (_, user), seat in self.seats.items())
            for task_id in self.overlap:
                self.expire_where_due(task_id)
            return
        seat = self.seats.get((result.task_id, user_id))
        if seat is None or seat.state != "active":
            assert self.may_be_given(result.task_id, user_id)
            if not self.num_open(result.task_id):
                for task_id in self.overlap:  # it was had by a sweep
                    self.expire_where_due(task_id)
        self.give(result.task_id, user_id, result)

    def check_submitted(self, user_id: int, task_id: int, key: str, answer: Answer, result: Any) -> bool:
        """Whether it was stored."""
        seat = self.seats[task_id, user_id]
        if user_id in self.quarantined:
            assert isinstance(result, Quarantined)
        elif seat.state == "skipped":
            assert isinstance(result, Conflict)
        elif seat.state == "expired" and task_id in self.withdrawn:
            assert isinstance(result, LeaseLost)
        elif seat.state == "expired" and task_id not in self.gold and self.num_free(task_id, user_id) < 1:
            assert isinstance(result, LeaseLost)
            self.expire_where_due(task_id)
        else:
            assert (result.task_id, result.revision) == (task_id, 1)
            if seat.state == "expired" and not self.num_open(task_id):
                self.expire_where_due(task_id)
            seat.state = "answered"
            seat.answers.append(answer)
            self.keys[user_id, key] = (task_id, answer, result)
            return True
        return False

    def gone(self, user_id: int, task_id: int) -> bool:
        return user_id in self.quarantined or self.seats[task_id, user_id].state != "active"

    def num_open(self, task_id: int) -> int:
        """Slots that nobody has, those whose time is up included among those that somebody has."""
        return 0 if task_id in self.withdrawn else max(0, self.num_left(task_id))

    def num_left(self, task_id: int) -> int:
        taken = [1 for (task, user), seat in self.seats.items() if task == task_id and self.takes(user, seat)]
        return self.overlap[task_id] - len(taken)

    def takes(self, user_id: int, seat: Seat) -> bool:
        return seat.state == "active" or (seat.state == "answered" and user_id not in self.quarantined)

    def num_free(self, task_id: int, user_id: int) -> int:
        """Slots that this person could have."""
        if task_id in self.withdrawn:
            return int((task_id, user_id) in self.seats and self.seats[task_id, user_id].state == "active")
        due = [s for (task, _), s in self.seats.items() if task == task_id and self.is_due(s)]
        return max(0, self.num_left(task_id) + len(due)) + int(self.holds(task_id, user_id))

    def holds(self, task_id: int, user_id: int) -> bool:
        seat = self.seats.get((task_id, user_id))
        return seat is not None and seat.state == "active" and not self.is_due(seat)

    def is_due(self, seat: Seat) -> bool:
        return seat.state == "active" and seat.expires_at <= self.clock.now

    def may_be_given(self, task_id: int, user_id: int) -> bool:
        if task_id in self.withdrawn:
            return False
        seat = self.seats.get((task_id, user_id))
        if seat is not None and seat.state in ("answered", "skipped"):
            return False
        return task_id in self.gold or self.num_free(task_id, user_id) > 0

    def expire_where_due(self, task_id: int) -> None:
        for (task, _), seat in self.seats.items():
            if task == task_id and self.is_due(seat):
                seat.state = "expired"

    def give(self, task_id: int, user_id: int, claimed: Claimed) -> None:
        assert claimed.lease is not None
        assert claimed.expires_at is not None
        shown = [response for response, _ in claimed.responses]
        seat = self.seats.pop((task_id, user_id), None)
        if seat is not None:
            assert (seat.token, seat.shown) == (claimed.lease, shown)
        assert self.clock.now < claimed.expires_at <= self.clock.now + timedelta(seconds=LEASE_SECONDS)
        self.seats[task_id, user_id] = Seat(claimed.lease, "active", claimed.expires_at, shown)

    # the two processes

    def call(self, remote: bool, name: str, *args: Any) -> Any:
        return self.remote.call(name, *args) if remote else getattr(self.store, name)(*args)

    def attempt(self, remote: bool, name: str, *args: Any) -> Any:
        """The result, or the store's refusal."""
        try:
            return self.call(remote, name, *args)
        except (Conflict, LeaseLost, Quarantined, UnknownTask) as refusal:
            return refusal

    def finish(self) -> Any:
        try:
            return self.remote.finish()
        except (Conflict, LeaseLost, Quarantined) as refusal:
            return refusal

    def new_key(self) -> str:
        self.num_keys += 1
        return f"key {self.num_keys}"


@pytest.fixture(params=["sqlite", "postgresql"])
def machine(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[type[StoreMachine]]:
    """The machine on either database, a fresh one for every run."""
    server = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    num_places = 0

    def new_place() -> tuple[Path, str]:
        nonlocal num_places
        num_places += 1
        home = tmp_path / f"home{num_places}"
        return home, server.new_schema() if server else f"sqlite:///{home / 'labels.db'}"

    with RemoteStore(tmp_path / "socket", clock) as remote:
        yield type("Machine", (StoreMachine,), {"remote": remote, "clock": clock, "new_place": staticmethod(new_place)})


@pytest.mark.filterwarnings("error")
def test_two_processes_keep_every_promise(machine: type[StoreMachine]) -> None:
    run_state_machine_as_test(machine, settings=_settings(max_examples=10, stateful_step_count=30))


@pytest.mark.slow
def test_two_processes_keep_every_promise_for_long(machine: type[StoreMachine]) -> None:
    run_state_machine_as_test(machine, settings=_settings(max_examples=100, stateful_step_count=50))


def _settings(**options: int) -> settings:
    return settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck), **options)
