"""Passwords, invitations and one-time links, over real HTTP."""

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from web_tools import (
    PASSWORD,
    QUICK_TO_HASH,
    WebApp,
    add_tasks,
    nothing_changes,
    running,
)

from labeling_app import accounts
from labeling_app.web import passwords
from labeling_app.web.throttle import Throttle, address_key


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    with running(tmp_path_factory.mktemp("home")) as app:
        yield app


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[WebApp]:
    """An app that has counted no failures yet."""
    with running(tmp_path / "home") as app:
        yield app


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    with running(tmp_path_factory.mktemp("home"), "loopback") as app:
        yield app


def ignoring_failures(tables: dict[str, list[Any]]) -> None:
    """Counting failures is what may change."""
    counted = {"failed_logins": None, "failed_at": None}
    tables["users"] = [row | counted for row in tables["users"]]
    tables["events"] = [row for row in tables["events"] if row["kind"] != "locked"]


def test_thirty_wrong_passwords(fresh: WebApp) -> None:
    name = fresh.with_password().name
    with nothing_changes(fresh.store, ignoring_failures):
        statuses = [fresh.log_in(name, f"wrong {number}").status_code for number in range(30)]
        assert statuses == [401] * 5 + [429] * 25
        right = fresh.log_in(name)
        assert (right.status_code, "set-cookie" in right.headers) == (429, False)
        assert right.headers["retry-after"] == "900"
    assert fresh.passwords.num_checked == 5


def test_a_locked_account_opens_again_after_a_quarter_of_an_hour(fresh: WebApp) -> None:
    name = fresh.with_password().name
    for _ in range(5):
        fresh.log_in(name, "wrong")
    fresh.clock.advance(14 * 60)
    assert fresh.log_in(name).status_code == 429
    fresh.clock.advance(60)
    assert fresh.log_in(name).status_code == 303


@pytest.mark.parametrize("name", ["nobody", "newcomer", "closed"])
def test_who_cannot_log_in_is_answered_like_somebody_with_a_wrong_password(fresh: WebApp, name: str) -> None:
    known = fresh.with_password().name
    fresh.store.add_user("newcomer")
    closed = fresh.store.add_user("closed")
    token = fresh.store.write(accounts.invite, closed.id, "password").token
    fresh.store.write(accounts.choose_password, token, QUICK_TO_HASH.hash(PASSWORD), timedelta(days=1))
    fresh.store.set_disabled(closed.id, True)
    replies = {}
    for tried in (known, name):
        fresh.passwords.num_checked = 0
        answers = [fresh.log_in(tried, PASSWORD if tried == name else "wrong") for _ in range(7)]
        replies[tried] = [(answer.status_code, answer.text.replace(tried, "NAME")) for answer in answers]
        assert fresh.passwords.num_checked == 5  # as much work for one as for the other
    assert replies[name] == replies[known]
    assert [status for status, _ in replies[name]] == [401] * 5 + [429] * 2


def test_an_unknown_name_costs_the_same_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []

    class Hasher:
        def hash(self, password: bytes) -> str:
            return QUICK_TO_HASH.hash(password)

        def verify(self, stored: str, password: bytes) -> bool:
            verified.append(stored)
            return QUICK_TO_HASH.verify(stored, password)

    checked = passwords.Passwords(Hasher())  # type: ignore[arg-type]
    assert checked._fits(b"", None) is False  # not even the password that the dummy hash is of
    assert checked._fits(b"x", QUICK_TO_HASH.hash("x")) is True
    assert len(verified) == 2
    assert verified[0].split("$")[:4] == verified[1].split("$")[:4]  # same parameters
    checked.close()


def test_refusals_take_their_time_whoever_was_meant() -> None:
    checked = passwords.Passwords(QUICK_TO_HASH, refused_after_seconds=0.2)
    started = time.monotonic()
    asyncio.run(checked.refusal(started))
    assert time.monotonic() - started >= 0.19
    late = time.monotonic()
    asyncio.run(checked.refusal(late - 1))
    assert time.monotonic() - late < 0.15
    checked.close()


def test_a_flood_of_logins_is_turned_away(fresh: WebApp, monkeypatch: pytest.MonkeyPatch) -> None:
    name = fresh.with_password().name
    with monkeypatch.context() as busy, nothing_changes(fresh.store):
        busy.setattr(passwords, "MAX_WAITING", 0)
        for _ in range(5):  # none of them is a wrong password
            reply = fresh.log_in(name)
            assert (reply.status_code, "set-cookie" in reply.headers) == (503, False)
    assert fresh.log_in(name).status_code == 303


