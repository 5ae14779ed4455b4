"""Ranking on the annotators' page: by keyboard, by drag, by buttons; ties, revisions, skips."""

from collections.abc import Callable
from typing import Any

import pytest
from annotator import BEST_TO_WORST, Annotator, task, text_of
from serving import CONFIG, App

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
    left = sorted(annotator.number(text) for text in (C, D))
    missing = annotator.page.locator(".missing")
    assert missing.inner_text() == annotator.page.inner_text(".live") == f"2 of 4 are still unplaced: {', '.join(left)}"
    first = annotator.page.locator(".card").nth(int(left[0]) - 1)
    assert first.evaluate("node => node === document.activeElement")
    assert annotator.judgements == []
    annotator.rank(C)
    assert missing.is_hidden()
    assert annotator.page.inner_text(".saved") == "3 of 4 placed"


def test_all_bad_needs_no_order_and_those_unplaced_tie_behind_the_others(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("First"), task("Second"), task("Third", [A, B], mode="pair"))
    annotator = sit_down()
    annotator.press("b")
    assert "an order is optional" in annotator.page.inner_text(".order")
    annotator.press("Enter")
    annotator.wait_prompt("Second")
    annotator.rank(C)
    annotator.press("b", "Enter")
    annotator.wait_prompt("Third")
    annotator.press("b", "Enter")
    annotator.wait_saved(3)
    assert annotator.orders == {"First": [[A, B, C, D]], "Second": [[C], [A, B, D]], "Third": [[A, B]]}
    assert [one.answer.all_bad for one in annotator.judgements] == [True, True, True]
    assert app.store.audit() == []


