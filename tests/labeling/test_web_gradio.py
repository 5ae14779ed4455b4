"""What Gradio leaves open stays closed, and no path leads to files that are not served."""

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from starlette.requests import Request
from starlette.routing import Mount
from web_tools import (
    CONFIG,
    WebApp,
    nothing_changes,
    running,
)

import labeling_app
from labeling_app.store import NewResponse, NewTask
from labeling_app.web.security import SESSION_COOKIE, current_user

GRADIO_CALLS: list[tuple[str, str, Any]] = [
    ("GET", "/", None),
    ("GET", "/config", None),
    ("GET", "/gradio_api/info", None),
    ("GET", "/gradio_api/heartbeat/abcdef", None),
    ("GET", "/gradio_api/queue/data?session_hash=abcdef", None),
    ("POST", "/gradio_api/queue/join", {"data": [None], "fn_index": 0, "session_hash": "abcdef"}),
    ("POST", "/gradio_api/run/refresh", {"data": [None]}),
    ("POST", "/gradio_api/api/refresh", {"data": [None]}),
    ("POST", "/gradio_api/call/refresh", {"data": [None]}),
    ("POST", "/gradio_api/call/v2/refresh", {"data": [None]}),
    ("POST", "/gradio_api/component_server", {}),
    ("POST", "/gradio_api/cancel", {"session_hash": "abcdef", "fn_index": 0, "event_id": "x"}),
]

CLOSED_FOR_ALL = [
    ("GET", "/gradio_api/user"),
    ("GET", "/gradio_api/token"),
    ("GET", "/gradio_api/login_check"),
    ("GET", "/gradio_api/runs"),
    ("GET", "/gradio_api/openapi.json"),
    ("GET", "/gradio_api/dev/reload"),
    ("GET", "/gradio_api/proxy=https://example.org/x"),
    ("GET", "/gradio_api/file=/etc/passwd"),
    ("GET", "/gradio_api/file=https://example.org/x"),
    ("GET", "/gradio_api/file/etc/passwd"),
    ("GET", "/gradio_api/deep_link"),
    ("GET", "/gradio_api/queue/status"),
    ("GET", "/gradio_api/upload_progress?upload_id=1"),
    ("GET", "/gradio_api/vibe-code"),
    ("POST", "/gradio_api/vibe-edit"),
    ("POST", "/gradio_api/upload"),
    ("POST", "/gradio_api/process_recording"),
    ("POST", "/gradio_api/run-history/connect"),
    ("POST", "/gradio_api/run/refresh"),
    ("POST", "/gradio_api/call/refresh"),
    ("POST", "/login"),
    ("GET", "/logout"),
    ("GET", "/monitoring"),
    ("GET", "/monitoring/x"),
    ("PUT", "/"),
    ("DELETE", "/gradio_api/queue/join"),
]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    with running(tmp_path_factory.mktemp("home")) as app:
        yield app


def blocks_of(web: WebApp, path: str) -> gr.Blocks:
    """A page as it is mounted."""
    mount = next(route for route in web.app.router.routes if isinstance(route, Mount) and route.path == path)
    blocks: gr.Blocks = mount.app._app.get_blocks()  # type: ignore[attr-defined]
    return blocks


@pytest.mark.parametrize(
    "path",
    ["/static/../security.py", "/static/..%2fsecurity.py", "/static/%2e%2e/security.py", "/static/%2e%2e%2fapp.py",
     "/static/....//app.py", "/static//etc/passwd", "/static/%00", "/static/..\\app.py", "/static/",
     "/static/../../schema.py", "/label/gradio_api/file=/etc/passwd", "/label/gradio_api/file%3d/etc/passwd",
     "/label/gradio_api/file=../../schema.py",
     "/label/static/../../../../../../etc/passwd", "/label/assets/..%2f..%2f..%2froutes.py",
     "/label/assets/%2e%2e/%2e%2e/%2e%2e/routes.py", "/label/svelte/..%2f..%2froutes.py", "/label//gradio_api/upload",
     "/label/./gradio_api/token", "/label/assets/../gradio_api/token", "/admin/gradio_api/file=/etc/passwd",
     "/labelx", "/label/../admin/", "/%2e%2e/etc/passwd"],
)  # fmt: skip
def test_no_path_leads_to_files_that_are_not_served(web: WebApp, path: str) -> None:
    token = web.session(web.new_user(role="admin"))
    headers = {"Host": f"127.0.0.1:{web.port}", "Cookie": f"{SESSION_COOKIE}={token}"}
    with nothing_changes(web.store):
        status, body = web.raw("GET", path, headers)
    assert status in (400, 403, 404, 405), (status, body[:200])
    assert b"root:" not in body
    assert b"import " not in body


