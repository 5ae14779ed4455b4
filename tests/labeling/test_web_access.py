"""Sessions, origins, hosts and headers, over real HTTP. What is refused changes nothing in the store."""

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from web_tools import (
    CONFIG,
    WebApp,
    add_tasks,
    everything,
    nothing_changes,
    revision,
    running,
    skip,
    submission,
)

from labeling_app import accounts
from labeling_app.settings import LabelingConfig
from labeling_app.store import Store
from labeling_app.web import app as app_module
from labeling_app.web.app import create_app
from labeling_app.web.security import ALL_ARE_ONE, SESSION_COOKIE, Sessions, Site
from rlhf.errors import UserError

CALLS: list[tuple[str, str, Any]] = [
    ("GET", "/api/me", None),
    ("GET", "/api/history", None),
    ("POST", "/api/claim", {}),
    ("POST", "/api/submit", {"lease": "l", "key": "k", "answer": {"tiers": [[1], [2]]}, "active_ms": 1}),
    ("POST", "/api/skip", {"lease": "l", "key": "k", "reason": "Other"}),
    ("POST", "/api/extend", {"lease": "l"}),
    ("POST", "/api/reopen", {"task_id": 1}),
    ("POST", "/api/revise", {"task_id": 1, "key": "k", "answer": {"tiers": [[1], [2]]}, "active_ms": 1}),
    ("POST", "/api/logout", {}),
]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    with running(tmp_path_factory.mktemp("home")) as app:
        yield app


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[WebApp]:
    """An app that has counted no failures yet."""
    with running(tmp_path / "home") as app:
        yield app


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_without_a_session_the_api_answers_401(web: WebApp, method: str, path: str, body: Any) -> None:
    with nothing_changes(web.store), web.client() as client:
        reply = client.request(method, path, json=body)
    assert (reply.status_code, reply.json()["error"]) == (401, "no_session")


@pytest.mark.parametrize("token", ["forged", "", "a" * 43, "x" * 5_000, "ü", "a b", "../../x", "%00"])
def test_a_forged_cookie_is_nobodys(web: WebApp, token: str) -> None:
    web.annotator().close()
    with nothing_changes(web.store):
        for method, path, body in CALLS:
            payload = b"" if body is None else b"{}"
            headers = {"Host": f"127.0.0.1:{web.port}", "Origin": web.origin, "Content-Type": "application/json"}
            cookie = f"{SESSION_COOKIE}={token}".encode().decode("latin-1")
            length = {"Content-Length": str(len(payload))}
            assert web.raw(method, path, headers | {"Cookie": cookie} | length, payload)[0] == 401


def test_a_session_ends_by_time(web: WebApp) -> None:
    with web.annotator() as client:
        web.clock.advance(14 * 86_400 - 1)
        assert client.get("/api/me").status_code == 200
        web.clock.advance(2)
        web.app.state.sessions.forget_user(web.store.users()[-1].id)
        with nothing_changes(web.store):
            assert client.get("/api/me").status_code == 401


def test_logging_out_ends_the_session_at_once(web: WebApp) -> None:
    with web.annotator() as client:
        assert client.get("/api/me").status_code == 200
        left = client.post("/api/logout")
        assert left.status_code == 200
        assert f"{SESSION_COOKIE}=;" in left.headers["set-cookie"]
        with nothing_changes(web.store):
            assert client.get("/api/me").status_code == 401


def test_the_logout_page_asks_first(web: WebApp) -> None:
    with web.annotator() as client:
        with nothing_changes(web.store):
            assert "Log out" in client.get("/logout").text
        assert client.post("/logout").headers["location"] == "/login"
        assert client.get("/api/me").status_code == 401


def test_a_disabled_user_is_out(web: WebApp) -> None:
    add_tasks(web.store)
    user = web.new_user()
    with web.client(web.session(user)) as client:
        task = client.post("/api/claim", json={}).json()["task"]
        web.store.set_disabled(user.id, True)  # as another process does: this one remembers the session for a moment
        with nothing_changes(web.store):
            refused = [client.post("/api/claim", json={}), client.post("/api/submit", json=submission(task))]
        assert [(reply.status_code, reply.json()["error"]) for reply in refused] == [(401, "disabled")] * 2
        web.app.state.sessions.forget_user(user.id)
        with nothing_changes(web.store):
            assert client.get("/api/me").json()["error"] == "no_session"


