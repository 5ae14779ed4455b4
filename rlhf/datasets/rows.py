"""A row as it was found, before anybody knows what it means."""

import dataclasses
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from rlhf.records import Problem

Row = dict[str, Any]


@dataclass(frozen=True)
class RawRow:
    """One row as it was found."""

    path: str
    line: int
    row: Row | Problem
    unit: Literal["line", "row"] = "line"

    def problem(self, what: str) -> Problem:
        """What is wrong with this row."""
        return Problem(self.path, self.line, what, self.unit)

    def bad(self, what: str) -> "RawRow":
        """This row as one that cannot be used."""
        return dataclasses.replace(self, row=self.problem(what))


def as_json(value: Any) -> Any:
    """`value` as JSON can say it: dates and the like become text, what is binary becomes null."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    if isinstance(value, bytes):
        return None
    return float(value) if isinstance(value, Decimal) else str(value)


def without_nan(value: Any) -> Any:
    """`value` with every NaN and infinity, which JSON has no word for, as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return value
