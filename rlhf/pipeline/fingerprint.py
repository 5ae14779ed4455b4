"""What a stage depends on, as one short text: equal for stages that would do the same. Imports no torch."""

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import rlhf
from rlhf.config import OutputSection
from rlhf.datasets import DataSource, find_source
from rlhf.registry import Registry
from rlhf.scoring_config import ScorerSection
from rlhf.tracking import TrackingConfig

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What of a model's folder is looked at; what else lies there is nobody's input."""

HASHED_UP_TO_BYTES = 64 << 20
"""A larger file of a model is known by its size and its time: reading it would take longer than it is worth."""


def fingerprint(stage: str, config: BaseModel, registry: Registry) -> str:
    """Ten hexadecimal digits of the config, the content of what it names, and our version.

    Left out is `tracking`, and of a function's folder everything but the function's own file.

    Raises:
        UserError: a data source is not there.
    """
    values = config.model_dump(mode="json", exclude={"tracking"})
    body = json.dumps([rlhf.__version__, stage, values, dict(_contents(config, registry))], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:10]


def function_file(section: ScorerSection) -> Path | None:
    """The file in which the function of `section` stands, found without importing anything; None if there is none."""
    file = section.function_file()
    if file is not None:
        return file if file.is_file() else None
    importlib.invalidate_caches()
    top, *parts = section.split_function()[0].split(".")
    beside = PathFinder.find_spec(top, [str(section.folder)]) if section.folder else None
    # every finder is asked for what is installed: that of an editable install looks in no folder of sys.path
    spec = beside or importlib.util.find_spec(top)
    for part in parts:
        where = None if spec is None else spec.submodule_search_locations
        spec = None if where is None else PathFinder.find_spec(part, list(where))
    return Path(spec.origin) if spec is not None and spec.origin and Path(spec.origin).is_file() else None


def _contents(value: Any, registry: Registry) -> Iterator[tuple[str, Any]]:
    """Name and content of everything that a config names: data, functions, artefacts, models, other files."""
    if isinstance(value, OutputSection | TrackingConfig):
        return
    if isinstance(value, DataSource):
        yield f"data {value.path} {value.split}", _data(value, registry)
    elif isinstance(value, ScorerSection) and value.function is not None:
        file = function_file(value)
        yield f"function {value.function}", None if file is None else _sha256(file)
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _contents(getattr(value, name), registry)
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _contents(inner, registry)
    elif isinstance(value, str):
        yield value, _content(value, registry)


def _data(source: DataSource, registry: Registry) -> list[Any] | None:
    """The files that a source is read from; None for the Hub, whose `revision` stands in the config."""

    def lies_at(ref: str) -> tuple[Path, str] | None:
        artefact = registry.find(ref) if registry.exists() else None
        return None if artefact is None else (artefact.path, artefact.ref)

    files = find_source(source, lies_at).files
    if files is None:
        return None
    inner = [file for given in files for file in (sorted(given.rglob("*")) if given.is_dir() else [given])]
    return [[file.name, _sha256(file)] for file in inner if file.is_file()]


def _content(text: str, registry: Registry) -> Any:
    """What stands behind a string if it names an artefact, a file or a model's folder."""
    path = Path(text)
    if path.is_absolute() and path.is_file():
        return _sha256(path)
    if path.is_absolute() and path.is_dir():
        files = sorted(file for file in path.iterdir() if any(fnmatch(file.name, pattern) for pattern in MODEL_FILES))
        return [[file.name, _known_by(file)] for file in files if file.is_file()]
    if "/" in text and registry.exists():
        artefact = registry.find(text)
        return artefact.digest if artefact else None
    return None


def _known_by(file: Path) -> Any:
    stat = file.stat()
    return _sha256(file) if stat.st_size <= HASHED_UP_TO_BYTES else [stat.st_size, stat.st_mtime_ns]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
