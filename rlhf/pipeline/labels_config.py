"""The `labels` stage of a pipeline. Imports no torch."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from rlhf.config import StageConfig
from rlhf.datasets import DataConfig
from rlhf.evaluation.config import GenerationSection
from rlhf.scoring_config import ScorerSection
from rlhf.tracking import TrackingConfig


class LabelsConfig(StageConfig):
    """Completions of a model, ranked by simulated annotators."""

    data: DataConfig
    num_completions: Annotated[int, Field(ge=2, le=16)] = 4
    generation: GenerationSection = GenerationSection(temperature=1.0)
    annotators: ScorerSection
    """The function that ranks: `function(prompts, completions, seed) -> [Ranking, ...]`."""
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _a_function(self) -> Self:
        if self.annotators.function is None:
            raise ValueError("annotators: name a `function`; a model cannot rank here")
        return self
