"""Whether a run may be taken up again: by the same stage, with the same config and the same data."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from rlhf.errors import UserError
from rlhf.tracking.environment import redact
from rlhf.tracking.metrics import plain_value

FREE_TO_CHANGE = ("tracking", "output")
"""Sections that decide where metrics and results go and not what is done."""

_MISSING = object()


def check_resumable(folder: Path, *, stage: str, config: Mapping[str, Any], data: str | None) -> None:
    """Refuse to go on with the run in `folder` as something else than it was; nothing is written.

    Args:
        folder: the run's; one that is not there, or in which nothing was begun, can be gone on with.
        stage: what is to go on.
        config: its resolved config.
        data: the digest of the rows that it has read.

    Raises:
        UserError: the run is done, is another stage's, or was begun with another config or other data.
    """
    environment, summary = _read(folder / "environment.json"), _read(folder / "summary.json")
    run = f"run {folder.name}"
    if environment.get("stage", stage) != stage:
        raise UserError(f"{run}: is a run of {environment['stage']}, not of {stage}; start a new one without --resume")
    if summary.get("status") == "done":
        made = f" and published {summary['artefact']}" if summary.get("artefact") else ""
        raise UserError(f"{run}: is done{made}; it is not taken up again: start a new one without --resume")
    problems = []
    path = folder / "config.yaml"
    if path.is_file():
        before = dict(_leaves(yaml.safe_load(path.read_text(encoding="utf-8"))))
        now = dict(_leaves(redact(plain_value(config))))
        for key in [*before, *(key for key in now if key not in before)]:
            was, wanted = before.get(key, _MISSING), now.get(key, _MISSING)
            if was != wanted and key.split(".")[0] not in FREE_TO_CHANGE:
                problems.append(f"{run}: {key} = {_shown(wanted)}: the run was begun with {_shown(was)}")
    if data is not None and environment.get("data", data) != data:
        problems.append(f"{run}: data: the rows are not those that the run was begun with")
    if problems:
        problems[-1] += "; take that back, or start a new run without --resume"
        raise UserError(problems)


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{key}.{index}")
    else:
        yield key, value


def _shown(value: Any) -> str:
    return "(not set)" if value is _MISSING else repr(value)


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none, or none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
