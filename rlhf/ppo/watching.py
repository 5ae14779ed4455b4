"""What the stage does for a run that is to be watched: judges, demonstrations and alarms."""

from typing import TYPE_CHECKING, Any

from rlhf.datasets import load
from rlhf.errors import UserError
from rlhf.ppo.monitor import Alarm
from rlhf.ppo.stage_config import PPOStageConfig
from rlhf.records import Completion, Conversation, Document
from rlhf.tracking import Run
from rlhf.workspace import Workspace

if TYPE_CHECKING:
    from rlhf.ppo.trainer import PPOTrainer

REWARD_TIMEOUT_SECONDS = 1800.0


def defaults(config: PPOStageConfig, has_dev: bool) -> dict[str, Any]:
    """Trainer fields of a stage: functions may not hang, and what has a judge is evaluated.

    Raises:
        UserError: there is a judge and nothing to judge.
    """
    fields: dict[str, Any] = {"reward_timeout": REWARD_TIMEOUT_SECONDS}
    if not config.judge:
        return fields
    if not has_dev:
        raise UserError("judge: it judges held-out rows, and there are none; set data.dev or data.dev_fraction")
    fields |= {"eval_strategy": "steps", "eval_steps": 0.1}
    if config.trainer.get("load_best_model_at_end"):
        fields["metric_for_best_model"] = "objective/judge"
    return fields


def demonstrations(config: PPOStageConfig, workspace: Workspace) -> list[dict[str, Any]]:
    """The rows of `ptx`, held-out ones left out; empty without the section.

    Raises:
        UserError: there is data and no weight for it, or a weight and no data.
    """
    coef = config.trainer.get("ptx_coef", 0.0)
    if (config.ptx is None) != (coef == 0):
        what = "trainer.ptx_coef: set it too" if config.ptx else "ptx: name the demonstrations it is the weight of"
        raise UserError(f"{what}; the PTX loss takes data and a weight")
    if config.ptx is None:
        return []
    found = load(config.ptx, (Completion, Conversation, Document), seed=config.seed, open_ref=workspace.open_ref)
    return [record.row() for record in found.train]


def listen(trainer: "PPOTrainer", run: Run) -> None:
    """Alarms and tables of samples go to the run as well."""

    def tell(alarm: Alarm) -> None:
        run.alert(alarm.name, alarm.text, stops=alarm.level == 2, step=alarm.step)

    trainer.on_alarm.append(tell)
    trainer.on_samples.append(lambda rows: run.log_samples(rows, step=trainer.state.global_step, name="completions"))