@pytest.mark.parametrize("num_failed", [4, 5])
def test_failures_are_forgotten_alike_whether_there_is_such_a_name(fresh: WebApp, num_failed: int) -> None:
    seconds = [0.0]
    [login] = {route.endpoint.__self__ for route in fresh.app.router.routes if getattr(route, "path", "") == "/login"}
    for throttle in (login._names, login._addresses):
        throttle._clock = lambda: seconds[0]
    names = (fresh.with_password().name, "nobody")
    for minutes in (0, 14, 29, 44):
        fresh.clock.advance(60 * minutes - seconds[0])
        seconds[0] = 60 * minutes
        known, unknown = ([fresh.log_in(name, "wrong").status_code for _ in range(num_failed)] for name in names)
        assert known == unknown


def test_who_knocks_at_a_locked_account_is_told_as_little_as_at_a_name_that_nobody_has(fresh: WebApp) -> None:
    statuses = []
    for name in (fresh.with_password().name, "nobody"):
        answers = [fresh.log_in(name, "wrong").status_code for _ in range(20)]
        statuses.append([*answers, fresh.log_in("somebody-else", "wrong").status_code])
    assert statuses == [[401] * 5 + [429] * 15 + [401]] * 2


def test_one_address_cannot_try_many_names(fresh: WebApp) -> None:
    name = fresh.with_password().name
    statuses = [fresh.log_in(f"name-{number}", "wrong").status_code for number in range(40)]
    assert statuses == [401] * 30 + [429] * 10
    assert fresh.log_in(name).status_code == 429


def test_the_right_password_forgives_an_address_what_failed_at_this_name_alone(fresh: WebApp) -> None:
    names = [fresh.with_password().name for _ in range(12)]
    for name in names:  # a laboratory of people who mistype: 48 failures, all forgiven
        statuses = [fresh.log_in(name, "wrong").status_code for _ in range(4)]
        assert [*statuses, fresh.log_in(name).status_code] == [401] * 4 + [303]


def test_an_account_of_ones_own_buys_no_guesses_at_others(fresh: WebApp) -> None:
    own = fresh.with_password().name
    statuses = []
    for number in range(40):
        statuses.append(fresh.log_in(f"name-{number}", "wrong").status_code)
        fresh.log_in(own)
    assert statuses == [401] * 30 + [429] * 10


@pytest.mark.parametrize("locked", ["the account", "the address"])
def test_a_new_invitation_lets_in_whoever_is_locked_out(fresh: WebApp, locked: str) -> None:
    user = fresh.with_password()
    for number in range(5 if locked == "the account" else 30):
        fresh.log_in(user.name if locked == "the account" else f"name-{number}", "wrong")
    reply = fresh.log_in(user.name)
    assert reply.status_code == 429
    assert "try again in 15 minutes, or ask whoever invited you for a new link: it lets you in at once" in reply.text
    token = fresh.store.write(accounts.invite, user.id, "password").token
    with fresh.client() as client:
        form = {"token": token, "password": PASSWORD + "!", "again": PASSWORD + "!"}
        assert client.post("/invite", data=form).status_code == 303
        assert client.get("/api/me").json()["user"]["name"] == user.name
    again = fresh.log_in(user.name, PASSWORD + "!").status_code
    assert again == (303 if locked == "the account" else 429)


def test_passwords_are_argon2id(web: WebApp) -> None:
    checked = passwords.Passwords()
    stored = asyncio.run(checked.hash(PASSWORD))
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert asyncio.run(checked.fits(PASSWORD, stored)) is True
    assert asyncio.run(checked.fits(PASSWORD + "x", stored)) is False
    checked.close()


def test_a_hash_of_weaker_parameters_is_replaced_at_login(fresh: WebApp) -> None:
    from argon2 import PasswordHasher

    user = fresh.with_password()
    token = fresh.store.write(accounts.invite, user.id, "password").token
    weaker = PasswordHasher(time_cost=1, memory_cost=16, parallelism=1).hash(PASSWORD)
    fresh.store.write(accounts.choose_password, token, weaker, timedelta(days=1))
    assert fresh.log_in(user.name).status_code == 303
    assert fresh.store.write(accounts.begin_login, user.name).password_hash != weaker
    assert fresh.log_in(user.name).status_code == 303


@pytest.mark.parametrize(
    "body", ["", "name=a", "name=a&password=b" + "&x=1" * 20, "name=%ff&password=b", "name=a%00b&password=c", "%"]
)
def test_odd_login_forms_do_no_harm(web: WebApp, body: str) -> None:
    with nothing_changes(web.store), web.client() as client:
        form = {"content-type": "application/x-www-form-urlencoded"}
        assert client.post("/login", content=body, headers=form).status_code in (401, 422, 429)
        assert client.post("/login", json={"name": "a"}).status_code == 415
        assert client.post("/login", content="name=" + "a" * 70_000, headers=form).status_code == 413


def test_a_name_is_shown_as_text(web: WebApp) -> None:
    assert "<script>" not in web.log_in('"><script>alert(1)</script>', "x").text


