"""Plots of quality as SVG documents. They hold paths only: no scripts, no links, no text that a model wrote."""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING

from labeling_app.quality.intervals import Share
from labeling_app.quality.report import AnnotatorQuality, Quality
from labeling_app.store import Judgement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, RED = "#2f5d8c", "#c2692a", "#b3261e"
INK, MUTED, RULE = "#1c2127", "#5e6873", "#dfe3e8"

MAX_PEOPLE = 40
"""Rows of a plot that has one a person; the rest are told, not shown."""

_MAX_BARS = 45
_WIDTH, _HEIGHT, _ROW = 4.8, 2.9, 0.24
"""Inches; narrow, so that the letters can still be read on a phone."""


def answers_by_day(judgements: Sequence[Judgement]) -> str | None:
    """Answers a day (UTC), or a week where the days are too many; None without an answer."""
    days = Counter(judgement.created_at.date() for judgement in judgements)
    if not days:
        return None
    length = 1 if (max(days) - min(days)).days < _MAX_BARS else 7
    bars: Counter[date] = Counter()
    for day, number in days.items():
        bars[day - timedelta(days=day.weekday() if length == 7 else 0)] += number
    with _figure("Answers a day" if length == 1 else "Answers a week, by its Monday") as (axes, document):
        first = min(bars)
        places = {day: (day - first).days // length for day in bars}
        axes.bar(list(places.values()), [bars[day] for day in places], color=BLUE, width=0.8)
        last = max(places.values())
        shown = sorted({round(last * part / 4) for part in range(5)})
        labels = [f"{day.day} {day:%b}" for day in (first + timedelta(days=length * place) for place in shown)]
        axes.set_xticks(shown, labels)
        axes.set_xlim(-0.6, max(last, 4) + 0.6)
        axes.locator_params(axis="y", integer=True)
        axes.grid(axis="y", color=RULE, linewidth=0.8)
    return document[0]


def time_by_annotator(quality: Quality) -> str | None:
    """Median seconds a task of each annotator, with the quartiles; None where no times are known."""
    people = [each for each in quality.annotators if each.times.median is not None]
    if not people:
        return None
    people.sort(key=lambda each: -(each.times.median or 0))
    with _figure("Seconds a task: median and middle half", rows=len(people)) as (axes, document):
        shown = _rows(axes, people)
        for row, each in enumerate(shown):
            axes.plot([each.times.low or 0, each.times.high or 0], [row, row], color=_colour(each), linewidth=2)
            axes.plot([each.times.median or 0], [row], "o", color=_colour(each), markersize=5)
        axes.set_xlim(left=0)
    return document[0]


def agreement_by_annotator(quality: Quality) -> str | None:
    """Agreement of each annotator with the others, and with gold, with intervals; None without a comparison."""
    people = [each for each in quality.annotators if each.others.with_ties.num or each.gold.with_ties.num]
    if not people:
        return None
    people.sort(key=lambda each: each.others.with_ties.value or each.gold.with_ties.value or 0)
    with _figure("Agreement on pairs, with 95% intervals", rows=len(people), legend=True) as (axes, document):
        shown = _rows(axes, people)
        for row, each in enumerate(shown):
            _interval(axes, each.others.with_ties, row - 0.12, _colour(each), "o")
            _interval(axes, each.gold.with_ties, row + 0.2, ORANGE, "D")
        axes.plot([], [], "o", color=BLUE, markersize=5, label="with the others")
        if any(each.gold.with_ties.num for each in people):
            axes.plot([], [], "D", color=ORANGE, markersize=4, label="with gold")
        if quality.longest.value is not None:
            axes.axvline(quality.longest.value, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label="longest wins")
        axes.set_xlim(0, 1.02)
        axes.xaxis.set_major_formatter(_percent)
    return document[0]


def position_bias(quality: Quality) -> str | None:
    """How often the best was shown in each place, against chance; None without an answer that has a best."""
    if not quality.places:
        return None
    with _figure("Where the best was shown", legend=True) as (axes, document):
        for place in quality.places:
            assert place.best.value is not None, "a place that was shown has a share"
            axes.bar(place.place, place.best.value, color=BLUE, width=0.6, alpha=0.35)
            axes.plot([place.place] * 2, [place.best.low or 0, place.best.high or 0], color=BLUE, linewidth=2)
            label = "without bias" if place.place == 1 else None
            axes.plot([place.place - 0.38, place.place + 0.38], [place.chance] * 2, color=ORANGE, lw=2, label=label)
        axes.set_xticks([place.place for place in quality.places])
        axes.set_xlim(0.3, max(len(quality.places), 4) + 0.7)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("place on the screen", color=MUTED, fontsize=9)
        axes.yaxis.set_major_formatter(_percent)
        axes.grid(axis="y", color=RULE, linewidth=0.8)
    return document[0]


def drift(quality: Quality) -> str | None:
    """Agreement with the others by blocks of 50 answers, one line a person; None where nobody has two blocks."""
    lines = []
    for each in quality.annotators:
        points = [
            (sum(earlier.num_answers for earlier in each.drift[: number + 1]), block.others.value)
            for number, block in enumerate(each.drift)
            if block.others.value is not None
        ]
        if len(points) > 1 and not each.quarantined:
            lines.append((each.name, any(signal.kind == "falling" for signal in each.signals), points))
    if not lines:
        return None
    with _figure("Agreement with the others, by blocks of 50 answers", legend=True) as (axes, document):
        for name, falls, points in lines:
            answers, shares = zip(*points, strict=True)
            (line,) = axes.plot(answers, shares, color=BLUE, alpha=0.45, marker="o", markersize=3)
            if falls:
                line.set(color=RED, alpha=1, linewidth=2, zorder=3, label=_short(name))
        if not all(falls for _, falls, _ in lines):
            axes.plot([], [], color=BLUE, alpha=0.45, marker="o", markersize=3, label="an annotator")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("answers given", color=MUTED, fontsize=9)
        axes.yaxis.set_major_formatter(_percent)
        axes.grid(axis="y", color=RULE, linewidth=0.8)
    return document[0]


def _rows(axes: "Axes", people: list[AnnotatorQuality]) -> list[AnnotatorQuality]:
    """Name the rows of a plot, the first at the top; returns who is shown."""
    shown = people[:MAX_PEOPLE]
    axes.set_yticks(range(len(shown)), [_short(each.name) for each in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    if len(people) > len(shown):
        axes.set_xlabel(f"the first {len(shown)} of {len(people)}", color=MUTED, fontsize=9)
    return shown


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"


def _colour(each: AnnotatorQuality) -> str:
    return MUTED if each.quarantined else RED if each.signals else BLUE


def _interval(axes: "Axes", each: Share, row: float, colour: str, marker: str) -> None:
    if each.value is not None and each.low is not None and each.high is not None:
        axes.plot([each.low, each.high], [row, row], color=colour, linewidth=1.8)
        axes.plot([each.value], [row], marker, color=colour, markersize=5 if marker == "o" else 4)


def _percent(value: float, _: object) -> str:
    return f"{100 * value:.4g}%"


@contextmanager
def _figure(title: str, rows: int = 0, *, legend: bool = False) -> Iterator[tuple["Axes", list[str]]]:
    """Axes to draw on, and a list that holds the SVG afterwards; without pyplot, which keeps figures for itself."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    height = max(_HEIGHT, 0.9 + _ROW * min(rows, MAX_PEOPLE))
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    document: list[str] = []
    yield axes, document
    axes.set_title(title, loc="left", color=INK, fontsize=11, pad=26 if legend else 10)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    if legend:
        axes.legend(
            frameon=False, labelcolor=INK, fontsize=9, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3,
            handlelength=1.2, columnspacing=1.4, borderaxespad=0.1,
        )  # fmt: skip
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    document.append(buffer.getvalue())