def test_a_quarantined_user_gets_no_task_and_leaves_no_answer(web: WebApp) -> None:
    add_tasks(web.store)
    user = web.new_user()
    with web.client(web.session(user)) as client:
        task = client.post("/api/claim", json={}).json()["task"]
        web.store.set_quarantined(user.id, True)
        with nothing_changes(web.store):
            refused = [
                client.post("/api/claim", json={}),
                client.post("/api/submit", json=submission(task)),
                client.post("/api/skip", json=skip(task)),
                client.post("/api/extend", json={"lease": task["lease"]}),
                client.post("/api/reopen", json={"task_id": task["task_id"]}),
            ]
    assert [(reply.status_code, reply.json()["error"]) for reply in refused] == [(403, "quarantined")] * 5


def test_another_annotators_lease_is_refused(web: WebApp) -> None:
    add_tasks(web.store)
    with web.annotator() as ana, web.annotator() as eve:
        task = ana.post("/api/claim", json={}).json()["task"]
        as_eve = task | {"user": eve.get("/api/me").json()["user"]["name"]}
        with nothing_changes(web.store):
            refused = [
                eve.post("/api/submit", json=submission(as_eve)),
                eve.post("/api/skip", json=skip(as_eve)),
                eve.post("/api/extend", json={"lease": task["lease"]}),
            ]
            assert eve.post("/api/reopen", json={"task_id": task["task_id"]}).status_code == 404
        assert [(reply.status_code, reply.json()["error"]) for reply in refused] == [(403, "not_yours")] * 3
        assert ana.post("/api/submit", json=submission(task)).status_code == 200
        with nothing_changes(web.store):
            assert eve.post("/api/revise", json=revision(as_eve, "other")).status_code == 404


def test_what_one_person_has_written_is_not_taken_from_another(web: WebApp) -> None:
    add_tasks(web.store, 2, overlap=2)
    with web.annotator() as ana, web.annotator() as bob:
        first, second = (one.post("/api/claim", json={}).json()["task"] for one in (ana, bob))
        assert first["task_id"] == second["task_id"]
        in_hand = ana.post("/api/submit", json=submission(first)).json()["task"]
        assert bob.post("/api/submit", json=submission(second)).status_code == 200
        with nothing_changes(web.store):  # bob has signed in, in another tab of ana's browser
            refused = [
                bob.post("/api/revise", json=revision(first, "anas-change")),
                bob.post("/api/submit", json=submission(in_hand, "anas-answer")),
                bob.post("/api/skip", json=skip(in_hand)),
            ]
    assert [(reply.status_code, reply.json()["error"]) for reply in refused] == [(403, "other_user")] * 3


def test_under_https_the_cookie_is_this_hosts_alone(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"public_url": "https://labels.example.org"})
    with running(tmp_path / "home", config=config) as web:
        user = web.with_password()
        seen = {"host": "labels.example.org", "origin": "https://labels.example.org"}
        reply = web.log_in(user.name, **seen)
        given = reply.headers["set-cookie"]
        assert given.startswith(f"__Host-{SESSION_COOKIE}=")
        assert given.endswith("; HttpOnly; SameSite=Strict; Secure")
        token = web.session(user)
        names = [SESSION_COOKIE, f"{SESSION_COOKIE}_443", f"__Host-{SESSION_COOKIE}"]
        with web.client(**seen) as client:
            answers = [client.get("/api/me", headers={"cookie": f"{name}={token}"}).status_code for name in names]
            page = client.get("/label/", headers={"cookie": f"__Host-{SESSION_COOKIE}={token}"}).text
        assert answers == [401, 401, 200]
        assert "http://labels.example.org" not in page


