"""What `rlhf sft` takes."""

from typing import Annotated, Any

from rlhf.config import EarlyStopping, StageConfig, TrainerArgs
from rlhf.datasets import DataConfig
from rlhf.tracking import TrackingConfig


class SFTStageConfig(StageConfig):
    """Supervised fine-tuning on texts, prompts with completions, or conversations."""

    data: DataConfig
    trainer: Annotated[dict[str, Any], TrainerArgs("SFTConfig")] = {}
    early_stopping: EarlyStopping | None = None
    tracking: TrackingConfig = TrackingConfig()
