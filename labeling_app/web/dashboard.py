"""The admins' page: how the work stands and how far it can be trusted.

Every handler authorises itself from the request's cookie, works in a thread of its own and never in the event loop.
No text of prompts, responses or rationales reaches this page.
"""

import base64
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, cast

import gradio as gr
from gradio.components.plot import PlotData
from gradio.context import LocalContext

from labeling_app.quality import AnnotatorQuality, plots
from labeling_app.settings import LabelingConfig
from labeling_app.store import Store, StoreError, User
from labeling_app.web import dashboard_text
from labeling_app.web.dashboard_data import measure, set_quarantined
from labeling_app.web.replies import Refused
from labeling_app.web.security import current_user

ALL_QUEUES = "all queues"

IMPORTED_VOTES = "### Imported votes\n\nThese came in files; the names are no accounts, and nobody logs in under them."

PLOTS = (
    ("Answers a day", "no answer yet"),
    ("Agreement on pairs", "needs a task that two people answered, or an answered one with gold"),
    ("Seconds a task", "no answer was timed; those that came in files are not"),
    ("Where the best was shown", "no answer given on the page has a best; those that came in files tell no places"),
    ("Agreement over time", "needs 100 answers of one person, on tasks that others answered too"),
)
"""What is plotted, in this order, and what is missing where it cannot be."""

MAX_REASON = 200
"""Characters."""

_QUIETLY: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}


@dataclass(frozen=True)
class Person:
    """An annotator, with their figures as HTML."""

    name: str
    imported: bool
    quarantined: bool
    figures: str


@dataclass(frozen=True)
class View:
    """All that the page shows."""

    queues: list[str]
    as_of: str
    overview: str
    queue_table: str
    agreement: str
    annotators: list[Person]
    plots: list[str | None]


Handler = Callable[[str | None, str | None, gr.Request], list[Any]]


class Handlers:
    """What the page asks for; each handler first asks who wants it. `served` is the queue that people are given."""

    def __init__(self, store: Store, served: str) -> None:
        self._store, self._served = store, served
        self._look = _Looker(store)

    def refresh(self, queue: str | None, request: gr.Request) -> list[Any]:
        """Everything anew, of one queue or of all."""
        with _refusals_shown():
            authorise(request, self._store)
            return self._shown(queue)

    def set_quarantined(self, name: str, quarantined: bool) -> Handler:
        """A handler that quarantines somebody or trusts them again, and shows what that changes."""

        def handler(queue: str | None, reason: str | None, request: gr.Request) -> list[Any]:
            with _refusals_shown():
                by = authorise(request, self._store).id
                done = self._store.write(set_quarantined, name, quarantined, by, in_one_line(reason or ""))
                return self._shown(queue, done)

        return handler

    def _shown(self, queue: str | None, done: str = "") -> list[Any]:
        """What goes into the components of the page, in their order."""
        view = self._look(queue)
        choices = [ALL_QUEUES, *sorted({self._served, *view.queues})]
        missing = [plot for plot, svg in zip(PLOTS, view.plots, strict=True) if svg is None]
        return [
            gr.Dropdown(choices, value=queue if queue in choices else ALL_QUEUES),
            view.as_of,
            view.overview,
            view.queue_table,
            view.agreement,
            done,
            gr.Textbox("", visible=bool(view.annotators)),
            view.annotators,
            dashboard_text.missing_plots(missing),
            *(gr.Plot(None if svg is None else _image(svg), visible=svg is not None) for svg in view.plots),
        ]


def in_one_line(reason: str) -> str:
    """A reason as it is kept: without line breaks and what cannot be seen, which no database has to swallow."""
    return " ".join("".join(each if each.isprintable() else " " for each in reason).split())[:MAX_REASON]


def authorise(request: gr.Request | None, store: Store) -> User:
    """The admin who asks.

    Raises:
        Refused: it is nobody who is logged in, or no admin.
    """
    if request is None:
        raise Refused(401, "no_session", "This request came from nowhere.")
    return current_user(request, store, role="admin")


@contextmanager
def _refusals_shown() -> Iterator[None]:
    """What was refused, and why, for the page to show; of anything else it says nothing."""
    try:
        yield
    except Refused as refused:
        raise gr.Error(refused.message, print_exception=False) from refused
    except StoreError as error:
        raise gr.Error(str(error), print_exception=False) from error


