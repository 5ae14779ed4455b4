"""What the dashboard is made of, without a browser (for that see browser/test_dashboard.py)."""

import asyncio
import re
from datetime import timedelta
from typing import Any

import gradio as gr
import pytest
from judging import START, Sheet, simulated
from label_tools import Clock, as_shown, new_tasks
from starlette.requests import Request

from labeling_app import accounts
from labeling_app.quality import Pace, assess, pace, plots
from labeling_app.settings import LabelingConfig
from labeling_app.store import Store
from labeling_app.web import dashboard_text
from labeling_app.web.dashboard import ALL_QUEUES, MAX_REASON, Handlers, build_dashboard

QUEUE = "support"
"""The one that is served."""


def request_with(token: str | None) -> gr.Request:
    cookies = [] if token is None else [(b"cookie", f"rlhf_session={token}".encode())]
    headers = [(b"host", b"labels.example.org"), *cookies]
    scope = {"type": "http", "scheme": "http", "method": "POST", "path": "/", "headers": headers}
    return gr.Request(request=Request(scope | {"client": ("127.0.0.1", 1)}))


def session_of(store: Store, name: str, **options: Any) -> str:
    return store.write(accounts.open_session, store.add_user(name, **options).id, timedelta(hours=1))


# Access


@pytest.mark.parametrize("who", ["nobody", "a forged cookie", "an annotator", "an admin who was closed"])
def test_every_handler_refuses_whoever_is_no_admin(local: Store, who: str):
    tokens = {"nobody": None, "a forged cookie": "x" * 43, "an annotator": session_of(local, "ana")}
    tokens["an admin who was closed"] = session_of(local, "old", role="admin")
    local.set_disabled(local.user("old").id, True)
    handlers = Handlers(local, QUEUE)
    request = request_with(tokens[who])
    before = len(local.events())
    for handler in (handlers.refresh, handlers.set_quarantined("ana", True), handlers.set_quarantined("ana", False)):
        with pytest.raises(gr.Error, match=r"not logged in|needs the role admin"):
            handler(ALL_QUEUES, *(() if handler == handlers.refresh else (None,)), request)
    assert local.user("ana").quarantined_at is None
    assert len(local.events()) == before


def test_an_admin_quarantines_and_releases_and_the_events_say_who(local: Store):
    token = session_of(local, "root", role="admin")
    ana = local.add_user("ana")
    handlers = Handlers(local, QUEUE)
    handlers.set_quarantined("ana", True)(ALL_QUEUES, None, request_with(token))
    assert local.user("ana").quarantined_at is not None
    handlers.set_quarantined("ana", False)(ALL_QUEUES, None, request_with(token))
    assert local.user("ana").quarantined_at is None
    kinds = [(event.kind, event.user_id, event.body["user_id"]) for event in local.events()[-2:]]
    root = local.user("root").id
    assert kinds == [("quarantined", root, ana.id), ("unquarantined", root, ana.id)]


def test_what_a_quarantine_did_is_told_with_its_reason_and_the_way_back(store: Store):
    token = session_of(store, "root", role="admin")
    ana = store.add_user("ana")
    store.add_tasks(new_tasks(3), queue=QUEUE)
    store.add_tasks(new_tasks(1, gold={"tiers": [[0], [1], [2]]}), queue="gold")
    for queue in (QUEUE, QUEUE, "gold"):
        claimed = store.claim(ana.id, queue)
        assert claimed is not None and claimed.lease is not None
        store.submit(ana.id, claimed.lease, f"key {claimed.task_id}", as_shown(claimed), 1000)
    store.claim(ana.id, QUEUE)
    handlers = Handlers(store, QUEUE)
    reason = " turns\neverything <b>round</b>\x00 "
    shown = handlers.set_quarantined("ana", True)(QUEUE, reason, request_with(token))
    assert (
        "<strong>ana</strong> is quarantined: 2 answers left out of exports, others are asked for 2 in their place, "
        "1 task on the screen given back. To undo it, press <a href='#person-ana'>Release ana</a> below, or run "
        "<code>rlhf label users quarantine ana --undo</code>."
    ) in shown[5]
    assert (shown[6].value, shown[6].visible) == ("", True)  # the field is for the next one
    event = next(event for event in store.events() if event.kind == "quarantined")
    assert event.body["reason"] == "turns everything <b>round</b>"
    figures = shown[7][0].figures
    assert "since 21 Nov, 09:00 by root: turns everything &lt;b&gt;round&lt;/b&gt;" in figures
    again = handlers.set_quarantined("ana", True)(QUEUE, None, request_with(token))
    assert "<strong>ana</strong> was quarantined already; nothing has changed." in again[5]
    back = handlers.set_quarantined("ana", False)(QUEUE, None, request_with(token))
    assert "<strong>ana</strong> is released: 2 answers in exports again, others are asked for 2 fewer." in back[5]
    assert "Quarantine ana" in back[5]
    assert handlers.refresh(QUEUE, request_with(token))[5] == ""


