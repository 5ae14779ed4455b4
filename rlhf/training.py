"""What the three training stages share: the trainer's callbacks, checkpoints that are sealed, runs that resume."""

import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

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
from rlhf.config import EarlyStopping
from rlhf.errors import Interrupted, StoppedByMonitor, UserError
from rlhf.registry import Registry
from rlhf.tracking import Run
from rlhf.workspace import Workspace

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


_NO_ROWS = "there are no held-out rows; set data.dev or a larger data.dev_fraction"


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
        if (
            args.fp16 or model is None
        ):  # in float16 the gradient's scale is found by steps that overflow and are skipped
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


def require_numbers(figures: Mapping[str, float], where: str) -> None:
    """Raise StoppedByMonitor where a figure without which a model is not to be published is NaN or infinite."""
    for name, value in figures.items():
        if not math.isfinite(value):
            raise StoppedByMonitor(
                f"{where}: {name} is {value}: the weights are ruined or about to be; lower trainer.learning_rate, set "
                "trainer.warmup_steps, or look for rows that are unlike the others"
            )


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
