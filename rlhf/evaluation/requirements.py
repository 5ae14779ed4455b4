"""What a reward model had to reach, held against what was found. Imports no torch."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.evaluation.reward_config import RequireSection


@dataclass(frozen=True)
class Requirement:
    """One threshold that is set.

    Attributes:
        name: its key under `require`.
        asked: the threshold.
        found: what was held against it; None where it could not be measured.
        met: whether it is reached.
        line: both in words.
    """

    name: str
    asked: float | bool
    found: float | None
    met: bool
    line: str


def check_requirements(section: RequireSection, figures: Mapping[str, Any]) -> list[Requirement]:
    """Every threshold that `section` sets, held against an evaluation's `figures`; `x_ci` is the interval of `x`."""
    return [
        _check(name, asked, section.by == "interval", figures)
        for name in _RULES
        if (asked := getattr(section, name)) is not None and asked is not False
    ]


@dataclass(frozen=True)
class _Rule:
    figure: str
    fits: Callable[[float, float], bool]
    words: str
    worse_end: int


_RULES = {
    "accuracy": _Rule("accuracy", operator.ge, "at least", 0),
    "beats_longest": _Rule("gain_over_longest", operator.gt, "more than", 0),
    "ece": _Rule("ece", operator.le, "at most", 1),
    "ece_scaled": _Rule("ece_scaled", operator.le, "at most", 1),
}


def _check(name: str, asked: float | bool, by_interval: bool, figures: Mapping[str, Any]) -> Requirement:
    rule = _RULES[name]
    limit = 0.0 if asked is True else float(asked)
    interval = figures.get(f"{rule.figure}_ci")
    found = (interval[rule.worse_end] if interval else None) if by_interval else figures.get(rule.figure)
    met = found is not None and rule.fits(found, limit)
    if found is None:
        known = figures.get(rule.figure) is not None
        why = "pairs of one prompt have no interval" if known else figures.get("calibration_why")
        shown = f"could not be measured: {why}"
    else:
        shown = f"is {found:.4g}" + (
            f" at the {'lower' if rule.worse_end == 0 else 'upper'} end" if by_interval else ""
        )
    line = f"require.{name}: {rule.figure} {shown}; asked for {rule.words} {limit:g}"
    return Requirement(name, asked, found, met, line)
