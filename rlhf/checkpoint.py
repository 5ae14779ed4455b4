"""Checkpoint folders that are wholly there or not there, and that are checked before anything is read from them.

A folder is written beside its final place, synced, given a `manifest.json` with the size and SHA-256 of every file,
and renamed. Whoever resumes asks `latest_intact`, which passes over what does not match its manifest.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlhf.errors import UserError
from rlhf.files import sha256, sync

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-(\d+)")


class BrokenCheckpointError(UserError):
    """A checkpoint folder does not hold what its manifest says; the message names the first files at fault."""


@contextlib.contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """Yield an empty folder to write into; when the block ends well, sealed, it takes target's place.

    If the block raises, nothing is left. A folder that stands at `target` already is replaced. What a killed process
    left of the same target is cleared away; one process at a time writes to it.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    for remnant in target.parent.glob(f".{target.name}.*.tmp"):
        shutil.rmtree(remnant)
    staging = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    staging.mkdir()
    try:
        yield staging
        seal(staging)
        _put_in_place(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def seal(folder: str | Path) -> None:
    """Sync every file of a finished folder to disk and write its manifest, itself synced and renamed into place.

    For folders that others write, such as those of transformers' Trainer: call it in `on_save`.
    """
    folder = Path(folder)
    files = {}
    for path in _files(folder):
        sync(path)
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256(path)}
    temporary = folder / f".{MANIFEST}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({"version": 1, "files": files}, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / MANIFEST)
    for directory in {folder, *(path.parent for path in _files(folder))}:
        sync(directory)
    sync(folder.parent)


def verify(folder: str | Path) -> None:
    """Raise BrokenCheckpointError unless every file of the manifest is there with its size and SHA-256."""
    folder = Path(folder)
    problems = _problems(folder)
    if problems:
        raise BrokenCheckpointError([f"{folder}: {problem}" for problem in problems[:5]])


def checkpoints(folder: str | Path) -> list[Path]:
    """The `checkpoint-<step>` folders in `folder`, oldest step first. A missing folder has none."""
    found = [(int(m[1]), path) for path in Path(folder).glob("checkpoint-*") if (m := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found) if path.is_dir()]


def step_of(folder: str | Path) -> int:
    """The step at which a `checkpoint-<step>` was saved."""
    return int(Path(folder).name.rpartition("-")[2])


def is_intact(folder: str | Path) -> bool:
    """Whether a checkpoint matches its manifest; a warning says what is wrong with one that does not."""
    problems = _problems(Path(folder))
    if problems:
        logger.warning("checkpoint %s is passed over: %s", folder, problems[0])
    return not problems


def latest_intact(folder: str | Path) -> Path | None:
    """The newest checkpoint in `folder` that matches its manifest, or None; every newer one is named in a warning."""
    return next(filter(is_intact, reversed(checkpoints(folder))), None)


def rotate(
    folder: str | Path, save_total_limit: int | None, keep: str | Path | Sequence[str | Path | None] | None = None
) -> None:
    """Delete the oldest checkpoints until `save_total_limit` are left (None or 0: all stay).

    The newest one always stays, and so does `keep` (the best one, the last good one).
    """
    if not save_total_limit or save_total_limit < 1:
        return
    found = checkpoints(folder)
    protected = {found[-1].resolve()} if found else set()
    for path in [keep] if isinstance(keep, str | Path) else keep or ():
        protected |= set() if path is None else {Path(path).resolve()}
    surplus = len(found) - max(save_total_limit, len(protected))
    for path in [path for path in found if path.resolve() not in protected][: max(surplus, 0)]:
        # Renamed first: a deletion that is cut short leaves no half checkpoint under a checkpoint's name.
        doomed = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
        path.rename(doomed)
        shutil.rmtree(doomed)


def _problems(folder: Path) -> list[str]:
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return [f"{MANIFEST} is missing, so the save was not finished; remove the folder or resume from another"]
    try:
        listed: dict[str, dict[str, Any]] = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{MANIFEST} cannot be read ({error}); resume from another checkpoint"]
    problems = []
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing; resume from another checkpoint")
        elif path.stat().st_size != size:
            problems.append(f"{name} has {path.stat().st_size} bytes instead of {size}; resume from another checkpoint")
        elif sha256(path) != digest:
            problems.append(f"{name} has changed since it was saved (SHA-256); resume from another checkpoint")
    return problems


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _put_in_place(staging: Path, target: Path) -> None:
    """Rename `staging` to `target`; an older folder there is moved away first, so that there is never half of one."""
    old = None
    if target.exists():
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
        target.rename(old)
    staging.rename(target)
    sync(target.parent)
    if old is not None:
        shutil.rmtree(old)
