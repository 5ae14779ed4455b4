"""What the training stages share: how a trainer runs as a stage does, what it logs, and what is kept of it.

Beside this: `fields`, which a stage sets of the trainer's arguments; `callbacks`; `figures`; `prompts`, as they are
read for sampling; `policies`, what those share that train one by a trainer of TRL's.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from rlhf import checkpoint
from rlhf.errors import Interrupted, StoppedByMonitor, UserError
from rlhf.scoring import ScorerError
from rlhf.tracking import Run
from rlhf.training.callbacks import (
    Bar,
    RunLogger,
    Seal,
    StopOnNonFinite,
    StopOnSignal,
    early_stopping,
    without_own_output,
)
from rlhf.training.fields import eval_strategy, evaluation_fields, longest_text, owned_args, saving_fields
from rlhf.training.figures import finite, mean_train_loss, require_numbers, write_json
from rlhf.workspace import Workspace

__all__ = [
    "RunLogger",
    "StopOnSignal",
    "early_stopping",
    "eval_strategy",
    "evaluation_fields",
    "finite",
    "longest_text",
    "loss_of_a_batch",
    "made_from_config",
    "mean_train_loss",
    "one_process",
    "owned_args",
    "publish_last_good",
    "require_numbers",
    "resumable",
    "saving_fields",
    "train",
    "without_own_output",
    "write_json",
]

logger = logging.getLogger(__name__)

Check = Callable[[Trainer], Mapping[str, float]]
"""Figures of a trainer's weights, by what they are called, each of which is a number where the weights are good."""


def one_process() -> None:
    """What every stage calls first: it trains in one process on one accelerator, and says so before it loads anything.

    Raises:
        UserError: a launcher has started several processes, or several accelerators are visible.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise UserError(
            f"WORLD_SIZE = {processes}: a stage trains in one process; start it without torchrun, `accelerate launch` "
            "or another launcher"
        )
    visible = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if visible > 1:
        raise UserError(
            f"{visible} accelerators are visible and a stage trains on one; set CUDA_VISIBLE_DEVICES=0 first"
        )


@contextmanager
def made_from_config() -> Iterator[None]:
    """What a trainer's constructor finds wrong with its config or the data, as the user's error."""
    try:
        yield
    except (ValueError, ImportError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error


@torch.no_grad()
def loss_of_a_batch(trainer: Trainer) -> dict[str, float]:
    """The loss that the trainer's weights have on one batch; a `Check`."""
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.model.train()
    return {"the loss of a batch": float(trainer.compute_loss(trainer.model, batch))}


def train(
    trainer: Trainer,
    run: Run,
    workspace: Workspace,
    *,
    shown: tuple[str, ...],
    seals: bool = False,
    check: Check = loss_of_a_batch,
) -> None:
    """Run the trainer as a stage does: logged, sealed, stoppable, resumed where the run left off.

    `seals` says that the trainer gives its checkpoints their manifests itself, and has monitors of its own. `check`
    looks at the weights of the last step.

    Raises:
        Interrupted: a signal came; a checkpoint has been saved.
        StoppedByMonitor: the gradient or a loss became NaN or infinite; the step has not been taken.
    """
    without_own_output(trainer)
    stop = StopOnSignal()
    bar = Bar(run.stage, shown)
    for callback in (
        RunLogger(run, workspace.registry),
        *([] if seals else [Seal(), StopOnNonFinite()]),
        stop,
        *([bar] if workspace.progress else []),
    ):
        trainer.add_callback(callback)
    resume_from = checkpoint.latest_intact(run.checkpoints)
    try:
        with stop.listening():
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    finally:
        bar.progress.stop()
    if stop.received is not None:
        raise Interrupted(
            f"stopped by a signal at step {trainer.state.global_step}; go on with {workspace.how_to_go_on(run)}; "
            f"the checkpoint is in {run.checkpoints}"
        )
    if not seals:  # the last step's weights have not been through a step yet that would have shown what they are
        require_numbers(check(trainer), "after training")


@contextmanager
def resumable(run: Run, workspace: Workspace) -> Iterator[None]:
    """A scorer that fails interrupts a run that has a checkpoint; its function may then be mended."""
    try:
        yield
    except ScorerError as error:
        if checkpoint.latest_intact(run.checkpoints) is None:
            raise
        run.finish({"error": str(error), "scorer_failed": True}, "interrupted")
        go_on = f"go on with {workspace.how_to_go_on(run)}"
        raise Interrupted(f"{error.problems[0]}; nothing is lost: mend it and {go_on}") from error


def publish_last_good(
    trainer: Trainer,
    run: Run,
    error: StoppedByMonitor,
    publish: Callable[[str], str],
    check: Check = loss_of_a_batch,
) -> None:
    """End the run as stopped, after the weights of the last good checkpoint, if there is one, have been published.

    Args:
        trainer: gets those weights.
        run: the run.
        error: what the monitor said.
        publish: publishes the trainer's model, takes what to say of it, returns the ref.
        check: by which good weights are known.
    """
    summary: dict[str, Any] = {"stopped": str(error), "num_steps": trainer.state.global_step}
    folder = load_last_good(trainer, run.checkpoints, check)
    if folder is None:
        logger.warning("no good checkpoint had been saved before, so nothing is published; see trainer.save_steps")
    else:
        summary["artefact"] = publish(f"{error} (weights of {folder.name})")
    run.finish(summary, "stopped")


def load_last_good(trainer: Trainer, checkpoints: Path, check: Check = loss_of_a_batch) -> Path | None:
    """Put the newest intact checkpoint whose weights pass `check` into the trainer's model."""
    for folder in reversed(checkpoint.checkpoints(checkpoints)):
        if checkpoint.is_intact(folder):
            trainer._load_from_checkpoint(str(folder))
            if all(map(math.isfinite, check(trainer).values())):
                return folder
    return None
