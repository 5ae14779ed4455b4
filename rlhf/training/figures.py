"""The numbers of a run: those without which no model is published, and those that stand in its summary."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.errors import StoppedByMonitor


def require_numbers(figures: Mapping[str, float], where: str) -> None:
    """Raise StoppedByMonitor where a figure without which a model is not to be published is NaN or infinite."""
    for name, value in figures.items():
        if not math.isfinite(value):
            raise StoppedByMonitor(
                f"{where}: {name} is {value}: the weights are ruined or about to be; lower trainer.learning_rate, set "
                "trainer.warmup_steps, or look for rows that are unlike the others"
            )


def mean_train_loss(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`train_loss`, the mean over all steps that have been logged; the Trainer's own is that since the last resumption.

    Args:
        history: the Trainer's `state.log_history`, which its checkpoints hold.
    """
    total, before = 0.0, 0
    for line in history:
        if "loss" in line:
            total += line["loss"] * (line["step"] - before)
            before = line["step"]
    return {"train_loss": total / before} if before else {}


def finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among `metrics`, rounded to six digits."""
    return {
        key: float(f"{value:.6g}")
        for key, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a small JSON file that a model folder carries."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