def test_our_own_files_are_served_to_anybody(web: WebApp) -> None:
    with web.client() as client:
        styles = client.get("/static/login.css")
        assert (styles.status_code, styles.headers["cache-control"]) == (200, "no-cache")
        assert client.get("/static/login.css", headers={"if-none-match": styles.headers["etag"]}).status_code == 304
        assert client.get("/favicon.ico").headers["content-type"] == "image/svg+xml"
        manifest = client.get("/manifest.json")
        assert manifest.headers["content-type"] == "application/manifest+json"
        assert (manifest.json()["name"], manifest.json()["start_url"]) == (CONFIG.title, "/label/")
        assert client.get(manifest.json()["icons"][0]["src"]).headers["content-type"] == "image/svg+xml"


@pytest.mark.parametrize("mount", ["/label", "/admin"])
@pytest.mark.parametrize(("method", "path", "body"), GRADIO_CALLS)
def test_gradio_answers_nobody_without_a_session(web: WebApp, mount: str, method: str, path: str, body: Any) -> None:
    with nothing_changes(web.store), web.client() as client:
        reply = client.request(method, mount + path, json=body)
    assert (reply.status_code, reply.json()["error"]) == (401, "no_session")


@pytest.mark.parametrize(("method", "path", "body"), GRADIO_CALLS)
def test_annotators_do_not_reach_the_admins_page(web: WebApp, method: str, path: str, body: Any) -> None:
    with web.annotator() as client, nothing_changes(web.store):
        reply = client.request(method, "/admin" + path, json=body)
    assert (reply.status_code, reply.json()["error"]) == (403, "role")


def test_an_annotators_browser_is_told_so_in_words(web: WebApp) -> None:
    with web.annotator() as client:
        reply = client.get("/admin/", headers={"accept": "text/html"})
    assert (reply.status_code, "<h1>Not allowed</h1>" in reply.text) == (403, True)


@pytest.mark.parametrize("mount", ["/label", "/admin"])
@pytest.mark.parametrize(("method", "path"), CLOSED_FOR_ALL)
def test_gradio_routes_that_no_page_needs_are_closed(web: WebApp, mount: str, method: str, path: str) -> None:
    with web.admin() as client, nothing_changes(web.store):
        reply = client.request(method, mount + path, json={"data": []} if method == "POST" else None)
    assert (reply.status_code, reply.json()["error"]) == (404, "not_found")


def test_every_admin_handler_authorises_itself(web: WebApp) -> None:
    """Whatever stands before it: called as Gradio calls it, with an annotator's cookie."""
    annotator, admin = web.session(web.new_user()), web.session(web.new_user(role="admin"))
    handlers = [fn for fn in blocks_of(web, "/admin").fns.values() if fn.fn is not None]
    asked = [fn for fn in handlers if "request" in fn.fn.__code__.co_varnames[: fn.fn.__code__.co_argcount]]
    assert len(asked) >= 3
    for fn in asked:
        for cookies in ({}, {SESSION_COOKIE: annotator}, {SESSION_COOKIE: "forged"}):
            request = gr.Request(_asking(web, cookies))
            with nothing_changes(web.store), pytest.raises(gr.Error):
                fn.fn(None, request)
    request = gr.Request(_asking(web, {SESSION_COOKIE: admin}))
    assert current_user(request, web.store, role="admin").role == "admin"


def _asking(web: WebApp, cookies: dict[str, str]) -> Request:
    cookie = "; ".join(f"{name}={value}" for name, value in cookies.items()).encode()
    headers = [(b"host", f"127.0.0.1:{web.port}".encode()), (b"cookie", cookie)]
    return Request({"type": "http", "scheme": "http", "headers": headers})


def test_an_admins_own_page_works(web: WebApp) -> None:
    with web.admin() as client:
        fn_index = next(index for index, fn in blocks_of(web, "/admin").fns.items() if fn.name == "refresh")
        body = {"data": ["all queues"], "fn_index": fn_index, "session_hash": "adminspage"}
        assert client.post("/admin/gradio_api/queue/join", json=body).status_code == 200
        with client.stream("GET", "/admin/gradio_api/queue/data?session_hash=adminspage") as events:
            finished = next(line for line in events.iter_lines() if "process_completed" in line)
    assert '"success":true' in finished