def test_the_cookie_is_strict_and_kept_from_scripts(fresh: WebApp) -> None:
    reply = fresh.log_in(fresh.with_password().name)
    assert re.fullmatch(
        rf"{SESSION_COOKIE}=[\w-]{{43}}; Path=/; Max-Age=1209600; HttpOnly; SameSite=Strict",
        reply.headers["set-cookie"],
    )


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1", "null", "", "http://127.0.0.1", None])
def test_foreign_and_missing_origins_are_refused(web: WebApp, origin: str | None) -> None:
    token = web.session(web.new_user(role="admin"))
    add_tasks(web.store)
    posts = [(path, body) for method, path, body in CALLS if method == "POST"]
    posts += [("/login", {}), ("/logout", {}), ("/invite", {}), ("/label/gradio_api/queue/join", {})]
    posts += [("/admin/gradio_api/queue/join", {}), ("/static/page.js", {}), ("/nothing", {})]
    with web.client(token) as client, nothing_changes(web.store):
        del client.headers["origin"]
        given = {} if origin is None else {"origin": origin}
        replies = [client.post(path, json=body, headers=given) for path, body in posts]
        replies += [client.request(method, "/api/claim", headers=given) for method in ("PUT", "DELETE", "OPTIONS")]
    assert [(reply.status_code, reply.json()["error"]) for reply in replies] == [(403, "foreign_origin")] * len(replies)
    assert not any(name.startswith("access-control") for reply in replies for name in reply.headers)


def test_another_port_of_this_machine_is_a_foreign_origin(web: WebApp) -> None:
    with web.annotator() as client, nothing_changes(web.store):
        headers = {"origin": f"http://127.0.0.1:{web.port + 1}"}
        assert client.post("/api/claim", json={}, headers=headers).status_code == 403


def test_a_cross_site_request_is_refused_whatever_origin_it_claims(web: WebApp) -> None:
    with web.annotator() as client, nothing_changes(web.store):
        headers = {"sec-fetch-site": "cross-site"}
        assert client.post("/api/claim", json={}, headers=headers).status_code == 403


def test_no_other_site_may_read(web: WebApp) -> None:
    preflight = {"access-control-request-method": "POST", "origin": "http://evil.example"}
    with web.annotator() as client:
        for path in ("/api/me", "/label/", "/label/config", "/static/page.js"):
            for reply in (client.get(path, headers={"origin": "http://evil.example"}), client.get(path)):
                assert not any(name.startswith("access-control") for name in reply.headers)
                assert reply.headers["cross-origin-resource-policy"] == "same-origin"
            assert client.options(path, headers=preflight).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "", "[::1", "a@b"])
def test_foreign_hosts_are_refused(web: WebApp, host: str) -> None:
    token = web.session(web.new_user())
    host = host.format(port=web.port)
    headers = {"Host": host, "Origin": f"http://{host}", "Cookie": f"{SESSION_COOKIE}={token}"}
    with nothing_changes(web.store):
        for method, path in (("GET", "/api/me"), ("GET", "/label/"), ("POST", "/api/claim"), ("GET", "/login")):
            status, body = web.raw(method, path, headers)
            assert status in (400, 403), (path, status, body)


def test_only_the_looks_of_the_refusal_are_served_under_a_foreign_name(web: WebApp) -> None:
    headers = {"Host": "evil.example", "Accept": "text/html"}
    paths = ("/static/login.css", "/static/icon.svg", "/static/page.css", "/static/../static/login.css", "/login")
    assert [web.raw("GET", path, headers)[0] for path in paths] == [200, 200, 403, 403, 403]
    assert web.raw("POST", "/static/login.css", headers)[0] == 403
    status, body = web.raw("GET", "/label/", headers)
    assert (status, b'<a href="http://127.0.0.1/">' in body) == (403, True)


@pytest.mark.parametrize(
    ("options", "address"),
    [
        ({"public_url": "https://labels.example.org"}, "https://labels.example.org/"),
        ({"host": "192.168.1.5"}, "http://192.168.1.5:7999/"),
        ({"host": "fe80::1"}, "http://[fe80::1]:7999/"),
        ({}, "http://127.0.0.1:7999/"),
    ],
)
def test_where_whoever_comes_to_another_name_is_sent(options: dict[str, Any], address: str) -> None:
    assert Site.of(LabelingConfig(**options), "accounts").address("evil.example:7999") == address


def test_a_missing_host_is_refused(web: WebApp) -> None:
    assert web.raw("GET", "/login", {})[0] in (400, 403)


