"""A reward model's accuracy by what the data says of its pairs: who judged, how clearly, from where."""

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf.datasets.formats import look_up
from rlhf.errors import UserError
from rlhf.evaluation.judged_pairs import JudgedPairs
from rlhf.evaluation.statistics import Estimate, Floats, bootstrap_mean

BY_THEMSELVES = ("annotator", "strength", "margin")
"""Columns that are looked at wherever the data has them."""

MAX_GROUPS = 20
"""Of one column; what is left over is one group more."""

NONE, OTHERS = "(none)", "(others)"


def columns_of(pairs: JudgedPairs, names: Sequence[str]) -> dict[str, list[str]]:
    """The groups [P] by each column that is named or is among `BY_THEMSELVES`; `a.b` reaches into nested columns.

    Numbers of more than `MAX_GROUPS` values are cut at their quartiles. A pair without a value is in a group `(none)`.

    Raises:
        UserError: no row has one of the columns named.
    """
    rows = {id(record): record.row() for record in pairs.records}
    found: dict[str, list[str]] = {}
    problems = []
    for name in dict.fromkeys([*names, *BY_THEMSELVES]):
        values = [_value(rows[id(record)], name) for record in pairs.records]
        if any(value is not None for value in values):
            found[name] = _labels(values)
        elif name in names:
            known = sorted({key for row in rows.values() for key in row} - {"prompt", "chosen", "rejected"})
            problems.append(f"groups: no row has a column {name!r}; there are {', '.join(known) or 'no others'}")
    if problems:
        raise UserError(problems)
    return found


def accuracy_by_group(
    pairs: JudgedPairs, outcomes: Floats, labels: Sequence[str], *, num_bootstrap: int, confidence: float, seed: int
) -> dict[str, dict[str, Any]]:
    """What `outcomes` [P] (1 right, 0 wrong, a half for equal scores) come to in each group of `labels` [P].

    Beside the accuracy of each group stands that of "the longest wins", and how often others who judged the same pairs
    agree with those who judged these.
    """
    names = sorted(set(labels), key=lambda name: (name in (NONE, OTHERS), _natural(name)))
    found = {}
    for name in names:
        members = np.array([label == name for label in labels])
        clusters = [cluster for cluster, member in zip(pairs.clusters, members, strict=True) if member]
        accuracy = bootstrap_mean(
            outcomes[members], clusters, num_bootstrap=num_bootstrap, confidence=confidence, seed=seed
        )
        agreement = pairs.agreement_with_others[members]
        known = agreement[~np.isnan(agreement)]
        found[name] = {
            "accuracy": accuracy.value,
            "accuracy_ci": interval_of(accuracy),
            "accuracy_longest": float(pairs.longest_outcomes[members].mean()),
            "agreement_people": float(known.mean()) if len(known) else None,
            "num_pairs": int(members.sum()),
            "num_prompts": accuracy.num_clusters,
        }
    return found


def interval_of(estimate: Estimate) -> list[float] | None:
    """`[low, high]`; None for one prompt, which says nothing of others."""
    return estimate.interval if estimate.num_clusters > 1 else None


def _value(row: Mapping[str, Any], name: str) -> Any:
    try:
        return look_up(row, name)
    except KeyError:
        return None


def _labels(values: list[Any]) -> list[str]:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(set(numbers)) > MAX_GROUPS and len(numbers) == sum(value is not None for value in values):
        return _quartiles(values, numbers)
    labels = [_label(value) for value in values]
    kept = {name for name, _ in Counter(labels).most_common(MAX_GROUPS)}
    return [label if label in kept else OTHERS for label in labels]


def _label(value: Any) -> str:
    if value is None:
        return NONE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _quartiles(values: list[Any], numbers: list[float]) -> list[str]:
    edges = np.unique(np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]))
    names = [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)]
    inner = edges[1:-1]
    return [NONE if value is None else names[int(np.searchsorted(inner, value, side="left"))] for value in values]


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers, and ranges by where they begin, come before words."""
    try:
        return 0, float(name.partition(" to ")[0]), name
    except ValueError:
        return 1, 0.0, name
