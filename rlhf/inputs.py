"""What a config names outside itself, and what stands behind each name at this moment. Imports no torch.

`support/sft`, a folder, `rewards.py:brevity`: the words stay, and what they mean changes when a new version is
published or a file is edited. A run that is gone on with, and a stage that is not done again, must mean the same.
"""

import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rlhf.config import OutputSection
from rlhf.datasets import DataSource
from rlhf.files import is_model_file, sha256
from rlhf.registry import Registry
from rlhf.scoring_config import ScorerSection
from rlhf.tracking import Named, TrackingConfig

HASHED_UP_TO_BYTES = 64 << 20
"""A larger file of a model is known by its size and its time: reading it would take longer than it is worth."""

Leaf = str | DataSource | ScorerSection


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Leaf]]:
    """All that can name something, with its dotted key: texts, functions, sources of data."""
    if isinstance(value, OutputSection | TrackingConfig):
        return
    if isinstance(value, str | DataSource):
        yield key, value
    elif isinstance(value, ScorerSection) and value.function is not None:
        yield f"{key}.function", value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from leaves(getattr(value, name), f"{key}.{name}" if key else name)
    elif isinstance(value, Mapping | list | tuple):
        pairs: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, inner in pairs:
            yield from leaves(inner, f"{key}.{name}")


def named_inputs(config: Any, registry: Registry) -> dict[str, Named]:
    """Models, functions and other files that `config` names, by their keys; data is known by its rows instead.

    Ask it once they have been found: of a model of the Hub it knows what lies in the cache.
    """
    named = {}
    for key, leaf in leaves(config):
        if not isinstance(leaf, DataSource) and (found := stands_for(leaf, registry) or _on_hub(leaf)):
            named[key] = found
    return named


def stands_for(leaf: str | ScorerSection, registry: Registry) -> Named | None:
    """What a text or a function stands for on this machine; None for one that names nothing here."""
    if isinstance(leaf, ScorerSection):
        file = function_file(leaf)
        return None if file is None else Named(str(leaf.function), str(file), sha256(file))
    path = Path(leaf)
    if path.is_absolute() and path.is_file():
        return Named(leaf, leaf, sha256(path))
    if path.is_absolute() and path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and is_model_file(file.name))
        return Named(leaf, leaf, [[file.name, _known_by(file)] for file in files])
    artefact = registry.find(leaf) if "/" in leaf and registry.exists() else None
    return None if artefact is None else Named(leaf, artefact.ref, artefact.digest)


def scorers_on_record(
    scorers: Sequence[ScorerSection], models: Sequence[str], named: Mapping[str, Named], *, key: str = "reward"
) -> list[dict[str, Any]]:
    """What a policy was rewarded by, as its metadata holds it: `ref` or `function` with `sha256`, and `weight`.

    Args:
        scorers: the section's.
        models: the refs of those that are models, in their order.
        named: what the config named when the run was begun; a function's file may have been edited since.
        key: the section's.
    """
    refs = iter(models)
    record: list[dict[str, Any]] = []
    for index, scorer in enumerate(scorers):
        if scorer.function is None:
            record.append({"ref": next(refs), "weight": scorer.weight})
            continue
        file = named.get(f"{key}.{index}.function")
        content = None if file is None else file.content
        record.append({"function": str(scorer.function), "sha256": content, "weight": scorer.weight})
    return record


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


def _on_hub(leaf: str | ScorerSection) -> Named | None:
    """The commit of a Hub model that has been fetched."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if not isinstance(leaf, str):
        return None
    try:
        files = [
            try_to_load_from_cache(leaf, name, constants.HF_HUB_CACHE)
            for name in ("config.json", "adapter_config.json")
        ]
    except HFValidationError:
        return None
    commits = [Path(file).parent.name for file in files if isinstance(file, str)]
    return Named(leaf, f"{leaf} at commit {commits[0]}", commits[0]) if commits else None


def _known_by(file: Path) -> Any:
    stat = file.stat()
    return sha256(file) if stat.st_size <= HASHED_UP_TO_BYTES else [stat.st_size, stat.st_mtime_ns]
