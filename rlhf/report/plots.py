"""Curves from metrics.jsonl, one figure a family: PNG files to look at and paste elsewhere, SVG for the report."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import tracking
from rlhf.report import canvas
from rlhf.report.metrics import FAMILIES, Family, describe, signed
from rlhf.report.model import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_POINTS = 400


@dataclass(frozen=True)
class ReferenceLine:
    """A horizontal line that a curve is to be compared with, such as a KL target."""

    family: str
    value: float
    label: str


@dataclass(frozen=True)
class Series:
    """One metric over steps; `gaps` are the steps at which it was not a finite number."""

    key: str
    steps: tuple[float, ...]
    values: tuple[float, ...]
    gaps: tuple[float, ...] = ()


def series(rows: Iterable[Mapping[str, Any]], key: str) -> Series | None:
    """`key` over the steps of `rows` (lines of metrics.jsonl, one stage); None if no line has it."""
    points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float) and "step" in row]
    if not points:
        return None
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    gaps = tuple(step for step, value in points if not math.isfinite(value))
    stride = math.ceil(len(finite) / _MAX_POINTS) or 1
    shown = finite[::stride] + (finite[-1:] if (len(finite) - 1) % stride else [])
    return Series(key, tuple(s for s, _ in shown), tuple(float(v) for _, v in shown), gaps)


@dataclass(frozen=True)
class Figures:
    """A family that has something to draw, with what is drawn."""

    family: Family
    lines: tuple[Series, ...]
    band: tuple[Series, ...]
    references: tuple[ReferenceLine, ...]


def drawable(rows: Sequence[Mapping[str, Any]], references: Sequence[ReferenceLine] = ()) -> list[Figures]:
    """The families of which `rows` hold at least two points of a line, or a point that is no number."""
    found = []
    for family in FAMILIES:
        lines = [line for key in family.keys if (line := series(rows, key)) is not None]
        if not any(len(line.steps) > 1 or line.gaps for line in lines):
            continue
        band = [line for key in family.band_keys if (line := series(rows, key)) is not None]
        complete = len(band) == len(family.band_keys)
        own = tuple(reference for reference in references if reference.family == family.name)
        found.append(Figures(family, tuple(lines), tuple(band) if complete else (), own))
    return found


def curves(rows: Sequence[Mapping[str, Any]], references: Sequence[ReferenceLine] = ()) -> tuple[Curve, ...]:
    """Every figure that the metrics of one stage give, for a report."""
    found = []
    for each in drawable(rows, references):
        with _drawn(each) as figure:
            svg = canvas.inline_svg(figure)
        data = as_data(each)
        found.append(Curve(each.family.title, svg, data.description, each.family.primary, data=data))
    return tuple(found)


def save_pngs(rows: Sequence[Mapping[str, Any]], folder: Path, references: Sequence[ReferenceLine] = ()) -> list[Path]:
    """Write one PNG a family into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for each in drawable(rows, references):
        path = folder / f"{each.family.name}.png"
        with _drawn(each) as figure:
            canvas.add_title(figure, each.family.title)
            canvas.save_png(figure, path)
        paths.append(path)
    return paths


def as_data(each: Figures) -> tracking.Figure:
    """A figure as the files of figures have it; thinned as it is drawn."""
    band = {step: (low, high) for step, low, high in band_points(each)}
    found = []
    for line in each.lines:
        own = bool(band) and line is each.lines[0] and all(step in band for step in line.steps)
        low, high = zip(*(band[step] for step in line.steps), strict=True) if own else (None, None)
        name = describe(line.key).label
        found.append(tracking.FigureSeries(name=name, x=line.steps, y=line.values, low=low, high=high))
    return tracking.Figure(
        name=each.family.name,
        title=each.family.title,
        description=describe_in_words(each),
        kind="lines",
        x="step",
        y=each.family.axis,
        series=tuple(found),
        marks=tuple(tracking.Mark(label=line.label, y=line.value) for line in each.references),
    )


def describe_in_words(each: Figures) -> str:
    """What a figure shows, for those who do not see it."""
    parts = []
    for line in each.lines:
        name = describe(line.key).label
        if line.values:
            ends = f"from {signed(line.values[0])} at step {line.steps[0]:g} to {signed(line.values[-1])}"
            parts.append(f"{name}: {ends} at step {line.steps[-1]:g}")
        if line.gaps:
            parts.append(f"{name} was not a number at {len(line.gaps)} steps, first at step {line.gaps[0]:g}")
    parts += [f"{reference.label}: {signed(reference.value)}" for reference in each.references]
    return f"{each.family.title} ({each.family.axis}). " + "; ".join(parts) + "."


@contextmanager
def _drawn(each: Figures) -> Iterator["Figure"]:
    """A figure of one family."""
    with canvas.canvas() as (figure, axes):
        _draw(axes, each)
        canvas.add_legend(figure, axes)
        yield figure


def _draw(axes: "Axes", each: Figures) -> None:
    _draw_band(axes, each)
    for line, colour in zip(each.lines, canvas.LINES, strict=False):
        marker = "o" if len(line.steps) <= 30 else None
        axes.plot(
            line.steps,
            line.values,
            color=colour,
            label=describe(line.key).label,
            linewidth=1.8,
            marker=marker,
            markersize=3,
            zorder=3,
        )
        for step in line.gaps:
            axes.axvline(step, color=canvas.BAD, linewidth=1, zorder=2)
    if any(line.gaps for line in each.lines):
        axes.plot([], [], color=canvas.BAD, linewidth=1, label="not a number")
    for reference in each.references:
        axes.axhline(
            reference.value,
            color=canvas.MUTED,
            linewidth=1.2,
            linestyle=(0, (5, 3)),
            label=reference.label,
            zorder=2,
        )
    canvas.style_axes(axes, "step", each.family.axis)
    axes.margins(x=0.02, y=0.12)
    axes.locator_params(axis="x", integer=True, nbins=7)
    axes.locator_params(axis="y", nbins=6)
    canvas.show_shares(axes.yaxis, each.family.axis)


def _draw_band(axes: "Axes", each: Figures) -> None:
    """Shade what lies around the first line."""
    points = band_points(each)
    if points:
        label = "± 1 standard deviation" if each.family.band == "std" else "lowest to highest"
        steps, lows, highs = zip(*points, strict=True)
        axes.fill_between(steps, lows, highs, color=canvas.LINES[0], alpha=0.16, linewidth=0, label=label, zorder=1)


def band_points(each: Figures) -> list[tuple[float, float, float]]:
    """Step, low and high: one standard deviation around the first line, or the range between two keys."""
    if not each.band:
        return []
    if each.family.band == "std":
        spread = dict(zip(each.band[0].steps, each.band[0].values, strict=True))
        centre = each.lines[0]
        return [
            (step, value - spread[step], value + spread[step])
            for step, value in zip(centre.steps, centre.values, strict=True)
            if step in spread
        ]
    upper = dict(zip(each.band[1].steps, each.band[1].values, strict=True))
    low = each.band[0]
    return [(s, v, upper[s]) for s, v in zip(low.steps, low.values, strict=True) if s in upper]
