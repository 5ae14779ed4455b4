"""Curves from metrics.jsonl: PNG files to look at and paste elsewhere, inline SVG for the report.

The SVG takes its colours and its font from the page (`var(--line-1)` and so on), so it follows light and dark;
it carries no scripts, no links and no names of outside addresses.
"""

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.report.metrics import FAMILIES, Family, describe, signed
from rlhf.report.model import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {
    "--line-1": "#2f5d8c",
    "--line-2": "#c2692a",
    "--line-3": "#4d7f57",
    "--ink": "#1c2127",
    "--muted": "#5e6873",
    "--rule": "#dfe3e8",
    "--bad": "#b3261e",
}
"""What the page calls a colour, and what it is in a PNG; no two are equal: `svg` tells them apart by value."""

_LINES = ("--line-1", "--line-2", "--line-3")
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
    return tuple(
        Curve(each.family.title, svg(each, name=f"c{number}"), describe_in_words(each), each.family.primary)
        for number, each in enumerate(drawable(rows, references))
    )


def save_pngs(rows: Sequence[Mapping[str, Any]], folder: Path, references: Sequence[ReferenceLine] = ()) -> list[Path]:
    """Write one PNG a family into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for each in drawable(rows, references):
        path = folder / f"{each.family.name}.png"
        with _drawn(each, title=True) as figure:
            figure.savefig(path, dpi=160, facecolor="white")
        paths.append(path)
    return paths


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


def svg(each: Figures, name: str) -> str:
    """A figure as inline SVG in the page's colours; `name` keeps its ids apart from those of other figures."""
    with _drawn(each, title=False) as figure:
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(buffer.getvalue(), name)


def _for_page(text: str, name: str) -> str:
    """Matplotlib's SVG document as an element of a page: no prologue, namespaces or fixed size; its own ids."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box is not None, "matplotlib writes a viewBox"
    # The page labels the figure that holds it.
    text = f'<svg {view_box[0]} class="curve" aria-hidden="true">{rest}'
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--sans)", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", text)
    for variable, colour in _COLOURS.items():
        text = text.replace(colour, f"var({variable})")
    return text.strip()


@contextmanager
def _drawn(each: Figures, *, title: bool) -> Iterator["Figure"]:
    """A figure of one family; without pyplot, which keeps every figure until it is closed."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "rlhf", "font.size": 9.5, "font.family": "DejaVu Sans"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.6, 3.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        _draw(axes, each)
        if title:
            pad = 24 if axes.get_legend() else 8
            axes.set_title(each.family.title, loc="left", color=_COLOURS["--ink"], fontsize=11, pad=pad)
        yield figure


def _draw(axes: "Axes", each: Figures) -> None:
    ink, muted, rule = (_COLOURS[name] for name in ("--ink", "--muted", "--rule"))
    _draw_band(axes, each)
    for line, name in zip(each.lines, _LINES, strict=False):
        marker = "o" if len(line.steps) <= 30 else None
        axes.plot(
            line.steps,
            line.values,
            color=_COLOURS[name],
            label=describe(line.key).label,
            linewidth=1.8,
            marker=marker,
            markersize=3,
            zorder=3,
        )
        for step in line.gaps:
            axes.axvline(step, color=_COLOURS["--bad"], linewidth=1, zorder=2)
    if any(line.gaps for line in each.lines):
        axes.plot([], [], color=_COLOURS["--bad"], linewidth=1, label="not a number")
    for reference in each.references:
        axes.axhline(
            reference.value,
            color=muted,
            linewidth=1.2,
            linestyle=(0, (5, 3)),
            label=reference.label,
            zorder=2,
        )
    axes.set_xlabel("step", color=muted)
    axes.set_ylabel(each.family.axis, color=muted)
    axes.tick_params(colors=muted, length=0)
    axes.grid(axis="y", color=rule, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02, y=0.12)
    axes.locator_params(axis="x", integer=True, nbins=7)
    axes.locator_params(axis="y", nbins=6)
    if each.family.axis.startswith("share"):
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(rule)
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > 1:
        axes.legend(
            frameon=False,
            labelcolor=ink,
            fontsize=9,
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),  # above the curves, never on them
            ncols=3,
            handlelength=1.4,
            columnspacing=1.6,
            borderaxespad=0.1,
        )


def _draw_band(axes: "Axes", each: Figures) -> None:
    """Shade one standard deviation around the first line, or the range between two keys."""
    if not each.band:
        return
    if each.family.band == "std":
        spread = dict(zip(each.band[0].steps, each.band[0].values, strict=True))
        centre = each.lines[0]
        points = [
            (step, value - spread[step], value + spread[step])
            for step, value in zip(centre.steps, centre.values, strict=True)
            if step in spread
        ]
        label = "± 1 standard deviation"
    else:
        upper = dict(zip(each.band[1].steps, each.band[1].values, strict=True))
        low = each.band[0]
        points = [(s, v, upper[s]) for s, v in zip(low.steps, low.values, strict=True) if s in upper]
        label = "lowest to highest"
    if points:
        steps, lows, highs = zip(*points, strict=True)
        axes.fill_between(
            steps, lows, highs, color=_COLOURS["--line-1"], alpha=0.16, linewidth=0, label=label, zorder=1
        )
