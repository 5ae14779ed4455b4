"""The admins' page in a real Chromium: figures, one-click quarantine, refresh, a phone's width."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from annotator import task
from serving import QUEUE, App

from labeling_app.answers import Answer

pytestmark = pytest.mark.browser

NUM_TASKS = 30
OTHER = "support/run-1"
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A server of its own, on which ana and ben agree and mallory turns everything round."""
    app = App(tmp_path_factory.mktemp("dashboard"))
    app.store.add_tasks([task(f"prompt {number}", overlap=3) for number in range(NUM_TASKS)], QUEUE)
    for name in ("ana", "ben", "mallory"):
        app.store.add_user(name)
        answer(app, name, NUM_TASKS - 1)
    app.start()
    yield app
    app.stop()


def answer(app: App, name: str, number: int) -> None:
    """Let somebody answer so many tasks: best is the text that comes first in the alphabet, for mallory the last."""
    user = app.store.user(name)
    for _ in range(number):
        claimed = app.store.claim(user.id, QUEUE)
        assert claimed is not None and claimed.lease is not None
        texts = {content: response for response, content in claimed.responses}
        tiers = [[texts[text]] for text in sorted(texts, reverse=name == "mallory")]
        app.store.submit(user.id, claimed.lease, f"{name} {claimed.task_id}", Answer(tiers=tiers), 20_000)


class Desk:
    """An admin at the dashboard."""

    def __init__(self, app: App, context: Any, name: str = "root", role: str = "admin") -> None:
        users = {user.name: user for user in app.store.users()}
        token = app.new_session(users.get(name) or app.store.add_user(name, role=role))
        context.add_cookies([{"name": "rlhf_session", "value": token, "url": app.address}])
        self.app = app
        self.page = context.new_page()
        self.page.set_default_timeout(20_000)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", self._note)

    def _note(self, request: Any) -> None:
        if not request.url.startswith((self.app.address, "data:", "blob:")):
            self.problems.append(f"asked {request.url}")

    def open(self) -> "Desk":
        self.page.goto(f"{self.app.address}/admin/")
        self.page.wait_for_selector(".annotator button")
        return self

    def figures(self, where: str) -> dict[str, str]:
        """What stands under each name of a list: {"answers": "87 by 3 people", ...}."""
        script = (
            "all => Object.fromEntries([...all].map(one => "
            "[one.querySelector('dt').textContent, one.querySelector('dd').innerText.split('\\n').join(' ')]))"
        )
        return dict(self.page.eval_on_selector_all(f"{where} dl > div", script))

    def choose(self, queue: str) -> None:
        self.page.click("#queue input")
        self.page.get_by_role("option", name=queue, exact=True).click()

    def is_in_window(self, element: Any) -> bool:
        box = element.bounding_box()
        return bool(box["y"] >= 0 and box["y"] + box["height"] <= self.page.viewport_size["height"])

    @property
    def done(self) -> Any:
        """What the last click did."""
        return self.page.locator("#done [role=status]")

    def line(self, name: str) -> Any:
        return self.page.locator(".annotator", has=self.page.locator(".name strong", has_text=name))


@pytest.fixture
def desk(app: App, browser: Any) -> Iterator[Desk]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    desk = Desk(app, context).open()
    yield desk
    context.close()
    assert desk.problems == []


def test_it_shows_how_the_work_stands_and_how_far_it_can_be_trusted(desk: Desk):
    overview = desk.figures("#overview")
    assert overview["answers"] == "87 by 3 people"
    assert overview["answers to come"] == "3 0 tasks begun"
    assert overview["answers an hour"] == "348.0 of all people, by the clock: 87 in the last 15 min"
    assert overview["answers an hour of work"].endswith("of one person, in the time spent on tasks")
    agreement = desk.figures("#agreement")
    # of three pairs of people one agrees, on every pair of responses
    assert agreement["two people agree"].startswith("33%")
    assert QUEUE in desk.page.inner_text("#queues")
    assert "contradicts the others" in desk.line("mallory").inner_text()
    assert "contradicts" not in desk.line("ana").inner_text()
    shown = desk.page.eval_on_selector_all(
        "#plots img", "all => all.filter(one => one.complete && one.naturalWidth > 0 && one.offsetWidth > 200).length"
    )
    assert shown == 4  # drift needs 100 answers by one person


