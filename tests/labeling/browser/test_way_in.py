"""Logging in with a real browser: forms, the strict cookie, and pages that are opened from other sites."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from web_tools import PASSWORD, WebApp, add_tasks, running

from labeling_app import accounts

pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 360, "height": 640}, "has_touch": True}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    with running(tmp_path_factory.mktemp("home")) as app:
        add_tasks(app.store, overlap=100)
        yield app


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    with running(tmp_path_factory.mktemp("home"), "loopback") as app:
        add_tasks(app.store, overlap=100)
        yield app


@pytest.fixture
def elsewhere() -> Iterator[Any]:
    """Another site, with a link: browsers take `localhost` for one that has nothing to do with 127.0.0.1."""
    target = [""]

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f'<!doctype html><a href="{target[0]}">there</a>'.encode()
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    Thread(target=server.serve_forever, daemon=True).start()

    def link_to(address: str) -> str:
        target[0] = address
        return f"http://localhost:{server.server_address[1]}/"

    yield link_to
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(**PHONE)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))

    def hear(said: Any) -> None:
        if "Content Security" in said.text and not page.url.startswith("http://localhost"):
            problems.append(said.text)

    page.on("console", hear)
    yield page
    context.close()
    assert problems == []


def is_at_work(page: Any, web: WebApp) -> None:
    page.wait_for_url(f"{web.origin}/label/")
    page.get_by_text("prompt").first.wait_for()


def fits_the_screen(page: Any) -> bool:
    fits: bool = page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    return fits


def test_from_the_invitation_to_the_first_task_on_a_phone(page: Any, web: WebApp) -> None:
    user = web.new_user()
    token = web.store.write(accounts.invite, user.id, "password").token
    page.goto(f"{web.origin}/invite?token={token}")
    assert fits_the_screen(page)
    assert page.get_by_label("Password", exact=True).evaluate("field => field === document.activeElement")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD + "x")
    page.keyboard.press("Enter")
    assert page.get_by_role("alert").inner_text() == "The two passwords differ."
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Save and begin").tap()
    is_at_work(page, web)
    assert page.evaluate("document.cookie") == ""


def test_logging_in_and_out_with_the_keyboard(page: Any, web: WebApp) -> None:
    user = web.with_password()
    page.goto(f"{web.origin}/label/")
    page.wait_for_url(f"{web.origin}/login")
    assert fits_the_screen(page)
    page.keyboard.type(user.name)
    page.keyboard.press("Tab")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    assert page.get_by_role("alert").inner_text() == "Name and password do not fit."
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    is_at_work(page, web)
    page.goto(f"{web.origin}/logout")
    page.get_by_role("button", name="Log out").tap()
    page.wait_for_url(f"{web.origin}/login")
    page.goto(f"{web.origin}/label/")
    page.wait_for_url(f"{web.origin}/login")


def test_a_link_on_another_site_finds_the_session(page: Any, web: WebApp, elsewhere: Any) -> None:
    user = web.with_password()
    page.goto(f"{web.origin}/login")
    page.get_by_label("Name").fill(user.name)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    is_at_work(page, web)
    for path in ("/", "/label/"):
        page.goto(elsewhere(web.origin + path))
        page.get_by_role("link").tap()
        is_at_work(page, web)


def test_without_a_session_such_a_link_ends_at_the_login(page: Any, web: WebApp, elsewhere: Any) -> None:
    page.goto(elsewhere(f"{web.origin}/label/"))
    page.get_by_role("link").tap()
    page.wait_for_url(f"{web.origin}/login")


def test_a_wrong_name_of_the_server_leads_to_the_right_one(page: Any, loopback: WebApp) -> None:
    page.goto(f"http://foo.localhost:{loopback.port}/label/")
    assert page.inner_text("h1") == "This is the wrong address"
    assert page.locator("main").evaluate("node => getComputedStyle(node).borderRadius") == "12px"  # it is styled
    assert fits_the_screen(page)
    page.get_by_role("link").tap()
    page.wait_for_url(f"{loopback.origin}/login")


def test_the_one_time_link_works_from_a_page_too(page: Any, loopback: WebApp, elsewhere: Any) -> None:
    local = loopback.store.add_user("local", "admin")
    token = loopback.store.write(accounts.invite, local.id, "session").token
    page.goto(elsewhere(f"{loopback.origin}/?token={token}"))
    page.get_by_role("link").tap()
    is_at_work(page, loopback)
    page.goto(f"{loopback.origin}/admin/")
    page.get_by_text("Quality of the judgements").wait_for()
    page.get_by_text("as of").wait_for()


def test_another_site_can_neither_post_nor_frame_nor_read(page: Any, web: WebApp, elsewhere: Any) -> None:
    user = web.with_password()
    page.goto(f"{web.origin}/login")
    page.get_by_label("Name").fill(user.name)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    is_at_work(page, web)
    page.goto(elsewhere(web.origin))
    before = web.store.events()
    attack = """async (origin) => {
      const outcomes = [];
      for (const mode of ["cors", "no-cors"]) {
        const options = {mode, method: "POST", credentials: "include", body: "{}"};
        outcomes.push(await fetch(origin + "/api/claim", options).then((reply) => reply.type, () => "refused"));
        const look = {mode, credentials: "include"};
        outcomes.push(await fetch(origin + "/api/me", look).then((reply) => reply.type, () => "refused"));
      }
      return outcomes;
    }"""
    assert set(page.evaluate(attack, web.origin)) <= {"refused", "opaque"}
    assert web.store.events() == before
    frame = (
        "origin => { const frame = document.createElement('iframe'); frame.src = origin; document.body.append(frame); }"
    )
    page.evaluate(frame, web.origin + "/login")
    page.wait_for_function("document.querySelector('iframe') !== null")
    inner = page.frames[-1]
    inner.wait_for_load_state()
    assert inner.query_selector("form") is None
