"""The figures of a stage in words and in tables, for those who do not see them and those who want the numbers."""

import math

from rlhf.report import canvas
from rlhf.report.metrics import signed
from rlhf.tracking import Figure, FigureSeries

MAX_BARS = 40
MAX_POINTS = 400
_MAX_ROWS = 40


def format_number(value: float, axis: str) -> str:
    """A number of a figure as people read it; `axis` is the label of the axis that it lies on."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if canvas.is_share(axis):
        return f"{signed(100 * value, 1)}%"
    return (
        f"{value:.0f}".replace("-", "\N{MINUS SIGN}") if value == round(value) and abs(value) < 1e6 else signed(value)
    )


def table(figure: Figure) -> tuple[tuple[str, ...], ...]:
    """The numbers of a figure, one row an x, the names of the columns first; empty if these are too many to be read."""
    columns = [dict(zip(series.x, range(len(series.x)), strict=True)) for series in figure.series]
    keys = list(dict.fromkeys(x for series in figure.series for x in series.x))
    twice = any(len(column) < len(series.x) for column, series in zip(columns, figure.series, strict=True))
    if twice or not keys or len(keys) > _MAX_ROWS:
        return ()
    if not any(isinstance(key, str) for key in keys):
        keys.sort()  # type: ignore[type-var]
    rows = [(figure.x, *(series.name for series in figure.series))]
    for key in keys:
        cells = (
            _cell(series, column[key], figure.y) if key in column else "–"
            for series, column in zip(figure.series, columns, strict=True)
        )
        rows.append((key if isinstance(key, str) else format_number(key, figure.x), *cells))
    return tuple(rows)


def _cell(series: FigureSeries, index: int, axis: str) -> str:
    text = format_number(series.y[index], axis)
    if series.low is not None and series.high is not None:
        text += f" [{format_number(series.low[index], axis)}, {format_number(series.high[index], axis)}]"
    return f"{text} ({series.labels[index]})" if series.labels and series.labels[index] else text


def in_words(figure: Figure) -> str:
    """What a figure shows, for those who do not see it."""
    parts = []
    for series in figure.series:
        values = [y for y in series.y if math.isfinite(y)]
        if len(values) == 1:
            parts.append(f"{series.name}: {format_number(values[0], figure.y)}")
        elif values:
            low, high = (format_number(value, figure.y) for value in (min(values), max(values)))
            parts.append(f"{series.name}: {len(values)} values from {low} to {high}")
        else:
            parts.append(f"{series.name}: nothing")
    for mark in figure.marks:
        at = [(mark.x, figure.x), (mark.y, figure.y)]
        said = ", ".join(f"{axis} {format_number(value, axis)}" for value, axis in at if value is not None)
        parts.append(f"marked: {mark.label} at {said}")
    return f"{figure.title}. {figure.description} {figure.x} against {figure.y}. {'; '.join(parts)}."


def names_along(figure: Figure) -> list[str] | None:
    """The names along the x axis, in order; None where it has numbers."""
    values = [value for series in figure.series for value in series.x]
    if not any(isinstance(value, str) for value in values):
        return None
    return list(dict.fromkeys(named(value) for value in values))[:MAX_BARS]


def named(value: float | str) -> str:
    """What stands under a value on an axis of names."""
    return value if isinstance(value, str) else f"{value:g}"


def stride(count: int) -> int:
    """Of `count` points each how-many-eth is drawn."""
    return math.ceil(count / MAX_POINTS) or 1


def left_out(figure: Figure) -> list[str]:
    """A sentence for each thing that is in the data and not in the drawing."""
    found = []
    broken = sum(
        not math.isfinite(y) or (isinstance(x, float) and not math.isfinite(x))
        for series in figure.series
        for x, y in zip(series.x, series.y, strict=True)
    )
    if broken:
        found.append(f"{broken} {'value that is' if broken == 1 else 'values that are'} no number cannot be drawn.")
    names = {named(x) for series in figure.series for x in series.x}
    if names_along(figure) is not None and len(names) > MAX_BARS:
        found.append(f"The first {MAX_BARS} of {len(names)} are drawn; the data have all.")
    elif any(stride(len(series.x)) > 1 for series in figure.series):
        found.append(f"Of very many points, {MAX_POINTS} at most are drawn; the data have all.")
    return found
