"""Saves a PPO run and puts it back: which files there are, in what order, and what must agree."""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftModel
from torch import nn
from transformers.trainer_callback import ExportableState

from rlhf.checkpoint import atomic_folder, is_intact, latest_intact, rotate, verify
from rlhf.errors import UserError
from rlhf.ppo import state as files
from rlhf.ppo.setup import data_seed
from rlhf.scoring import NonFiniteScoreError, ScorerError

if TYPE_CHECKING:
    from rlhf.ppo.lifecycle import OnlineTrainer

logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"
TRAINING_ARGS = "training_args.json"
MUST_AGREE = ("batch_size", "num_prompts", "num_demonstrations", "seed")
"""What the position in the data depends on."""


def find(resume_from_checkpoint: str | bool | None, output_dir: str) -> Path | None:
    """The folder to go on from, verified; None to start anew. Raises UserError when it is not there or not intact."""
    if resume_from_checkpoint is None or resume_from_checkpoint is False:
        return None
    if resume_from_checkpoint is True:
        folder = latest_intact(output_dir)
        if folder is None:
            raise UserError(f"{output_dir}: it holds no intact checkpoint to resume from; start without resuming")
        return folder
    folder = Path(resume_from_checkpoint)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such checkpoint folder to resume from")
    verify(folder)
    return folder


def save_policy(policy: nn.Module, folder: Path, *, as_in_memory: bool = False) -> None:
    """The policy as from_pretrained reads it; of a PEFT policy the trained adapter alone.

    `as_in_memory` keeps the names that weights have in the model, which for some (mixtures of experts) are not those
    that they are published under.
    """
    model = cast(Any, policy)
    if isinstance(policy, PeftModel):
        model.save_pretrained(folder, selected_adapters=[policy.active_adapter])
    else:
        model.save_pretrained(folder, save_original_format=not as_in_memory)


def save(trainer: "OnlineTrainer", *, owes_evaluation: bool = False) -> Path:
    """Write `checkpoint-<step>` in one piece and delete surplus older ones; returns its path.

    `owes_evaluation`: an evaluation of this step was begun and not finished. Raises UserError for a disk that does not
    take it; what lay there before stays as it was.
    """
    args, state = trainer.args, trainer.state
    run_dir = Path(args.output_dir)
    target = run_dir / f"checkpoint-{state.global_step}"
    if state.best_global_step:
        best = (
            target if state.best_global_step == state.global_step else run_dir / f"checkpoint-{state.best_global_step}"
        )
        if best == target or best.is_dir():
            state.best_model_checkpoint = str(best)
    with _disk_named(target), atomic_folder(target) as folder:
        _write(trainer, folder, owes_evaluation)
    trainer.own_checkpoints = [*(f for f in trainer.own_checkpoints if f != target), target]
    rotate(run_dir, args.save_total_limit, keep=[state.best_model_checkpoint, last_good(trainer.own_checkpoints)])
    return target


def _write(trainer: "OnlineTrainer", folder: Path, owes_evaluation: bool) -> None:
    """All files of a checkpoint."""
    args, state = trainer.args, trainer.state
    save_policy(trainer.policy_model, folder, as_in_memory=True)
    trainer.processing_class.save_pretrained(folder)
    files.save_value_model(trainer.value_model, folder)
    if not args.save_only_model:
        torch.save(trainer.optimizer.state_dict(), folder / files.OPTIMIZER)
        torch.save(trainer.lr_scheduler.state_dict(), folder / files.SCHEDULER)
        files.save_rng(folder)
    kept = {
        "critic": args.critic,
        "kl_controller": trainer.kl_controller.state_dict(),
        "unlogged_metrics": trainer.metric_log.updates,
        "shaper": trainer.shaper.state_dict(),
        "monitor": trainer.monitor.state_dict(),
        "owes_evaluation": owes_evaluation,
        **_position(trainer),
    }
    files.save_ppo_state(folder, kept)
    exportable = [
        cb for cb in [*trainer.callback_handler.callbacks, trainer.control] if isinstance(cb, ExportableState)
    ]
    # Constructing a state collects what each callback wants to keep.
    state.stateful_callbacks = type(state)(stateful_callbacks=cast(Any, exportable)).stateful_callbacks
    state.save_to_json(str(folder / TRAINER_STATE))
    (folder / TRAINING_ARGS).write_text(args.to_json_string(), encoding="utf-8")


