"""The figures that a stage has left as data (`rlhf.tracking.figures`), drawn for its report and as PNG files."""

import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.report import canvas, marks
from rlhf.report.figure_words import format_number, in_words, left_out, named, names_along, stride, table
from rlhf.report.model import Curve
from rlhf.report.readable import one_line
from rlhf.tracking import Figure, FigureSeries, read_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_MAX_VALUES = 14
"""More bars than this are drawn without their values: the axis tells them."""
_MAX_TEXTS = 8
"""Of the points of a line no more than about this many have their texts beside them: the table has all."""
_MAX_ERROR_BARS = 6
"""Lines with more points have a band."""
_MAX_NAMES = 8
"""As many names stand side by side below a figure."""
_MAX_GROUPS = 8
"""Bars at more numbers than this are those of a histogram."""

_DASHES: tuple[Any, ...] = ("-", "-", "-", (0, (6, 2, 1, 2)), (0, (3, 1.4)), (0, (8, 2, 1, 2, 1, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
_HATCHES = ("", "", "", "////", "....", "\\\\\\\\")


def figures_of_run(folder: Path) -> tuple[list[Figure], list[str]]:
    """What a run has left to draw, and a line where it has left something that cannot be read."""
    try:
        return read_figures(folder), []
    except ValueError as error:
        return [], [f"`figures.json` cannot be read, so its figures are missing here: {_in_one_line(error)}"]


def drawn(figures: Sequence[Figure]) -> tuple[Curve, ...]:
    """Figures as a report shows them; those that hold no number are shown by their words alone."""
    found = []
    for figure in figures:
        with draw(figure) as drawing:
            svg = canvas.inline_svg(drawing)
        reading = " ".join([figure.description, *left_out(figure)])
        found.append(Curve(figure.title, svg, in_words(figure), True, reading, table(figure), figure))
    return tuple(found)


def save_figures(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write one PNG a figure into `folder`; returns their paths."""
    paths = []
    for number, figure in enumerate(figures):
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^\w-]+", "_", figure.name)[:60].strip("_") or f"figure_{number}"
        path = folder / f"{name}.png"
        path = path if path not in paths else folder / f"{name}_{number}.png"
        with draw(figure) as drawing:
            canvas.add_title(drawing, one_line(figure.title, 60))
            canvas.save_png(drawing, path)
        paths.append(path)
    return paths


@contextmanager
def draw(figure: Figure) -> Iterator["Drawing"]:
    """A figure, drawn."""
    names = names_along(figure)
    sideways = figure.kind == "bars" and names is not None and _needs_room(figure, names)
    with canvas.canvas(_height(figure, names, sideways)) as (drawing, axes):
        x, y = (one_line(label, 60) for label in ((figure.y, figure.x) if sideways else (figure.x, figure.y)))
        canvas.style_axes(axes, x, y, grid=_grid(figure, sideways))
        axes.margins(x=0.04, y=0.1)
        shown = [_points(series, names) for series in figure.series]
        if figure.kind == "bars":
            _draw_bars(axes, figure, shown, sideways=sideways, named=names is not None)
        else:
            for number, (series, points) in enumerate(zip(figure.series, shown, strict=True)):
                _draw_line(axes, series, points, number, joined=figure.kind == "lines")
        marks.draw_lines(axes, figure.marks, sideways=sideways)
        if figure.diagonal:
            _draw_diagonal(axes, shares=canvas.is_share(figure.x) and canvas.is_share(figure.y))
        _scale(axes, figure, names, sideways)
        canvas.add_legend(drawing, axes)
        marks.write_labels(drawing, axes, figure.marks, sideways=sideways)
        if figure.kind != "bars":
            joined = figure.kind == "lines"
            paths = [[(point.x, point.y) for point in points] for points in shown] if joined else []
            marks.write_beside(drawing, axes, _texts(shown, thinned=joined), figure.marks, paths)
        yield drawing


def _needs_room(figure: Figure, names: list[str]) -> bool:
    """Whether bars are to lie, so that there is room for their names and texts."""
    return len(names) > 6 or any(len(name) > 8 for name in names) or any(series.labels for series in figure.series)


def _texts(shown: Sequence[Sequence["Point"]], *, thinned: bool) -> list[tuple[float, float, str]]:
    """All points with what is to be said of them: of a line only some, and nothing that was said at the same x."""
    found, said = [], set()
    for points in shown:
        spoken = [number for number, point in enumerate(points) if point.text]
        kept = set(spoken[:: math.ceil(len(spoken) / _MAX_TEXTS) or 1] if thinned else spoken)
        for number, point in enumerate(points):
            again = thinned and (point.x, point.text) in said
            found.append((point.x, point.y, one_line(point.text, 28) if number in kept and not again else ""))
            said.add((point.x, point.text))
    return found


@dataclass(frozen=True)
class Point:
    """Where something lies on both axes, its interval, its text."""

    x: float
    y: float
    interval: tuple[float, float] | None
    text: str


def _points(series: FigureSeries, names: list[str] | None) -> list[Point]:
    """What can be drawn of a series: not what is no finite number, and of very many only some."""
    place = {name: float(index) for index, name in enumerate(names or [])}
    found: list[Point] = []
    for index, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
        at = float(x) if names is None else place.get(named(x), math.nan)
        if math.isfinite(at) and math.isfinite(y):
            found.append(Point(at, y, _interval(series, index), series.labels[index] if series.labels else ""))
    return found[:: stride(len(found))]


def _interval(series: FigureSeries, index: int) -> tuple[float, float] | None:
    if series.low is None or series.high is None:
        return None
    low, high = series.low[index], series.high[index]
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _height(figure: Figure, names: list[str] | None, sideways: bool) -> float:
    """Inches: square for a diagonal, and room for every bar and every name."""
    if figure.diagonal:
        return 4.4
    if sideways and names is not None:
        lines = sum(max(len(_wrapped(name, 26).splitlines()), 1) for name in names)
        return max(1.1 + 0.22 * max(lines, len(names) * max(len(figure.series), 1.3)), 2.2)
    texts = len(figure.series) // 3 + sum(mark.x is not None for mark in figure.marks)
    return (3.4 if figure.kind == "points" else 3.0) + 0.16 * min(texts, 6)


def _grid(figure: Figure, sideways: bool) -> Sequence[str]:
    if figure.kind == "points" or figure.diagonal:
        return ("x", "y")
    return ("x",) if sideways else ("y",)


def _draw_line(axes: "Axes", series: FigureSeries, points: list[Point], number: int, *, joined: bool) -> None:
    """One series as a line with a band, or as points; both with error bars where there are few."""
    place = number % len(canvas.LINES)
    colour, many = canvas.LINES[place], len(points) > 30
    axes.plot(
        [point.x for point in points],
        [point.y for point in points],
        color=colour,
        label=one_line(series.name, 40),
        linewidth=1.8,
        linestyle=_DASHES[place] if joined else "none",
        marker=_MARKERS[place],
        markevery=math.ceil(len(points) / 10) if joined and many else None,
        markersize=3.5 if joined or many else 5.5,
        alpha=0.55 if many and not joined else 1,
        markeredgewidth=0 if many else None,
        zorder=3,
    )
    around = [(point.x, *point.interval) for point in points if point.interval is not None]
    forward = all(before.x < after.x for before, after in pairwise(points))
    if joined and forward and len(around) > _MAX_ERROR_BARS:
        at, low, high = zip(*around, strict=True)
        axes.fill_between(at, low, high, color=colour, alpha=0.14, linewidth=0, zorder=1)
    else:
        _error_bars(axes, points, colour, sideways=False)


def _error_bars(axes: "Axes", points: Sequence[Point], colour: str, *, sideways: bool) -> None:
    """From low to high, wherever that lies: an interval need not hold the value."""
    for point in points:
        if point.interval is None:
            continue
        at = (point.x, point.x)
        for under, wide in ((canvas.PAPER, 2.8), (colour, 1.2)):
            axes.plot(
                *((point.interval, at) if sideways else (at, point.interval)),
                marker="|" if sideways else "_",
                markersize=6,
                markeredgewidth=wide,
                linewidth=wide,
                color=under,
                zorder=4 if under == colour else 2.8,
            )


def _draw_bars(axes: "Axes", figure: Figure, shown: list[list[Point]], *, sideways: bool, named: bool) -> None:
    """Series side by side, or, where the bars are those of histograms, one over the other."""
    places = sorted({point.x for points in shown for point in points})
    step = 1.0 if named else min((b - a for a, b in pairwise(places)), default=1.0)
    over = not named and len(places) > _MAX_GROUPS
    width = step * (0.94 if over else 0.8 / max(len(shown), 1))
    written = named and sum(map(len, shown)) <= _MAX_VALUES
    for number, (series, points) in enumerate(zip(figure.series, shown, strict=True)):
        place = number % len(canvas.LINES)
        shift = 0.0 if over else (number - (len(shown) - 1) / 2) * width
        moved = [replace(point, x=point.x + shift) for point in points]
        (axes.barh if sideways else axes.bar)(
            [point.x for point in moved],
            [point.y for point in moved],
            width * 0.94,
            color=canvas.LINES[place],
            alpha=0.6 if over and len(shown) > 1 else 1,
            edgecolor=canvas.PAPER,
            linewidth=0.5,
            hatch=_HATCHES[place],
            label=one_line(series.name, 40),
            zorder=2,
        )
        _error_bars(axes, moved, canvas.INK, sideways=sideways)
        for point in moved:
            value = format_number(point.y, figure.y) if written and (sideways or not point.text) else ""
            text = ", ".join(part for part in (value, one_line(point.text, 28)) if part)
            reach = (point.y, 0.0, *(point.interval or ()))
            end = min(reach) if point.y < 0 else max(reach)
            _write_value(axes, text, point.x, end, sideways=sideways, below=point.y < 0)


def _write_value(axes: "Axes", text: str, at: float, end: float, *, sideways: bool, below: bool) -> None:
    if not text:
        return
    away = -4 if below else 4
    axes.annotate(
        text,
        (end, at) if sideways else (at, end),
        xytext=(away, 0) if sideways else (0, away),
        textcoords="offset points",
        ha=("right" if below else "left") if sideways else "center",
        va="center" if sideways else ("top" if below else "bottom"),
        color=canvas.INK,
        fontsize=8.5,
        bbox={"facecolor": canvas.PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
        zorder=5,
    )


def _draw_diagonal(axes: "Axes", *, shares: bool) -> None:
    """The line y = x, with both axes alike."""
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    if shares:  # what lies beyond is margin alone
        low, high = max(low, -0.02), min(high, 1.02)
    axes.plot(
        [low, high], [low, high], color=canvas.MUTED, linewidth=1.2, linestyle=(0, (5, 3)), label="x = y", zorder=2
    )  # fmt: skip
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_box_aspect(1)


def _scale(axes: "Axes", figure: Figure, names: list[str] | None, sideways: bool) -> None:
    """Ticks: names where there are names, whole numbers where there are only those, percentages for shares."""
    values, along = (axes.xaxis, axes.yaxis) if sideways else (axes.yaxis, axes.xaxis)
    axes.locator_params(axis="x" if sideways else "y", nbins=6)
    canvas.show_shares(values, figure.y)
    if names is not None:
        every = 1 if sideways else math.ceil(len(names) / _MAX_NAMES) or 1
        along.set_ticks(
            range(0, len(names), every), [_wrapped(name, 26 if sideways else 14) for name in names[::every]]
        )
        if sideways:
            axes.invert_yaxis()
        else:
            axes.set_xlim(-0.6, len(names) - 0.4)
        return
    xs = {x for series in figure.series for x in series.x if isinstance(x, float)}
    axes.locator_params(axis="x", integer=all(x == round(x) for x in xs if math.isfinite(x)), nbins=8)
    canvas.show_shares(along, figure.x)


def _wrapped(name: str, width: int) -> str:
    return "\n".join(textwrap.wrap(one_line(name, 2 * width - 4), width)) or " "


def _in_one_line(error: ValueError) -> str:
    """What is wrong with the file, its first fault."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return one_line(": ".join([".".join(map(str, first["loc"])), first["msg"]]).lstrip(": "), 200)
    return one_line(str(error), 200)
