"""Content on disk: folders named by the digest of what they hold.

`objects/<digest>/` holds the files as they were published and a `manifest.json` that lists every one with its
size and sha256. The digest is the sha256 of that manifest: `sha256sum manifest.json` must print the folder's
name. Files are read-only. A folder comes into `objects/` by one rename of a whole, synced copy: it is
there or it is not.
"""

import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.errors import UserError
from rlhf.files import sha256, sync

MANIFEST = "manifest.json"
FORMAT = 1

ALLOWED_SUFFIXES = frozenset(
    {".safetensors", ".json", ".jsonl", ".txt", ".md", ".yaml", ".yml", ".csv", ".tsv", ".jinja", ".html"}
    | {".svg", ".png", ".model", ".tiktoken"}
)
"""`.model` and `.tiktoken` are tokenizer vocabularies. Nothing here runs code when it is loaded."""
ALLOWED_NAMES = frozenset({"LICENSE", "NOTICE", "README"})
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib", ".h5"})

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Staged:
    """A finished copy that waits in `staging/` to be put in place.

    `heals` says that the registry has this content already, but damaged.
    """

    folder: Path
    digest: str
    heals: bool


class ObjectStore:
    """The `objects/` and `staging/` folders of one home; they must lie on one file system."""

    def __init__(self, home: Path) -> None:
        self.objects = home / "objects"
        self.staging = home / "staging"

    def path(self, digest: str) -> Path:
        """Where the object of this digest lies, or would."""
        return self.objects / digest

    def stage(self, source: Path | Mapping[str, Path]) -> Staged:
        """Copy a folder, one file, or files by name, into `staging/`, with a manifest, synced to disk.

        Raises:
            UserError: `source` is missing or empty, or holds files that no artefact may hold (all are named), or
                copying failed; nothing is left behind then.
        """
        files = list(self._files_to_publish(source))
        target = self.staging / uuid.uuid4().hex
        try:
            self.objects.mkdir(parents=True, exist_ok=True)
            target.mkdir(parents=True)
            entries = [_copy(file, target / relative, relative) for relative, file in files]
            entries.sort(key=lambda entry: entry["path"])
            manifest = _canonical({"format": FORMAT, "files": entries})
            _write(target / MANIFEST, manifest)
            for inner, _, _ in os.walk(target, topdown=False):
                sync(Path(inner))
        except BaseException as error:
            if target.exists():
                remove(target)
            if isinstance(error, OSError):  # the disk is full, a file cannot be read, ...
                where = error.filename or self.staging
                raise UserError(f"{where}: {error.strerror}; nothing was published") from error
            raise
        digest = hashlib.sha256(manifest).hexdigest()
        return Staged(target, digest, heals=self.path(digest).exists() and bool(self.verify(digest)))

    def put(self, staged: Staged) -> None:
        """Move a staged copy into place. Only under the registry's writer lock, which gc takes too."""
        target = self.path(staged.digest)
        if staged.heals and target.exists():
            self.set_aside(target)
        if not target.exists():
            staged.folder.rename(target)
        sync(self.objects)  # even if it was there: whoever renamed it may have died before this

    def set_aside(self, folder: Path) -> Path:
        """Rename a folder so that it waits for `remove`; only under the registry's writer lock."""
        trash = self.staging / f"{TRASH}{uuid.uuid4().hex}"
        self.staging.mkdir(parents=True, exist_ok=True)
        folder.rename(trash)
        return trash

    def discard(self, staged: Staged) -> None:
        """Remove what is left of a staged copy; nothing, if it was put in place."""
        if staged.folder.exists():
            remove(staged.folder)

    def verify(self, digest: str) -> list[str]:
        """What is wrong with an object, one line a file; empty when it is what it was when published."""
        folder = self.path(digest)
        problem, listed = self._manifest(digest)
        if problem is not None:
            return [problem]
        entries = {entry["path"]: entry for entry in listed}
        present = {relative for relative, _ in _walk(folder)} - {MANIFEST}
        problems = [_compare(folder / path, entry) for path, entry in entries.items()]
        problems += [f"{folder / path}: not in the manifest" for path in sorted(present - entries.keys())]
        return [problem for problem in problems if problem is not None]

    def files(self, digest: str) -> list[dict[str, Any]]:
        """The manifest's entries: `path`, `size` in bytes, `sha256`.

        Raises:
            UserError: the manifest is missing or damaged.
        """
        problem, entries = self._manifest(digest)
        if problem is not None:
            raise UserError(problem)
        return entries

    def _manifest(self, digest: str) -> tuple[str | None, list[dict[str, Any]]]:
        """What is wrong with an object's manifest, or else its entries."""
        folder = self.path(digest)
        file = folder / MANIFEST
        if not file.is_file():
            return f"{file if folder.exists() else folder}: missing", []
        raw = file.read_bytes()
        found = hashlib.sha256(raw).hexdigest()
        if found != digest:
            return f"{file}: changed (sha256 {found}, should be {digest})", []
        return None, json.loads(raw)["files"]

    def _is_object(self, folder: Path) -> bool:
        manifest = folder / MANIFEST
        return manifest.is_file() and hashlib.sha256(manifest.read_bytes()).hexdigest() == folder.name

    def _files_to_publish(self, source: Path | Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
        """Relative path and file of everything in `source`, if all of it may be published."""
        found = list(source.items()) if isinstance(source, Mapping) else self._files_of(source)
        problems = [problem for relative, file in found if (problem := _refusal(relative, file)) is not None]
        if problems:
            raise UserError(problems)
        yield from found

    def _files_of(self, source: Path) -> list[tuple[str, Path]]:
        if not source.exists():
            raise UserError(f"{source}: no such file or folder; nothing to publish")
        if source.is_file() and not source.is_symlink():
            found = [(source.name, source)]
        else:
            found = list(_walk(source))
        if self._is_object(source):  # published again under another name, or by another registry
            found = [(relative, file) for relative, file in found if relative != MANIFEST]
        if not found:
            raise UserError(f"{source}: holds no files; nothing to publish")
        return found


TRASH = "trash."
"""Begins the names of folders in `staging/` that wait for nothing but their removal."""


def remove(folder: Path) -> None:
    """Delete a folder that stands in `staging/`."""
    assert folder.parent.name == "staging", folder
    shutil.rmtree(folder)


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Relative POSIX path and path of everything below `folder` that is no folder; links are not followed."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from ((f"{path.name}/{relative}", file) for relative, file in _walk(path))
        else:
            yield path.name, path


def _refusal(relative: str, file: Path) -> str | None:
    """Why this file must not be in an artefact, or None."""
    if file.is_symlink():
        return f"{file}: is a link; put the file itself there (cp -L)"
    if not file.is_file():
        return f"{file}: is not a plain file"
    if not relative.isprintable():
        return f"{file!r}: the name has characters that cannot be printed; rename it"
    if relative == MANIFEST:
        return f"{file}: the registry writes a file of this name; rename it"
    suffix = Path(relative.removesuffix(".gz")).suffix
    if suffix.lower() in PICKLES:
        return (
            f"{file}: may run code when it is loaded, so artefacts hold no such file; save weights as "
            "safetensors (save_pretrained does), and leave optimizer and training state in the run's folder"
        )
    if suffix not in ALLOWED_SUFFIXES and Path(relative).name not in ALLOWED_NAMES:
        allowed = " ".join(sorted(ALLOWED_SUFFIXES))
        return f"{file}: artefacts hold only {allowed} files, and .gz of them; remove or convert it"
    return _damaged_safetensors(file) if suffix == ".safetensors" else _pickle_in_disguise(file)


def _pickle_in_disguise(file: Path) -> str | None:
    with open(file, "rb") as opened:
        start = opened.read(4)
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return f"{file}: is a pickle or a zip archive in spite of its name; artefacts hold none"
    return None


def _damaged_safetensors(file: Path) -> str | None:
    """The header tells how long the file must be: one that was cut short is known without reading it all."""
    size = file.stat().st_size
    with open(file, "rb") as opened:
        header_bytes = int.from_bytes(opened.read(8), "little")
        if size < 8 or header_bytes > size - 8:
            return f"{file}: is not a whole safetensors file ({size} bytes); write it again"
        try:
            header = json.loads(opened.read(header_bytes))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError):
            return f"{file}: is not a safetensors file (its header is not readable); write it again"
    expected = 8 + header_bytes + max(ends, default=0)
    if expected != size:
        return f"{file}: has {size} bytes and its header says {expected}; write it again"
    return None