def test_failures_are_forgotten_in_time() -> None:
    now = [0.0]
    throttle = Throttle(2, 10, lambda: now[0])
    for _ in range(2):
        throttle.fail("a")
    assert (throttle.is_closed("a"), throttle.is_closed("b")) == (True, False)
    throttle.fail("b", "own")
    throttle.fail("b", "other")
    throttle.forgive("b", "own")
    assert throttle.is_closed("b") is False
    throttle.fail("b", "another")
    assert throttle.is_closed("b") is True
    now[0] = 11
    assert throttle.is_closed("a") is False
    assert address_key("2001:db8::1") == address_key("2001:db8::2:1") != address_key("2001:db8:1::1")
    assert address_key("::ffff:10.0.0.1") == address_key("10.0.0.1") != address_key("10.0.0.2")


def test_an_invitation_from_the_mail_to_the_first_task(web: WebApp) -> None:
    user = web.new_user()
    token = web.store.write(accounts.invite, user.id, "password").token
    add_tasks(web.store)
    with web.client() as client:
        page = client.get("/invite", params={"token": token})
        assert user.name in page.text
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert "<script" not in page.text
        form = {"token": token, "password": PASSWORD, "again": PASSWORD}
        with nothing_changes(web.store):
            for wrong in ({"password": "short", "again": "short"}, {"again": PASSWORD + "x"}, {"password": "a" * 12}):
                assert client.post("/invite", data=form | wrong).status_code == 422
        reply = client.post("/invite", data=form)
        assert (reply.status_code, reply.headers["location"]) == (303, "/label/")
        assert client.post("/api/claim", json={}).json()["task"] is not None
        with nothing_changes(web.store):
            assert client.post("/invite", data=form | {"password": "x" * 12}).status_code == 410
            assert client.get("/invite", params={"token": token}).status_code == 410
    assert web.log_in(user.name).status_code == 303


@pytest.mark.parametrize("token", ["", "made-up", "a" * 10_000, "\u0000"])
def test_made_up_invitations(web: WebApp, token: str) -> None:
    with nothing_changes(web.store), web.client() as client:
        assert client.get("/invite", params={"token": token}).status_code == 410
        form = {"token": token, "password": PASSWORD, "again": PASSWORD}
        assert client.post("/invite", data=form).status_code == 410


def test_the_link_of_loopback_mode_works_once(loopback: WebApp) -> None:
    local = loopback.store.add_user("local", "admin")
    token = loopback.store.write(accounts.invite, local.id, "session").token
    with loopback.client() as first, loopback.client() as second:
        with nothing_changes(loopback.store):
            assert first.head("/", params={"token": token}).status_code in (200, 303)  # looking is not opening
        entered = first.get("/", params={"token": token})
        assert (entered.status_code, 'url=/label/"' in entered.text) == (200, True)
        assert entered.headers["set-cookie"].startswith(f"rlhf_session_{loopback.port}=")
        assert first.get("/api/me").json()["user"] == {"name": "local", "role": "admin"}
        with nothing_changes(loopback.store):
            assert second.get("/", params={"token": token}).status_code == 410
            assert second.get("/api/me").status_code == 401
            assert first.get("/", params={"token": token}).headers["location"] == "/label/"


def test_loopback_mode_takes_no_passwords(loopback: WebApp) -> None:
    user = loopback.with_password()
    with nothing_changes(loopback.store):
        assert loopback.log_in(user.name).status_code == 405
        with loopback.client() as client:
            assert client.get("/invite", params={"token": "x"}).status_code == 404
            assert "rlhf label serve" in client.get("/login").text


def test_a_link_that_logs_in_is_worth_nothing_where_accounts_are(web: WebApp) -> None:
    token = web.store.write(accounts.invite, web.new_user(role="admin").id, "session").token
    with nothing_changes(web.store), web.client() as client:
        assert client.get("/", params={"token": token}).headers["location"] == "/login"


def test_who_opens_a_page_without_a_session_is_sent_to_the_login(web: WebApp) -> None:
    html = {"accept": "text/html,*/*"}
    with web.client() as client:
        for path in ("/", "/label/", "/admin/"):
            reply = client.get(path, headers=html)
            assert (reply.status_code, reply.headers["location"]) == (303, "/login")
            # the cookie is strict: after a link on another site it comes with the second request
            second = client.get(path, headers=html | {"sec-fetch-site": "cross-site"})
            assert (second.status_code, f'url={path}"' in second.text) == (200, True)


def test_a_session_survives_a_restart(tmp_path: Path) -> None:
    with running(tmp_path / "home") as first:
        token = first.session(first.new_user())
    with running(tmp_path / "home") as second, second.client(token) as client:
        assert client.get("/api/me").status_code == 200
