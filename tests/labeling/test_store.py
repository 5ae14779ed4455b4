"""One person after the other: adding, claiming, answering, revising, skipping."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from label_tools import Clock, as_shown, new_task, new_tasks, reversed_order

from labeling_app import schema
from labeling_app.answers import Answer, Edit
from labeling_app.store import (
    BadAnswer,
    Conflict,
    Disabled,
    LeaseLost,
    NewResponse,
    NewTask,
    NotYours,
    Outlook,
    Quarantined,
    Rejected,
    Response,
    Store,
    StoreSettings,
    UnknownTask,
    UnknownUser,
)
from labeling_app.store.claiming import take
from labeling_app.store.progress import outlook
from rlhf import db
from rlhf.errors import UserError

LEASE_SECONDS = 1800

SAID = "idempotency_key, task_id, user_id, revision, answer, presented, active_ms, wall_ms, NULL, created_at"
"""All columns of a submission but its id."""


def answered(store: Store) -> None:
    """One task, one person, one answer."""
    ana = store.add_user("ana")
    store.add_tasks([new_task()])
    claimed = store.claim(ana.id)
    store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 5)


def test_the_revisions_make_the_tables_that_the_code_expects(store: Store, url: str) -> None:
    with db.engine(url).connect() as connection:
        options = {"version_table": "labels_version", "compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []
        assert {index["name"] for index in sa.inspect(connection).get_indexes("tasks")} >= {"ix_tasks_open"}


def test_what_one_person_answers_is_one_judgement(store: Store, clock: Clock) -> None:
    ana = store.add_user("ana")
    added = store.add_tasks([new_task("Why?", ["because", "why not"], origin={"id": 7})], queue="q")
    assert (added.num_tasks, added.num_responses, added.rejected) == (1, 2, [])
    assert store.set_guidelines("Be fair.") == 1
    claimed = store.claim(ana.id, "q")
    assert claimed is not None
    assert (claimed.prompt, claimed.mode, claimed.queue, claimed.revision) == ("Why?", "rank", "q", 0)
    assert sorted(content for _, content in claimed.responses) == ["because", "why not"]
    clock.advance(12.5)
    receipt = store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 9000, 1)
    assert (receipt.task_id, receipt.revision, receipt.created_at) == (claimed.task_id, 1, clock.now)

    (found,) = store.judgements()
    assert found.answer == as_shown(claimed)
    assert found.presented == [response for response, _ in claimed.responses]
    assert (found.user, found.active_ms, found.wall_ms, found.guidelines_version) == ("ana", 9000, 12_500, 1)
    assert (found.prompt, found.origin, found.queue, found.gold) == ("Why?", {"id": 7}, "q", None)
    assert found.responses == [
        Response(1, "because", [{"model": "model-because", "generation": None}]),
        Response(2, "why not", [{"model": "model-why not", "generation": None}]),
    ]
    assert store.claim(ana.id, "q") is None
    assert store.audit() == []


def test_a_task_is_held_until_it_is_answered(store: Store) -> None:
    ana = store.add_user("ana")
    store.add_tasks(new_tasks(2))
    first = store.claim(ana.id)
    assert store.claim(ana.id) == first
    assert store.claim(ana.id, "default") == first


def test_every_person_sees_their_own_order_and_the_same_one_again(store: Store) -> None:
    store.add_tasks([new_task(texts="abcdef", overlap=20)])
    people = [store.add_user(f"u{number}") for number in range(20)]
    orders = [tuple(content for _, content in store.claim(user.id).responses) for user in people]
    assert len(set(orders)) > 10
    assert [tuple(content for _, content in store.claim(user.id).responses) for user in people] == orders


def test_no_more_people_than_asked_for_get_a_task(store: Store) -> None:
    store.add_tasks([new_task(overlap=2)])
    ana, ben, chi = (store.add_user(name) for name in ("ana", "ben", "chi"))
    for user in (ana, ben):
        claimed = store.claim(user.id)
        store.submit(user.id, claimed.lease, "key", as_shown(claimed), 1)
    assert store.claim(chi.id) is None
    (queue,) = store.status()
    assert (queue.num_tasks, queue.num_done, queue.num_answers) == (1, 1, 2)


def test_urgent_tasks_come_first_then_those_already_begun_then_the_oldest(store: Store) -> None:
    store.add_tasks([new_task("late", priority=-1), new_task("old"), new_task("two", overlap=2), new_task("new")])
    ana, ben = store.add_user("ana"), store.add_user("ben")

    def answer_next(user_id: int) -> str:
        claimed = store.claim(user_id, "default")
        store.submit(user_id, claimed.lease, f"key {claimed.task_id}", as_shown(claimed), 1)
        return str(claimed.prompt)

    assert [answer_next(ana.id) for _ in range(2)] == ["old", "two"]
    store.add_tasks([new_task("urgent", priority=5)])
    assert [answer_next(ben.id) for _ in range(4)] == ["urgent", "two", "new", "late"]


def test_without_a_queue_all_queues_are_served_in_that_order(store: Store) -> None:
    store.add_tasks([new_task("one")], queue="a")
    store.add_tasks([new_task("two", priority=1)], queue="b")
    ana = store.add_user("ana")
    claimed = store.claim(ana.id)
    assert claimed.prompt == "two"
    assert store.claim(ana.id, "a").prompt == "one", "what is held in another queue is no answer"
    assert store.claim(ana.id, "b") == claimed
    assert store.claim(ana.id, "c") is None


def test_identical_completions_are_shown_once_and_keep_all_sources(store: Store) -> None:
    responses = [NewResponse("x", "m1", {"temperature": 1.0}), NewResponse("y", "m1"), NewResponse("x", "m2")]
    assert store.add_tasks([NewTask("p", responses)]).num_identical == 1
    ana = store.add_user("ana")
    claimed = store.claim(ana.id)
    assert sorted(content for _, content in claimed.responses) == ["x", "y"]
    store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 1)
    assert store.add_tasks([NewTask("p", [NewResponse("x", "m3"), NewResponse("z")])]).num_tasks == 1
    (found,) = store.judgements()
    sources = {response.content: [source["model"] for source in response.sources] for response in found.responses}
    assert sources == {"x": ["m1", "m2"], "y": ["m1"]}, "who wrote it for another task changes no answer"
    assert store.audit() == []


def test_a_task_that_is_there_already_changes_nothing(store: Store) -> None:
    store.add_tasks([NewTask("p", [NewResponse("x", "m1"), NewResponse("y", "m2")])])
    num_events = len(store.events())
    again = store.add_tasks([NewTask("p", [NewResponse("x", "m3"), NewResponse("y", "m4")])])
    assert again.rejected == [Rejected(0, "the queue holds it already, as task 1", 1)]
    assert len(store.events()) == num_events
    assert store.audit() == []


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (new_task(texts=["a"]), "has 1 different completion; rank needs 2"),
        (new_task(texts=["a", "a"]), "has 1 different completion; rank needs 2"),
        (new_task(texts=["a", "b", "c"], mode="pair"), "has 3 different completions; pair compares 2"),
        (new_task(texts=["a", "b", "c"], mode="ab"), "has 3 different completions; ab compares 2"),
        (new_task(texts=[], mode="rate"), "has 0 different completions; rate needs 1"),
        (new_task(texts=list("abcdefghij")), "has 10 different completions; more than 9 cannot be shown"),
        (new_task(prompt=" "), "prompt: is empty"),
        (new_task(texts=["a", ""]), "a completion is empty"),
        (new_task(mode="guess"), "mode: 'guess' is not one of rank, pair, rate, ab"),
        (new_task(overlap=0), "overlap: 0 is less than 1"),
        (new_task(priority=2**40), "priority or overlap: is too large a number"),
        (new_task(origin={"x": float("nan")}), "cannot be kept as JSON"),
        (new_task(gold={"tiers": [[0], [3]]}), "gold: there is no completion 3; they are counted from 0"),
        (new_task(gold={"tiers": [[0], [0]]}), "gold: names a completion twice"),
        (new_task(gold={"tiers": 3}), "gold: `tiers` is malformed"),
        (new_task(gold={"tiers": []}), "gold: names no completion"),
        (new_task(gold={"ratings": {0: 1}}), "gold: a task in mode rank has `tiers` and nothing else"),
        (new_task(mode="rate", gold={"ratings": {0: 8}}), "gold: a rating of 8 is outside 1 to 7"),
        (new_task(texts=["a", "a", "b"], gold={"tiers": [[0], [1, 2]]}), "gold: sets identical completions apart"),
    ],
)
def test_a_task_that_cannot_be_shown_is_reported_and_the_others_are_added(
    local: Store, task: NewTask, why: str
) -> None:
    added = local.add_tasks([new_task("good"), task, new_task("better")])
    assert added.num_tasks == 2
    (rejected,) = added.rejected
    assert rejected.index == 1
    assert rejected.why.startswith(why)


def test_a_task_that_is_there_already_is_not_added_again(store: Store) -> None:
    (first,) = store.add_tasks([new_task()]).task_ids
    again = store.add_tasks([new_task(texts="cba"), new_task(mode="rate"), new_task(texts="ab")])
    assert again.num_tasks == 2
    assert again.rejected == [Rejected(0, "the queue holds it already, as task 1", first)]
    assert store.add_tasks([new_task()], queue="other").num_tasks == 1
    store.withdraw([first])
    assert store.add_tasks([new_task()]).num_tasks == 1


def test_places_of_rejected_tasks_count_over_all_that_were_given(local: Store) -> None:
    added = local.add_tasks([*new_tasks(700), new_task(texts="a")])
    assert added.num_tasks == 700
    assert [rejected.index for rejected in added.rejected] == [700]


@pytest.mark.parametrize("queue", ["", "a b", "x" * 101, "a\n"])
def test_a_queue_needs_a_name(local: Store, queue: str) -> None:
    with pytest.raises(UserError, match=r"queue .*: a name has 1 to 100 characters"):
        local.add_tasks([new_task()], queue=queue)


def test_all_that_text_can_hold_comes_out_as_it_went_in(store: Store) -> None:
    texts = ["nul \x00 and \x1b", "bidi \u202e and zero\u200bwidth", "x" * 300_000]
    prompt = [{"role": "system", "content": "\x00"}, {"role": "user", "content": "emoji \U0001f600"}]
    assert store.add_tasks([NewTask(prompt, [NewResponse(text) for text in texts])]).num_tasks == 1
    ana = store.add_user("ana")
    claimed = store.claim(ana.id)
    assert claimed.prompt == prompt
    assert sorted(content for _, content in claimed.responses) == sorted(texts)
    edit = Edit(response_id=claimed.responses[0][0], text="better \x00 \u202e")
    answer = as_shown(claimed).model_copy(update={"rationale": "because \x00", "edit": edit})
    store.submit(ana.id, claimed.lease, "key", answer, 1)
    assert store.judgements()[0].answer == answer


def test_the_same_answer_sent_again_is_stored_once(store: Store, clock: Clock) -> None:
    ana = store.add_user("ana")
    store.add_tasks(new_tasks(2))
    claimed = store.claim(ana.id)
    first = store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 1)
    clock.advance(3 * LEASE_SECONDS)
    assert store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 999) == first
    with pytest.raises(Conflict, match="key was used"):
        store.submit(ana.id, claimed.lease, "key", reversed_order(claimed), 1)
    with pytest.raises(Conflict, match="already answered"):
        store.submit(ana.id, claimed.lease, "another key", as_shown(claimed), 1)
    other = store.claim(ana.id)
    with pytest.raises(Conflict, match="key was used"):
        store.submit(ana.id, other.lease, "key", as_shown(other), 1)
    assert [(found.revision, found.answer) for found in store.judgements()] == [(1, as_shown(claimed))]
    assert [event.kind for event in store.events()].count("submitted") == 1


def test_an_answer_must_fit_the_task(store: Store) -> None:
    ana = store.add_user("ana")
    store.add_tasks([new_task(texts=("one\ntwo", "b", "c"))])
    claimed = store.claim(ana.id)
    a, b, c = (response for response, _ in sorted(claimed.responses, key=lambda one: one[1], reverse=True))
    before = len(store.events())
    for answer, problem in [
        (Answer(tiers=[[a, b]]), "tiers: every response has to be placed exactly once"),
        (Answer(tiers=[[a, b], [c, 99]]), "tiers: every response has to be placed exactly once"),
        (Answer(ratings={a: 1, b: 2, c: 3}), "ratings: this task is ordered, not rated"),
        (Answer(tiers=[[a, b, c]], flags={a: ["ugly"]}), "flags: 'ugly' is not one of broken, harmful"),
        (Answer(tiers=[[a, b], [c]], edit=Edit(response_id=c, text="x")), "edit: is of a response that is not among"),
        (Answer(tiers=[[a, b], [c]], edit=Edit(response_id=a, text="  \n ")), "edit: is blank"),
        (Answer(tiers=[[a, b], [c]], edit=Edit(response_id=a, text="one\r\ntwo")), "edit: changes nothing"),
    ]:
        with pytest.raises(BadAnswer, match=problem):
            store.submit(ana.id, claimed.lease, "key", answer, 1)
    for key, active_ms in [("", 1), ("x" * 65, 1), ("a\nb", 1), ("key", -1), ("key", 2**60)]:
        with pytest.raises(BadAnswer, match=r"key: has|active_ms = "):
            store.submit(ana.id, claimed.lease, key, as_shown(claimed), active_ms)
    assert len(store.events()) == before
    store.submit(ana.id, claimed.lease, "x" * 64, Answer(tiers=[[a, b], [c]], flags={c: ["harmful"]}), 0)


def test_an_edit_is_of_one_of_the_best_or_of_any_where_all_are_bad(store: Store) -> None:
    ana = store.add_user("ana")
    store.add_tasks([new_task(), new_task(mode="rate")])
    for number in range(2):
        claimed = store.claim(ana.id)
        (a, _), (b, _), (c, _) = claimed.responses
        said = Answer(ratings={a: 5, b: 6, c: 6}) if claimed.mode == "rate" else Answer(tiers=[[b, c], [a]])
        of_best = said.model_copy(update={"edit": Edit(response_id=c, text="better")})
        of_worst = said.model_copy(update={"edit": Edit(response_id=a, text="better")})
        store.submit(ana.id, claimed.lease, f"first {number}", of_best, 1)
        with pytest.raises(BadAnswer, match="not among the best"):
            store.revise(ana.id, claimed.task_id, f"second {number}", of_worst, 1)
        store.revise(ana.id, claimed.task_id, f"third {number}", of_worst.model_copy(update={"all_bad": True}), 1)


def test_a_task_can_be_rated(store: Store) -> None:
    ana = store.add_user("ana")
    store.add_tasks([new_task(texts=["a"], mode="rate", gold={"ratings": {0: 6}})])
    claimed = store.claim(ana.id)
    answer = Answer(ratings={claimed.responses[0][0]: 7})
    store.submit(ana.id, claimed.lease, "key", answer, 1)
    (found,) = store.judgements()
    assert (found.answer, found.gold) == (answer, {"ratings": {str(claimed.responses[0][0]): 6}})


def test_revisions_are_all_kept_and_the_last_one_counts(store: Store, clock: Clock) -> None:
    ana = store.add_user("ana")
    store.add_tasks(new_tasks(2))
    claimed = store.claim(ana.id)
    with pytest.raises(UnknownTask, match="have not answered"):
        store.revise(ana.id, claimed.task_id, "k", as_shown(claimed), 1)
    clock.advance(5)
    store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 4000)
    clock.advance(60)
    reopened = store.reopen(ana.id, claimed.task_id)
    assert (reopened.lease, reopened.answer, reopened.revision) == (None, as_shown(claimed), 1)
    assert reopened.responses == claimed.responses
    receipt = store.revise(ana.id, claimed.task_id, "key 2", reversed_order(claimed), 2000)
    assert receipt.revision == 2
    assert store.revise(ana.id, claimed.task_id, "key 2", reversed_order(claimed), 2000) == receipt
    with pytest.raises(Conflict):
        store.revise(ana.id, claimed.task_id, "key", reversed_order(claimed), 2000)
    (found,) = store.judgements()
    assert (found.revision, found.answer, found.active_ms, found.wall_ms) == (2, reversed_order(claimed), 6000, 5000)
    assert store.claim(ana.id).task_id != claimed.task_id
    assert [event.kind for event in store.events() if event.task_id == claimed.task_id] == [
        "added",
        "claimed",
        "submitted",
        "revised",
    ]
    assert store.audit() == []


def test_a_skipped_task_goes_to_others_and_comes_back_only_when_asked_for(store: Store, clock: Clock) -> None:
    ana, ben = store.add_user("ana"), store.add_user("ben")
    store.add_tasks([new_task()])
    claimed = store.claim(ana.id)
    skipped = store.skip(ana.id, claimed.lease, "key", "cannot decide", "both fine")
    assert (skipped.task_id, skipped.reason, skipped.created_at) == (claimed.task_id, "cannot decide", clock.now)
    assert store.skip(ana.id, claimed.lease, "key", "cannot decide") == skipped
    assert store.claim(ana.id) is None
    with pytest.raises(Conflict, match="have skipped"):
        store.submit(ana.id, claimed.lease, "k", as_shown(claimed), 1)
    assert store.status()[0].num_skipped_by_all == 1

    num_events = len(store.events())
    looked_at = store.reopen(ana.id, claimed.task_id)
    assert (looked_at.lease, looked_at.expires_at, looked_at.answer) == (None, None, None)
    assert (looked_at.responses, looked_at.revision) == (claimed.responses, 0)
    assert len(store.events()) == num_events, "to look back changes nothing"
    again = store.reopen(ana.id, claimed.task_id, take_again=True)
    assert again.responses == claimed.responses
    assert store.reopen(ana.id, claimed.task_id) == again, "what they hold"
    assert store.skip(ana.id, claimed.lease, "key", "cannot decide") == skipped, "an old request that comes late"
    assert store.claim(ana.id) == again
    store.skip(ana.id, again.lease, "key 2", "cannot decide")

    held = store.claim(ben.id)
    with pytest.raises(LeaseLost):
        store.reopen(ana.id, claimed.task_id, take_again=True)
    assert store.reopen(ana.id, claimed.task_id) == looked_at, "others have it, which bars nobody from looking back"
    store.submit(ben.id, held.lease, "key", as_shown(held), 1)
    assert store.status()[0].num_done == 1
    assert store.audit() == []


def test_an_answer_with_a_flag_that_is_gone_from_the_config_can_be_revised(open_store: Callable[..., Store]) -> None:
    before = open_store(settings=StoreSettings(flags={"rude": "Rude", "wrong": "Wrong"}))
    ana = before.add_user("ana")
    before.add_tasks(new_tasks(2))
    claimed = before.claim(ana.id)
    card = claimed.responses[0][0]
    flagged = as_shown(claimed).model_copy(update={"flags": {card: ["rude"]}})
    before.submit(ana.id, claimed.lease, "key", flagged, 1)
    after = open_store(settings=StoreSettings(flags={"wrong": "Wrong"}))
    changed = flagged.model_copy(update={"flags": {card: ["rude", "wrong"]}, "rationale": "see above"})
    assert after.revise(ana.id, claimed.task_id, "key 2", changed, 1).revision == 2
    twice = flagged.model_copy(update={"flags": {card: ["wrong", "wrong"]}})
    with pytest.raises(BadAnswer, match="twice"):
        after.revise(ana.id, claimed.task_id, "key 3", twice, 1)
    other = after.claim(ana.id)
    new = as_shown(other).model_copy(update={"flags": {other.responses[0][0]: ["rude"]}})
    with pytest.raises(BadAnswer, match="'rude' is not one of wrong"):
        after.submit(ana.id, other.lease, "key 4", new, 1)


def test_what_is_answered_cannot_be_taken_anew(store: Store) -> None:
    ana = store.add_user("ana")
    store.add_tasks([new_task(overlap=2)])
    claimed = store.claim(ana.id)
    store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 1)
    num_events = len(store.events())
    with pytest.raises(Conflict, match="already answered"):
        store.write(take, ana.id, claimed.task_id)
    assert len(store.events()) == num_events


def test_what_others_hold_is_refused(store: Store) -> None:
    ana, ben = store.add_user("ana"), store.add_user("ben")
    store.add_tasks([new_task()])
    claimed = store.claim(ana.id)
    with pytest.raises(NotYours):
        store.submit(ben.id, claimed.lease, "key", as_shown(claimed), 1)
    with pytest.raises(NotYours):
        store.skip(ben.id, claimed.lease, "key", "no")
    with pytest.raises(NotYours):
        store.extend(ben.id, claimed.lease)
    with pytest.raises(NotYours):
        store.submit(ben.id, "no such lease", "key", as_shown(claimed), 1)
    with pytest.raises(UnknownTask):
        store.reopen(ben.id, claimed.task_id)
    with pytest.raises(UnknownTask):
        store.revise(ben.id, claimed.task_id, "key", as_shown(claimed), 1)
    for call in (store.claim, store.user):
        with pytest.raises(UnknownUser):
            call(99)
    with pytest.raises(UnknownUser):
        store.submit(99, claimed.lease, "key", as_shown(claimed), 1)
    assert store.judgements() == []


def test_time_that_is_up_frees_the_task_for_others(store: Store, clock: Clock) -> None:
    ana, ben = store.add_user("ana"), store.add_user("ben")
    store.add_tasks([new_task()])
    claimed = store.claim(ana.id)
    clock.advance(LEASE_SECONDS - 1)
    assert store.claim(ben.id) is None
    clock.advance(1)
    held = store.claim(ben.id)
    assert held.task_id == claimed.task_id
    with pytest.raises(LeaseLost):
        store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 1)
    with pytest.raises(LeaseLost):
        store.extend(ana.id, claimed.lease)
    assert store.claim(ana.id) is None
    clock.advance(LEASE_SECONDS)
    taken_again = store.claim(ana.id)
    assert (taken_again.lease, taken_again.responses) == (claimed.lease, claimed.responses)
    assert store.audit() == []


def test_an_answer_that_comes_late_is_taken_as_long_as_there_is_room(store: Store, clock: Clock) -> None:
    ana = store.add_user("ana")
    store.add_tasks([new_task()])
    claimed = store.claim(ana.id)
    clock.advance(LEASE_SECONDS)
    assert store.sweep() == 1
    assert store.sweep() == 0
    store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 1)
    assert store.status()[0].num_done == 1
    assert store.audit() == []


def test_skipping_when_the_time_is_up_frees_no_second_slot(store: Store, clock: Clock) -> None:
    ana, ben, chi = (store.add_user(name) for name in ("ana", "ben", "chi"))
    store.add_tasks([new_task()])
    claimed = store.claim(ana.id)
    clock.advance(LEASE_SECONDS)
    assert store.claim(ben.id).task_id == claimed.task_id
    store.skip(ana.id, claimed.lease, "key", "cannot decide")
    assert store.claim(chi.id) is None
    clock.advance(LEASE_SECONDS)
    assert store.claim(ana.id) is None, "she has said that she does not want it"
    assert store.claim(chi.id).task_id == claimed.task_id
    assert store.audit() == []


def test_whose_time_is_up_goes_on_if_nobody_else_has_come(store: Store, clock: Clock) -> None:
    ana = store.add_user("ana")
    store.add_tasks([new_task()])
    claimed = store.claim(ana.id)
    clock.advance(LEASE_SECONDS + 60)
    again = store.claim(ana.id)
    assert (again.lease, again.task_id) == (claimed.lease, claimed.task_id)
    assert (again.expires_at - clock.now).total_seconds() == LEASE_SECONDS
    assert store.sweep() == 0


def test_whoever_is_still_at_it_keeps_the_task(store: Store, clock: Clock) -> None:
    ana, ben = store.add_user("ana"), store.add_user("ben")
    store.add_tasks([new_task()])
    claimed = store.claim(ana.id)
    for _ in range(3):
        clock.advance(LEASE_SECONDS - 10)
        assert (store.extend(ana.id, claimed.lease) - clock.now).total_seconds() == LEASE_SECONDS
    assert store.claim(ben.id) is None
    assert store.audit() == []


def test_a_quarantined_person_gets_and_gives_nothing_more(store: Store) -> None:
    ana, ben = store.add_user("ana"), store.add_user("ben", role="admin")
    store.add_tasks(new_tasks(2))
    done = store.claim(ana.id)
    receipt = store.submit(ana.id, done.lease, "key", as_shown(done), 1)
    held = store.claim(ana.id)
    assert store.set_quarantined(ana.id, True, by=ben.id, reason="clicks at random").quarantined_at is not None
    for refused in (
        lambda: store.claim(ana.id),
        lambda: store.submit(ana.id, held.lease, "key 2", as_shown(held), 1),
        lambda: store.revise(ana.id, done.task_id, "key 3", as_shown(done), 1),
        lambda: store.skip(ana.id, held.lease, "key 4", "no"),
        lambda: store.extend(ana.id, held.lease),
        lambda: store.reopen(ana.id, done.task_id),
    ):
        with pytest.raises(Quarantined):
            refused()
    assert store.submit(ana.id, done.lease, "key", as_shown(done), 1) == receipt, "it was stored, so that is the answer"
    assert store.status()[0].num_open == 2
    for task_id, what in (
        (done.task_id, "what they answered"),
        (held.task_id, "what they held"),
    ):
        again = store.claim(ben.id)
        assert again.task_id == task_id, what
        store.submit(ben.id, again.lease, f"key {task_id}", as_shown(again), 1)
    assert (store.claim(ben.id), store.status()[0].num_done) == (None, 2)
    assert {found.user for found in store.judgements()} == {"ben"}
    assert [found.quarantined for found in store.judgements(with_quarantined=True)] == [True, False, False]
    quarantined = next(event for event in store.events() if event.kind == "quarantined")
    assert (quarantined.user_id, quarantined.body) == (ben.id, {"user_id": ana.id, "reason": "clicks at random"})

    num_events = len(store.events())
    store.set_quarantined(ana.id, True, by=ben.id)
    assert len(store.events()) == num_events, "it was so already"
    assert store.set_quarantined(ana.id, False, by=ben.id).quarantined_at is None
    assert len(store.judgements()) == 3, "two of them of one task that one answer was wanted of"
    assert store.audit() == []
    store.set_quarantined(ben.id, True)
    assert store.claim(ana.id).task_id == held.task_id, "the other one has ana's answer"
    assert store.audit() == []


def test_a_closed_account_gets_nothing_and_its_answers_count(store: Store) -> None:
    ana = store.add_user("ana")
    store.add_tasks(new_tasks(2))
    done = store.claim(ana.id)
    store.submit(ana.id, done.lease, "key", as_shown(done), 1)
    store.set_disabled(ana.id, True)
    with pytest.raises(Disabled):
        store.claim(ana.id)
    assert len(store.judgements()) == 1
    store.set_disabled(ana.id, False)
    assert store.claim(ana.id) is not None
    assert store.audit() == []


def test_withdrawn_tasks_are_given_to_nobody_and_may_be_finished(store: Store, clock: Clock) -> None:
    ana, ben = store.add_user("ana"), store.add_user("ben")
    store.add_tasks([new_task("one", overlap=3), new_task("two"), new_task("gold", gold={"tiers": [[0], [1, 2]]})])
    held = store.claim(ana.id, "default")
    assert store.withdraw("default", by=ben.id) == 3
    assert store.withdraw("default") == 0
    assert store.claim(ben.id) is None
    receipt = store.submit(ana.id, held.lease, "key", as_shown(held), 1)
    assert receipt.revision == 1
    assert len(store.judgements()) == 1
    assert store.status()[0].num_withdrawn == 3
    for unknown in ("nowhere", [1, 99]):
        with pytest.raises(UnknownTask, match=r"nowhere|99: there is no such"):
            store.withdraw(unknown)
    assert store.audit() == []


def test_a_withdrawn_task_that_slipped_from_the_hands_is_gone(store: Store, clock: Clock) -> None:
    ana = store.add_user("ana")
    (task_id,) = store.add_tasks([new_task()]).task_ids
    held = store.claim(ana.id)
    store.withdraw([task_id])
    clock.advance(LEASE_SECONDS)
    store.sweep()
    with pytest.raises(LeaseLost):
        store.submit(ana.id, held.lease, "key", as_shown(held), 1)
    assert store.claim(ana.id) is None
    assert store.audit() == []


def test_gold_tasks_go_to_everybody_once_and_count_against_no_quota(open_store: Callable[..., Store]) -> None:
    store = open_store(settings=StoreSettings(gold_share=0.5))
    store.add_tasks(new_tasks(30))
    gold = set(store.add_tasks([new_task(f"gold {n}", gold={"tiers": [[2], [0, 1]]}) for n in range(5)]).task_ids)
    people = [store.add_user(name) for name in ("ana", "ben")]
    seen: list[list[int]] = []
    for user in people:
        seen.append([])
        while len(seen[-1]) < 20:
            claimed = store.claim(user.id)
            assert store.claim(user.id) == claimed
            store.submit(user.id, claimed.lease, f"key {claimed.task_id}", as_shown(claimed), 1)
            seen[-1].append(claimed.task_id)
    for tasks in seen:
        assert gold <= set(tasks)
        assert len(tasks) == len(set(tasks))
        assert not gold <= set(tasks[:5]), "they are mixed in, not in front"
    judged = [found for found in store.judgements() if found.gold is not None]
    assert len(judged) == 10
    by_content = {response.content: response.id for response in judged[0].responses}
    assert judged[0].gold == {"tiers": [[by_content["c"]], [by_content["a"], by_content["b"]]]}
    assert len(store.judgements(with_gold=False)) == 30
    assert (store.status()[0].num_gold, store.status()[0].num_done) == (5, 30)
    assert store.audit() == []


def test_gold_comes_at_its_share_and_is_drawn_alike_every_time(open_store: Callable[..., Store]) -> None:
    store = open_store(settings=StoreSettings(gold_share=0.2))
    store.add_tasks(new_tasks(120))
    gold = set(store.add_tasks([new_task(f"gold {n}", gold={"tiers": [[0], [1, 2]]}) for n in range(40)]).task_ids)
    ana = store.add_user("ana")
    num_gold = 0
    for _ in range(100):
        claimed = store.claim(ana.id)
        num_gold += claimed.task_id in gold
        store.submit(ana.id, claimed.lease, f"key {claimed.task_id}", as_shown(claimed), 1)
    assert num_gold == 18  # about 20; the draws are seeded


def test_what_is_left_of_gold_comes_last_and_never_when_it_is_switched_off(open_store: Callable[..., Store]) -> None:
    store = open_store()
    store.add_tasks([new_task("gold", gold={"tiers": [[0], [1, 2]]})])
    ana = store.add_user("ana")
    without = open_store(settings=StoreSettings(gold_share=0))
    assert without.claim(ana.id) is None
    assert without.progress(ana.id).num_open_for_me == 0
    assert store.progress(ana.id).num_open_for_me == 1
    assert store.claim(ana.id).prompt == "gold"


def test_progress_and_history_are_of_one_person(store: Store, clock: Clock) -> None:
    ana, ben = store.add_user("ana"), store.add_user("ben")
    store.add_tasks(new_tasks(6, overlap=2))
    store.add_tasks([new_task("elsewhere")], queue="other")
    first = store.claim(ana.id, "default")
    store.submit(ana.id, first.lease, "k1", as_shown(first), 30_000)
    clock.advance(86_400)
    second = store.claim(ana.id, "default")
    store.skip(ana.id, second.lease, "k2", "no")
    third = store.claim(ana.id, "default")
    store.submit(ana.id, third.lease, "k3", as_shown(third), 10_000)
    store.revise(ana.id, third.task_id, "k4", reversed_order(third), 2_500)
    store.claim(ana.id, "default")
    progress = store.progress(ana.id, "default")
    assert (progress.num_answered, progress.num_today, progress.num_skipped) == (2, 1, 1)
    assert (progress.num_open_for_me, progress.seconds_today) == (3, 12.5)
    assert store.progress(ana.id).num_open_for_me == 4
    elsewhere = store.claim(ana.id, "other")
    store.submit(ana.id, elsewhere.lease, "k5", as_shown(elsewhere), 60_000)
    assert store.progress(ana.id, "default") == progress
    assert (store.progress(ana.id).num_today, store.progress(ana.id).seconds_today) == (2, 72.5)
    assert [one.prompt_preview for one in store.history(ana.id, "other")] == ["elsewhere"]
    assert store.progress(ben.id, "default").num_open_for_me == 6
    assert [(one.prompt_preview, one.kind, one.revision) for one in store.history(ana.id, "default")] == [
        ("prompt 2", "answered", 2),
        ("prompt 1", "skipped", 0),
        ("prompt 0", "answered", 1),
    ]
    assert len(store.history(ana.id, limit=1)) == 1
    assert store.history(ben.id) == []


def test_why_there_is_nothing_to_do_and_what_may_come(store: Store, clock: Clock) -> None:
    ana, ben = store.add_user("ana"), store.add_user("ben")
    assert store.read(outlook, ana.id, "default") == Outlook(0, 0, None, 0)
    store.add_tasks(new_tasks(2))
    store.add_tasks(new_tasks(5), queue="other")
    mine = store.claim(ana.id, "default")
    clock.advance(600)
    theirs = store.claim(ben.id, "default")
    store.claim(store.add_user("chi").id, "other")
    store.submit(ana.id, mine.lease, "k1", as_shown(mine), 1)
    assert store.claim(ana.id, "default") is None
    assert store.read(outlook, ana.id, "default") == Outlook(2, 1, 1800.0, 0)
    clock.advance(1000)
    assert store.read(outlook, ana.id, "default").seconds_to_next == 800.0
    store.skip(ben.id, theirs.lease, "k2", "no")
    assert store.claim(ben.id, "default") is None
    assert store.read(outlook, ben.id, "default") == Outlook(2, 0, None, 1)
    again = store.claim(ana.id, "default")
    assert store.read(outlook, ben.id, "default") == Outlook(2, 0, None, 1)  # nothing that could come back to ben
    store.submit(ana.id, again.lease, "k3", as_shown(again), 1)
    assert store.read(outlook, ana.id, "default") == Outlook(2, 0, None, 0)


def test_the_state_of_a_queue(store: Store) -> None:
    ana, ben = store.add_user("ana"), store.add_user("ben", simulated=True)
    store.add_tasks(new_tasks(4, overlap=2), queue="q")
    for user in (ana, ben):
        claimed = store.claim(user.id)
        store.submit(user.id, claimed.lease, "k1", as_shown(claimed), 2000)
    skipped = store.claim(ana.id)
    store.skip(ana.id, skipped.lease, "k2", "no")
    store.claim(ana.id)
    (found,) = store.status()
    assert (found.queue, found.num_tasks, found.num_done, found.num_in_progress) == ("q", 4, 1, 1)
    assert (found.num_open, found.num_skipped_by_all, found.num_answers) == (2, 1, 2)
    people = [(one.name, one.num_answers, one.num_skipped, one.seconds, one.simulated) for one in found.by_annotator]
    assert people == [("ana", 1, 1, 2.0, False), ("ben", 1, 0, 2.0, True)]
    assert store.status("nowhere") == []


@pytest.mark.parametrize("name", ["", "Ana", "a b", "x" * 65, "ana\n", "ana'--"])
def test_a_user_needs_a_plain_name(local: Store, name: str) -> None:
    with pytest.raises(UserError, match="a name has 1 to 64 characters"):
        local.add_user(name)


def test_users_are_found_by_name_or_number(store: Store) -> None:
    ana = store.add_user("ana", role="admin")
    assert store.user("ana") == store.user(ana.id) == ana
    with pytest.raises(UserError, match="there is one already"):
        store.add_user("ana")
    with pytest.raises(UnknownUser, match="user 'ben': there is none"):
        store.user("ben")
    with pytest.raises(UnknownUser):
        store.user("ana\x00")
    assert [user.name for user in store.users()] == ["ana"]


def test_guidelines_get_a_new_version_when_they_differ(store: Store) -> None:
    assert store.guidelines() is None
    assert [store.set_guidelines(text) for text in ("a", "a", "b", "a")] == [1, 1, 2, 3]
    assert store.guidelines() == (3, "a")
    with pytest.raises(UserError, match="NUL"):
        store.set_guidelines("\x00")


def test_guidelines_of_a_queue_hold_there_alone_and_the_common_ones_elsewhere(store: Store) -> None:
    ana = store.add_user("ana")
    for queue in ("own", "other"):
        store.add_tasks(new_tasks(2), queue=queue)

    def version_of_next_answer(queue: str) -> int | None:
        claimed = store.claim(ana.id, queue)
        found = store.guidelines(queue)
        version = None if found is None else found[0]
        receipt = store.submit(ana.id, claimed.lease, f"key {claimed.task_id}", as_shown(claimed), 1, version)
        return next(one for one in store.judgements() if one.task_id == receipt.task_id).guidelines_version

    assert version_of_next_answer("own") is None
    assert store.set_guidelines("common") == 1
    assert store.guidelines("own") == store.guidelines("other") == (1, "common")
    # a number stands for one text within a queue, and the same text is pinned all the same
    assert [store.set_guidelines(text, "own") for text in ("common", "mine", "mine")] == [2, 3, 3]
    assert [store.set_guidelines(text) for text in ("common", "new", "newer", "newest")] == [1, 2, 3, 4]
    assert store.set_guidelines("theirs", "other") == 5
    assert [store.guidelines(queue) for queue in ("own", "other", None)] == [(3, "mine"), (5, "theirs"), (4, "newest")]
    assert [version_of_next_answer("own"), version_of_next_answer("other")] == [3, 5]
    assert store.audit() == []


def test_an_answer_names_the_guidelines_that_the_page_showed(store: Store) -> None:
    ana = store.add_user("ana")
    store.add_tasks([new_task()])
    store.set_guidelines("one", "default")
    claimed = store.claim(ana.id)
    store.set_guidelines("two", "default")
    with pytest.raises(BadAnswer, match="no version 3"):
        store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 1, 3)
    store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 1, 1)
    assert [one.guidelines_version for one in store.judgements()] == [1]
    store.revise(ana.id, claimed.task_id, "key 2", as_shown(claimed), 1)
    assert [one.guidelines_version for one in store.judgements()] == [None], "nothing was shown"
    store.revise(ana.id, claimed.task_id, "key 3", as_shown(claimed), 1, 2, 2)
    assert [one.guidelines_version for one in store.judgements()] == [2]


def test_a_late_change_does_not_take_the_place_of_a_newer_one(store: Store) -> None:
    ana = store.add_user("ana")
    store.add_tasks([new_task()])
    claimed = store.claim(ana.id)
    store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 1)
    newer = store.revise(ana.id, claimed.task_id, "key 2", reversed_order(claimed), 1, based_on=1)
    with pytest.raises(Conflict, match="changed this answer since"):
        store.revise(ana.id, claimed.task_id, "key 3", as_shown(claimed), 1, based_on=1)
    assert store.revise(ana.id, claimed.task_id, "key 2", reversed_order(claimed), 1, based_on=1) == newer
    assert [one.answer for one in store.judgements()] == [reversed_order(claimed)]


@pytest.mark.parametrize("table", ["events", "submissions"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET task_id = 1", "DELETE FROM {}"])
def test_what_happened_and_what_was_said_cannot_be_changed(store: Store, url: str, table: str, statement: str) -> None:
    answered(store)
    before = store.events(), store.judgements()
    with (
        pytest.raises(sa.exc.DBAPIError, match=f"{table} are only ever added"),
        db.write(db.engine(url)) as connection,
    ):
        connection.execute(sa.text(statement.format(table)))
    assert (store.events(), store.judgements()) == before


@pytest.mark.parametrize(
    ("table", "statement"),
    [
        (
            "events",
            "INSERT OR REPLACE INTO events SELECT id, created_at, 'nothing', user_id, task_id, '{}' FROM events",
        ),
        ("submissions", "REPLACE INTO submissions SELECT * FROM submissions"),
        ("submissions", f"REPLACE INTO submissions SELECT 7, {SAID} FROM submissions"),
        ("submissions", f"REPLACE INTO submissions SELECT 7, {SAID.replace('revision', '2')} FROM submissions"),
        ("submissions", f"REPLACE INTO submissions SELECT 7, {SAID.replace('idempotency_key', '2')} FROM submissions"),
    ],
)
def test_nor_can_a_row_take_the_place_of_another(home: Path, table: str, statement: str) -> None:
    url = f"sqlite:///{home / 'labels.db'}"
    with Store.open(home, url) as store:
        answered(store)
        before = store.events(), store.judgements()
        with (
            pytest.raises(sa.exc.IntegrityError, match=f"{table} are only ever added"),
            db.write(db.engine(url)) as connection,
        ):
            connection.exec_driver_sql(statement)
        assert (store.events(), store.judgements()) == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_the_files_of_the_store_are_their_owners_alone(home: Path) -> None:
    with Store.open(home, f"sqlite:///{home / 'labels.db'}") as store:
        store.add_user("ana")
        modes = {file.name: file.stat().st_mode & 0o777 for file in home.iterdir()}
    assert modes == dict.fromkeys(("labels.db", "labels.db-wal", "labels.db-shm"), 0o600)


def test_a_change_past_the_store_shows(store: Store, url: str) -> None:
    answered(store)
    store.set_guidelines("Be fair.", "default")
    with db.write(db.engine(url)) as connection:
        connection.execute(sa.text("UPDATE tasks SET priority = 6"))
        connection.execute(sa.text("UPDATE guidelines SET text = 'Be kind.'"))
    (task, rules) = store.audit()
    assert task.startswith("tasks 1: the events say")
    assert rules.startswith("guidelines ('default', 1): the events say")


def test_events_can_be_read_from_where_one_stopped(store: Store) -> None:
    for name in ("ana", "ben", "chi"):
        store.add_user(name)
    first, *_ = store.events()
    assert [event.body["name"] for event in store.events(after=first.id)] == ["ben", "chi"]
    assert [event.body["name"] for event in store.events(limit=2)] == ["ana", "ben"]
