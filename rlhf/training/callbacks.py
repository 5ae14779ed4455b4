"""Callbacks of a trainer: logs passed on to the run, sealed checkpoints, early ends, numbers that are none, a bar."""

import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rlhf import checkpoint
from rlhf.registry import Registry
from rlhf.tracking import Run
from rlhf.training.fields import Stoppable
from rlhf.training.figures import require_numbers

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 3600


def early_stopping(config: Stoppable) -> list[TrainerCallback]:
    """The callback that stops early, where the config asks for it."""
    if config.early_stopping is None:
        return []
    return [EarlyStoppingCallback(config.early_stopping.patience, config.early_stopping.threshold)]


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


class Seal(TrainerCallback):
    """Gives every checkpoint its manifest, so that a broken one is recognised when it is needed."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = Path(args.output_dir or "") / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            checkpoint.seal(folder)


class StopOnSignal(TrainerCallback):
    """SIGINT or SIGTERM: finish the step, save, stop. A second one ends the process as usual."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are taken while this lasts; in a thread other than the main one they cannot be."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        logger.warning("%s: saving and stopping after this step; once more to end at once", signal.Signals(number).name)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.received is not None:
            control.should_save = True
            control.should_training_stop = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.received is not None and not float(state.epoch or 0).is_integer():
            # broken off within an epoch, which the Trainer takes for its end: the resumed run evaluates at the real one
            control.should_evaluate = control.should_save = False


class StopOnNonFinite(TrainerCallback):
    """Stops before a step that would put a NaN or an infinity into the weights, and at a loss that is one."""

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        if args.fp16 or model is None:  # fp16 finds the gradient's scale by steps that overflow and are skipped
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        largest = torch.nn.utils.get_total_norm(gradients, norm_type=math.inf)
        require_numbers({"the largest gradient": float(largest)}, f"step {state.global_step + 1}")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        losses: dict[str, float] = {key: logs[key] for key in ("loss", "eval_loss") if logs and key in logs}
        require_numbers(losses, f"step {state.global_step}")


class Bar(TrainerCallback):
    """One progress bar on stderr with the figure that matters beside it."""

    def __init__(self, stage: str, shown: tuple[str, ...]) -> None:
        self.stage = stage
        self.shown = shown
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(file=sys.stderr),
        )

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.start()
        self.task = self.progress.add_task(self.stage, total=state.max_steps, completed=state.global_step, figures="")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.update(self.task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        figures = "  ".join(
            f"{key} {logs[key]:.3g}" for key in self.shown if logs and isinstance(logs.get(key), int | float)
        )
        if figures and hasattr(self, "task"):
            self.progress.update(self.task, figures=figures)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.stop()


def without_own_output(trainer: Trainer) -> None:
    """Take away transformers' own bars and its printing of logs on stdout, which is for summaries alone."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    logging.getLogger("transformers.trainer_utils").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Not that checkpoints are put in order by their numbers, for those of a fast run are too close together in time.

    Nor that a checkpoint has other arguments: it has them resolved, and a run is resumed with the same config or not.
    """
    return not record.getMessage().startswith(("mtime may not be reliable", "Warning: The following arguments do not"))
