"""What `rlhf doctor` looks at: whether this machine can run what it is asked to. Imports torch only when asked."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from rlhf.config.trainer_args import fits_installed_versions, trainer_fields
from rlhf.errors import UserError
from rlhf.registry import Registry
from rlhf.tracking.wandb_sink import decide_mode

Verdict = Literal["ok", "note", "broken"]
LOW_DISK_BYTES = 5 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; only `broken` has to be mended."""

    what: str
    verdict: Verdict
    found: str


def examine(home: Path) -> Iterator[Finding]:
    """Every finding, the quick ones first."""
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield from _packages()
    yield _trainer_options()
    yield from _home(home)
    yield _wandb()
    yield _hub()
    yield from _accelerator()


def _packages() -> Iterator[Finding]:
    for text in metadata.requires("rlhf-framework") or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(requirement.name, "broken", f"is not installed; pip install '{requirement}'")
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        needed = "" if fits else f"; needs {requirement.specifier}: pip install '{requirement}'"
        yield Finding(requirement.name, "ok" if fits else "broken", f"{version}{needed}")


def _trainer_options() -> Finding:
    if fits_installed_versions():
        return Finding("trainer options", "ok", "checked before torch is imported")
    versions = ", ".join(f"{name} {version}" for name, version in trainer_fields()["versions"].items())
    return Finding("trainer options", "note", f"checked once torch is imported (the quick check is for {versions})")


def _home(home: Path) -> Iterator[Finding]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        registry = Registry(home)
        count = len(registry.artefacts()) if registry.exists() else 0
    except (OSError, UserError) as error:
        yield Finding("home", "broken", f"{home}: {error}")
        return
    yield Finding("home", "ok", f"{home}: {count} artefacts")
    free = shutil.disk_usage(home).free
    verdict: Verdict = "ok" if free > LOW_DISK_BYTES else "note"
    yield Finding("disk", verdict, f"{free / 2**30:.0f} GiB free")


def _wandb() -> Finding:
    mode = decide_mode("auto", os.environ)
    how = {
        "online": "online",
        "offline": "offline (no key): `wandb login` changes that",
        "off": "off by the environment",
    }
    return Finding("W&B", "ok", how[mode])


def _hub() -> Finding:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return Finding("Hub", "note", "HF_HUB_OFFLINE is set: only what is in the cache can be loaded")
    return Finding("Hub", "note", "HF_HUB_OFFLINE is not set; whether it can be reached was not tried")


def _accelerator() -> Iterator[Finding]:
    import torch

    if not torch.accelerator.is_available():
        threads = torch.get_num_threads()
        yield Finding("accelerator", "note", f"none: training runs on {threads} CPU threads, in float32")
        return
    for index in range(torch.accelerator.device_count()):
        device = torch.accelerator.current_accelerator()
        name = torch.cuda.get_device_name(index) if torch.cuda.is_available() else str(device)
        memory = f", {torch.cuda.mem_get_info(index)[1] / 2**30:.0f} GiB" if torch.cuda.is_available() else ""
        yield Finding(f"accelerator {index}", "ok", f"{name}{memory}")
    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported()
        yield Finding("bfloat16", "ok" if bf16 else "note", "supported" if bf16 else "not supported: set bf16: false")
