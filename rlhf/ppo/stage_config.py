"""What `rlhf ppo` takes. Imports no torch."""

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from rlhf.config import ModelRef, ModelSection, StageConfig, TrainerArgs
from rlhf.config.loading import TrainerArgsProblem
from rlhf.datasets import DataConfig
from rlhf.scoring_config import ScorerSection
from rlhf.tracking import TrackingConfig


class PPOStageConfig(StageConfig):
    """PPO on prompts, against one or more scorers."""

    reward: Annotated[list[ScorerSection], Field(min_length=1)]
    reference: ModelRef | None = None
    """What the KL penalty is measured from; the model that training starts from when left out."""
    judge: list[ScorerSection] = []
    """What judges held-out answers in the course of training, and is not optimised; their weighted sum."""
    ptx: DataConfig | None = None
    """Demonstrations for the SFT loss beside PPO's, weighted by `trainer.ptx_coef`; all of them are trained on."""
    data: DataConfig
    """Every row gives its prompt; the held-out ones are evaluated on before and after."""
    trainer: Annotated[dict[str, Any], TrainerArgs("PPOConfig")] = {}
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _older_name(cls, data: Any) -> Any:
        """`critic: reward`, from before there were other kinds of critic, is `trainer.critic_init: reward`."""
        if not isinstance(data, dict) or data.get("critic") not in ("reward", "policy"):
            return data
        trainer = data.get("trainer") or {}
        if not isinstance(trainer, dict) or trainer.get("critic_init", data["critic"]) != data["critic"]:
            return data
        # What was asked for before was a wish: without a reward model that can serve it was the policy.
        wish = {} if data["critic"] == "reward" else {"critic_init": data["critic"]}
        return {key: value for key, value in data.items() if key != "critic"} | {"trainer": wish | trainer}

    @field_validator("model")
    @classmethod
    def _as_ppo_can_train_it(cls, model: ModelSection) -> ModelSection:
        copied = (
            "PPO copies the model, for its critic or as the reference, and quantized weights cannot be copied; leave "
            "it out and set model.dtype: bfloat16"
        )
        dropped = (
            "PPO trains without dropout, which would change the probabilities that it compares between two passes; "
            "leave it out"
        )
        given = [
            ("quantization", model.quantization, copied),
            ("dropout", model.dropout, dropped),
            ("adapter.dropout", model.adapter.dropout if model.adapter else None, dropped),
        ]
        problems = [(key, value, what) for key, value, what in given if value]
        if problems:
            raise TrainerArgsProblem(problems)
        return model
