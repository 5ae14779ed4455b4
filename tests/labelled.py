"""Every key that a stage's summary has stands in the tables of what metrics are called."""

from collections.abc import Iterator, Mapping
from typing import Any

from rlhf.report.metrics import describe

OF_NAMES = {"candidates", "judges", "annotators", "groups", "requirements", "artefacts"}
"""What is below these is called as users call it; below that are metrics again."""


def unlabelled(summary: Mapping[str, Any]) -> set[str]:
    """Keys that a report would show under their own names."""
    return {key for key in _keys(summary) if describe(key).label == key}


def _keys(summary: Mapping[str, Any]) -> Iterator[str]:
    for key, value in summary.items():
        yield key
        if key in OF_NAMES and isinstance(value, Mapping):
            for inner in value.values():
                yield from _below_a_name(inner)
        elif isinstance(value, Mapping) and key == "frontier":
            yield from _keys(value)


def _below_a_name(inner: Any) -> Iterator[str]:
    """The metrics of one name: groups, and a judge's verdicts, have names twice."""
    if not isinstance(inner, Mapping):
        return
    for key, value in inner.items():
        if isinstance(value, Mapping):
            yield from _keys(value)
        elif key not in ("asked", "found", "met"):
            yield key