def test_forwarded_headers_do_not_change_where_the_page_is(web: WebApp) -> None:
    headers = {"x-forwarded-host": "evil.example", "x-forwarded-proto": "https", "x-forwarded-for": "10.0.0.1"}
    with web.annotator() as client:
        assert "evil.example" not in client.get("/label/", headers=headers).text
        assert "evil.example" not in client.get("/label/config", headers=headers).text


@pytest.mark.parametrize(
    ("options", "host", "origin", "passes"),
    [
        ({"public_url": "https://labels.example.org"}, "labels.example.org", "https://labels.example.org", True),
        ({"public_url": "https://Labels.example.org:443"}, "labels.example.org", "https://labels.example.org", True),
        ({"public_url": "https://labels.example.org"}, "labels.example.org", "http://labels.example.org", False),
        ({"public_url": "https://labels.example.org"}, "127.0.0.1:7860", "http://127.0.0.1:7860", False),
        ({"host": "192.168.1.5"}, "192.168.1.5:7860", "http://192.168.1.5:7860", True),
        ({"host": "192.168.1.5"}, "192.168.1.5:7860", "http://192.168.1.5:7861", False),
        ({"host": "192.168.1.5"}, "localhost:7860", "http://localhost:7860", False),
    ],
)
def test_which_addresses_a_site_answers_to(options: dict[str, Any], host: str, origin: str, passes: bool) -> None:
    site = Site.of(LabelingConfig(**options), "accounts")
    assert (site.answers_to(host) and site.is_own(origin, host)) == passes
    assert site.is_secure == (options.get("public_url", "").startswith("https"))


def test_loopback_answers_to_this_machines_names_at_any_port() -> None:
    site = Site.of(LabelingConfig(), "loopback")
    hosts = ["127.0.0.1:7860", "localhost:9000", "[::1]:7860", "LOCALHOST"]
    assert [site.answers_to(host) for host in hosts] == [True] * 4
    assert [site.is_own(f"http://{host.lower()}", host) for host in hosts] == [True] * 4
    assert [site.answers_to(host) for host in ("127.0.0.2", "example.org", "")] == [False] * 3


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "labels.example.org", "::"])
def test_loopback_mode_serves_no_other_machine(tmp_path: Path, host: str) -> None:
    with (
        Store.open(tmp_path) as store,
        pytest.raises(UserError, match=re.escape(f"host: {host} serves other machines")),
    ):
        create_app(store, LabelingConfig(host=host), "loopback")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_host_that_nobody_can_type_needs_a_public_url(tmp_path: Path, host: str) -> None:
    with Store.open(tmp_path) as store, pytest.raises(UserError, match="public_url: is missing"):
        create_app(store, LabelingConfig(host=host), "accounts")


def test_every_answer_is_protected(web: WebApp) -> None:
    with web.admin() as client:
        paths = ["/login", "/api/me", "/api/none", "/label/", "/static/login.css", "/invite?token=x", "/logout"]
        for reply in [*(client.get(path) for path in paths), client.post("/api/claim", headers={"origin": "http://x"})]:
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.headers["referrer-policy"] == "same-origin"
            assert "default-src 'none'" in reply.headers["content-security-policy"]
            assert "server" not in reply.headers


def test_answers_with_people_in_them_are_not_kept(web: WebApp) -> None:
    with web.annotator() as client:
        for path in ("/api/me", "/api/history", "/login", "/logout", "/label/", "/label/config", "/nothing"):
            assert client.get(path).headers["cache-control"] == "no-store"


def test_files_whose_names_change_with_them_are_kept(web: WebApp) -> None:
    with web.annotator() as client:
        script = re.findall(r'src="\./(assets/index-[^"]+\.js)"', client.get("/label/").text)[0]
        assert client.get(f"/label/{script}").headers["cache-control"] == "private, max-age=31536000, immutable"
        assert client.get("/label/assets/no-such.js").headers["cache-control"] == "no-store"


def test_an_oversized_body_is_refused_before_it_is_read(web: WebApp) -> None:
    token = web.session(web.new_user(role="admin"))
    base = {"Host": f"127.0.0.1:{web.port}", "Origin": web.origin, "Cookie": f"{SESSION_COOKIE}={token}"}
    with nothing_changes(web.store):
        for path in ("/api/claim", "/login", "/admin/gradio_api/queue/join", "/static/x"):
            for length in ("99999999", "9" * 18):
                status, _ = web.raw("POST", path, base | {"Content-Length": length, "Content-Type": "application/json"})
                assert status == 413


