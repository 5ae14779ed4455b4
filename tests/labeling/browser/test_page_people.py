"""Two people, or two tabs, at one browser: nobody's judgement becomes another's, nor a newer one an older."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from annotator import BEST_TO_WORST, Annotator, task
from serving import App

from labeling_app.store import User

pytestmark = pytest.mark.browser

A, B, C, D = BEST_TO_WORST
RANKED = [[A], [B], [C], [D]]
SitDown = Callable[..., Annotator]

OWN_WORDS = "textarea[aria-label='Why?']"


def answers(app: App) -> dict[str, tuple[int, str | None]]:
    """Of each user: the last revision, and what was written."""
    return {one.user: (one.revision, one.answer.rationale) for one in app.store.judgements()}


def answer_once(annotator: Annotator, num: int = 1) -> None:
    annotator.rank(*BEST_TO_WORST)
    annotator.press("Enter")
    annotator.wait_saved(num)


def somebody_else_has_answered(app: App, sit_down: SitDown) -> tuple[Annotator, User]:
    """Both have answered the one task, and the first one has it open again."""
    app.add_tasks(task(overlap=2))
    bob = sit_down()
    answer_once(bob)
    ann = sit_down()
    answer_once(ann)
    ann.press("u")
    ann.page.wait_for_selector("text=An earlier answer of yours")
    return ann, bob.user


def test_a_change_is_not_stored_as_that_of_somebody_who_has_signed_in_since(app: App, sit_down: SitDown) -> None:
    ann, bob = somebody_else_has_answered(app, sit_down)
    owner = ann.user
    ann.page.fill(OWN_WORDS, "ann's own words")
    ann.user = bob
    ann.sign_in()  # in another tab of the browser
    with ann.page.expect_response("**/api/revise") as refused, ann.page.expect_navigation():
        ann.page.click("text=Save change")
    assert refused.value.status == 403
    ann.page.wait_for_selector(f"[title='You are {bob.name}']")
    assert answers(app) == {bob.name: (1, None), owner.name: (1, None)}
    ann.user = owner
    ann.sign_in()
    ann.open()  # what was on its way goes off as its writer's
    ann.page.wait_for_function("Object.keys(localStorage).every((key) => !key.startsWith('rlhf.draft.'))")
    assert answers(app) == {bob.name: (1, None), owner.name: (2, "ann's own words")}


def test_a_page_that_is_looked_at_again_knows_whose_it_is_now(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task(overlap=2))
    annotator = sit_down()
    owner, annotator.user = annotator.user, app.store.add_user("somebody-else")
    annotator.sign_in()
    with annotator.page.expect_navigation():
        annotator.page.evaluate("window.dispatchEvent(new Event('focus'))")
    annotator.page.wait_for_selector("[title='You are somebody-else']")
    assert owner.name != annotator.user.name


def test_a_change_of_what_another_tab_has_changed_is_refused(app: App, sit_down: SitDown) -> None:
    ann, _ = somebody_else_has_answered(app, sit_down)
    first_tab, ann.page = ann.page, ann.new_page()
    ann.open()
    ann.press("u")
    ann.page.wait_for_selector("text=An earlier answer of yours")
    ann.page.fill(OWN_WORDS, "newer")
    ann.page.click("text=Save change")
    ann.page.wait_for_selector("text=Nothing to do just now")
    first_tab.evaluate("localStorage.clear()")  # as in another browser: it knows of no newer draft
    first_tab.fill(OWN_WORDS, "older")
    first_tab.click("text=Save change")
    first_tab.wait_for_selector("text=You have changed this answer since")
    assert answers(app)[ann.user.name] == (2, "newer")


def test_drafts_of_a_user_whose_name_goes_on_after_a_dot_are_not_ones_own(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task(overlap=2))
    ann = sit_down(open_page=False)
    ann.user = app.store.add_user("ann")
    ann.sign_in()
    ann.open()
    answer_once(ann)
    sent = {"user": "ann", "task_id": 1, "based_on": 1, "key": "of-ann-b", "active_ms": 5, "guidelines_version": None}
    body = sent | {"answer": {"tiers": [[4], [3], [2], [1]]}}
    pending = {"tiers": [[4], [3], [2], [1]], "activeMs": 5, "pending": {"path": "revise", "body": json.dumps(body)}}
    keep: Any = """async ([user, draft]) => {
        const { Drafts } = await import("/static/draft.js");
        const task = { lease: null, task_id: 1, revision: 1 };
        new Drafts(user).save(task, { ...JSON.parse(draft) });
    }"""
    ann.page.evaluate(keep, ["ann.b", json.dumps(pending)])
    ann.page.reload()
    ann.page.wait_for_selector("text=Nothing to do just now")
    assert len(ann.page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('rlhf.draft.'))")) == 1
    assert answers(app) == {"ann": (1, None)}


def test_guidelines_that_somebody_else_has_read_are_news(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task(overlap=2))
    annotator = sit_down(viewport={"width": 800, "height": 800})
    opener = annotator.page.locator("#open-guidelines")
    assert "news" in (opener.get_attribute("class") or "")
    opener.click()
    opener.click()
    annotator.page.reload()
    annotator.page.wait_for_selector(".card")
    assert "news" not in (opener.get_attribute("class") or "")
    annotator.user = app.store.add_user("somebody-else")
    annotator.sign_in()
    annotator.page.reload()
    annotator.page.wait_for_selector("#open-guidelines.news")
