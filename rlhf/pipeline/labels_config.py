"""The `labels` stage of a pipeline. Imports no torch."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from labeling_app.store.adding import MAX_RESPONSES
from rlhf.config import Section, StageConfig
from rlhf.datasets import DataConfig
from rlhf.evaluation.config import GenerationSection
from rlhf.scoring_config import ScorerSection
from rlhf.tracking import TrackingConfig


class LabelledPrompts(Section):
    """Prompts, and who judges what is written to them."""

    data: DataConfig
    annotators: ScorerSection
    """The function that makes them: `function(seed) -> [judge, ...]`, each with a `name` and a method
    `judge(mode, prompt, responses, presented) -> tiers` (`labeling_app.simulated.Judge`)."""
    overlap: Annotated[int, Field(ge=1, le=1000)] = 1
    """How many annotators judge a task."""
    overlap_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of the tasks that `overlap` is for; the others are judged once."""

    @model_validator(mode="after")
    def _a_function(self) -> Self:
        if self.annotators.function is None:
            raise ValueError("annotators: name a `function`; a model cannot rank here")
        return self


class LabelsConfig(LabelledPrompts, StageConfig):
    """Completions of a model, judged by simulated annotators."""

    held_out: LabelledPrompts | None = None
    """Judgements to measure the reward model by, in the artefact's `dev` part; they may come from somebody else."""
    num_completions: Annotated[int, Field(ge=2, le=MAX_RESPONSES)] = 4
    generation: GenerationSection = GenerationSection(temperature=1.0)
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _not_quantized(self) -> Self:
        if self.model.quantization:
            raise ValueError("model.quantization: is for training under an adapter; set model.dtype: bfloat16")
        return self
