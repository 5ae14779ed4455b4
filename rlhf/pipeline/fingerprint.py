"""What a stage depends on, as one short text: equal for stages that would do the same. Imports no torch."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import rlhf
from rlhf.datasets import DataSource, find_source
from rlhf.files import sha256
from rlhf.inputs import leaves, stands_for
from rlhf.registry import Registry


def fingerprint(stage: str, config: BaseModel, registry: Registry) -> str:
    """Ten hexadecimal digits of the config, the content of what it names, and our version.

    Left out is `tracking`, and of a function's folder everything but the function's own file.

    Raises:
        UserError: a data source is not there.
    """
    values = config.model_dump(mode="json", exclude={"tracking"})
    body = json.dumps([rlhf.__version__, stage, values, dict(_contents(config, registry))], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:10]


def _contents(config: BaseModel, registry: Registry) -> Iterator[tuple[str, Any]]:
    """Key and content of everything that a config names: data, functions, artefacts, models, other files."""
    for key, leaf in leaves(config):
        if isinstance(leaf, DataSource):
            yield key, _data(leaf, registry)
        elif (named := stands_for(leaf, registry)) is not None:
            yield key, named.content


def _data(source: DataSource, registry: Registry) -> list[Any] | None:
    """The files that a source is read from; None for the Hub, whose `revision` stands in the config."""

    def lies_at(ref: str) -> tuple[Path, str] | None:
        artefact = registry.find(ref) if registry.exists() else None
        return None if artefact is None else (artefact.path, artefact.ref)

    files = find_source(source, lies_at).files
    if files is None:
        return None
    inner = [file for given in files for file in (sorted(given.rglob("*")) if given.is_dir() else [given])]
    return [[file.name, sha256(file)] for file in inner if file.is_file()]
