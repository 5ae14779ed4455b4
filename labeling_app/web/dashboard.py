"""The admins' page: how the work stands and how far it can be trusted.

Every handler authorises itself from the request's cookie, works in a thread of its own and never in the event loop.
No text of prompts, responses or rationales reaches this page.
"""

import base64
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any, cast

import gradio as gr
import sqlalchemy as sa
from gradio.components.plot import PlotData
from gradio.context import LocalContext

from labeling_app.quality import Pace, Quality, assess, pace, plots
from labeling_app.schema import leases, tasks
from labeling_app.settings import LabelingConfig
from labeling_app.store import QueueStatus, Store, StoreError, Tx, User, reading
from labeling_app.store.status import status
from labeling_app.web import dashboard_text
from labeling_app.web.replies import Refused
from labeling_app.web.security import current_user

ALL_QUEUES = "all queues"

NUM_PLOTS = 5

_QUIETLY: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}


@dataclass(frozen=True)
class Person:
    """An annotator, with their figures as HTML."""

    name: str
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


Handler = Callable[[str | None, gr.Request], list[Any]]


class Handlers:
    """What the page asks for; each handler first asks who wants it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._look = _Looker(store)

    def refresh(self, queue: str | None, request: gr.Request) -> list[Any]:
        """Everything anew, of one queue or of all."""
        with _refusals_shown():
            authorise(request, self._store)
            return _shown(self._look(queue), queue)

    def set_quarantined(self, name: str, quarantined: bool) -> Handler:
        """A handler that quarantines somebody or trusts them again, and shows what that changes."""

        def handler(queue: str | None, request: gr.Request) -> list[Any]:
            with _refusals_shown():
                by = authorise(request, self._store).id
                self._store.set_quarantined(self._store.user(name).id, quarantined, by=by, reason="on the dashboard")
                done = "Exports leave their answers out." if quarantined else "Their answers count again."
                gr.Info(done, duration=5, title=f"{name} is {'quarantined' if quarantined else 'released'}")
                return _shown(self._look(queue), queue)

        return handler


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
    handlers = Handlers(store)
    with gr.Blocks(title=f"{config.title} – quality", analytics_enabled=False, fill_width=True) as page:
        with gr.Row(elem_id="dashboard-header"):
            gr.Markdown("# Quality of the judgements", elem_id="dashboard-title")
            as_of = gr.Markdown(elem_id="as-of")
            queue = gr.Dropdown(
                [ALL_QUEUES], value=ALL_QUEUES, label="Queue", show_label=False, container=False, elem_id="queue"
            )
            refresh = gr.Button("Refresh", elem_id="refresh", size="sm")
        overview = gr.Markdown(elem_id="overview")
        queue_table = gr.Markdown(elem_id="queues")
        gr.Markdown("## Agreement")
        agreement = gr.Markdown(elem_id="agreement")
        gr.Markdown("## Annotators")
        people = gr.State()
        rendered = gr.Column(elem_id="annotators")
        gr.Markdown("## Plots")
        with gr.Row(elem_id="plots"):
            figures = [gr.Plot(show_label=False, container=False, elem_classes="plot") for _ in range(NUM_PLOTS)]
        outputs = [queue, as_of, overview, queue_table, agreement, people, *figures]

        with rendered:

            @gr.render(people, triggers=[people.change], show_progress="hidden")  # type: ignore[untyped-decorator]
            def annotators(found: list[Person]) -> None:
                with _refusals_shown():
                    authorise(LocalContext.request.get(None), store)
                if not found:
                    gr.Markdown("Nobody has answered yet.")
                for each in found:
                    button = _annotator(each)
                    handler = handlers.set_quarantined(each.name, not each.quarantined)
                    button.click(handler, queue, outputs, show_progress_on=as_of, **_QUIETLY)

        for event in (page.load, refresh.click, queue.input):
            event(handlers.refresh, queue, outputs, show_progress_on=as_of, **_QUIETLY)
    return cast(gr.Blocks, page)


def _annotator(each: Person) -> gr.Button:
    """One annotator's line; returns its button."""
    with gr.Row(elem_classes="annotator", key=f"row {each.name}"):
        gr.Markdown(each.figures, key=f"text {each.name} {each.figures}")
        return gr.Button(
            "Release" if each.quarantined else "Quarantine",
            size="sm",
            elem_classes="release" if each.quarantined else "quarantine",
            key=f"button {each.name} {each.quarantined}",
        )


def dashboard_mount_options() -> dict[str, Any]:
    """Keywords of `gr.mount_gradio_app` for this page."""
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return {"css_paths": Path(__file__).parent / "static" / "dashboard.css", "theme": theme}


@dataclass(frozen=True)
class Measured:
    """What the store holds, at one moment."""

    now: datetime
    statuses: list[QueueStatus]
    remaining: dict[str, int]
    quality: Quality
    pace: Pace
    answers_by_day: str | None


def measure(tx: Tx, queue: str | None) -> Measured:
    """Take the figures of one queue, or of all; the judgements themselves are let go of here."""
    statuses, remaining = status(tx), _remaining(tx)
    judgements = reading.judgements(tx, queue, with_quarantined=True)
    to_come = sum(number for name, number in remaining.items() if queue in (None, name))
    return Measured(
        tx.now,
        statuses,
        remaining,
        assess(judgements),
        pace(judgements, to_come, tx.now),
        plots.answers_by_day(judgements),
    )


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
            queue_table=dashboard_text.queues(own, found.remaining),
            agreement=dashboard_text.agreement(quality),
            annotators=[
                Person(each.name, each.quarantined, dashboard_text.annotator(each))
                for each in sorted(quality.annotators, key=lambda each: (each.quarantined, not each.signals, each.name))
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


def _shown(view: View, queue: str | None) -> list[Any]:
    """What goes into the components of the page, in their order."""
    chosen = queue if queue in view.queues else ALL_QUEUES
    return [
        gr.Dropdown([ALL_QUEUES, *view.queues], value=chosen),
        view.as_of,
        view.overview,
        view.queue_table,
        view.agreement,
        view.annotators,
        *(gr.Plot(None if svg is None else _image(svg), visible=svg is not None) for svg in view.plots),
    ]


def _image(svg: str) -> PlotData:
    """As Gradio shows matplotlib's figures: an image, in which nothing can run; sharp at every size."""
    return PlotData(type="matplotlib", plot=f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}")


def _remaining(tx: Tx) -> dict[str, int]:
    """How many answers each queue still waits for, those on somebody's screen included."""
    on_screen = sa.select(sa.func.count()).where(leases.c.task_id == tasks.c.id, leases.c.state == "active")
    found = (
        sa.select(tasks.c.queue, sa.func.sum(tasks.c.open_slots + on_screen.scalar_subquery()))
        .where(tasks.c.gold.is_(None), tasks.c.withdrawn_at.is_(None))
        .group_by(tasks.c.queue)
    )
    return {queue: int(number) for queue, number in tx.connection.execute(found)}
