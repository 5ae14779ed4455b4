"""When something goes wrong on the annotators' page: nothing is lost, saved twice, or claimed and not so."""

from collections.abc import Callable
from typing import Any

import pytest
from annotator import BEST_TO_WORST, Annotator, task
from serving import App

pytestmark = pytest.mark.browser

A, B, C, D = BEST_TO_WORST
RANKED = [[A], [B], [C], [D]]
SitDown = Callable[..., Annotator]


def test_a_second_click_and_a_second_enter_give_one_answer(app: App, sit_down: SitDown) -> None:
    app.add_tasks(*[task(f"Question {number}") for number in range(3)])
    annotator = sit_down()
    for number, submit in enumerate(
        [
            lambda: annotator.page.dblclick("text=Submit"),
            lambda: annotator.press("Enter", "Enter"),
            lambda: annotator.page.evaluate(
                "for (const repeat of [false, false, true, true])"
                " document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, repeat}))"
            ),
        ],
        start=1,
    ):
        annotator.rank(*BEST_TO_WORST)
        submit()
        annotator.wait_saved(number)
        assert len(annotator.judgements) == number
    assert [one.revision for one in annotator.judgements] == [1, 1, 1]


def test_reload_in_mid_task_keeps_the_draft_and_the_task(app: App, sit_down: SitDown) -> None:
    app.add_tasks(*[task(f"Question {number}") for number in range(3)])
    annotator = sit_down()
    prompt, shown = annotator.prompt, annotator.texts
    annotator.rank(C, A, "=", B)
    annotator.press("b", "r")
    annotator.page.keyboard.type("because")
    annotator.page.reload()
    annotator.page.wait_for_selector(".card")
    assert (annotator.prompt, annotator.texts) == (prompt, shown)
    assert annotator.badges == {C: "Best", A: "2nd =", B: "2nd =", D: "Not placed"}
    annotator.rank(D)
    annotator.press("Enter")
    annotator.wait_saved(1)
    [judgement] = annotator.judgements
    assert annotator.orders == {prompt: [[C], [A, B], [D]]}
    assert (judgement.answer.all_bad, judgement.answer.rationale) == (True, "because")
    kept = annotator.page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('rlhf.draft.')).length")
    assert kept == 0


def test_a_server_that_is_killed_and_comes_back_loses_nothing(app: App, sit_down: SitDown) -> None:
    app.add_tasks(*[task(f"Question {number}") for number in range(6)])
    annotator = sit_down()
    for number in (1, 2):
        annotator.rank(*BEST_TO_WORST)
        annotator.press("Enter")
        annotator.wait_saved(number)
    prompt = annotator.prompt
    annotator.rank(A, B)
    app.kill()
    annotator.rank(C, D)
    annotator.press("Enter")
    annotator.page.wait_for_selector("text=Not saved yet: retrying")
    assert annotator.prompt == prompt  # nothing is acknowledged, no other task is shown
    assert annotator.page.locator("#page-progress .quiet").inner_text().startswith("2 of")
    app.start()
    annotator.wait_saved(3)
    assert annotator.page.locator(".notice").is_hidden()
    assert annotator.orders[prompt] == RANKED
    for number in (4, 5, 6):
        annotator.rank(*BEST_TO_WORST)
        annotator.press("Enter")
        annotator.wait_saved(number)
    assert annotator.orders == {f"Question {number}": RANKED for number in range(6)}


def test_a_cut_after_the_server_has_stored_the_answer_ends_in_one_answer(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("First"), task("Second"))
    annotator = sit_down()
    prompt = annotator.prompt
    keys: list[str] = []

    def store_then_cut(route: Any) -> None:
        keys.append(route.request.post_data_json["key"])
        if len(keys) > 2:
            route.continue_()
            return
        route.fetch()  # the server answers, and nobody hears it
        route.abort()

    annotator.page.route("**/api/submit", store_then_cut)
    annotator.rank(*BEST_TO_WORST)
    annotator.press("Enter")
    annotator.wait_saved(1)
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert annotator.prompt != prompt
    assert annotator.orders == {prompt: RANKED}
    assert [one.revision for one in annotator.judgements] == [1]


def test_a_page_closed_before_the_receipt_sends_the_same_answer_when_it_is_opened_again(
    app: App, sit_down: SitDown
) -> None:
    app.add_tasks(task("First"), task("Second"))
    annotator = sit_down()
    prompt = annotator.prompt
    annotator.page.route("**/api/submit", lambda route: (route.fetch(), route.abort()))
    annotator.rank(*BEST_TO_WORST)
    annotator.press("Enter")
    annotator.page.wait_for_selector("text=Not saved yet: retrying")
    annotator.page.close()
    annotator.page = annotator.new_page()
    annotator.open()
    annotator.wait_saved(1)
    assert annotator.prompt != prompt
    assert annotator.orders == {prompt: RANKED}
    assert [one.revision for one in annotator.judgements] == [1]


