"""What the three training stages share: how a trainer runs as a stage does, what it logs, and what is kept of it.

Beside this: `fields`, which a stage sets of the trainer's arguments; `callbacks`; `figures`.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlhf import checkpoint
from rlhf.errors import Interrupted, StoppedByMonitor, UserError
from rlhf.registry import Registry
from rlhf.tracking import Run
from rlhf.training.callbacks import (
    Bar,
    Seal,
    StopOnNonFinite,
    StopOnSignal,
    early_stopping,
    without_own_output,
)
from rlhf.training.fields import eval_strategy, evaluation_fields, owned_args, saving_fields
from rlhf.training.figures import finite, mean_train_loss, require_numbers, write_json
from rlhf.workspace import Workspace

__all__ = [
    "RunLogger",
    "StopOnSignal",
    "early_stopping",
    "eval_strategy",
    "evaluation_fields",
    "finite",
    "made_from_config",
    "mean_train_loss",
    "one_process",
    "owned_args",
    "publish_last_good",
    "require_numbers",
    "saving_fields",
    "train",
    "without_own_output",
    "write_json",
]

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 3600


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


class RunLogger(TrainerCallback):
    """Passes what the trainer logs on to the run; a resumed run forgets what it logged beyond the checkpoint.

    Once an hour the registry is told that the run lives: on other machines nothing else can tell.
    """

    def __init__(self, run: Run, registry: Registry) -> None:
        self.run = run
        self.registry = registry
        self.last_beat = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.run.rewind(self.run.stage, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if logs and state.is_world_process_zero:
            self.run.log(logs, step=state.global_step)
            if time.monotonic() - self.last_beat > HEARTBEAT_SECONDS:
                self.registry.heartbeat(self.run.id)
                self.last_beat = time.monotonic()


def train(trainer: Trainer, run: Run, workspace: Workspace, *, shown: tuple[str, ...], seals: bool = False) -> None:
    """Run the trainer as a stage does: logged, sealed, stoppable, resumed where the run left off.

    `seals` says that the trainer gives its checkpoints their manifests itself, and has monitors of its own.

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
        require_numbers({"the loss of a batch": _loss_of_a_batch(trainer)}, "after training")


def publish_last_good(trainer: Trainer, run: Run, error: StoppedByMonitor, publish: Callable[[str], str]) -> None:
    """End the run as stopped, after the weights of the last good checkpoint, if there is one, have been published.

    Args:
        trainer: gets those weights.
        run: the run.
        error: what the monitor said.
        publish: publishes the trainer's model, takes what to say of it, returns the ref.
    """
    summary: dict[str, Any] = {"stopped": str(error), "num_steps": trainer.state.global_step}
    folder = load_last_good(trainer, run.checkpoints)
    if folder is None:
        logger.warning("no good checkpoint had been saved before, so nothing is published; see trainer.save_steps")
    else:
        summary["artefact"] = publish(f"{error} (weights of {folder.name})")
    run.finish(summary, "stopped")


def load_last_good(trainer: Trainer, checkpoints: Path) -> Path | None:
    """Put the newest intact checkpoint with which the loss of a batch is a number into the trainer's model."""
    for folder in reversed(checkpoint.checkpoints(checkpoints)):
        if checkpoint.is_intact(folder):
            trainer._load_from_checkpoint(str(folder))
            if math.isfinite(_loss_of_a_batch(trainer)):
                return folder
    return None


@torch.no_grad()
def _loss_of_a_batch(trainer: Trainer) -> float:
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.model.train()
    return float(trainer.compute_loss(trainer.model, batch))
