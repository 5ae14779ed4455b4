"""Fields of a trainer's arguments that a stage sets itself, and those that follow from its config and data."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from rlhf.config import EarlyStopping
from rlhf.errors import UserError
from rlhf.tracking import Run

_NO_ROWS = "there are no held-out rows; set data.dev or a larger data.dev_fraction"


def owned_args(run: Run, seed: int, trainer: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer fields that are the framework's to set, and defaults that depend on the machine.

    bfloat16 is TRL's default; without an accelerator it is off unless asked for.
    """
    owned: dict[str, Any] = {
        "output_dir": str(run.checkpoints),
        "seed": seed,
        "report_to": "none",
        "run_name": run.id,
        "restore_callback_states_from_checkpoint": True,  # early stopping's patience
        "logging_nan_inf_filter": False,  # in place of a loss that is no number it logs the mean of those before
    }
    if not torch.accelerator.is_available():
        machine = {"bf16": False, "dataloader_pin_memory": False}
        owned |= {name: value for name, value in machine.items() if name not in trainer}
    return owned


class Stoppable(Protocol):
    """A stage's config as far as early stopping goes."""

    @property
    def trainer(self) -> dict[str, Any]: ...

    @property
    def early_stopping(self) -> EarlyStopping | None: ...


def eval_strategy(trainer: Mapping[str, Any], has_dev: bool, *, default: str) -> str:
    """When to evaluate: as `trainer` says, else by `default` if there are held-out rows.

    Raises:
        UserError: rows that are not there are to be evaluated on.
    """
    strategy: str = trainer.get("eval_strategy", default if has_dev else "no")
    if not has_dev and strategy != "no":
        raise UserError(f"trainer.eval_strategy = {strategy!r}: {_NO_ROWS}")
    return strategy


def evaluation_fields(config: Stoppable, has_dev: bool) -> dict[str, Any]:
    """Trainer fields that follow from whether there are held-out rows and from early stopping.

    Raises:
        UserError: rows that are not there are to be evaluated on.
    """
    strategy = eval_strategy(config.trainer, has_dev, default="epoch")
    fields = {"eval_strategy": strategy} | saving_fields(config.trainer, strategy, config.early_stopping is not None)
    if config.early_stopping is None:
        return fields
    if strategy == "no":
        what = _NO_ROWS if not has_dev else "trainer.eval_strategy = 'no': nothing is evaluated"
        raise UserError(f"early_stopping: {what}")
    return fields | {
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
    }


def saving_fields(trainer: Mapping[str, Any], strategy: str, stops_early: bool = False) -> dict[str, Any]:
    """Trainer fields that say when a checkpoint is saved: ten times in a run, of which the last two are kept.

    transformers' own default, every 500 steps and all of them, loses a short run that is killed and fills the disk in a
    long one. Where the best weights are to be put back at the end, it is saved whenever it is evaluated.

    Args:
        trainer: the `trainer` section; what stands there is the user's and wins.
        strategy: when it is evaluated.
        stops_early: whether the best weights are put back because of early stopping.
    """
    fields: dict[str, Any] = {"save_strategy": "steps", "save_steps": 0.1, "save_total_limit": 2}
    if not stops_early and not trainer.get("load_best_model_at_end"):
        return fields
    fields["save_strategy"] = strategy
    every = trainer.get("eval_steps", trainer.get("logging_steps"))
    if strategy == "steps" and every is not None:
        fields["save_steps"] = every
    elif strategy == "steps":
        del fields["save_steps"]  # both libraries' own are multiples of their logging_steps
    return fields


def longest_text(trainer: Mapping[str, Any], default: int | None, context: int | None, ref: str) -> int | None:
    """`max_length` of a text in tokens: as `trainer` says, else `default`, which a shorter context lowers.

    Args:
        trainer: the `trainer` section; null there is what the context allows.
        default: of the trainer's config class.
        context: tokens that the model reads; None where nothing limits it.
        ref: the model's, for the error.

    Raises:
        UserError: the model does not read as much as is asked for.
    """
    lowered = min((limit for limit in (default, context) if limit is not None), default=None)
    wanted: int | None = trainer.get("max_length", lowered)
    if wanted and context and wanted > context:
        raise UserError(f"trainer.max_length = {wanted}: {ref} reads at most {context} tokens")
    return wanted or context
