"""The JSON API over HTTP: one person's work, and what is said when something does not fit."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from label_tools import Clock
from sqlalchemy.exc import OperationalError
from web_tools import (
    CONFIG,
    WebApp,
    add_tasks,
    answer_to,
    everything,
    nothing_changes,
    revision,
    running,
    serving,
    skip,
    submission,
    withdraw_tasks,
)

from labeling_app.store import NewResponse, NewTask, NotStored, Store, Tx


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    with running(tmp_path_factory.mktemp("home")) as app:
        app.store.set_guidelines("Rank by **help**.")
        yield app


@pytest.fixture
def ana(web: WebApp) -> Iterator[httpx.Client]:
    """Somebody new, with three tasks to do."""
    add_tasks(web.store)
    with web.annotator() as client:
        yield client


def claim(client: httpx.Client) -> dict[str, Any]:
    task: dict[str, Any] = client.post("/api/claim", json={}).json()["task"]
    return task


def test_me_says_who_is_there_and_what_the_page_needs(ana: httpx.Client) -> None:
    me = ana.get("/api/me").json()
    assert me["user"]["role"] == "annotator"
    assert me["title"] == "Which is <best>?"
    assert me["flags"][0] == {"name": "harmful", "label": "Harmful"}
    assert me["skip_reasons"] == CONFIG.skip_reasons
    assert me["guidelines"] == {
        "version": 1,
        "tree": [{"t": "p", "c": ["Rank by ", {"t": "strong", "c": ["help"]}, "."]}],
    }
    assert me["lease_seconds"] == 600
    assert me["progress"] == {
        "num_answered": 0,
        "num_today": 0,
        "num_open_for_me": 3,
        "num_skipped": 0,
        "seconds_today": 0.0,
    }


def test_a_task_is_blind_rendered_and_the_same_again(web: WebApp, ana: httpx.Client) -> None:
    reply = ana.post("/api/claim", json={}).json()
    task = reply["task"]
    assert (task["mode"], task["answer"], task["revision"], task["seconds_left"]) == ("rank", None, 0, 600.0)
    assert task["expires_at"].endswith("Z")
    assert task["prompt"]["tree"][0]["t"] == "p"
    assert sorted(card["rendered"]["raw"] for card in task["cards"]) == ["a", "b", "c"]
    assert "model-" not in json.dumps(reply)
    web.clock.advance(60)
    again = claim(ana)
    assert (again["lease"], again["seconds_left"]) == (task["lease"], 540.0)


def test_submit_gives_a_receipt_and_the_next_task(web: WebApp, ana: httpx.Client) -> None:
    first = claim(ana)
    reply = ana.post("/api/submit", json=submission(first)).json()
    assert reply["receipt"]["task_id"] == first["task_id"]
    assert reply["receipt"]["revision"] == 1
    assert reply["task"]["task_id"] != first["task_id"]
    assert reply["task"]["lease"] == claim(ana)["lease"]
    assert reply["progress"] | {"seconds_today": None} == {
        "num_answered": 1,
        "num_today": 1,
        "num_open_for_me": 2,
        "num_skipped": 0,
        "seconds_today": None,
    }
    assert reply["progress"]["seconds_today"] == 1.5
    judgement = web.store.judgements()[-1]
    assert judgement.answer.model_dump(exclude_defaults=True) == answer_to(first)
    assert judgement.presented == [card["id"] for card in first["cards"]]


def test_the_last_answer_comes_with_no_next_task(web: WebApp) -> None:
    add_tasks(web.store, 1)
    with web.annotator() as bob:
        reply = bob.post("/api/submit", json=submission(claim(bob))).json()
    assert (reply["task"], reply["progress"]["num_open_for_me"]) == (None, 0)


def test_with_no_next_task_comes_why(web: WebApp) -> None:
    add_tasks(web.store, 2)
    with web.annotator() as bob, web.annotator() as eve:
        first = claim(bob)
        web.clock.advance(100)
        other = claim(eve)
        reply = bob.post("/api/submit", json=submission(first)).json()
        assert (reply["task"], reply["asked"]) == (None, False)
        waiting = {"num_tasks": 2, "num_with_others": 1, "seconds_to_next": 600.0, "num_for_others": 0}
        assert reply["outlook"] == waiting
        assert bob.post("/api/claim", json={}).json()["outlook"] == waiting
        reply = eve.post("/api/skip", json=skip(other)).json()
        done = waiting | {"num_with_others": 0, "seconds_to_next": None}
        assert reply["outlook"] == done | {"num_for_others": 1}
        last = bob.post("/api/claim", json={}).json()
        assert last["outlook"] is None
        assert bob.post("/api/submit", json=submission(last["task"], "key-2")).json()["outlook"] == done


def test_an_admin_who_arrives_is_asked_before_a_task_is_taken(web: WebApp) -> None:
    add_tasks(web.store, 1)
    with web.admin() as admin, web.annotator() as bob:
        with nothing_changes(web.store):
            reply = admin.post("/api/claim", json={"arriving": True}).json()
        assert (reply["task"], reply["asked"], reply["progress"]["num_open_for_me"]) == (None, True, 1)
        task = claim(admin)
        assert admin.post("/api/claim", json={"arriving": True}).json()["task"] == task
        assert bob.post("/api/claim", json={"arriving": True}).json()["asked"] is False


def test_on_loopback_the_one_who_arrives_begins_at_once(tmp_path: Path) -> None:
    with running(tmp_path, "loopback") as web:
        add_tasks(web.store, 1)
        with web.admin() as local:
            assert local.post("/api/claim", json={"arriving": True}).json()["task"] is not None


def test_two_servers_of_one_store_keep_their_queues_apart(web: WebApp) -> None:
    add_tasks(web.store, 1)
    web.store.add_tasks([NewTask("elsewhere", [NewResponse("a"), NewResponse("b")])], "side")
    web.store.set_guidelines("Be brief.", "side")
    config = CONFIG.model_copy(update={"queue": "side"})
    user = web.new_user()
    token = web.session(user)
    with serving(web.store, web.clock, config=config) as side, side.client(token) as there, web.client(token) as here:
        assert there.post("/api/submit", json=submission(claim(there), "side-1")).status_code == 200
        assert there.get("/api/me").json()["guidelines"]["tree"] == [{"t": "p", "c": ["Be brief."]}]
        assert here.get("/api/me").json()["guidelines"]["tree"] != [{"t": "p", "c": ["Be brief."]}]
        progress = [client.get("/api/me").json()["progress"] for client in (there, here)]
        assert [(one["num_answered"], one["num_today"], one["seconds_today"]) for one in progress] == [
            (1, 1, 1.5),
            (0, 0, 0.0),
        ]
        handled = [client.get("/api/history").json()["handled"] for client in (there, here)]
        assert [[one["prompt_preview"] for one in rows] for rows in handled] == [["elsewhere"], []]


def test_the_same_submission_sent_again_is_one_answer(web: WebApp, ana: httpx.Client) -> None:
    sent = submission(claim(ana))
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: ana.post("/api/submit", json=sent), range(16)))
    assert {reply.status_code for reply in replies} == {200}
    bodies = [reply.json() for reply in replies]
    assert len({body["receipt"]["submission_id"] for body in bodies}) == 1
    assert len({body["task"]["lease"] for body in bodies}) == 1
    assert bodies[-1]["progress"]["num_answered"] == 1
    assert ana.get("/api/me").json()["progress"]["num_answered"] == 1


def test_two_who_claim_at_once_get_different_tasks(web: WebApp) -> None:
    add_tasks(web.store, 8)
    clients = [web.annotator() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(claim, clients))
    assert len({task["task_id"] for task in claimed}) == 8
    for client in clients:
        client.close()


def test_skip_gives_another_task(web: WebApp, ana: httpx.Client) -> None:
    task = claim(ana)
    body = skip(task) | {"note": "odd"}
    reply = ana.post("/api/skip", json=body).json()
    assert reply["task"]["task_id"] != task["task_id"]
    assert reply["progress"]["num_skipped"] == 1
    assert ana.post("/api/skip", json=body).json() == reply
    history = ana.get("/api/history").json()["handled"]
    assert [(one["task_id"], one["kind"], one["revision"]) for one in history] == [(task["task_id"], "skipped", 0)]


def test_extend_gives_more_time(web: WebApp, ana: httpx.Client) -> None:
    task = claim(ana)
    web.clock.advance(100)
    later = ana.post("/api/extend", json={"lease": task["lease"]}).json()
    assert later["expires_at"] > task["expires_at"]


def test_looking_back_at_a_skipped_task_takes_it_only_when_asked_to(web: WebApp, ana: httpx.Client) -> None:
    task = claim(ana)
    ana.post("/api/skip", json=skip(task, "skip-1", "cannot decide"))
    with nothing_changes(web.store):
        seen = ana.post("/api/reopen", json={"task_id": task["task_id"]}).json()["task"]
    assert (seen["lease"], seen["answer"], seen["revision"], seen["cards"]) == (None, None, 0, task["cards"])
    taken = ana.post("/api/reopen", json={"task_id": task["task_id"], "take": True}).json()["task"]
    assert taken["lease"] == task["lease"]


def test_what_was_stored_is_acknowledged_again_to_somebody_quarantined_since(web: WebApp) -> None:
    user = web.new_user()
    add_tasks(web.store, 3)
    with web.client(web.session(user)) as client:
        first = claim(client)
        sent = client.post("/api/submit", json=submission(first)).json()
        body = skip(sent["task"], "skip-1", "cannot decide")
        assert client.post("/api/skip", json=body).status_code == 200
        web.store.set_quarantined(user.id, True)
        with nothing_changes(web.store):
            again = client.post("/api/submit", json=submission(first))
            assert (again.status_code, again.json()["receipt"], again.json()["task"]) == (200, sent["receipt"], None)
            skipped = client.post("/api/skip", json=body)
            assert (skipped.status_code, skipped.json()["task"]) == (200, None)


def test_reopen_and_revise(web: WebApp, ana: httpx.Client) -> None:
    task = claim(ana)
    ana.post("/api/submit", json=submission(task))
    reopened = ana.post("/api/reopen", json={"task_id": task["task_id"]}).json()["task"]
    assert (reopened["lease"], reopened["revision"], reopened["seconds_left"]) == (None, 1, None)
    assert reopened["answer"]["tiers"] == answer_to(task)["tiers"]
    assert [card["id"] for card in reopened["cards"]] == [card["id"] for card in task["cards"]]
    changed = {"tiers": [[card["id"] for card in task["cards"]]], "all_bad": True}
    body = revision(reopened, "key-2", answer=changed)
    assert ana.post("/api/revise", json=body).json()["receipt"]["revision"] == 2
    assert ana.post("/api/revise", json=body).json()["receipt"]["revision"] == 2
    history = ana.get("/api/history").json()["handled"]
    assert [(one["kind"], one["revision"]) for one in history] == [("answered", 2)]
    with nothing_changes(web.store):  # a tab that has the first answer on the screen still
        late = ana.post("/api/revise", json=revision(reopened, "key-3"))
    assert (late.status_code, late.json()["error"]) == (409, "conflict")


def test_ratings_have_response_ids_as_keys(web: WebApp) -> None:
    add_tasks(web.store, 1, mode="rate")
    with web.annotator() as bob:
        task = claim(bob)
        ratings = {str(card["id"]): 4 for card in task["cards"]}
        sent = submission(task) | {"answer": {"ratings": ratings, "flags": {str(task["cards"][0]["id"]): ["untrue"]}}}
        reply = bob.post("/api/submit", json=sent)
        assert reply.status_code == 200
        reopened = bob.post("/api/reopen", json={"task_id": task["task_id"]}).json()["task"]
    assert reopened["answer"]["ratings"] == ratings
    assert reopened["answer"]["flags"] == {str(task["cards"][0]["id"]): ["untrue"]}


def test_a_300_kb_completion_arrives_whole(web: WebApp) -> None:
    long = "A *long* line, <b>not</b> bold. \u202e\n\n" * 9_000
    withdraw_tasks(web.store)
    web.store.add_tasks([NewTask("long", [NewResponse(long), NewResponse("short")])], CONFIG.queue)
    with web.annotator() as bob:
        texts = {card["rendered"]["raw"] for card in claim(bob)["cards"]}
    assert texts == {long, "short"}


def changed(**changes: Any) -> Any:
    return lambda body: body | changes


def answered(**changes: Any) -> Any:
    return lambda body: body | {"answer": body["answer"] | changes}


@pytest.mark.parametrize(
    "change",
    [
        changed(extra=1),
        changed(active_ms=-1),
        changed(active_ms=2**31),
        changed(active_ms=10**30),
        changed(active_ms=1.5),
        changed(active_ms="12"),
        changed(active_ms=True),
        changed(active_ms=None),
        changed(lease=""),
        changed(lease="a b"),
        changed(lease="a\x00"),
        changed(lease=["x"]),
        changed(key=""),
        changed(key="k" * 65),
        changed(key="ключ"),
        changed(answer=None),
        changed(answer=[]),
        answered(tiers=[]),
        answered(tiers=[[]]),
        answered(tiers=[[1], [10**30]]),
        answered(tiers="all"),
        answered(unknown=1),
        answered(strength=5),
        answered(strength=0),
        answered(rationale="r" * 10_001),
        answered(flags={"1": ["no such flag"]}),
        answered(ratings={"1": 8}),
        answered(edit={"response_id": 1, "text": ""}),
        lambda body: body | {"answer": body["answer"] | {"edit": {"response_id": body["answer"]["tiers"][-1][0],
                                                                  "text": "of the worst"}}},
        lambda body: {key: value for key, value in body.items() if key != "lease"},
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(web: WebApp, ana: httpx.Client, change: Any) -> None:
    sent = change(submission(claim(ana)))
    with nothing_changes(web.store):
        reply = ana.post("/api/submit", json=sent)
    assert reply.status_code == 422
    assert reply.json()["error"] in ("malformed", "bad_answer")
    assert reply.json()["message"]


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"null", b"{}", b'"x"', b"\xff", b'{"active_ms": NaN}', b'{"active_ms": Infinity}', b"[" * 100_000,
     b'{"lease": "\\ud800"}', b'{"active_ms": 1' + b"0" * 10_000 + b"}"],
)  # fmt: skip
def test_malformed_json_is_refused(web: WebApp, ana: httpx.Client, body: bytes) -> None:
    with nothing_changes(web.store):
        reply = ana.post("/api/submit", content=body, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["error"]) == (422, "malformed")


def test_forms_and_texts_are_no_json(web: WebApp, ana: httpx.Client) -> None:
    with nothing_changes(web.store):
        assert ana.post("/api/claim", data={"a": "b"}).status_code == 415
        assert ana.post("/api/claim", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415


def test_a_body_that_is_too_large_is_refused(web: WebApp, ana: httpx.Client) -> None:
    task = claim(ana)
    sent = json.dumps(submission(task) | {"key": "k" * (4 << 20)}).encode()
    json_type = {"content-type": "application/json"}
    with nothing_changes(web.store):
        assert ana.post("/api/submit", content=sent, headers=json_type).status_code == 413
        in_pieces = ana.post("/api/submit", content=iter([sent[: 2 << 20], sent[2 << 20 :]]), headers=json_type)
        assert in_pieces.status_code == 413
        assert in_pieces.json()["error"] == "too_large"


def test_conflicts_say_which(web: WebApp, ana: httpx.Client) -> None:
    task = claim(ana)
    sent = submission(task)
    ana.post("/api/submit", json=sent)
    with nothing_changes(web.store):
        other_key = ana.post("/api/submit", json=sent | {"key": "another"})
        assert (other_key.status_code, other_key.json()["error"]) == (409, "conflict")
        other_body = ana.post("/api/submit", json=sent | {"answer": sent["answer"] | {"all_bad": True}})
        assert (other_body.status_code, other_body.json()["error"]) == (409, "conflict")


def test_a_lease_that_was_lost_says_so(web: WebApp) -> None:
    add_tasks(web.store, 1)
    with web.annotator() as slow, web.annotator() as quick:
        late = claim(slow)
        web.clock.advance(601)
        taken = claim(quick)
        assert taken["task_id"] == late["task_id"]
        with nothing_changes(web.store):
            reply = slow.post("/api/submit", json=submission(late))
        assert (reply.status_code, reply.json()["error"]) == (409, "lease_lost")
        assert slow.post("/api/extend", json={"lease": late["lease"]}).status_code == 409


def test_an_answer_that_comes_late_is_taken_while_there_is_room(web: WebApp, ana: httpx.Client) -> None:
    task = claim(ana)
    web.clock.advance(601)
    assert ana.post("/api/submit", json=submission(task)).status_code == 200


def test_tasks_that_one_never_had_are_unknown(web: WebApp, ana: httpx.Client) -> None:
    body = revision(claim(ana), "k", task_id=2**31 - 1)
    with nothing_changes(web.store):
        assert ana.post("/api/reopen", json={"task_id": 2**31 - 1}).status_code == 404
        assert ana.post("/api/revise", json=body).status_code == 404
        for task_id in (0, -1, 2**31, 10**30, "1", 1.0, None):
            assert ana.post("/api/reopen", json={"task_id": task_id}).status_code == 422


def test_a_full_disk_is_said_and_the_same_answer_can_be_sent_again(web: WebApp, ana: httpx.Client) -> None:
    task = claim(ana)
    sent = submission(task) | {"answer": answer_to(task) | {"rationale": "why " * 2_000}}

    def fill_the_disk(tx: Tx) -> None:
        pages = tx.connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    web.store.write(fill_the_disk)
    before = everything(web.store)
    reply = ana.post("/api/submit", json=sent)
    assert (reply.status_code, reply.json()["error"]) == (503, "not_stored")
    assert "disk is full" in reply.json()["message"]
    assert everything(web.store) == before
    assert ana.post("/api/submit", json=sent).status_code == 200  # there is room again


@pytest.mark.parametrize(
    "failure", [NotStored("The database is gone."), OperationalError("SELECT", {}, Exception("connection refused"))]
)
def test_a_lost_database_is_never_a_success(
    web: WebApp, ana: httpx.Client, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = claim(ana)
    ana.get("/api/me")

    async def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise failure

    with monkeypatch.context() as broken, nothing_changes(web.store):
        broken.setattr(web.store, "call", fail)
        replies = [
            ana.get("/api/me"),
            ana.get("/api/history"),
            ana.post("/api/claim", json={}),
            ana.post("/api/submit", json=submission(task)),
            ana.post("/api/skip", json=skip(task)),
            ana.post("/api/extend", json={"lease": task["lease"]}),
            ana.post("/api/reopen", json={"task_id": task["task_id"]}),
            ana.post("/login", data={"name": "somebody", "password": "whatever"}),
            ana.post("/api/logout"),
        ]
    assert [reply.status_code for reply in replies] == [503] * len(replies)
    assert {reply.json()["error"] for reply in replies} == {"not_stored"}
    assert {reply.headers["retry-after"] for reply in replies} == {"5"}


def test_a_mistake_of_ours_is_a_500_without_details(
    web: WebApp, ana: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError("secret detail")

    with monkeypatch.context() as broken:
        broken.setattr(web.store, "call", fail)
        reply = ana.get("/api/history")
    assert (reply.status_code, reply.json()["error"]) == (500, "internal")
    assert "secret" not in reply.text
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_addresses_and_methods_that_do_not_exist(ana: httpx.Client) -> None:
    assert ana.get("/api/nothing").json()["error"] == "not_found"
    assert ana.get("/api/claim").status_code == 405
    assert ana.get("/nothing", headers={"accept": "text/html"}).headers["content-type"].startswith("text/html")
    assert [ana.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")] == [404] * 3


def test_a_sitting_on_either_database(store: Store, clock: Clock) -> None:
    with serving(store, clock) as web:
        add_tasks(store, 2)
        user = web.with_password()
        assert web.log_in(user.name, "wrong").status_code == 401
        token = web.log_in(user.name).headers["set-cookie"].partition(";")[0].partition("=")[2]
        with web.client(token) as client:
            first = claim(client)
            second = client.post("/api/submit", json=submission(first)).json()["task"]
            skipped = client.post("/api/skip", json=skip(second))
            assert (skipped.json()["task"], skipped.json()["progress"]["num_answered"]) == (None, 1)
            assert client.post("/api/reopen", json={"task_id": first["task_id"]}).json()["task"]["revision"] == 1
            assert len(client.get("/api/history").json()["handled"]) == 2
            assert client.get("/api/me").json()["progress"]["num_skipped"] == 1
            assert client.post("/api/logout").status_code == 200
            assert client.get("/api/me").status_code == 401
