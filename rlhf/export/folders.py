"""A folder that is wholly there or not at all, and that takes the place of an earlier one in a single step."""

import ctypes
import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf.errors import UserError
from rlhf.files import sha256, sync

MARKER = "export.json"
"""In every export: what it is made of, and by which a later export knows that it may take the folder's place."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def check_target(target: Path, protected: Path, *, overwrite: bool) -> None:
    """Refuse a folder that should not be replaced, before any work is done.

    Args:
        target: where the export is to lie.
        protected: the registry's home: neither it nor its `objects` and `runs` are written to.
        overwrite: replace a folder whatever is in it.

    Raises:
        UserError: the target is a file, is not empty and no earlier export, or holds what must stay.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UserError(f"path = {str(target)!r}: is a {'link' if target.is_symlink() else 'file'}; name a folder")
    for kept in (protected.resolve(), Path.cwd()):
        if kept == target or target in kept.parents:
            raise UserError(f"path = {str(target)!r}: would replace {kept}; name a folder of its own")
    for owned in (protected.resolve() / name for name in ("objects", "runs")):
        if owned == target or owned in target.parents:
            raise UserError(f"path = {str(target)!r}: lies in {owned}, which is the registry's; name another folder")
    if overwrite or not target.exists() or _is_export(target) or not any(target.iterdir()):
        return
    raise UserError(
        f"path = {str(target)!r}: is not empty and holds no earlier export; name another folder, "
        "or set overwrite to replace all that is in it"
    )


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """A new folder beside `target` to write into; once the block ends well, it is put in the target's place.

    Where the file system can exchange two names (Linux does), there is no moment without a folder at `target`.
    What a killed process left behind is taken away by the next export to the same place.

    Raises:
        UserError: another process exports to the same place.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.exporting")
    held = _take(scratch, target)
    try:
        yield scratch
        _sync_all(scratch)
        if target.exists():
            _exchange(scratch, target)
        else:
            scratch.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if held is not None:
            os.close(held)


def write_marker(folder: Path, about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Write `export.json`; returns size and sha256 of every other file by its relative path.

    All files become readable to whoever the umask lets read new ones: safetensors makes its files private.
    """
    files = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        files[file.relative_to(folder).as_posix()] = {"size": file.stat().st_size, "sha256": sha256(file)}
    text = json.dumps({**about, "files": files}, indent=2, ensure_ascii=False) + "\n"
    marker = folder / MARKER
    marker.write_text(text, encoding="utf-8")
    for name in files:
        (folder / name).chmod(marker.stat().st_mode)
    return files


def _is_export(folder: Path) -> bool:
    try:
        return "files" in json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def _take(scratch: Path, target: Path) -> int | None:
    """Make `scratch` anew and hold it: a lock on it ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows: two exports to one place are the user's to avoid
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        return None
    scratch.mkdir(exist_ok=True)
    held = os.open(scratch, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise UserError(f"path = {str(target)!r}: another process is exporting to it; wait for it") from None
    for left in scratch.iterdir():
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    return held


def _exchange(new: Path, old: Path) -> None:
    """Let the two folders change names, in one step if the system can."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        if libc.renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
            return
        if (number := ctypes.get_errno()) not in (errno.ENOSYS, errno.EINVAL, errno.EPERM):
            raise OSError(number, os.strerror(number), str(old))
    aside = old.with_name(f".{old.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)
    old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside)


def _sync_all(folder: Path) -> None:
    """Files and folders down to the disk."""
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(path) / name)
        sync(Path(path))