def _canonical(value: Any) -> bytes:
    """JSON with one spelling for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _copy(source: Path, target: Path, relative: str) -> dict[str, Any]:
    """Copy, sync, write-protect; returns the manifest's entry for what was copied."""
    digest = hashlib.sha256()
    size = 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(source, "rb") as reader, open(target, "xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            writer.write(chunk)
        _finish(writer.fileno(), writer)
    return {"path": relative, "sha256": digest.hexdigest(), "size": size}


def _write(path: Path, content: bytes) -> None:
    with open(path, "xb") as writer:
        writer.write(content)
        _finish(writer.fileno(), writer)


def _finish(descriptor: int, writer: Any) -> None:
    """Down to the disk, and nobody may write it again (whatever the umask gave to others, they keep)."""
    writer.flush()
    os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~0o222)
    os.fsync(descriptor)


def _compare(file: Path, entry: dict[str, Any]) -> str | None:
    """How a file differs from its manifest entry, or None."""
    if file.is_symlink():
        return f"{file}: is a link, should be a file of {entry['size']} bytes"
    if not file.is_file():
        return f"{file}: missing ({entry['size']} bytes)"
    size = file.stat().st_size
    if size != entry["size"]:
        return f"{file}: has {size} bytes, should have {entry['size']}"
    found = sha256(file)
    if found != entry["sha256"]:
        return f"{file}: changed (sha256 {found}, should be {entry['sha256']})"
    return None
