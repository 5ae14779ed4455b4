"""What `rlhf ppo` takes. Imports no torch."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

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
    critic: Literal["reward", "policy"] = "reward"
    """Where the critic's weights come from: the first reward model that reads the policy's tokens, or the policy with a
    head of zeros. Without such a reward model it is the policy."""
    data: DataConfig
    """Every row gives its prompt; the held-out ones are evaluated on before and after."""
    trainer: Annotated[dict[str, Any], TrainerArgs("PPOConfig")] = {}
    tracking: TrackingConfig = TrackingConfig()

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