def test_a_reason_has_an_end(local: Store):
    token = session_of(local, "root", role="admin")
    local.add_user("ana")
    Handlers(local, QUEUE).set_quarantined("ana", True)(QUEUE, "x" * 10_000, request_with(token))
    assert local.events()[-1].body["reason"] == "x" * MAX_REASON


def test_somebody_unknown_is_told_and_nothing_happens(local: Store):
    token = session_of(local, "root", role="admin")
    with pytest.raises(gr.Error, match="there is none"):
        Handlers(local, QUEUE).set_quarantined("nobody", True)(ALL_QUEUES, None, request_with(token))


def test_all_events_of_the_page_ask_who_it_is(local: Store):
    async def build() -> gr.Blocks:
        return build_dashboard(local, LabelingConfig())

    page = asyncio.run(build())  # Gradio makes an event loop where there is none, and does not close it
    for function in page.fns.values():
        assert function.api_visibility in ("private", "undocumented")
        assert function.fn.__qualname__ in ("Handlers.refresh", "Renderable.apply")


# Figures


def test_what_remains_is_what_is_open_or_on_a_screen(store: Store, clock: Clock):
    token = session_of(store, "root", role="admin")
    ana = store.add_user("ana")
    store.add_tasks(new_tasks(3, overlap=2), queue="support")
    store.add_tasks(new_tasks(1, gold={"tiers": [[0], [1], [2]]}), queue="support")
    store.withdraw([3])
    claimed = store.claim(ana.id, "support")
    assert claimed is not None and claimed.lease is not None
    store.submit(ana.id, claimed.lease, "key", as_shown(claimed), 1000)
    store.claim(ana.id, "support")
    shown = Handlers(store, QUEUE).refresh("support", request_with(token))
    assert shown[0].value == "support"
    assert shown[0].choices == [(ALL_QUEUES, ALL_QUEUES), ("support", "support")]
    assert shown[1] == "as of 21 Nov 2026, 09:00:00 UTC"
    assert "<dt>answers to come</dt><dd>3<small>" in shown[2]  # of two tasks by two people each, one has come
    assert [person.name for person in shown[7]] == ["ana"]


def test_the_page_of_an_empty_store(local: Store):
    token = session_of(local, "root", role="admin")
    shown = Handlers(local, QUEUE).refresh(QUEUE, request_with(token))
    assert shown[0].value == QUEUE
    assert "No tasks in queue support yet: <code>rlhf label add tasks.jsonl --queue support</code>" in shown[3]
    assert "No answers yet." in shown[4] and "No tasks with gold" in shown[4]
    assert "<dt>answers</dt><dd>0<small>by nobody yet</small>" in shown[2]
    assert not shown[6].visible  # nobody to give a reason for
    assert shown[7] == []
    assert shown[8].count("<li>") == 5
    assert [plot.visible for plot in shown[9:]] == [False] * 5


def test_an_empty_queue_tells_that_others_are_not(local: Store):
    token = session_of(local, "root", role="admin")
    local.add_tasks(new_tasks(1), queue="other")
    shown = Handlers(local, QUEUE).refresh(QUEUE, request_with(token))
    assert [name for name, _ in shown[0].choices] == [ALL_QUEUES, "other", QUEUE]
    assert "There are tasks in 1 other queue; choose above." in shown[3]


