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
from labeling_app.store.values import IMPORTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PEOPLE = ("#2f5d8c", "#c2692a", "#3f8f5b", "#8a5aa8", "#4aa3b8", "#a08a1c", "#c05a8d", "#6b5140")
"""Colours of people, told apart in print and by those who see less of red and green; nobody is red without a reason."""

_MARKERS = "osD^vP*X"

BLUE, ORANGE, RED, PALE = "#2f5d8c", "#c2692a", "#b3261e", "#b3bcc6"
INK, MUTED, RULE = "#1c2127", "#5e6873", "#dfe3e8"

MAX_PEOPLE = 40
"""Rows of a plot that has one a person; the rest are told, not shown."""

_LONGEST_NAME = 16
"""Characters that there is room for."""

_MAX_BARS = 45
_WIDTH, _HEIGHT, _ROW = 4.8, 2.9, 0.24
"""Inches; narrow, so that the letters can still be read on a phone."""


def answers_by_day(judgements: Sequence[Judgement]) -> str | None:
    """Answers a day (UTC), or a week where the days are too many; None without an answer.

    Those that came in files stand on the day of the import, in grey.
    """
    if not judgements:
        return None
    days = [judgement.first_at.date() for judgement in judgements]
    length = 1 if (max(days) - min(days)).days < _MAX_BARS else 7
    given, imported = Counter[date](), Counter[date]()
    for day, judgement in zip(days, judgements, strict=True):
        start = day - timedelta(days=day.weekday() if length == 7 else 0)
        (imported if judgement.is_imported else given)[start] += 1
    title = "Answers a day (UTC)" if length == 1 else "Answers a week, by its Monday"
    with _figure(title, legend=bool(imported)) as (axes, document):
        first = min(given | imported)
        places = {day: (day - first).days // length for day in sorted(given | imported)}
        below = [given[day] for day in places]
        axes.bar(list(places.values()), below, color=BLUE, width=0.8, label="given here" if given else None)
        if imported:
            from_files = [imported[day] for day in places]
            axes.bar(list(places.values()), from_files, bottom=below, color=PALE, width=0.8, label="imported")
        axes.set_ylabel("answers", color=MUTED, fontsize=9)
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
    marked = any(each.quarantined or each.signals for each in people[:MAX_PEOPLE])
    with _figure("Seconds a task: median and middle half", rows=len(people), legend=marked) as (axes, document):
        shown = _rows(axes, people)
        for row, each in enumerate(shown):
            axes.plot([each.times.low or 0, each.times.high or 0], [row, row], color=_colour(each), linewidth=2)
            axes.plot([each.times.median or 0], [row], "o", color=_colour(each), markersize=5, clip_on=False)
        axes.set_xlim(0, max(axes.get_xlim()[1], 1.0))
        axes.locator_params(axis="x", nbins=6)
        _explain_colours(axes, shown)
        axes.set_xlabel(_and_more("seconds", people, shown), color=MUTED, fontsize=9)
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
        _explain_colours(axes, shown)
        axes.set_xlabel(_and_more("of pairs, a tie as a half", people, shown), color=MUTED, fontsize=9)
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
        axes.set_ylabel("of answers", color=MUTED, fontsize=9)
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
    with _figure("Agreement with the others, by blocks of 50 answers", legend=True, columns=2) as (axes, document):
        # more lines than colours: only those who need a look are named
        named = len(lines) <= len(_PEOPLE)
        for number, (name, falls, points) in enumerate(lines):
            answers, shares = zip(*points, strict=True)
            colour = RED if falls else _PEOPLE[number] if named else PALE
            marker = _MARKERS[number % len(_MARKERS)]
            (line,) = axes.plot(answers, shares, color=colour, marker=marker, markersize=4, linewidth=1.4)
            if falls:
                line.set(linewidth=2.2, zorder=3)
            if falls or named:
                line.set_label(f"{short_name(name)}{', falls' if falls else ''}")
        if not named and not all(falls for _, falls, _ in lines):
            axes.plot([], [], color=PALE, marker="o", markersize=4, label="the others")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("answers given", color=MUTED, fontsize=9)
        axes.set_ylabel("of pairs", color=MUTED, fontsize=9)
        axes.yaxis.set_major_formatter(_percent)
        axes.grid(axis="y", color=RULE, linewidth=0.8)
    return document[0]


def _rows(axes: "Axes", people: list[AnnotatorQuality]) -> list[AnnotatorQuality]:
    """Name the rows of a plot, the first at the top; returns who is shown."""
    shown = people[:MAX_PEOPLE]
    axes.set_yticks(range(len(shown)), [short_name(each.name) for each in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    return shown


def _and_more(unit: str, people: list[AnnotatorQuality], shown: list[AnnotatorQuality]) -> str:
    return unit if len(people) == len(shown) else f"{unit}; the first {len(shown)} of {len(people)} people"


def _explain_colours(axes: "Axes", shown: list[AnnotatorQuality]) -> None:
    if any(each.signals and not each.quarantined for each in shown):
        axes.plot([], [], "o", color=RED, markersize=5, label="needs a look")
    if any(each.quarantined for each in shown):
        axes.plot([], [], "o", color=MUTED, markersize=5, label="quarantined")


def short_name(name: str) -> str:
    """Names from one file differ at the end only, so that the middle is left out."""
    name = name.removeprefix(IMPORTED)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 10]}…{name[-9:]}"


def _colour(each: AnnotatorQuality) -> str:
    return MUTED if each.quarantined else RED if each.signals else BLUE


def _interval(axes: "Axes", each: Share, row: float, colour: str, marker: str) -> None:
    if each.value is not None and each.low is not None and each.high is not None:
        axes.plot([each.low, each.high], [row, row], color=colour, linewidth=1.8)
        axes.plot([each.value], [row], marker, color=colour, markersize=5 if marker == "o" else 4, clip_on=False)


def _percent(value: float, _: object) -> str:
    return f"{100 * value:.4g}%"


@contextmanager
def _figure(title: str, rows: int = 0, *, legend: bool = False, columns: int = 3) -> Iterator[tuple["Axes", list[str]]]:
    """Axes to draw on, and a list that holds the SVG afterwards; without pyplot, which keeps figures for itself."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    height = max(_HEIGHT, 0.9 + _ROW * min(rows, MAX_PEOPLE))
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    document: list[str] = []
    yield axes, document
    columns = 2 if rows else columns  # names of people take a part of the width
    in_legend = -(-len(axes.get_legend_handles_labels()[1]) // columns) if legend else 0
    figure.set_figheight(height + 0.22 * max(0, in_legend - 2))
    axes.set_title(title, loc="left", color=INK, fontsize=11, pad=10 + 16 * in_legend)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    if legend:
        axes.legend(
            frameon=False, labelcolor=INK, fontsize=9, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns,
            handlelength=1.2, columnspacing=1.4, borderaxespad=0.1,
        )  # fmt: skip
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    document.append(buffer.getvalue())
