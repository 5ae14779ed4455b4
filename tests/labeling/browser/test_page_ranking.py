"""Ranking on the annotators' page: by keyboard, by drag, by buttons; ties, revisions, skips."""

from collections.abc import Callable
from typing import Any

import pytest
from annotator import BEST_TO_WORST, Annotator, task, text_of
from serving import App

pytestmark = pytest.mark.browser

A, B, C, D = BEST_TO_WORST
SitDown = Callable[..., Annotator]


def test_twenty_tasks_are_ranked_by_keyboard_alone(app: App, sit_down: SitDown) -> None:
    app.add_tasks(*[task(f"Question {number}") for number in range(20)])
    annotator = sit_down()
    for number in range(20):
        assert set(annotator.badges.values()) == {"Not placed"}
        annotator.rank(*BEST_TO_WORST)
        annotator.press("Enter")
        annotator.wait_saved(number + 1)
    annotator.page.wait_for_selector("text=Nothing to do just now")
    assert annotator.orders == {f"Question {number}": [[A], [B], [C], [D]] for number in range(20)}


def test_the_order_shown_is_the_one_stored_and_differs_between_people(app: App, sit_down: SitDown) -> None:
    app.add_tasks(*[task(f"Question {number}", overlap=2) for number in range(4)])
    shown: list[list[list[str]]] = []
    for _ in range(2):
        annotator = sit_down()
        shown.append([])
        for number in range(4):
            shown[-1].append(annotator.texts)
            annotator.rank(*BEST_TO_WORST)
            annotator.press("Enter")
            annotator.wait_saved(number + 1)
        stored = [[text_of(one, response) for response in one.presented] for one in annotator.judgements]
        assert stored == shown[-1]
    assert shown[0] != shown[1]


