"""What `rlhf reward` takes."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rlhf.config import EarlyStopping, ModelRef, Section, StageConfig, TrainerArgs
from rlhf.datasets import DataConfig
from rlhf.tracking import TrackingConfig


class CentreSection(Section):
    """Whose completions are to score 0 on average: the model that PPO will start from."""

    ref: ModelRef
    num_prompts: Annotated[int, Field(ge=1)] = 128
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    temperature: Annotated[float, Field(ge=0)] = 1.0


class LossSection(Section):
    """What is learned from a judgement, and how much of it."""

    kind: Literal["bradley_terry", "plackett_luce", "regression", "ordinal"] = "bradley_terry"
    """Of comparisons: every pair of a ranking, or the ranking as a whole. Of grades: their value, or their order."""
    margin: Literal["record", "strength", "tiers"] = "record"
    """Where a pair's margin comes from if its record has none: nowhere, how much better the best is (`strength`), or
    how many tiers lie between."""
    margin_unit: Annotated[float, Field(gt=0)] = 1.0
    """Score units of one step of strength above the least, or of one tier in between."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """The share of comparisons taken to be the wrong way round."""
    weights: Literal["record", "reliability"] = "record"
    """`reliability` weighs each annotator by how far the others bear the answers out."""

    @model_validator(mode="after")
    def _fit_together(self) -> "LossSection":
        if self.margin != "record" and self.kind not in ("bradley_terry", "ordinal"):
            raise ValueError(f"margin = {self.margin!r} is for pairs, and kind = {self.kind!r} compares none; drop one")
        if self.label_smoothing and self.kind == "regression":
            raise ValueError("label_smoothing is for comparisons, and kind = 'regression' makes none; drop one")
        return self


class EnsembleSection(Section):
    """Several reward models on one backbone: where they differ, the score is not to be trusted."""

    num_members: Annotated[int, Field(ge=2)] = 4
    members: Literal["heads", "adapters"] = "heads"
    """Heads on one backbone, or, with `model.adapter`, an adapter and a head each on one frozen base."""
    resample: Literal["annotators", "prompts", "none"] = "prompts"
    """What each member draws with replacement to learn from; with `none` only their first weights differ."""
    combine: Literal["mean", "worst", "mean_minus_std"] = "mean"
    std_coef: Annotated[float, Field(ge=0)] = 1.0
    """Standard deviations that `mean_minus_std` takes off the mean."""


class RewardStageConfig(StageConfig):
    """A reward model trained on rankings, pairs and ratings."""

    data: DataConfig
    loss: LossSection = LossSection()
    ensemble: EnsembleSection | None = None
    trainer: Annotated[dict[str, Any], TrainerArgs("RewardConfig")] = {}
    max_tokens_per_pass: Annotated[int, Field(ge=1)] = 65536
    """A batch of more tokens, padding included, is scored in parts, and each part once more for its gradient."""
    centre: CentreSection | None = None
    """Left out, it is `model.ref` where that can write; a backbone that cannot leaves the scores of a single model as
    they are, and those of an ensemble centred on completions trained on."""
    early_stopping: EarlyStopping | None = None
    tracking: TrackingConfig = TrackingConfig()
