"""What any trainer owes to transformers' Trainer, for one that learns in updates: start, resume, callbacks, saving."""

import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import TrainerState
from transformers.trainer_callback import ExportableState, TrainerControl
from transformers.trainer_utils import SaveStrategy, TrainOutput, set_seed, speed_metrics

from rlhf.checkpoint import checkpoints, step_of
from rlhf.errors import StoppedByMonitor
from rlhf.ppo import checkpointing
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.critic import put_on_scale
from rlhf.ppo.kl import KLController, build_kl_controller
from rlhf.ppo.metrics import MetricLog
from rlhf.ppo.models import PolicyAndValue, enable_checkpointing, give_critic_its_learning_rate
from rlhf.ppo.monitor import KL_FACTOR, LR_FACTOR, Alarm, Monitor
from rlhf.ppo.prompts import PromptOrder, PromptSet
from rlhf.ppo.ptx import PTXData
from rlhf.ppo.shaping import ScoreShaper
from rlhf.scoring import NonFiniteError
from rlhf.trl_compat import BaseTrainer

logger = logging.getLogger(__name__)

ROLLBACK_REMEDIES = (
    "see whether the alarm comes back; if it does, look at the samples",
    "lower learning_rate yourself",
)


@dataclass
class PPOTrainerState(TrainerState):
    """The Trainer's state, and the number of episodes seen."""

    episode: int = 0