@contextlib.contextmanager
def _disk_named(target: Path) -> Iterator[None]:
    """What a disk that is full, or not to be written to, does to a save, as the user's error."""
    try:
        yield
    except Exception as error:
        # Only Python's own writers raise OSError: those in Rust and torch.save say it in the text of other errors.
        if not isinstance(error, OSError) and not any(mark in str(error) for mark in ("os error", "inline_container")):
            raise
        disk = next(parent for parent in target.absolute().parents if parent.exists())
        free = shutil.disk_usage(disk).free / 2**20
        last = latest_intact(target.parent)
        left = f"the last intact checkpoint is {last}" if last else "there is no intact checkpoint before it"
        why = str(error).partition("\n")[0]
        raise UserError(
            f"{target}: it could not be saved ({why}), with {free:,.0f} MiB free in {disk}; {left}. "
            "Make room there or lower save_total_limit, and resume"
        ) from error


def last_good(folders: Iterable[Path]) -> Path | None:
    """Of checkpoints, the newest intact one of those saved with the fewest alarms on: none, else warnings."""
    found = [(_alarm_level(folder), -number, folder) for number, folder in enumerate(folders) if folder.is_dir()]
    return next((folder for _, _, folder in sorted(found) if is_intact(folder)), None)


def _alarm_level(folder: Path) -> int:
    try:
        return int(files.load_ppo_state(folder)["monitor"]["level"])
    except (UserError, ValueError, KeyError):
        return 0  # a broken one, or one from before there were alarms


@contextlib.contextmanager
def kept_if_a_scorer_fails(trainer: "OnlineTrainer", random_state: dict[str, Any] | None = None) -> Iterator[None]:
    """Save the last finished update when a scorer fails, so that the run can be gone on with to the bit.

    `random_state` is what that update left; None in an evaluation, which is then made on resuming. A score that is no
    number is a failure like others, but for a rollback, which goes back further: from here the same would come again.
    """
    try:
        yield
    except (ScorerError, NonFiniteScoreError) as error:
        goes_back = isinstance(error, NonFiniteScoreError) and trainer.can_roll_back
        if trainer.state.global_step == 0 or goes_back:
            raise
        if random_state is not None:
            files.set_rng_state(random_state)
        folder = save(trainer, owes_evaluation=random_state is None)
        saved = f"nothing is lost: mend it and resume from {folder}"
        if isinstance(error, ScorerError):
            raise ScorerError([*error.problems, saved]) from error
        raise NonFiniteScoreError(f"{error}\n  {saved}") from error


def load_weights(trainer: "OnlineTrainer", folder: Path) -> None:
    """Policy and critic of a checkpoint."""
    verify(folder)
    files.load_policy(trainer.policy_model, folder)
    files.load_value_model(trainer.value_model, folder)


def restore(trainer: "OnlineTrainer", folder: Path) -> bool:
    """Put a verified checkpoint back into a trainer built as for the first start; the random state comes last.

    Returns whether it goes on otherwise than the checkpoint would have, after a rollback.
    """
    kept = files.load_ppo_state(folder)
    position = _position(trainer)
    different = [name for name in MUST_AGREE if kept.get(name, 0) != position[name]]
    if different:
        raise UserError(
            [
                f"{folder}: {name} was {kept[name]} and is {position[name]}; the position in the data depends on it, "
                "so set it back or start anew"
                for name in different
            ]
        )
    critic = kept.get("critic", "separate")
    if critic != trainer.args.critic:
        raise UserError(f"{folder}: critic was {critic} and is {trainer.args.critic}; set it back or start anew")
    if not (folder / files.OPTIMIZER).is_file():
        raise UserError(f"{folder}: it was saved with save_only_model and has no optimizer state to resume from")
    files.load_policy(trainer.policy_model, folder)
    files.load_value_model(trainer.value_model, folder)
    trainer.optimizer.load_state_dict(torch.load(folder / files.OPTIMIZER, map_location="cpu", weights_only=True))
    trainer.lr_scheduler.load_state_dict(torch.load(folder / files.SCHEDULER, weights_only=True))
    trainer.kl_controller.load_state_dict(kept["kl_controller"])
    trainer.metric_log.updates = kept["unlogged_metrics"]
    num_rollbacks = 0
    if "monitor" in kept:  # else it is from before there was one
        trainer.shaper.load_state_dict(kept["shaper"])
        num_rollbacks = trainer.monitor.load_state_dict(kept["monitor"])
        trainer.soften(num_rollbacks)
    trainer.state = type(trainer.state).load_from_json(os.fspath(folder / TRAINER_STATE))
    trainer._load_callback_state()
    trainer.owes_evaluation = kept.get("owes_evaluation", False)
    files.load_rng(folder)
    return num_rollbacks > 0


def _position(trainer: "OnlineTrainer") -> dict[str, Any]:
    return {
        "batch_size": trainer.args.batch_size,
        "num_prompts": len(trainer.prompts),
        "num_demonstrations": 0 if trainer.ptx is None else len(trainer.ptx),
        "seed": data_seed(trainer.args),
        "next_batch": trainer.state.global_step,
    }