def test_what_is_missing_for_agreement_is_said():
    def said(*answers: tuple[str, int], num_gold: int = 0, quarantined: bool = False) -> str:
        sheet = Sheet()
        for name, number in answers:
            sheet.add(name, number, [[1], [2]], quarantined=quarantined)
        return dashboard_text.agreement(assess(sheet.judgements), num_gold)

    assert "Only ana has answered: agreement needs two." in said(("ana", 1), ("ana", 2))
    assert "2 people have answered, but no task was answered by two of them" in said(("ana", 1), ("ben", 2))
    assert "Everybody who has answered is quarantined" in said(("ana", 1), quarantined=True)
    assert "No tasks with gold" in said(("ana", 1), ("ben", 1))
    assert "Nobody has answered one of the 3 tasks with gold yet." in said(("ana", 1), num_gold=3)
    assert "no task in common" in dashboard_text.annotator(assess(alone().judgements).annotators[0])
    assert "no gold answered" in dashboard_text.annotator(assess(alone().judgements).annotators[0])


def alone() -> Sheet:
    sheet = Sheet()
    sheet.add("ana", 1, [[1], [2]])
    return sheet


def test_alpha_without_an_interval_says_why():
    def alpha_tile(num: int) -> str:
        sheet = Sheet()
        for number in range(num):
            for name in ("ana", "ben"):
                sheet.add(name, number, [[1], [2]] if number % 2 else [[2], [1]])
        return dashboard_text.agreement(assess(sheet.judgements), 0)

    assert "<dd>1.00<small>no interval: only 4 tasks with two people, 10 are needed; Krippendorff" in alpha_tile(4)
    assert "<dd>1.00<small>no interval: full agreement in all 30 tasks; Krippendorff" in alpha_tile(30)
    assert "1.00 to 1.00" not in alpha_tile(4) + alpha_tile(30)


def test_imported_votes_are_called_so_and_stand_apart(local: Store):
    token = session_of(local, "root", role="admin")
    local.add_tasks(new_tasks(1, overlap=2), queue=QUEUE)
    for name in ("imported.file.ann", "zoe"):
        user = local.add_user(name)
        claimed = local.claim(user.id, QUEUE)
        assert claimed is not None and claimed.lease is not None
        local.submit(user.id, claimed.lease, name, as_shown(claimed), 0)
    shown = Handlers(local, QUEUE).refresh(QUEUE, request_with(token))
    assert [(person.name, person.imported) for person in shown[7]] == [("zoe", False), ("imported.file.ann", True)]
    assert "<span class='badge imported'>imported</span>" in shown[7][1].figures
    assert "badge" not in shown[7][0].figures
    assert "by 1 person and 1 imported" in shown[2]


def test_names_are_escaped():
    sheet = Sheet()
    sheet.add("<img src=x>", 1, [[1], [2]])
    (annotator,) = assess(sheet.judgements).annotators
    assert "<img" not in dashboard_text.annotator(annotator)
    assert "&lt;img src=x&gt;" in dashboard_text.annotator(annotator)


def test_grades_stand_in_where_there_are_no_pairs():
    sheet = Sheet()
    sheet.add("ana", 1, ratings={1: 5})
    sheet.add("ben", 1, ratings={1: 6})
    assert "<dt>others within 1</dt><dd>100%" in dashboard_text.annotator(assess(sheet.judgements).annotators[0])


# Pace


def test_the_pace_is_that_of_the_last_day_and_tells_the_end():
    sheet = Sheet()
    for task in range(48):
        sheet.add("ana", task, [[1], [2]], at=START + timedelta(hours=task), seconds=36)
    found = pace(sheet.judgements, 10, START + timedelta(hours=48))
    assert found == Pace(
        num_last_day=24, per_hour=1.0, per_person_hour=pytest.approx(100), end=START + timedelta(hours=58)
    )


def test_the_pace_of_a_young_queue_is_since_its_first_answer():
    sheet = Sheet()
    for task in range(10):
        sheet.add("ana", task, [[1], [2]], at=START + timedelta(minutes=task))
    assert pace(sheet.judgements, 5, START + timedelta(minutes=30)).per_hour == 20.0
    assert pace(sheet.judgements, 5, START + timedelta(minutes=9)).per_hour == 40.0  # a quarter of an hour at least
    assert pace(sheet.judgements, 0, START + timedelta(minutes=30)).end is None
    assert pace(sheet.judgements, 10**12, START + timedelta(minutes=30)).end is None


def test_imported_simulated_and_few_answers_have_no_pace():
    sheet = Sheet()
    for task in range(10):
        sheet.add("imp", task, [[1], [2]], seconds=0, wall_seconds=0)
        sheet.add("sim", task, [[1], [2]], simulated=True)
    for task in range(4):
        sheet.add("ana", task, [[1], [2]])
    assert pace(sheet.judgements, 5, START + timedelta(hours=1)) == Pace(4, None, None, None)
    assert pace([], 5, START) == Pace(0, None, None, None)


