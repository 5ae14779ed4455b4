"""What a run ran on: enough to repeat it, nothing that must stay secret."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import rlhf

_HIDDEN = "***"
# `max_prompt_tokens`, `eos_token` and `pad_token` are no secrets; `hub_token` and `--token` are.
_SECRET_NAME = re.compile(
    r"(^|[._-])(password|passwd|secret|credentials?|api[_-]?key|access[_-]?key|secret[_-]?key|"
    r"(hub|hf|auth|api|access|bearer|refresh|session|login)[_-]?token)$|^-*token$|\.token$",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|wandb_v\d_[A-Za-z0-9_]{16,})"
)
_URL_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]+@")


def redact(value: Any) -> Any:
    """`value` (text, or nested mappings and sequences) with keys, tokens and passwords replaced by `***`.

    A value is secret because of its name (`hub_token`, `api_key`), its look (`hf_...`) or its place (the
    password of a URL).
    """
    if isinstance(value, str):
        return _URL_PASSWORD.sub(rf"\1:{_HIDDEN}@", _SECRET_VALUE.sub(_HIDDEN, value))
    if isinstance(value, Mapping):
        return {
            key: _HIDDEN if inner and isinstance(inner, str) and _SECRET_NAME.search(str(key)) else redact(inner)
            for key, inner in value.items()
        }
    if isinstance(value, Sequence):
        return [redact(inner) for inner in value]
    return value


def command_line(arguments: Sequence[str]) -> str:
    """The command as one would type it again, secrets hidden."""
    shown: list[str] = []
    secret_follows = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if secret_follows:
            shown.append(_HIDDEN)
            secret_follows = False
        elif equals and _SECRET_NAME.search(name):
            shown.append(f"{name}={_HIDDEN}")
        else:
            secret_follows = argument.startswith("-") and bool(_SECRET_NAME.search(argument))
            shown.append(redact(argument))
    if shown:
        shown[0] = Path(shown[0]).name
    return " ".join(argument if argument == _HIDDEN else _quote(argument) for argument in shown)


def _quote(argument: str) -> str:
    return argument if re.fullmatch(r"[\w@%+=:,./*-]+", argument) else shlex.quote(argument)


def environment() -> dict[str, Any]:
    """Python, packages, commit, machine and command line of this process; imports none of the packages."""
    return {
        "command": command_line(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": {"model": _cpu_model(), "cores": _usable_cores(), "memory_gib": _memory_gib()},
        "gpus": _gpus(),
        "rlhf": {"version": rlhf.__version__, **_framework_commit()},
        "git": _git_state(Path.cwd()),
        "packages": packages(),
    }


@cache
def packages() -> dict[str, str]:
    """Every installed distribution and its version, by name."""
    found = {dist.metadata["Name"]: dist.version for dist in metadata.distributions() if dist.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _ask(command: Sequence[str], folder: Path | None = None) -> str | None:
    """What `command` prints, or None: it is not installed, failed, or took longer than ten seconds."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands, no shell
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that holds `folder`, and whether tracked files differ; None outside one."""
    commit = _ask(["git", "rev-parse", "HEAD"], folder)
    if commit is None:
        return None
    changes = _ask(["git", "status", "--porcelain", "--untracked-files=no"], folder)
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _framework_commit() -> dict[str, Any]:
    """The commit of this framework's own code, where it runs from a checkout and not from site-packages."""
    source = Path(rlhf.__file__).resolve()
    if _ask(["git", "ls-files", "--error-unmatch", source.name], source.parent) is None:
        return {}
    return _git_state(source.parent) or {}


def _usable_cores() -> int:
    """The cores this process may use, which a container can make fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):  # no sysconf on Windows, unknown names elsewhere
        return None


def _gpus() -> list[dict[str, str]]:
    answer = _ask(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    rows = [[cell.strip() for cell in line.split(",")] for line in (answer or "").splitlines()]
    return [{"name": row[0], "memory": row[1], "driver": row[2]} for row in rows if len(row) == 3]
