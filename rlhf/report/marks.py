"""Marks of a figure: lines across it, and texts that lie neither on one another nor on what is drawn."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf.report import canvas, placing
from rlhf.report.readable import one_line
from rlhf.tracking import Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FONT_SIZE = 8.5
_ROW = 11.5
"""Points from one row of texts above the figure to the next."""
_ABOVE = 3.0
_MAX_ABOVE = 44
_MAX_BESIDE = 48
_COLUMN = 16
"""Characters in a line of a text beside the figure."""


def _upright(mark: Mark, sideways: bool) -> float | None:
    """Where an upright line stands for `mark`, if one does; `sideways`: the axes have changed places."""
    return mark.y if sideways else mark.x


def _level(mark: Mark, sideways: bool) -> float | None:
    return mark.x if sideways else mark.y


def draw_lines(axes: "Axes", marks: Sequence[Mark], *, sideways: bool = False) -> None:
    """A line through each mark, and a ring where it is a point on both axes."""
    for mark in marks:
        upright, level = _upright(mark, sideways), _level(mark, sideways)
        if upright is not None:
            axes.axvline(upright, color=canvas.MUTED, linewidth=1.2, linestyle=(0, (5, 3)), zorder=2.5)
        if level is not None and upright is None:
            axes.axhline(level, color=canvas.MUTED, linewidth=1.2, linestyle=(0, (5, 3)), zorder=2.5)
        if level is not None and upright is not None:
            axes.plot([upright], [level], marker="o", markersize=11, markerfacecolor="none", color=canvas.INK)


def write_labels(figure: "Figure", axes: "Axes", marks: Sequence[Mark], *, sideways: bool = False) -> None:
    """The texts of upright lines in rows above the axes, those of level lines in a column on the right."""
    levels = [(mark, at) for mark in marks if (at := _level(mark, sideways)) is not None]
    _write_right(figure, axes, [(at, mark.label) for mark, at in levels if _upright(mark, sideways) is None])
    uprights = [
        (at, one_line(mark.label, _MAX_ABOVE)) for mark in marks if (at := _upright(mark, sideways)) is not None
    ]
    _write_above(figure, axes, uprights)


def _write_above(figure: "Figure", axes: "Axes", lines: Sequence[tuple[float, str]]) -> None:
    if not lines:
        return
    figure.draw_without_rendering()
    box = axes.get_window_extent()
    at = [float(axes.transData.transform((x, 0))[0]) for x, _ in lines]
    widths = [_size(figure, text)[0] + figure.dpi * 6 / 72 for _, text in lines]
    for (x, text), (row, side) in zip(lines, placing.flags(at, widths, box.x0, box.x1), strict=True):
        up = _ABOVE + row * _ROW
        axes.annotate(
            "",
            (x, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, up + 8),
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": canvas.MUTED, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0},
        )
        axes.annotate(
            text,
            (x, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(3 * side, up),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="bottom",
            color=canvas.INK,
            fontsize=_FONT_SIZE,
        )


def _write_right(figure: "Figure", axes: "Axes", lines: Sequence[tuple[float, str]]) -> None:
    if not lines:
        return
    texts = ["\n".join(textwrap.wrap(one_line(text, _MAX_BESIDE), _COLUMN)) for _, text in lines]
    figure.draw_without_rendering()
    at = [float(axes.transData.transform((0, y))[1]) for y, _ in lines]
    heights = [_size(figure, text)[1] + figure.dpi * 2 / 72 for text in texts]
    for (y, _), text, was, now in zip(lines, texts, at, placing.spread(at, heights), strict=True):
        moved = (now - was) * 72 / figure.dpi
        arrow = {"arrowstyle": "-", "color": canvas.MUTED, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
        axes.annotate(
            text,
            (1, y),
            xycoords=axes.get_yaxis_transform(),
            xytext=(10 if abs(moved) > 3 else 4, moved),
            textcoords="offset points",
            va="center",
            color=canvas.INK,
            fontsize=_FONT_SIZE,
            arrowprops=arrow if abs(moved) > 3 else None,
        )


def write_beside(
    figure: "Figure",
    axes: "Axes",
    texts: Sequence[tuple[float, float, str]],
    marks: Sequence[Mark] = (),
    paths: Sequence[Sequence[tuple[float, float]]] = (),
) -> None:
    """What is to be said of points (x, y, text or "") beside them; where there is no room it is left to the table.

    Args:
        figure: the figure.
        axes: its axes, with all that is drawn.
        texts: of all points, since no text may lie on one.
        marks: of those on the x axis, whose lines no text may cross.
        paths: the lines drawn, which no text may cross.
    """
    if not any(text for *_, text in texts):
        return
    figure.draw_without_rendering()
    scale = 72 / figure.dpi
    box = axes.get_window_extent()

    def pixels(x: float, y: float) -> tuple[float, float]:
        at = axes.transData.transform((x, y))
        return float(at[0]), float(at[1])

    lines = [pixels(mark.x, 0.0)[0] for mark in marks if mark.x is not None]
    places = placing.beside(
        [pixels(x, y) for x, y, _ in texts],
        [_size(figure, text) if text else (0.0, 0.0) for *_, text in texts],
        (box.x0, box.y0, box.x1, box.y1),
        gap=6 / scale,
        obstacles=[
            *((at - 1, box.y0, at + 1, box.y1) for at in lines),
            *(each for path in paths for each in placing.along([pixels(x, y) for x, y in path])),
        ],
    )
    for (x, y, text), place in zip(texts, places, strict=True):
        if place is not None:
            at = pixels(x, y)
            axes.annotate(
                text,
                (x, y),
                xytext=((place[0] - at[0]) * scale, (place[1] - at[1]) * scale),
                textcoords="offset points",
                va="bottom",
                color=canvas.INK,
                fontsize=_FONT_SIZE,
                zorder=5,
            )


def _size(figure: "Figure", text: str) -> tuple[float, float]:
    """Width and height of `text`, in pixels of `figure`."""
    written = figure.text(0, 0, text, fontsize=_FONT_SIZE)
    box = written.get_window_extent()
    written.remove()
    return float(box.width), float(box.height)