def test_one_click_quarantines_and_another_releases(app: App, desk: Desk):
    desk.page.get_by_placeholder("Reason for the next click").fill("turns every order round")
    desk.line("mallory").get_by_role("button", name="Quarantine mallory", exact=True).click()
    desk.line("mallory").get_by_role("button", name="Release mallory", exact=True).wait_for()
    assert desk.done.inner_text().startswith(
        "mallory is quarantined: 29 answers left out of exports, others are asked for 29 in their place."
    )
    assert "rlhf label users quarantine mallory --undo" in desk.done.inner_text()
    assert desk.is_in_window(desk.done)
    assert desk.page.get_by_placeholder("Reason for the next click").input_value() == ""
    assert app.store.user("mallory").quarantined_at is not None
    assert desk.line("mallory").locator(".badge").inner_text() == "quarantined"
    assert "by root: turns every order round" in desk.line("mallory").inner_text()
    assert desk.figures("#agreement")["two people agree"].startswith("100%")
    assert desk.figures("#agreement")["alpha of orders"].startswith("1.00 no interval: full agreement in all 2")
    assert desk.figures("#overview")["answers"] == "87 by 3 people, 1 of them quarantined"
    assert {each.user for each in app.store.judgements()} == {"ana", "ben"}
    (event,) = [event for event in app.store.events() if event.kind == "quarantined"]
    assert event.user_id == app.store.user("root").id
    assert event.body["reason"] == "turns every order round"
    desk.line("mallory").get_by_role("button", name="Release mallory").click()
    desk.line("mallory").get_by_role("button", name="Quarantine mallory").wait_for()
    assert desk.done.inner_text().startswith("mallory is released: 29 answers in exports again")
    assert app.store.user("mallory").quarantined_at is None


def test_the_served_queue_is_shown_first_and_another_can_be_chosen(app: App, desk: Desk):
    app.store.add_tasks([task("another prompt")], OTHER)
    user = app.store.user("ana")
    claimed = app.store.claim(user.id, OTHER)
    assert claimed is not None and claimed.lease is not None
    tiers = [[response] for response, _ in claimed.responses]
    app.store.submit(user.id, claimed.lease, "other", Answer(tiers=tiers), 5_000)
    app.store.add_tasks([task("one more")], QUEUE)
    desk.page.click("#refresh")
    desk.page.locator("#queues td", has_text=str(NUM_TASKS + 1)).wait_for()
    assert desk.page.input_value("#queue input") == QUEUE
    assert desk.figures("#overview")["answers"].startswith("87 ")
    assert desk.page.locator("#queues tbody tr").count() == 1
    desk.choose("all queues")
    desk.page.locator("#queues td", has_text=OTHER).wait_for()
    assert desk.figures("#overview")["answers"].startswith("88 ")
    desk.choose(OTHER)
    desk.page.locator("#queues td", has_text=QUEUE).wait_for(state="detached")
    assert desk.figures("#overview")["answers"] == "1 by 1 person"
    assert "Only ana has answered" in desk.page.inner_text("#agreement")
    assert "Agreement on pairs: needs a task that two people answered" in desk.page.inner_text("#missing")
    desk.page.locator(".annotator").nth(1).wait_for(state="detached")
    assert desk.line("ana").is_visible()


def test_a_link_leads_back_to_the_tasks(app: App, desk: Desk):
    desk.page.get_by_role("link", name="Tasks").click()
    desk.page.wait_for_url(f"{app.address}/label/")
    desk.page.get_by_role("link", name="Dashboard").wait_for()  # and from there back here


def test_nothing_runs_over_the_edge_of_a_phone(app: App, browser: Any):
    context = browser.new_context(viewport=PHONE)
    desk = Desk(app, context).open()
    desk.page.wait_for_selector("#plots img")
    assert desk.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    wide = desk.page.eval_on_selector_all(
        ".annotator, .tiles > div, #plots img, .annotator button",
        "all => all.filter(one => one.offsetWidth > 0 && one.getBoundingClientRect().right > 391).length",
    )
    assert wide == 0
    # whoever stands last in the list: what was done stays in sight
    desk.page.locator(".annotator button").last.click()
    desk.done.wait_for()
    assert desk.is_in_window(desk.done)
    desk.page.get_by_role("button", name="Release").click()
    desk.page.get_by_text("is released").wait_for()
    context.close()
    assert desk.problems == []


def test_an_annotator_sees_nothing_and_changes_nothing(app: App, browser: Any):
    context = browser.new_context()
    desk = Desk(app, context, name="eve", role="annotator")
    response = desk.page.goto(f"{app.address}/admin/")
    assert response.status == 403
    assert desk.page.locator(".annotator").count() == 0
    for index in range(6):
        posted = context.request.post(
            f"{app.address}/admin/gradio_api/queue/join",
            headers={"origin": app.address, "content-type": "application/json"},
            data=json.dumps({"data": [None], "fn_index": index, "session_hash": "eve"}),
        )
        assert posted.status == 403
    context.close()
    assert app.store.user("mallory").quarantined_at is None