def test_the_last_answer_sent_again_when_the_page_is_opened_does_not_bring_its_task_back(
    app: App, sit_down: SitDown
) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    annotator.page.route("**/api/submit", lambda route: route.abort())
    annotator.rank(*BEST_TO_WORST)
    annotator.press("Enter")
    annotator.page.wait_for_selector("text=Not saved yet: retrying")
    annotator.page.close()
    annotator.page = annotator.new_page()
    annotator.open()
    annotator.wait_saved(1)
    annotator.page.wait_for_selector("text=Nothing to do just now")
    assert annotator.orders == {"Where is my parcel?": RANKED}


def test_a_full_disk_is_shown_and_the_draft_waits(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("First"), task("Second"))
    annotator = sit_down()
    prompt = annotator.prompt
    message = "The disk is full. Nothing was saved."
    full = {"status": 503, "json": {"error": "not_stored", "message": message}}
    annotator.page.route("**/api/submit", lambda route: route.fulfill(**full))
    annotator.rank(*BEST_TO_WORST)
    annotator.press("Enter")
    annotator.page.wait_for_selector(f"text=Not saved yet: retrying. {message}")
    assert annotator.prompt == prompt
    assert annotator.judgements == []
    with annotator.page.expect_request("**/api/submit"):
        annotator.page.click("text=Try now")
    annotator.page.unroute("**/api/submit")
    annotator.wait_saved(1)
    assert annotator.orders == {prompt: RANKED}


def test_whoever_is_signed_out_signs_in_again_and_finds_the_answer_saved(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("First"), task("Second"))
    annotator = sit_down()
    prompt = annotator.prompt
    annotator.rank(*BEST_TO_WORST)
    annotator.context.clear_cookies()
    annotator.press("Enter")
    annotator.page.wait_for_selector("text=You are signed out. Your draft is kept in this browser.")
    annotator.page.click("text=Sign in")
    annotator.page.wait_for_url("**/login**")
    annotator.sign_in()
    annotator.open()
    annotator.wait_saved(1)
    assert annotator.orders == {prompt: RANKED}


def test_one_click_logs_out(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down()
    annotator.page.click("text=Log out")
    annotator.page.wait_for_url("**/login")
    assert annotator.context.cookies() == []
    annotator.page.goto(f"{app.address}/label/")
    annotator.page.wait_for_url("**/login")


def test_a_page_left_open_goes_on_when_its_owner_has_signed_in_elsewhere(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("First"), task("Second"))
    annotator = sit_down()
    prompt = annotator.prompt
    annotator.rank(*BEST_TO_WORST)
    annotator.context.clear_cookies()
    annotator.press("Enter")
    annotator.page.wait_for_selector("text=You are signed out")
    annotator.sign_in()
    annotator.page.evaluate("window.dispatchEvent(new Event('focus'))")
    annotator.wait_saved(1)
    assert annotator.orders == {prompt: RANKED}


def test_a_page_left_open_does_not_send_its_answer_for_somebody_else_who_signs_in(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("First"), task("Second"))
    annotator = sit_down()
    assert annotator.prompt == "First"
    annotator.rank(*BEST_TO_WORST)
    annotator.context.clear_cookies()
    annotator.press("Enter")
    annotator.page.wait_for_selector("text=You are signed out")
    owner, annotator.user = annotator.user, app.store.add_user("somebody-else")
    annotator.sign_in()
    annotator.page.evaluate("window.dispatchEvent(new Event('focus'))")
    annotator.wait_prompt("Second")
    assert set(annotator.badges.values()) == {"Not placed"}
    assert list(app.store.judgements()) == []
    assert owner.name in annotator.page.evaluate("Object.keys(localStorage).join()")  # the draft waits for its owner


def test_an_answer_given_without_network_is_saved_when_the_network_is_back(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("First"), task("Second"))
    annotator = sit_down()
    prompt = annotator.prompt
    annotator.context.set_offline(True)
    annotator.rank(*BEST_TO_WORST)
    annotator.press("Enter")
    annotator.page.wait_for_selector("text=Not saved yet: retrying")
    assert annotator.prompt == prompt
    annotator.context.set_offline(False)
    annotator.wait_saved(1)
    assert annotator.orders == {prompt: RANKED}


FORBIDDEN = (
    "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
)
FULL = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }"


@pytest.mark.parametrize(("script", "notice"), [(FORBIDDEN, ""), (FULL, "This browser keeps no drafts")])
def test_where_the_browser_keeps_nothing_answers_are_saved_all_the_same(
    app: App, sit_down: SitDown, script: str, notice: str
) -> None:
    app.add_tasks(task("First"), task("Second"))
    annotator = sit_down(open_page=False)
    annotator.context.add_init_script(script)
    annotator.open()
    prompt = annotator.prompt
    annotator.rank(*BEST_TO_WORST)
    assert annotator.page.inner_text(".saved") == notice
    annotator.press("Enter")
    annotator.wait_saved(1)
    assert annotator.orders == {prompt: RANKED}


