"""What `rlhf rloo` takes. Imports no torch."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from rlhf.config import StageConfig, TrainerArgs
from rlhf.config.loading import TrainerArgsProblem
from rlhf.datasets import DataConfig
from rlhf.scoring_config import ScorerSection
from rlhf.tracking import TrackingConfig


class RLOOStageConfig(StageConfig):
    """RLOO on prompts, against one or more scorers; KL is measured from the model that training begins from."""

    reward: Annotated[list[ScorerSection], Field(min_length=1)]
    missing_eos_penalty: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Taken off the reward of an answer that does not end, as `trainer.missing_eos_penalty` of PPO is."""
    data: DataConfig
    """Every row gives its prompt; the held-out ones are evaluated on before and after."""
    trainer: Annotated[dict[str, Any], TrainerArgs("RLOOConfig")] = {}
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _probabilities_that_stay(self) -> Self:
        what = (
            "RLOO trains without dropout, which would change the probabilities that it compares between two passes; "
            "leave it out, or set trainer.disable_dropout: false"
        )
        problems: list[tuple[str, Any, str]] = []
        if self.trainer.get("disable_dropout", True):
            problems += [(f"model.{key}", value, what) for key, value in self.model.dropouts()]
        length = self.trainer.get("max_completion_length", 1)
        if length is None or length < 1:
            problems.append(("trainer.max_completion_length", length, "expected a number of tokens, at least 1"))
        if problems:
            raise TrainerArgsProblem(problems)
        return self
