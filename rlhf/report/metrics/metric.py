"""How one metric is shown."""

from dataclasses import dataclass
from typing import Literal

Format = Literal["number", "score", "share", "count", "seconds"]


@dataclass(frozen=True)
class Metric:
    """How one metric is shown.

    Attributes:
        label: its name for people.
        explanation: one line for somebody who is not a specialist.
        format: `score` is written with two decimals, `share` as a percentage, `count` without decimals, `seconds`
            as a duration, `number` to three significant digits.
        unit: stands behind the number.
    """

    label: str
    explanation: str = ""
    format: Format = "number"
    unit: str = ""
