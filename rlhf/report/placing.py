"""Where texts stand in a figure so that none lies on another: numbers in, numbers out, all in one unit."""

import math
from collections.abc import Sequence
from itertools import pairwise, permutations, product

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

_MAX_TRIED = 4
"""Of more texts than this not all orders are tried."""


def flags(lines: Sequence[float], widths: Sequence[float], left: float, right: float) -> list[tuple[int, int]]:
    """A row and a side (1: right, -1: left) for the text of each upright line, above the figure from `left` to `right`.

    A text begins at its line, which reaches up to it, so a text may lie neither on another of its row nor on a line
    that reaches higher. Of all orders and sides, those are taken that need the fewest rows.
    """
    count = len(lines)
    if count <= _MAX_TRIED:
        tries = product(permutations(range(count)), product((1, -1), repeat=count))
    else:
        middle = (left + right) / 2
        sides = tuple(1 if at < middle else -1 for at in lines)
        tries = product([tuple(sorted(range(count), key=lambda index: -lines[index]))], [sides])
    best: tuple[tuple[int, ...], list[tuple[int, int]]] | None = None
    for order, sides in tries:
        ends = [
            (at + min(side * width, 0), at + max(side * width, 0))
            for at, width, side in zip(lines, widths, sides, strict=True)
        ]
        rows, crossed = _rows(order, lines, ends)
        outside = sum(start < left or end > right for start, end in ends)
        cost = (outside + crossed, max(rows, default=0), sum(rows))
        if best is None or cost < best[0]:
            best = cost, list(zip(rows, sides, strict=True))
    assert best is not None, "there is always one order"
    return best[1]


def _rows(order: Sequence[int], lines: Sequence[float], ends: Sequence[tuple[float, float]]) -> tuple[list[int], int]:
    """Each text in the lowest row that is free, one after the other; and how many had to cross something."""
    placed: list[tuple[float, float, float, int]] = []  # line, from, to, row
    rows, crossed = [0] * len(lines), 0
    for index in order:
        top = 1 + max((row for *_, row in placed), default=-1)
        free = (row for row in range(top + 1) if _free(row, lines[index], ends[index], placed))
        rows[index] = next(free, top)
        crossed += not _free(rows[index], lines[index], ends[index], placed)
        placed.append((lines[index], *ends[index], rows[index]))
    return rows, crossed


def _free(row: int, at: float, ends: tuple[float, float], placed: Sequence[tuple[float, float, float, int]]) -> bool:
    start, end = ends
    return not any(
        (row == other and start < to and since < end)
        or (row < other and start < line < end)
        or (other < row and since < at < to)
        for line, since, to, other in placed
    )


def spread(centres: Sequence[float], heights: Sequence[float]) -> list[float]:
    """The centres of texts beside a figure, moved apart as far as is needed, in their order."""
    order = sorted(range(len(centres)), key=lambda index: centres[index])
    groups: list[tuple[list[int], float]] = []  # texts that touch, and the lower edge of the lowest

    def settle(members: list[int]) -> float:
        total, wanted = 0.0, 0.0
        for member in members:
            wanted += centres[member] - heights[member] / 2 - total
            total += heights[member]
        return wanted / len(members)

    for index in order:
        members = [index]
        bottom = settle(members)
        while groups and bottom < groups[-1][1] + sum(heights[member] for member in groups[-1][0]):
            members = groups.pop()[0] + members
            bottom = settle(members)
        groups.append((members, bottom))
    found = dict.fromkeys(order, 0.0)
    for members, bottom in groups:
        for member in members:
            found[member] = bottom + heights[member] / 2
            bottom += heights[member]
    return [found[index] for index in range(len(centres))]


def beside(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    frame: Box,
    *,
    gap: float = 4.0,
    obstacles: Sequence[Box] = (),
) -> list[Box | None]:
    """A place for the text of each point, within `frame`, on no other text, point or obstacle; None where none is free.

    Args:
        points: x and y of each.
        sizes: width and height of each text; a text without width needs no place.
        frame: what texts must not leave.
        gap: distance of a text from its point.
        obstacles: what else lies there.
    """
    taken = [*obstacles, *((x - gap / 2, y - gap / 2, x + gap / 2, y + gap / 2) for x, y in points)]
    found: list[Box | None] = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        corners = [
            (x + gap, y - height / 2),
            (x + gap * 0.7, y + gap * 0.7),
            (x - width / 2, y + gap),
            (x - gap * 0.7 - width, y + gap * 0.7),
            (x - gap - width, y - height / 2),
            (x - gap * 0.7 - width, y - gap * 0.7 - height),
            (x - width / 2, y - gap - height),
            (x + gap * 0.7, y - gap * 0.7 - height),
        ]
        boxes = [(left, bottom, left + width, bottom + height) for left, bottom in corners]
        free = next((box for box in boxes if width and _within(box, frame) and not _hits(box, taken)), None)
        if free is not None:
            taken.append(free)
        found.append(free)
    return found


def along(path: Sequence[tuple[float, float]], step: float = 4.0) -> list[Box]:
    """Small boxes along a line through the points of `path`, no further apart than `step`: obstacles for texts."""
    found = []
    for (x, y), (to_x, to_y) in pairwise(path):
        count = math.ceil(math.hypot(to_x - x, to_y - y) / step) or 1
        for part in range(count + 1):
            at_x, at_y = x + (to_x - x) * part / count, y + (to_y - y) * part / count
            found.append((at_x - 0.5, at_y - 0.5, at_x + 0.5, at_y + 0.5))
    return found


def _within(box: Box, frame: Box) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _hits(box: Box, others: Sequence[Box]) -> bool:
    return any(
        box[0] < right and left < box[2] and box[1] < top and bottom < box[3] for left, bottom, right, top in others
    )