def test_state_belongs_to_whoever_used_its_name_first(web: WebApp) -> None:
    join = {"data": [None], "fn_index": 0, "session_hash": "chosenbyana"}
    with web.admin() as ana, web.admin() as eve:
        assert ana.post("/admin/gradio_api/queue/join", json=join).status_code == 200
        with nothing_changes(web.store):
            refused = [
                eve.post("/admin/gradio_api/queue/join", json=join),
                eve.post("/admin/gradio_api/cancel", json=join | {"event_id": "x"}),
                eve.get("/admin/gradio_api/queue/data?session_hash=chosenbyana"),
                eve.get("/admin/gradio_api/queue/data?session_hash=mine&session_hash=chosenbyana"),
                eve.get("/admin/gradio_api/heartbeat/chosenbyana"),
            ]
        assert [(reply.status_code, reply.json()["error"]) for reply in refused] == [(403, "not_yours")] * 5


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"session_hash": 1}', b'{"session_hash": "' + b"x" * 100 + b'"}', b""])
def test_malformed_posts_to_the_queue(web: WebApp, body: bytes) -> None:
    with web.admin() as client, nothing_changes(web.store):
        reply = client.post("/admin/gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
    assert reply.status_code in (400, 422)


def test_the_annotators_page_has_no_handler_to_post_to(web: WebApp) -> None:
    assert blocks_of(web, "/label").fns == {}
    with web.annotator() as client, nothing_changes(web.store):
        body = {"data": [], "fn_index": 0, "session_hash": "annotator"}
        assert client.post("/label/gradio_api/queue/join", json=body).status_code >= 400


def test_no_model_text_reaches_templates_or_the_config_of_a_page(web: WebApp) -> None:
    hostile = "${alert(1)} {{alert(2)}} UNMISTAKABLE"
    web.store.add_tasks([NewTask(hostile, [NewResponse(hostile + "a"), NewResponse(hostile + "b")])], CONFIG.queue)
    with web.admin() as client:
        client.post("/api/claim", json={})
        for path in ("/label/", "/label/config", "/label/gradio_api/info", "/admin/", "/admin/config"):
            reply = client.get(path)
            assert reply.status_code == 200
            assert "UNMISTAKABLE" not in reply.text
    for path in ("/label", "/admin"):
        assert [block for block in blocks_of(web, path).blocks.values() if isinstance(block, gr.HTML)] == []


def test_pages_run_and_load_nothing_foreign(web: WebApp) -> None:
    with web.admin() as client:
        for path in ("/label/", "/admin/"):
            page = client.get(path)
            policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
            assert policy["default-src"] == "'none'"
            assert policy["img-src"] == "'self' data: blob:"
            assert policy["connect-src"] == policy["manifest-src"] == "'self'"
            assert policy["frame-ancestors"] == policy["form-action"] == "'none'"
            allowed = policy["script-src"].split()
            assert "'unsafe-inline'" not in allowed
            assert "'unsafe-eval'" not in allowed
            # each inline script of the page is named by its hash, and none besides
            inline = [tag for tag in re.findall(r"<script[^>]*>", page.text) if "src=" not in tag]
            assert sum(source.startswith("'sha256-") for source in allowed) == len(inline) > 0
            assert page.headers["cache-control"] == "no-store"
            assert page.headers["x-frame-options"] == "DENY"
        for path in ("/label/theme.css", "/admin/config"):
            assert "script-src 'self';" in client.get(path).headers["content-security-policy"]


def test_gradio_is_mounted_with_everything_closed(web: WebApp) -> None:
    for path in ("/label", "/admin"):
        blocks: Any = blocks_of(web, path)
        assert blocks.run_history is False
        assert blocks.ssr_mode is False
        assert blocks.show_error is False
        assert blocks.allowed_paths == []
        assert blocks.auth is None
        assert blocks.enable_monitoring is False
        assert blocks.mcp_server is False
        assert blocks.analytics_enabled is False
        assert blocks.share is False
        assert blocks.max_file_size == 0


def test_nothing_of_ours_uses_gradios_login_sharing_or_loading() -> None:
    sources = "\n".join(path.read_text() for path in Path(labeling_app.__file__).parent.rglob("*.py"))
    assert re.findall(r"gr\.load\(|\.launch\(|\bauth=|gr\.LoginButton|gr\.HTML\(", sources) == []


def test_gradio_is_new_enough_for_its_security_fixes() -> None:
    assert tuple(int(part) for part in version("gradio").split(".")[:2]) >= (6, 31)


def test_gradio_sets_no_cookie(web: WebApp) -> None:
    with web.admin() as client:
        replies = [client.get(path) for path in ("/label/", "/admin/", "/label/config", "/label/theme.css")]
    assert [reply.headers.get("set-cookie") for reply in replies] == [None] * 4