class OnlineTrainer(BaseTrainer):
    """The part of PPOTrainer that is not PPO."""

    args: PPOConfig
    state: PPOTrainerState
    model: PolicyAndValue
    policy_model: nn.Module
    value_model: nn.Module
    prompts: PromptSet
    eval_prompts: dict[str, PromptSet]
    order: PromptOrder
    kl_controller: KLController
    shaper: ScoreShaper
    monitor: Monitor
    ptx: PTXData | None
    metric_log: MetricLog
    own_checkpoints: list[Path]
    """Those of this run: others may lie in the same folder."""
    on_alarm: list[Callable[[Alarm], None]]
    """Who is told of alarms, beside the console."""
    on_samples: list[Callable[[list[dict[str, Any]]], None]]
    """Who is shown completions, beside the console and W&B."""
    taken_back: Alarm | None
    """The rollback that is under way."""
    has_trained: bool = False
    """Whether `train` has been called before."""
    owes_evaluation: bool
    """Whether the checkpoint that is gone on from was saved because an evaluation had failed."""
    control: TrainerControl
    lr_scheduler: Any
    _created_lr_scheduler: bool

    def _begin(self, resume_from_checkpoint: str | bool | None) -> int:
        """Optimizer, schedule and state, new or from a checkpoint; returns the number of updates."""
        args = self.args
        num_updates = cast(int, args.num_total_batches)
        folder = checkpointing.find(resume_from_checkpoint, args.output_dir)
        if args.gradient_checkpointing:
            enable_checkpointing(self.model, args.gradient_checkpointing_kwargs)
        if self._created_lr_scheduler:
            self.lr_scheduler, self._created_lr_scheduler = None, False
        self.create_optimizer_and_scheduler(num_training_steps=num_updates)
        self.optimizer.zero_grad()
        for name in ("optimizer", "lr_scheduler"):
            setattr(self.callback_handler, name, getattr(self, name))
        self.metric_log = MetricLog()
        self.state, is_softer, self.owes_evaluation = self._new_state(), False, False
        if folder is None:
            set_seed(args.seed)
            if self.has_trained:
                self._forget()
            self.own_checkpoints = []
            if args.monitor == "rollback":
                checkpointing.save(self)
        else:
            self.own_checkpoints = [f for f in checkpoints(folder.parent) if step_of(f) <= step_of(folder)]
            is_softer = checkpointing.restore(self, folder)
        self.state.compute_steps(args, num_updates)
        self.state.max_steps = num_updates
        self.state.num_train_epochs = num_updates / self.order.batches_per_epoch
        self.state.is_local_process_zero = self.is_local_process_zero()
        self.state.is_world_process_zero = self.is_world_process_zero()
        if is_softer:
            # Else a process that is killed and resumed would repeat what led to the alarm.
            checkpointing.save(self, owes_evaluation=self.owes_evaluation)
        self.is_in_train = self.has_trained = True
        return num_updates

    def _forget(self) -> None:
        """What a run has learned beside weights is not the next one's, which begins at update 0 again."""
        self.soften(-self.monitor.rollbacks)
        moments = self.shaper.moments
        if self.shaper.has_scale:  # the critic's values are on it, and are to be put on the next one as scores are
            put_on_scale(self.value_model, -moments.mean / moments.std, 1.0 / moments.std)
        self.shaper = ScoreShaper(self.args)
        self.kl_controller = build_kl_controller(self.args)
        self.monitor = Monitor(self.args.monitor, cast(int, self.args.batch_size), self.args.monitor_thresholds)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Transformers' optimizer, with a learning rate of the critic's own if `critic_learning_rate` is set."""
        is_given = self.optimizer is not None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if not is_given:
            give_critic_its_learning_rate(optimizer, self.model, self.args)
        return optimizer

    def watch(self, metrics: dict[str, float]) -> None:
        """Let the monitor look at the metrics of an update or an evaluation, and tell what it says."""
        self.tell(self.monitor.observe(metrics, self.state.global_step))
        if not any(name.startswith("eval") for name in metrics):
            metrics["monitor/alarms"] = self.monitor.num_alarms

    def tell(self, alarms: Iterable[Alarm]) -> None:
        """Say them on the console and to those who listen."""
        for alarm in alarms:
            logger.warning("alarm: %s", alarm.text)
            for listener in self.on_alarm:
                listener(alarm)

    @property
    def can_roll_back(self) -> bool:
        """Whether an alarm that stops takes training back: there is a good checkpoint, and a rollback is left."""
        if self.monitor.mode != "rollback" or self.monitor.rollbacks >= self.args.max_rollbacks:
            return False
        return checkpointing.last_good(self.own_checkpoints) is not None

    def _roll_back(self, error: StoppedByMonitor) -> str:
        """The last good checkpoint, where an alarm is to take training back to it; else raises `error`."""
        monitor, step = self.monitor, self.state.global_step
        if isinstance(error, NonFiniteError):
            self.tell([monitor.not_finite(error, step + 1)])
        good = checkpointing.last_good(self.own_checkpoints) if monitor.mode == "rollback" else None
        if good is None:
            raise error
        if monitor.rollbacks >= self.args.max_rollbacks:
            raise type(error)(f"{error}\n  after {monitor.rollbacks} rollbacks (max_rollbacks)") from error
        for folder in self.own_checkpoints:
            if step_of(folder) > step_of(good) and folder.is_dir():
                shutil.rmtree(folder)
        monitor.rollbacks += 1
        seen = (
            f"rollback {monitor.rollbacks} of {self.args.max_rollbacks}: on from {good.name} instead of update {step}, "
            f"with {LR_FACTOR:g} times the learning rate and {KL_FACTOR:g} times kl_coef"
        )
        self.taken_back = Alarm("rollback", 1, step_of(good), seen, (str(error).splitlines()[0],), ROLLBACK_REMEDIES)
        return str(good)

    def _tell_of_rollback(self) -> None:
        """Once training has begun again, for what is logged beyond that point is dropped then."""
        if self.taken_back is not None:
            self.tell([self.taken_back])
        self.taken_back = None

    def _make_up_for_evaluation(self) -> None:
        """Make the evaluation that failed before, and save that it has been made."""
        if self.owes_evaluation and self.eval_prompts:
            self.control.should_evaluate = self.control.should_save = True
            self._log_evaluate_save()

    def soften(self, times: int) -> None:
        """Smaller steps and a dearer KL after `times` rollbacks: what led to the alarm is not simply done again."""
        for group in self.optimizer.param_groups:
            for name in ("lr", "initial_lr"):
                if name in group:
                    group[name] *= LR_FACTOR**times
        for name in ("base_lrs", "_last_lr"):
            if hasattr(self.lr_scheduler, name):
                setattr(self.lr_scheduler, name, [lr * LR_FACTOR**times for lr in getattr(self.lr_scheduler, name)])
        self.kl_controller.scale(KL_FACTOR**times)

    def _end(self, start_time: float, losses: list[float]) -> TrainOutput:
        remaining = self.metric_log.take()
        if remaining:
            self.log(remaining)
        num_steps = len(losses)
        metrics = speed_metrics(
            "train", start_time, num_samples=num_steps * cast(int, self.args.batch_size), num_steps=num_steps
        )
        metrics["train_loss"] = sum(losses) / num_steps if num_steps else 0.0
        self.log(dict(metrics))
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            checkpointing.load_weights(self, Path(self.state.best_model_checkpoint))
        elif self.args.load_best_model_at_end:
            logger.warning("the best evaluation was at no checkpoint, so the last weights are kept; see save_steps")
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        self._finish_current_push()
        self.is_in_train = False
        return TrainOutput(self.state.global_step, metrics["train_loss"], metrics)

    def _log_evaluate_save(self) -> None:
        """Do what the callbacks asked for, as transformers' Trainer does after a step; then what alarms ask for."""
        if self.control.should_log:
            metrics = self.metric_log.take()
            if metrics:
                self.log(metrics)
        if self.control.should_evaluate:
            with checkpointing.kept_if_a_scorer_fails(self):
                metrics = self._evaluate(None, None)
            is_best = self._determine_best_metric(metrics=metrics, trial=None)
            if self.args.save_strategy == SaveStrategy.BEST:
                self.control.should_save = is_best
        if self.control.should_save:
            self._save_checkpoint(self.model, trial=None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        self.monitor.act()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the policy, ready for from_pretrained, and its tokenizer."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        checkpointing.save_policy(self.policy_model, folder)
        self.processing_class.save_pretrained(folder)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        name = self.args.hub_model_id.split("/")[-1] if self.args.hub_model_id else Path(self.args.output_dir).name
        self.create_model_card(model_name=name)
        folder = checkpointing.save(self)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder))

    def _new_state(self) -> PPOTrainerState:
        exportable = [cb for cb in [*self.callback_handler.callbacks, self.control] if isinstance(cb, ExportableState)]
        return PPOTrainerState(
            is_local_process_zero=self.is_local_process_zero(),
            is_world_process_zero=self.is_world_process_zero(),
            stateful_callbacks=cast(Any, exportable),
        )

    def _send_telemetry(self) -> None:
        """Send nothing: TRL's trainers report each start to the Hub, this one does not."""