def build_dashboard(store: Store, config: LabelingConfig) -> gr.Blocks:
    """The admins' page, to be mounted with `dashboard_mount_options()`; `config` gives it its title."""
    handlers = Handlers(store, config.queue)
    with gr.Blocks(title=f"{config.title} – quality", analytics_enabled=False, fill_width=True) as page:
        with gr.Row(elem_id="dashboard-header"):
            gr.Markdown("# Quality of the judgements", elem_id="dashboard-title")
            as_of = gr.Markdown(elem_id="as-of")
            queue = gr.Dropdown(
                [ALL_QUEUES, config.queue],
                value=config.queue,
                label="Queue",
                show_label=False,
                container=False,
                elem_id="queue",
            )
            refresh = gr.Button("Refresh", elem_id="refresh", size="sm")
            gr.Button("Tasks", link="../label/", link_target="_self", elem_id="to-tasks", size="sm")
        overview = gr.Markdown(elem_id="overview")
        queue_table = gr.Markdown(elem_id="queues")
        gr.Markdown("## Agreement")
        agreement = gr.Markdown(elem_id="agreement")
        gr.Markdown("## Annotators")
        with gr.Column(elem_id="decision"):
            done = gr.Markdown(elem_id="done")
            reason = gr.Textbox(
                label="Reason for the next click on a button below",
                show_label=False,
                container=False,
                placeholder="Reason for the next click (optional)",
                visible=False,
                max_lines=1,
                max_length=MAX_REASON,
                interactive=True,
                elem_id="reason",
            )
        annotated = gr.State()
        rendered = gr.Column(elem_id="annotators")
        gr.Markdown("## Plots")
        with gr.Row(elem_id="plots"):
            figures = [gr.Plot(show_label=False, container=False, elem_classes="plot") for _ in PLOTS]
        missing = gr.Markdown(elem_id="missing")
        outputs = [queue, as_of, overview, queue_table, agreement, done, reason, annotated, missing, *figures]

        with rendered:

            @gr.render(annotated, triggers=[annotated.change], show_progress="hidden")  # type: ignore[untyped-decorator]
            def annotators(found: list[Person]) -> None:
                with _refusals_shown():
                    authorise(LocalContext.request.get(None), store)
                if not found:
                    gr.Markdown("Nobody has answered yet.")
                for number, each in enumerate(found):
                    if each.imported and not (number and found[number - 1].imported):
                        gr.Markdown(IMPORTED_VOTES, elem_classes="imported-votes", key="imported votes")
                    button = _annotator(each)
                    handler = handlers.set_quarantined(each.name, not each.quarantined)
                    button.click(handler, [queue, reason], outputs, show_progress_on=as_of, **_QUIETLY)

        for event in (page.load, refresh.click, queue.input):
            event(handlers.refresh, queue, outputs, show_progress_on=as_of, **_QUIETLY)
    return cast(gr.Blocks, page)


def _annotator(each: Person) -> gr.Button:
    """One annotator's line; returns its button."""
    action = "Release" if each.quarantined else "Quarantine"
    with gr.Row(elem_classes="annotator", elem_id=dashboard_text.person_id(each.name), key=f"row {each.name}"):
        gr.Markdown(each.figures, key=f"text {each.name} {each.figures}")
        return gr.Button(
            f"{action} {plots.short_name(each.name) if each.imported else each.name}",
            size="sm",
            elem_classes=action.lower(),
            key=f"button {each.name} {each.quarantined}",
        )


def dashboard_mount_options() -> dict[str, Any]:
    """Keywords of `gr.mount_gradio_app` for this page."""
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return {"css_paths": Path(__file__).parent / "static" / "dashboard.css", "theme": theme}


class _Looker:
    """Works out what is to be seen; for one admin at a time, since it takes a processor while it lasts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = Lock()

    def __call__(self, queue: str | None) -> View:
        name = None if queue in (None, ALL_QUEUES) else queue
        with self._lock, _no_halts():
            found = self._store.read(measure, name)
            quality = found.quality
            drawn = [
                found.answers_by_day,
                plots.agreement_by_annotator(quality),
                plots.time_by_annotator(quality),
                plots.position_bias(quality),
                plots.drift(quality),
            ]
        own = [each for each in found.statuses if name in (None, each.queue)]
        to_come = sum(found.remaining.get(each.queue, 0) for each in own)
        return View(
            queues=[each.queue for each in found.statuses],
            as_of=f"as of {found.now.day} {found.now:%b %Y}, {found.now:%H:%M:%S} UTC",
            overview=dashboard_text.overview(own, to_come, quality, found.pace),
            queue_table=dashboard_text.queues(own, found.remaining, name, len(found.statuses)),
            agreement=dashboard_text.agreement(quality, sum(each.num_gold for each in own)),
            annotators=[
                Person(
                    each.name,
                    each.imported,
                    each.quarantined,
                    dashboard_text.annotator(each, found.because.get(each.name, "")),
                )
                for each in sorted(quality.annotators, key=_in_order)
            ],
            plots=drawn,
        )


@contextmanager
def _no_halts() -> Iterator[None]:
    """Collect no garbage for a moment.

    The collector halts all threads, the one that serves annotators too, while it goes through everything that lives;
    ten thousand judgements set it off, are a good part of what it goes through, and go by themselves when done with.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _in_order(each: AnnotatorQuality) -> tuple[bool, bool, bool, str]:
    """Accounts before those who came in files; who needs a look first, who counts no more last."""
    return each.imported, each.quarantined, not each.signals, each.name


def _image(svg: str) -> PlotData:
    """As Gradio shows matplotlib's figures: an image, in which nothing can run; sharp at every size."""
    return PlotData(type="matplotlib", plot=f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}")