def test_an_edit_that_is_no_longer_of_the_best_is_shown_and_not_sent_unasked(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    page = annotator.page
    annotator.rank(A, B, C, D)
    annotator.press("e")
    page.keyboard.type(", I promise")  # the caret stands behind the text
    annotator.press("Escape")
    edited = f"{A}, I promise"
    assert annotator.card(edited).locator(".chip.edit").inner_text().startswith("edited")
    annotator.card(B).get_by_role("button", name="Move up").click()
    assert annotator.card(edited).locator(".chip.edit").inner_text().startswith("edited, not the best")
    annotator.press("Enter")
    assert f"You have edited card {annotator.number(edited)}" in page.inner_text("dialog")
    annotator.press("Escape")
    assert annotator.judgements == []
    annotator.press("b", "Enter")  # where all are bad, any may be made better
    annotator.wait_saved(1)
    [judgement] = annotator.judgements
    assert judgement.answer.edit is not None
    assert judgement.answer.edit.text == edited
    annotator.press("u")
    page.wait_for_selector("text=An earlier answer of yours")
    annotator.press("b", "Enter", "Enter")  # asked, and answered
    page.wait_for_selector("text=Nothing to do just now")
    [judgement] = annotator.judgements
    assert (judgement.revision, judgement.answer.edit) == (2, None)


def test_an_edit_is_dropped_on_its_card_and_can_be_had_back(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    page = annotator.page
    annotator.rank(A, "=", B, C, D)
    annotator.card(B).locator(".body").click()
    annotator.press("e")  # of two that tie, the one that was clicked
    page.keyboard.type("!")
    annotator.press("Escape")
    annotator.card(f"{B}!").get_by_role("button", name="Drop the edit").click()
    page.locator(".notice", has_text="The edit is dropped.").wait_for()
    assert page.locator(".chip.edit").count() == 0
    page.click("text=Undo")
    assert page.locator(".notice").is_hidden()
    annotator.press("Enter")
    annotator.wait_saved(1)
    [judgement] = annotator.judgements
    assert judgement.answer.edit is not None
    assert (text_of(judgement, judgement.answer.edit.response_id), judgement.answer.edit.text) == (B, f"{B}!")


def test_an_edited_card_shows_what_was_written_and_on_demand_the_original(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    page = annotator.page
    annotator.rank(*BEST_TO_WORST)
    annotator.press("e")
    page.keyboard.type(" *or*\ntomorrow")
    annotator.press("Escape")
    card = annotator.card(f"{A} *or*\ntomorrow")  # Markdown in it is not drawn
    card.get_by_role("button", name="show original").click()
    assert A in annotator.texts
    card.get_by_role("button", name="show edit").click()
    assert A not in annotator.texts


def test_the_key_of_flags_asks_for_the_card_unless_one_is_marked(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    page = annotator.page
    annotator.rank(*BEST_TO_WORST)
    first, second, _, last = annotator.texts
    annotator.press("f", "2")
    assert page.inner_text("dialog h2") == "What is wrong with card 2?"
    assert page.inner_text("dialog .quote") == second
    annotator.press("1", "Backspace", "1", "3", "Enter")
    annotator.press("ArrowUp", "f", "4", "Enter", "Enter")  # upwards from nowhere: the last one
    annotator.wait_saved(1)
    flags = {
        text_of(annotator.judgements[0], one): names for one, names in annotator.judgements[0].answer.flags.items()
    }
    known = list(CONFIG.flags)
    assert flags == {second: [known[0]], first: [known[2]], last: [known[3]]}


def test_a_long_card_is_scrolled_by_keys(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task(texts=["short", "\n\n".join(f"line {number}" for number in range(400))]))
    annotator = sit_down()
    page = annotator.page
    long = page.locator(".card", has_text="line 399").locator(".body")
    top = "node => node.scrollTop"
    annotator.press(*["ArrowDown"] * (1 if annotator.texts[1] == "short" else 2))
    annotator.press("PageDown", "PageDown")
    further = long.evaluate(top)
    assert further > 400
    annotator.press("PageUp")
    assert 0 < long.evaluate(top) < further
    long.click()
    annotator.press("ArrowDown")  # the focus is in the text: it scrolls, no other card is marked
    assert page.locator(".card.current .body").evaluate("node => node.tabIndex") == 0


def test_enter_submits_after_a_dialog_was_opened_and_closed_with_the_mouse(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    annotator.rank(A, B, C, D)
    annotator.card(D).locator("button", has_text="Flag").click()
    annotator.page.click("dialog >> text=Untrue")
    annotator.page.click("dialog >> text=Done")
    annotator.press("Enter")
    annotator.wait_saved(1)
    assert list(annotator.judgements[0].answer.flags.values()) == [["untrue"]]


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
    annotator.press("f", annotator.number(D), "2", "4", "Enter")
    annotator.press("r")
    page.keyboard.type("1 = 2, see above? S")  # keys are letters here
    annotator.press("Escape", "e")
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
    annotator.press("f", annotator.number(D), "2", "4", "Enter", "Enter")
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
    page.click("dialog >> text=Another card")
    page.locator("dialog .which .option", has_text=D).click()
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
    assert page.locator("dialog .option", has_text=first).locator(".chip").inner_text() == "skipped"
    page.click(f"dialog >> text={first}")
    page.wait_for_selector("text=You skipped this one")
    annotator.rank(*BEST_TO_WORST)
    assert set(annotator.badges.values()) == {"Not placed"}  # it is only looked at
    annotator.press("a")
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
    annotator.press("n", "n")  # two steps, however fast
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
    page = annotator.page
    panel = page.locator("#page-guidelines")
    assert "version 1" in panel.inner_text()
    assert "right before friendly" in panel.inner_text()
    edges = page.evaluate(
        "['#page-surface', '#page-guidelines'].map((name) => document.querySelector(name).getBoundingClientRect())"
    )
    assert edges[0]["right"] <= edges[1]["left"]
    annotator.press("g")
    assert not panel.is_visible()
    page.reload()
    page.wait_for_selector(".card")
    assert not panel.is_visible()  # as it was left
    annotator.press("g")
    assert panel.is_visible()


def test_the_guidelines_wait_to_be_asked_for_where_there_is_no_room_beside(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down(viewport={"width": 1100, "height": 800})
    panel = annotator.page.locator("#page-guidelines")
    assert not panel.is_visible()
    annotator.press("g")
    assert panel.is_visible()


def test_beside_the_guidelines_the_bar_is_one_row(app: App, sit_down: SitDown) -> None:
    texts = [f"reply {letter}" for letter in "abcdef"]
    app.add_tasks(task(texts=texts), task(texts=texts, prompt="Next"))
    annotator = sit_down()
    bar = annotator.page.locator(".bar")
    heights = []
    for keys in ([], texts, ["Enter"]):
        annotator.press("Enter") if keys == ["Enter"] else annotator.rank(*keys)
        heights.append(bar.bounding_box()["height"])
    annotator.wait_prompt("Next")
    assert annotator.page.inner_text(".saved").split() == ["Last", "answer", "saved"]
    assert max([*heights, bar.bounding_box()["height"]]) <= 62
    tops = annotator.page.locator(".bar > :not(.missing)").evaluate_all(
        "nodes => nodes.map((node) => { const box = node.getBoundingClientRect(); return box.top + box.height / 2; })"
    )
    assert max(tops) - min(tops) <= 2
    assert bar.locator("kbd:visible").all_inner_texts()[-3:] == ["B", "S", "↵"]
    box = bar.bounding_box()
    assert (box["x"], box["width"]) == (0, 1280)
    assert page_scrolls_sideways(annotator) is False


def page_scrolls_sideways(annotator: Annotator) -> bool:
    root = annotator.page.locator(":root")
    return bool(root.evaluate("root => root.scrollWidth > root.clientWidth"))


def test_nine_short_cards_are_seen_at_once_beside_the_guidelines(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task(texts=[f"reply {letter}" for letter in "abcdefghi"]))
    annotator = sit_down()
    last = annotator.page.locator(".card").last.bounding_box()
    assert last["y"] + last["height"] <= annotator.page.locator(".bar").bounding_box()["y"]


def test_the_keys_are_explained(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    annotator.press("?")
    help_text = annotator.page.inner_text("dialog")
    for key in ("=", "Backspace", "Enter", "S", "U", "F", "R", "E", "B"):
        assert key in help_text.split()
    annotator.press("Escape")
    annotator.page.locator("dialog").wait_for(state="detached")