def test_a_click_on_submit_counts_the_time_up_to_it(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down(open_page=False)
    annotator.context.add_init_script(
        "const every = setInterval; window.setInterval = (then, ms) => ms === 1000 ? 0 : every(then, ms);"
    )
    annotator.open()
    annotator.rank(*BEST_TO_WORST)
    annotator.page.click("text=Submit")
    annotator.wait_saved(1)
    assert annotator.judgements[0].active_ms > 0


def test_ties_by_key(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    annotator.rank(B, A, "=", D, C)
    assert annotator.badges == {B: "Best", A: "2nd =", D: "2nd =", C: "3rd"}
    annotator.press("Enter")
    annotator.wait_saved(1)
    assert annotator.orders["Where is my parcel?"] == [[B], [A, D], [C]]


def test_backspace_takes_back_first_the_tie_then_the_last_card(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    annotator.rank(A, B, "=")
    annotator.press("Backspace")
    annotator.rank(C)
    assert annotator.badges == {A: "Best", B: "2nd", C: "3rd", D: "Not placed"}
    annotator.press("Backspace", "Backspace")
    assert annotator.badges == {A: "Best", B: "Not placed", C: "Not placed", D: "Not placed"}


def test_nine_cards_are_ranked_by_digits(app: App, sit_down: SitDown) -> None:
    texts = [f"reply {letter}" for letter in "abcdefghi"]
    app.add_tasks(task(texts=texts))
    annotator = sit_down()
    assert annotator.page.inner_text(".task-head h2") == "Rank these nine, best first"
    annotator.rank(*texts)
    places = ["Best", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th"]
    assert annotator.badges == dict(zip(texts, places, strict=True))
    annotator.press("Enter")
    annotator.wait_saved(1)
    assert annotator.orders == {"Where is my parcel?": [[text] for text in texts]}


def test_enter_before_all_are_placed_submits_nothing_and_says_what_is_missing(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    annotator.rank(A, B)
    annotator.press("Enter")
    assert annotator.page.inner_text(".live") == "2 cards still without a place."
    assert annotator.judgements == []


def test_cards_are_dragged_into_the_order_between_others_onto_others_and_out(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    page = annotator.page

    def drag(source: Any, target: Any) -> None:
        source.hover()
        page.mouse.down()
        page.mouse.move(600, 600, steps=4)  # now the order makes room
        box = target.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
        page.mouse.up()

    def grip(text: str) -> Any:
        return annotator.card(text).locator(".grip kbd")

    drag(grip(C), page.locator(".order"))
    drag(grip(A), page.locator('.gap[data-gap="0"]'))  # before C
    drag(grip(D), page.locator(".gap.last"))
    assert annotator.badges == {A: "Best", C: "2nd", D: "3rd", B: "Not placed"}
    drag(grip(B), annotator.chip(A))
    assert annotator.badges == {A: "Best =", B: "Best =", C: "2nd", D: "3rd"}
    drag(annotator.chip(B), page.locator('.gap[data-gap="1"]'))
    drag(annotator.chip(D), annotator.card(D).locator(".body"))
    assert annotator.badges == {A: "Best", B: "2nd", C: "3rd", D: "Not placed"}
    drag(grip(D), page.locator(".gap.last"))
    page.click("text=Submit")
    annotator.wait_saved(1)
    assert annotator.orders["Where is my parcel?"] == [[A], [B], [C], [D]]


def test_cards_are_placed_and_moved_by_buttons(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()

    def click(text: str, name: str) -> None:
        annotator.card(text).get_by_role("button", name=name).click()

    for text in (B, A, D, C):
        click(text, "Place next")
    click(A, "Move up")
    click(D, "Move down")
    assert annotator.badges == {A: "Best", B: "2nd", C: "3rd", D: "4th"}
    click(C, "Tie with its neighbour")
    assert annotator.badges == {A: "Best", B: "2nd =", C: "2nd =", D: "3rd"}
    click(C, "Move down")
    click(D, "Take out of the order")
    assert annotator.badges == {A: "Best", B: "2nd", C: "3rd", D: "Not placed"}
    annotator.press(annotator.number(D), "Enter")  # a click has not taken the keys away
    annotator.wait_saved(1)
    assert annotator.orders["Where is my parcel?"] == [[A], [B], [C], [D]]


def test_everything_is_reached_and_worked_by_tab_and_enter_with_the_focus_in_sight(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    page = annotator.page
    for text in BEST_TO_WORST:
        place = annotator.card(text).get_by_role("button", name="Place next")
        place.focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Shift+Tab")
        assert place.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
        page.keyboard.press("Enter")
    annotator.chip(D).focus()
    page.keyboard.press("ArrowLeft")
    assert annotator.badges == {A: "Best", B: "2nd", D: "3rd", C: "4th"}
    assert page.inner_text(".live") == f"Card {annotator.number(D)}: 3rd. Enter submits."
    assert annotator.judgements == []


def test_what_goes_beside_the_order_is_stored(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    page = annotator.page
    annotator.rank(A, B, C, D)
    annotator.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft")  # clearly
    annotator.press("b")
    annotator.press("f", "2", "4", "Enter")  # flags the card that was placed last
    annotator.press("r")
    page.keyboard.type("1 = 2, see above? S")  # keys are letters here
    annotator.press("Escape", "e")
    page.keyboard.press("Control+End")
    page.keyboard.type(" and with a voucher")
    annotator.press("Escape", "Enter")
    annotator.wait_saved(1)
    [judgement] = annotator.judgements
    answer = judgement.answer
    assert (answer.strength, answer.all_bad, answer.rationale) == (2, True, "1 = 2, see above? S")
    assert {text_of(judgement, one): flags for one, flags in answer.flags.items()} == {D: ["untrue", "broken"]}
    assert answer.edit is not None
    assert (text_of(judgement, answer.edit.response_id), answer.edit.text) == (A, f"{A} and with a voucher")
    assert judgement.guidelines_version == 1
    assert 0 < judgement.active_ms <= judgement.wall_ms


def test_an_answer_is_gone_back_to_and_revised(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("First"), task("Second"), task("Third"))
    annotator = sit_down()
    for number in (1, 2):
        annotator.rank(*BEST_TO_WORST)
        annotator.press("Enter")
        annotator.wait_saved(number)
    annotator.rank(D)  # begun
    annotator.press("u")
    annotator.page.wait_for_selector("text=An earlier answer of yours")
    annotator.press("u")
    annotator.wait_prompt("First")
    assert annotator.badges == {A: "Best", B: "2nd", C: "3rd", D: "4th"}
    annotator.press("Backspace", "=")
    annotator.rank(D)
    annotator.press("Enter")
    annotator.wait_prompt("Third")
    assert annotator.badges[D] == "Best"  # as it was left
    assert annotator.orders == {"First": [[A], [B], [C, D]], "Second": [[A], [B], [C], [D]]}
    assert {str(one.prompt): one.revision for one in annotator.judgements} == {"First": 2, "Second": 1}


def test_a_flag_that_is_no_longer_in_use_is_shown_where_it_was_given_and_can_be_taken_off(
    app: App, sit_down: SitDown
) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    page = annotator.page
    annotator.rank(*BEST_TO_WORST)
    annotator.press("f", "2", "4", "Enter", "Enter")  # flags the card that was placed last
    annotator.wait_saved(1)

    def without_untrue(route: Any) -> None:
        response = route.fetch()
        me = response.json()
        me["flags"] = [flag for flag in me["flags"] if flag["name"] != "untrue"]
        route.fulfill(response=response, json=me)

    page.route("**/api/me", without_untrue)
    page.reload()
    page.wait_for_selector("text=Nothing to do just now")
    annotator.press("u")
    page.wait_for_selector(".card")
    option = page.locator("dialog .option", has_text="untrue (no longer in use)")
    annotator.card(A).locator("button", has_text="Flag").click()
    assert option.is_hidden()
    page.locator("dialog .pick button", has_text=annotator.number(D)).click()
    assert option.get_attribute("aria-pressed") == "true"
    option.click()
    assert option.get_attribute("aria-pressed") == "false"
    page.click("dialog >> text=Done")
    with page.expect_response("**/api/revise") as revised:
        page.click("text=Save change")
    assert revised.value.ok
    [judgement] = annotator.judgements
    flags = {text_of(judgement, one): names for one, names in judgement.answer.flags.items()}
    assert (judgement.revision, flags) == (2, {D: ["broken"]})


def test_a_task_is_skipped_with_a_reason_and_answered_after_all(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("First"), task("Second"))
    annotator = sit_down()
    page = annotator.page
    first = annotator.prompt
    annotator.press("s", "2", "Enter")
    annotator.wait_prompt({"First": "Second", "Second": "First"}[first])
    [event] = [event for event in app.store.events() if event.kind == "skipped" and event.user_id == annotator.user.id]
    assert event.body["reason"] == "I cannot decide"
    page.click("#open-history")
    page.click(f"dialog >> text={first}")
    page.wait_for_selector("text=You skipped this one")
    annotator.rank(*BEST_TO_WORST)
    assert set(annotator.badges.values()) == {"Not placed"}  # it is only looked at
    page.click("text=Answer it after all")
    page.wait_for_selector("text=You can answer it now")
    annotator.rank(*BEST_TO_WORST)
    annotator.press("Enter")
    annotator.wait_saved(1)
    assert annotator.orders == {first: [[A], [B], [C], [D]]}
    assert annotator.prompt != first


def test_looking_back_at_a_skipped_task_takes_nothing_and_goes_on_to_older_ones(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("Answered"), task("Skipped"), task("In hand"))
    annotator = sit_down()
    page = annotator.page
    annotator.rank(*BEST_TO_WORST)
    annotator.press("Enter")
    annotator.wait_prompt("Skipped")
    annotator.press("s", "2", "Enter")
    annotator.wait_prompt("In hand")
    annotator.press("u")
    annotator.wait_prompt("Skipped")
    other = sit_down()
    assert other.prompt == "Skipped"
    page.click("text=Answer it after all")
    page.locator(".notice[role=alert]", has_text="Somebody else").wait_for()
    annotator.press("u")
    annotator.wait_prompt("Answered")
    assert annotator.badges == {A: "Best", B: "2nd", C: "3rd", D: "4th"}
    page.click("text=Back to the task in hand")
    annotator.wait_prompt("In hand")
    annotator.rank(*BEST_TO_WORST)
    annotator.press("Enter")
    annotator.wait_saved(2)


def test_an_earlier_task_that_is_refused_is_passed_over(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("First"), task("Second"), task("Third"))
    annotator = sit_down()
    for number in (1, 2):
        annotator.rank(*BEST_TO_WORST)
        annotator.press("Enter")
        annotator.wait_saved(number)
    refused = {"status": 404, "json": {"error": "unknown_task", "message": "There is no such task."}}
    annotator.page.route("**/api/reopen", lambda route: route.fulfill(**refused), times=1)
    annotator.press("u")
    annotator.wait_prompt("First")
    assert annotator.page.locator(".notice").is_hidden()


def test_the_guidelines_stand_beside_the_task_with_their_version(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    panel = annotator.page.locator("#page-guidelines")
    assert not panel.is_visible()
    annotator.press("g")
    assert "version 1" in panel.inner_text()
    assert "right before friendly" in panel.inner_text()
    annotator.press("g")
    assert not panel.is_visible()


def test_the_keys_are_explained(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    annotator.press("?")
    help_text = annotator.page.inner_text("dialog")
    for key in ("=", "Backspace", "Enter", "S", "U", "F", "R", "E", "B"):
        assert key in help_text.split()
    annotator.press("Escape")
    annotator.page.locator("dialog").wait_for(state="detached")