# Plots


def test_plots_need_something_to_show():
    quality = assess([])
    assert plots.answers_by_day([]) is None
    for plot in (plots.agreement_by_annotator, plots.time_by_annotator, plots.position_bias, plots.drift):
        assert plot(quality) is None


def test_plots_are_svg_without_scripts_or_links():
    judgements = simulated(0, {"ana": 0.5, "ben": 0.8, "zoe": "first", "<b>": 1.0}, num_tasks=200, gold_share=0.1)
    quality = assess(judgements)
    drawn = [plots.answers_by_day(judgements)]
    drawn += [
        plot(quality)
        for plot in (plots.agreement_by_annotator, plots.time_by_annotator, plots.position_bias, plots.drift)
    ]
    for svg in drawn:
        assert svg is not None and "<svg" in svg
        assert "<script" not in svg and 'href="http' not in svg and "<b>" not in svg


def test_a_long_time_is_drawn_by_weeks():
    sheet = Sheet()
    for week in range(60):
        sheet.add("ana", week, [[1], [2]], at=START + timedelta(weeks=week))
    svg = plots.answers_by_day(sheet.judgements)
    assert svg is not None
    assert svg.count("M ") < 400


def words(svg: str | None) -> list[str]:
    """What a plot says: letters are paths, and before each text stands a comment with its words."""
    assert svg is not None
    return re.findall(r"<!-- (.+?) -->", svg)


def test_plots_give_units_and_explain_their_colours():
    sheet = Sheet()
    for task in range(30):
        sheet.add("ana", task, [[1], [2]])
        sheet.add("ben", task, [[1], [2]])
        sheet.add("mal", task, [[2], [1]])
        sheet.add("old", task, [[1], [2]], quarantined=True)
    quality = assess(sheet.judgements)
    agreement, times = words(plots.agreement_by_annotator(quality)), words(plots.time_by_annotator(quality))
    assert {"of pairs, a tie as a half", "with the others", "needs a look", "quarantined"} <= set(agreement)
    assert {"seconds", "needs a look", "quarantined"} <= set(times)
    assert {"place on the screen", "of answers", "without bias"} <= set(words(plots.position_bias(quality)))
    few = assess(sheet.judgements[:2])  # too few answers for any sign
    assert not {"needs a look", "quarantined"} & set(words(plots.time_by_annotator(few)))


def test_agreement_over_time_names_each_line_and_who_falls():
    sheet = Sheet()
    for task in range(150):
        for steady in ("ana", "ben", "dan", "eve", "fay", "gil"):
            sheet.add(steady, task, [[1], [2]])
        sheet.add("imported.file.cem", task, [[1], [2]] if task < 75 else [[2], [1]])
    svg = plots.drift(assess(sheet.judgements))
    assert {"ana", "ben", "file.cem, falls"} <= set(words(svg))
    assert svg is not None
    assert {"#2f5d8c", "#c2692a", plots.RED} <= set(re.findall(r"#[0-9a-f]{6}", svg))


def test_more_lines_than_colours_are_not_named():
    sheet = Sheet()
    for task in range(100):
        for number in range(9):
            sheet.add(f"p{number}", task, [[1], [2]])
    told = words(plots.drift(assess(sheet.judgements)))
    assert "the others" in told
    assert "p0" not in told


def test_imported_answers_are_told_from_those_given_here():
    given, imported = Sheet(), Sheet()
    given.add("ana", 1, [[1], [2]])
    imported.add("imported.file.ann", 1, [[1], [2]])
    assert not {"given here", "imported"} & set(words(plots.answers_by_day(given.judgements)))
    assert "given here" not in words(plots.answers_by_day(imported.judgements))
    both = words(plots.answers_by_day(given.judgements + imported.judgements))
    assert {"given here", "imported", "answers"} <= set(both)


def test_names_of_one_file_stay_apart_in_the_plots():
    assert plots.short_name("imported.pandalm_3_annotators.annotator1") == "pandal…nnotator1"
    assert plots.short_name("imported.pandalm_3_annotators.annotator2") == "pandal…nnotator2"


def test_many_annotators_are_cut_off():
    sheet = Sheet()
    for number in range(60):
        sheet.add(f"p{number}", 1, [[1], [2]])
    assert plots.time_by_annotator(assess(sheet.judgements)) is not None