def test_a_task_that_went_to_somebody_else_is_given_up_in_the_open(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("First"), task("Second"))
    annotator = sit_down()
    message = "Somebody else has this task now."
    lost = {"status": 409, "json": {"error": "lease_lost", "message": message}}
    annotator.page.route("**/api/submit", lambda route: route.fulfill(**lost))
    annotator.press("r")
    annotator.page.keyboard.type("my words")
    annotator.press("Escape")
    annotator.rank(*BEST_TO_WORST)
    annotator.press("Enter")
    annotator.page.wait_for_selector(f"text=Not saved: {message}")
    assert annotator.page.locator("text=Copy what I wrote").is_visible()
    assert annotator.judgements == []
    annotator.page.unroute("**/api/submit")
    annotator.page.click("text=Next task")
    annotator.page.locator(".badge", has_text="Not placed").first.wait_for()
    assert set(annotator.badges.values()) == {"Not placed"}


def test_a_lease_is_prolonged_while_somebody_is_at_it_and_its_end_is_announced(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down(open_page=False)
    annotator.page.clock.install()
    annotator.open()
    annotator.page.clock.run_for(310_000)  # of ten minutes, with nobody there
    annotator.page.locator(".task-head", has_text="Held for you another 4:").wait_for()
    with annotator.page.expect_response("**/api/extend") as extended:
        annotator.press("Shift")
        annotator.page.clock.run_for(2_000)
    assert extended.value.ok
    annotator.page.clock.run_for(2_000)
    assert annotator.page.inner_text(".task-head .quiet") == ""
    annotator.page.clock.run_for(700_000)
    annotator.page.locator(".task-head", has_text="No longer held for you").wait_for()
    annotator.rank(*BEST_TO_WORST)
    annotator.press("Enter")
    annotator.wait_saved(1)


def test_a_second_tab_moves_on_when_the_first_has_submitted(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("First"), task("Second"))
    annotator = sit_down()
    first_tab, prompt = annotator.page, annotator.prompt
    annotator.page = annotator.new_page()
    annotator.open()
    assert annotator.prompt == prompt
    second_tab, annotator.page = annotator.page, first_tab
    annotator.rank(*BEST_TO_WORST)
    annotator.press("Enter")
    annotator.wait_saved(1)
    second_tab.locator(".prompt", has_text=annotator.prompt).wait_for()
    assert len(annotator.judgements) == 1


def test_a_draft_that_a_second_tab_went_on_with_is_kept_and_shown_in_the_first(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down(open_page=False)
    annotator.page.clock.install()
    annotator.open()
    annotator.rank(D)
    first_tab, annotator.page = annotator.page, annotator.new_page()
    annotator.open()
    annotator.press("Backspace")
    annotator.rank(A, B, C)
    annotator.press("r")
    annotator.page.keyboard.type("the second tab's words")
    second_tab, annotator.page = annotator.page, first_tab
    annotator.card(C).locator(".badge", has_text="3rd").wait_for()
    assert annotator.page.locator("textarea[aria-label='Why?']").input_value() == "the second tab's words"
    first_tab.clock.run_for(25_000)  # saves the time spent
    annotator.page = second_tab
    second_tab.reload()
    second_tab.wait_for_selector(".card")
    assert annotator.badges == {A: "Best", B: "2nd", C: "3rd", D: "Not placed"}
    assert second_tab.locator("textarea[aria-label='Why?']").input_value() == "the second tab's words"


def test_a_tab_that_hears_nothing_of_the_others_does_not_overwrite_their_draft(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down(open_page=False)
    deaf = "window.addEventListener('storage', (event) => event.stopImmediatePropagation(), true)"
    annotator.page.add_init_script(deaf)
    annotator.page.clock.install()
    annotator.open()
    annotator.rank(D)
    first_tab, annotator.page = annotator.page, annotator.new_page()
    annotator.open()
    annotator.press("Backspace")
    annotator.rank(A, B, C)
    second_tab, annotator.page = annotator.page, first_tab
    first_tab.clock.run_for(25_000)
    assert annotator.badges[D] == "Best"
    annotator.page = second_tab
    second_tab.reload()
    second_tab.wait_for_selector(".card")
    assert annotator.badges == {A: "Best", B: "2nd", C: "3rd", D: "Not placed"}


def test_a_quarantined_person_is_told_and_given_nothing(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task("First"), task("Second"))
    annotator = sit_down()
    annotator.rank(*BEST_TO_WORST)
    app.store.set_quarantined(annotator.user.id, True, reason="test")
    annotator.press("Enter")
    annotator.page.locator(".notice[role=alert]", has_text="Not saved").wait_for()
    assert annotator.judgements == []
