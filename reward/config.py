"""What `rlhf reward` takes."""

from typing import Annotated, Any

from pydantic import Field

from rlhf.config import EarlyStopping, ModelRef, Section, StageConfig, TrainerArgs
from rlhf.datasets import DataConfig
from rlhf.tracking import TrackingConfig


class CentreSection(Section):
    """Whose completions are to score 0 on average: the model that PPO will start from."""

    ref: ModelRef
    num_prompts: Annotated[int, Field(ge=1)] = 128
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    temperature: Annotated[float, Field(ge=0)] = 1.0


class RewardStageConfig(StageConfig):
    """A reward model trained on pairs and rankings (Bradley-Terry)."""

    data: DataConfig
    trainer: Annotated[dict[str, Any], TrainerArgs("RewardConfig")] = {}
    centre: CentreSection | None = None
    """Left out, it is `model.ref` where that can write; a backbone that cannot leaves the scores as they are."""
    early_stopping: EarlyStopping | None = None
    tracking: TrackingConfig = TrackingConfig()