def test_web_sockets_are_closed(web: WebApp) -> None:
    headers = {
        "Host": f"127.0.0.1:{web.port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    assert web.raw("GET", "/label/gradio_api/queue/join", headers)[0] >= 400


def test_sessions_are_remembered_for_a_moment_only(web: WebApp, monkeypatch: pytest.MonkeyPatch) -> None:
    token = web.session(web.new_user())
    asked: list[str] = []
    read = accounts.session

    def counting(tx: Any, token: str) -> Any:
        asked.append(token)
        return read(tx, token)

    monkeypatch.setattr(accounts, "session", counting)

    async def look(seconds: float) -> None:
        sessions = Sessions(web.store, seconds, max_remembered=1)
        for _ in range(3):
            assert await sessions.find(token) is not None
        assert await sessions.find(None) is None
        assert await sessions.find("x" * 101) is None

    asyncio.run(look(60))
    assert len(asked) == 1
    asyncio.run(look(0))
    assert len(asked) == 4


def test_the_pages_before_the_app_can_be_read_by_all(web: WebApp) -> None:
    with web.client() as client:
        page = client.get("/login").text
    assert '<html lang="en">' in page
    assert 'name="viewport"' in page
    assert "<title>Which is &lt;best&gt;?</title>" in page
    for field in re.findall(r'<input id="([a-z]+)"', page):
        assert f'<label for="{field}">' in page
    assert 'role="alert"' in web.log_in("nobody-at-all", "x").text


def test_the_sweeper_ends_leases_and_outlives_what_goes_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "SWEEP_SECONDS", 0.01)
    with running(tmp_path / "home") as web:
        add_tasks(web.store, 1)
        with web.annotator() as client:
            client.post("/api/claim", json={})
        failures = iter([app_module.NotStored("gone"), RuntimeError("a mistake of ours")])
        call = web.store.call

        async def fail_twice(operation: Any, *args: Any, **kwargs: Any) -> Any:
            if operation == "sweep" and (failure := next(failures, None)) is not None:
                raise failure
            return await call(operation, *args, **kwargs)

        monkeypatch.setattr(web.store, "call", fail_twice)
        web.clock.advance(601)
        give_up = time.monotonic() + 20
        while [row["state"] for row in everything(web.store)["leases"]] != ["expired"]:
            assert time.monotonic() < give_up


@pytest.mark.parametrize(
    ("options", "headers", "num_warnings"),
    [
        ({"public_url": "https://labels.example.org"}, {}, 1),
        ({"public_url": "https://labels.example.org"}, {"x-forwarded-for": "10.0.0.1"}, 1),  # of a proxy not believed
        ({"public_url": "https://labels.example.org"}, {"x-forwarded-for": "127.0.0.1"}, 0),
        ({}, {}, 0),
    ],
)
def test_a_proxy_that_keeps_peoples_addresses_to_itself_is_warned_of_once(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, str],
    headers: dict[str, str],
    num_warnings: int,
) -> None:
    with running(tmp_path / "home", config=CONFIG.model_copy(update=options)) as web:
        host = "labels.example.org" if options else f"127.0.0.1:{web.port}"
        for _ in range(2):
            assert web.raw("GET", "/login", {"Host": host} | headers)[0] == 200
    assert [record.message for record in caplog.records] == [ALL_ARE_ONE] * num_warnings


def test_httpx_is_what_these_tests_believe(web: WebApp) -> None:
    """It must not follow redirects or take a proxy by itself."""
    with web.client() as client:
        assert isinstance(client, httpx.Client)
        assert client.get("/").status_code == 303


def test_who_hangs_up_in_the_middle_changes_nothing_and_is_no_mistake_of_ours(
    web: WebApp, caplog: pytest.LogCaptureFixture
) -> None:
    token = web.session(web.new_user())
    headers = {"host": f"127.0.0.1:{web.port}", "origin": web.origin, "cookie": f"{SESSION_COOKIE}={token}"}
    headers |= {"content-type": "application/json", "content-length": "100"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/submit",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        raise AssertionError(message)

    with nothing_changes(web.store):
        asyncio.run(web.app(scope, receive, send))
    assert caplog.records == []
