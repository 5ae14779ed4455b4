"""The other modes of the annotators' page, the phone, and what is shown when there is nothing to do."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from annotator import BEST_TO_WORST, Annotator, task, text_of
from serving import App

pytestmark = pytest.mark.browser

A, B, C, D = BEST_TO_WORST
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}
SitDown = Callable[..., Annotator]


@pytest.mark.parametrize("mode", ["pair", "ab"])
def test_between_two_one_digit_decides_and_the_equals_sign_is_a_tie(app: App, sit_down: SitDown, mode: str) -> None:
    app.add_tasks(*[task(f"{mode} {number}", [A, B], mode=mode) for number in range(3)])
    annotator = sit_down()
    for number, keys in enumerate([[A], ["="], [B, A]], start=1):  # the third changes its mind
        annotator.rank(*keys)
        annotator.press("Enter")
        annotator.wait_saved(number)
    assert annotator.orders == {f"{mode} 0": [[A], [B]], f"{mode} 1": [[A, B]], f"{mode} 2": [[A], [B]]}


def test_between_two_a_click_decides(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("pair", [A, B], mode="pair"))
    annotator = sit_down()
    annotator.card(B).get_by_role("button", name="This one is better").click()
    assert annotator.badges == {A: "2nd", B: "Best"}
    annotator.card(B).get_by_role("button", name="Equally good").click()
    assert annotator.badges == {A: "Best =", B: "Best ="}
    annotator.card(A).get_by_role("button", name="This one is better").click()
    assert annotator.badges == {A: "Best", B: "2nd"}


def test_grades_are_given_by_digits_to_the_marked_card(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("rate", [A, B, C], mode="rate"))
    annotator = sit_down()
    first, second, third = annotator.texts
    annotator.press("7", "Backspace", "6", "2", "9")  # there is no 9
    assert annotator.badges == {first: "6 of 7", second: "2 of 7", third: "Not graded"}
    annotator.press("ArrowUp", "3")
    annotator.card(third).get_by_role("button", name="Grade 1").click()
    annotator.press("Enter")
    annotator.wait_saved(1)
    [judgement] = annotator.judgements
    grades = {text_of(judgement, one): grade for one, grade in (judgement.answer.ratings or {}).items()}
    assert grades == {first: 6, second: 3, third: 1}
    assert judgement.answer.tiers == []


@pytest.mark.parametrize("width", [390, 1280])
def test_the_best_grade_is_named_on_every_card(app: App, sit_down: SitDown, width: int) -> None:
    app.add_tasks(task("rate", [A, B, C], mode="rate"))
    annotator = sit_down(viewport={"width": width, "height": 800})
    page = annotator.page
    assert page.inner_text(".task-head h2") == "Grade these three, from 1 (worst) to 7 (best)"
    assert page.locator(".card > footer >> text=worst").locator("visible=true").count() == 3
    assert page.locator(".card > footer >> text=best").locator("visible=true").count() == 3


def test_a_small_window_speaks_of_tapping_since_it_shows_no_keys(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down(viewport={"width": 390, "height": 844})
    assert annotator.page.inner_text(".order") == "Tap Place on the best first; drag to reorder."
    annotator.page.set_viewport_size({"width": 1280, "height": 800})
    annotator.page.locator(".order", has_text="ties the next").wait_for()


def test_who_is_quarantined_can_log_out(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down(open_page=False)
    app.store.set_quarantined(annotator.user.id, True)
    annotator.page.goto(f"{app.address}/label/")
    annotator.page.locator("h1", has_text="Support replies").wait_for()
    annotator.page.get_by_text("Log out").click()
    annotator.page.wait_for_url("**/login")


def test_on_a_phone_cards_are_placed_by_tapping_and_nothing_is_wider_than_the_screen(
    app: App, sit_down: SitDown
) -> None:
    app.add_tasks(task(texts=[*BEST_TO_WORST[:3], f"D: {'x' * 3000}"]))
    annotator = sit_down(**PHONE)
    page = annotator.page
    for _ in range(4):
        page.get_by_role("button", name="Place next").first.tap()
    shown = annotator.texts
    page.get_by_role("button", name="much").tap()
    widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] == widths[1] == 390
    assert page.locator(".bar").bounding_box()["height"] <= 100
    assert page.get_by_text("Best leads").is_visible()
    page.get_by_role("button", name="Submit").tap()
    annotator.wait_saved(1)
    assert annotator.orders == {"Where is my parcel?": [[text] for text in shown]}
    assert annotator.judgements[0].answer.strength == 3


def test_on_a_phone_a_card_is_dragged_with_a_finger(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task(texts=[A, B]))
    annotator = sit_down(**PHONE)
    touch = annotator.context.new_cdp_session(annotator.page)
    grip = annotator.card(B).locator(".grip kbd").bounding_box()
    order = annotator.page.locator(".order").bounding_box()

    def send(kind: str, *points: tuple[float, float]) -> None:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    start, end = (grip["x"] + 5, grip["y"] + 5), (order["x"] + 40, order["y"] + 15)
    send("touchStart", start)
    for step in range(1, 6):
        send("touchMove", (start[0] + (end[0] - start[0]) * step / 5, start[1] + (end[1] - start[1]) * step / 5))
    send("touchEnd")
    annotator.card(B).locator(".badge", has_text="Best").wait_for()
    assert annotator.badges == {A: "Not placed", B: "Best"}


def test_an_empty_queue_says_so_and_fills_by_itself(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("First"))
    first, second = sit_down(), sit_down()
    assert first.prompt == "First"
    second.page.locator("h2", has_text="Nothing to do just now").wait_for()
    why = second.page.inner_text(".why")
    assert re.fullmatch(r"One task is with somebody else; it comes back if it is not answered by \d\d:\d\d.*", why)
    app.add_tasks(task("Second"))
    second.page.get_by_role("button", name="Look again").click()
    second.wait_prompt("Second")


def test_an_empty_queue_says_why(app: App, sit_down: SitDown) -> None:
    annotator = sit_down()
    page = annotator.page

    def look_again() -> str:
        with page.expect_response("**/api/claim"):
            page.get_by_role("button", name="Look again").click()
        why: str = page.inner_text(".why")
        return why

    assert page.inner_text(".why") == "There are no tasks here yet."
    app.add_tasks(task("First"), task("Second"))
    page.get_by_role("button", name="Look again").click()
    annotator.wait_prompt("First")
    annotator.press("s", "2", "Enter")
    annotator.wait_prompt("Second")
    other = sit_down()
    assert other.prompt == "First"
    annotator.rank(*BEST_TO_WORST)
    annotator.press("Enter")
    page.wait_for_selector("text=Nothing to do just now")
    assert (
        page.inner_text(".why") == "You have answered or skipped all that are here; one still waits for somebody else."
    )
    assert "You have answered 1 task, today. You skipped 1" in page.inner_text(".blank")
    other.rank(*BEST_TO_WORST)
    other.press("Enter")
    other.wait_saved(1)
    assert look_again() == "Everything here is done. Thank you!"


def test_an_admin_takes_no_task_before_saying_so(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    admin = sit_down(open_page=False)
    admin.user = app.store.add_user("boss", "admin")
    admin.sign_in()
    admin.open()
    page = admin.page
    assert "There is 1 task for you. None is taken" in page.inner_text(".why")
    annotator = sit_down()
    assert annotator.prompt == "Where is my parcel?"
    app.add_tasks(task("Another"))
    page.get_by_role("button", name="Start ranking").click()
    admin.wait_prompt("Another")
    page.reload()
    admin.wait_prompt("Another")  # what was begun is at hand


def test_two_browsers_never_share_a_task(app: App, sit_down: SitDown) -> None:
    app.add_tasks(*[task(f"Question {number}") for number in range(12)])
    people = [sit_down(), sit_down()]
    for number in range(1, 7):
        assert people[0].prompt != people[1].prompt
        for annotator in people:
            annotator.rank(*BEST_TO_WORST)
            annotator.press("Enter")
        for annotator in people:
            annotator.wait_saved(number)
    answered = [set(annotator.orders) for annotator in people]
    assert answered[0] | answered[1] == {f"Question {number}" for number in range(12)}
    assert answered[0] & answered[1] == set()


def test_a_conversation_stands_message_by_message(app: App, sit_down: SitDown) -> None:
    prompt = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "**Yes?**"}]
    app.add_tasks(task(prompt))  # type: ignore[arg-type]
    annotator = sit_down()
    assert annotator.prompt.lower().split() == ["user", "hello", "assistant", "yes?"]
    assert annotator.page.locator(".prompt strong").inner_text() == "Yes?"


def test_dark_mode_follows_the_system(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task(overlap=2))
    for scheme, is_dark in (("light", False), ("dark", True)):
        annotator = sit_down(color_scheme=scheme)
        shade = annotator.page.locator(".card").first.evaluate("node => getComputedStyle(node).backgroundColor")
        assert (int(shade.removeprefix("rgb(").split(",")[0]) < 100) is is_dark


def test_nothing_moves_by_itself_for_those_who_ask_for_that(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down(reduced_motion="reduce")
    annotator.rank(A)
    annotator.press("Enter")
    moving = "document.getAnimations().filter((one) => one.playState === 'running').length"
    assert annotator.page.evaluate(moving) == 0
