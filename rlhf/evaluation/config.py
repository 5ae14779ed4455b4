"""The file of `rlhf eval policy`, and what all evaluations have. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from rlhf.config import ModelRef, OutputSection, Section
from rlhf.datasets.config import DataConfig
from rlhf.scoring_config import ScorerSection
from rlhf.tracking import TrackingConfig

Dtype = Literal["float32", "bfloat16", "float16"]


class GenerationSection(Section):
    """How completions are drawn, from both models alike."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.7
    """0 is greedy; the KL divergence is then left out, since nothing is drawn."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Draw from this many likeliest tokens; 0 from all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    batch_size: Annotated[int, Field(ge=1)] = 32


class IntervalSection(Section):
    """What every evaluation has: the data, the bootstrap, and where the result goes."""

    data: DataConfig
    """The held-out part, where the section makes one (`dev`, `dev_fraction`); else all of it."""
    num_bootstrap: Annotated[int, Field(ge=100)] = 10000
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    dtype: Dtype = "float32"
    """Of the weights."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    tracking: TrackingConfig = TrackingConfig()
    output: OutputSection | None = None
    """The result is published under this name as a `report`; left out, it stays in the run's folder."""


class EvaluationConfig(IntervalSection):
    """Two language models on the same held-out prompts, compared by a judge."""

    candidate: ModelRef
    baseline: ModelRef
    reference: ModelRef | None = None
    """What the candidate's KL divergence is measured from; the baseline when left out."""
    judge: Annotated[list[ScorerSection], Field(min_length=1)]
    num_prompts: Annotated[int, Field(ge=1)] | None = None
    """Drawn by `seed`; all when left out."""
    generation: GenerationSection = GenerationSection()
