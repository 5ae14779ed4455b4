"""Whether a run may be taken up again: by the same stage, with the same config, data, models and functions."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlhf.errors import UserError
from rlhf.tracking.environment import redact
from rlhf.tracking.metrics import plain_value

FREE_TO_CHANGE = ("tracking", "output")
"""Sections that decide where metrics and results go and not what is done."""

_MISSING = object()


@dataclass(frozen=True)
class Named:
    """Something outside the config that a value of it names.

    Attributes:
        given: the value.
        found: what it stands for: `name@v3`, a file or folder, a commit.
        content: what is equal for equal contents, as JSON holds it: a digest, or the digests of the files.
    """

    given: str
    found: str
    content: Any


def check_resumable(
    folder: Path,
    *,
    stage: str,
    config: Mapping[str, Any],
    data: str | None,
    inputs: Mapping[str, Named] | None = None,
) -> None:
    """Refuse to go on with the run in `folder` as something else than it was; nothing is written.

    Args:
        folder: the run's; one that is not there, or in which nothing was begun, can be gone on with.
        stage: what is to go on.
        config: its resolved config.
        data: the digest of the rows that it has read.
        inputs: what the config names now, by key. A value may be written otherwise if it names the same: `t/sft@v1`
            for the `t/sft` that has moved on to v2 since.

    Raises:
        UserError: the run is done, is another stage's, or was begun with another config, other data, or other models
            or functions; of a run that a function has ended, functions may be others.
    """
    environment, summary = _read(folder / "environment.json"), _read(folder / "summary.json")
    run = f"run {folder.name}"
    if environment.get("stage", stage) != stage:
        raise UserError(f"{run}: is a run of {environment['stage']}, not of {stage}; start a new one without --resume")
    if summary.get("status") == "done":
        made = f" and published {summary['artefact']}" if summary.get("artefact") else ""
        raise UserError(f"{run}: is done{made}; it is not taken up again: start a new one without --resume")
    then = environment.get("inputs", {})
    same = {key for key, named in (inputs or {}).items() if key in then and named.content == then[key]["content"]}
    problems = []
    path = folder / "config.yaml"
    if path.is_file():
        before = dict(_leaves(yaml.safe_load(path.read_text(encoding="utf-8"))))
        now = dict(_leaves(redact(plain_value(config))))
        for key in [*before, *(key for key in now if key not in before)]:
            was, wanted = before.get(key, _MISSING), now.get(key, _MISSING)
            if was != wanted and key.split(".")[0] not in FREE_TO_CHANGE and key not in same:
                problems.append(f"{run}: {key} = {_shown(wanted)}: the run was begun with {_shown(was)}")
            elif summary.get("scorer_failed") and key.endswith(".function"):
                continue  # it was to be mended
            elif was == wanted and key in then and key not in same:
                problems.append(f"{run}: {_moved_on(key, Named(**then[key]), (inputs or {}).get(key))}")
    if data is not None and environment.get("data", data) != data:
        problems.append(f"{run}: data: the rows are not those that the run was begun with")
    if problems:
        problems[-1] += "; take that back, or start a new run without --resume"
        raise UserError(problems)


def begun_with(folder: Path) -> dict[str, Named]:
    """What the config of the run in `folder` named when it was begun, by key."""
    return {key: Named(**named) for key, named in _read(folder / "environment.json").get("inputs", {}).items()}


def _moved_on(key: str, then: Named, now: Named | None) -> str:
    """That a value names something else than it did, and what would name the same."""
    given = f"{key} = {then.given!r}"
    if now is not None and now.found == then.found:
        return f"{given}: {then.found} has changed since the run was begun"
    shown = "nothing that is here" if now is None else now.found
    way_out = f"; {key}={then.found} still does" if "@" in then.found else ""
    return f"{given}: means {shown} now and meant {then.found} when the run was begun{way_out}"


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
