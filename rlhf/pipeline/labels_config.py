"""The `labels` stage of a pipeline. Imports no torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from labeling_app.panels import Character
from labeling_app.store.adding import MAX_RESPONSES
from rlhf.config import ModelRef, Section, StageConfig
from rlhf.datasets import DataConfig
from rlhf.evaluation.config import GenerationSection
from rlhf.scoring_config import ScorerSection
from rlhf.tracking import TrackingConfig


class PanelSection(Section):
    """Simulated people, so many of each character, who judge by a rubric (`labeling_app.panels`)."""

    panel: Annotated[dict[Character, Annotated[int, Field(ge=1, le=1000)]], Field(min_length=1)]
    rubric: ScorerSection
    """The function that says what a completion is worth: a reward function."""
    noise: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Rubric points in which one is preferred 73 times to 27."""
    position_bias: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    """Bonus of what is shown first, in units of `noise`."""
    tie_within: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """What is closer than this, in units of `noise`, is called equal."""

    @model_validator(mode="after")
    def _a_function(self) -> Self:
        if self.rubric.function is None:
            raise ValueError("rubric: name a `function`; a model is no rubric here")
        return self

    @property
    def num_people(self) -> int:
        """How many there are."""
        return sum(self.panel.values())


def _kind_of_annotators(value: Any) -> str:
    if isinstance(value, PanelSection) or (isinstance(value, dict) and "panel" in value):
        return "[panel]"
    return "[people]" if isinstance(value, str) else "[function]"


# the brackets keep the branch out of the key that a problem is reported with
Annotators = Annotated[
    Annotated[ScorerSection, Tag("[function]")]
    | Annotated[PanelSection, Tag("[panel]")]
    | Annotated[Literal["people"], Tag("[people]")],
    Discriminator(_kind_of_annotators),
]


class LabelledPrompts(Section):
    """Prompts, and who judges what is written to them."""

    data: DataConfig
    annotators: Annotators = "people"
    """`people`: the run pauses until they have answered in the app. Else simulated ones: a `panel` of characters, or a
    `function(seed) -> [judge, ...]`, each with a `name` and a method `judge(mode, prompt, responses, presented) ->
    tiers` (`labeling_app.simulated.Judge`)."""
    overlap: Annotated[int, Field(ge=1, le=1000)] = 1
    """How many annotators judge a task."""
    overlap_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of the tasks that `overlap` is for; the others are judged once."""

    @model_validator(mode="after")
    def _a_function(self) -> Self:
        if isinstance(self.annotators, ScorerSection) and self.annotators.function is None:
            raise ValueError("annotators: name a `function`; a model cannot rank here")
        return self


def _without_x(value: Any) -> Any:
    """`4x` is 4."""
    return value.removesuffix("x") if isinstance(value, str) else value


class SelectSection(Section):
    """Which of the prompts that were written to are put before annotators."""

    by: Literal["disagreement", "random"] = "disagreement"
    ref: ModelRef | None = None
    """The reward model whose members disagree; in `rounds` it is the last round's."""
    random_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Of the tasks; they are drawn from all prompts alike, so that what is learned is not from odd cases alone."""
    pool: Annotated[float, BeforeValidator(_without_x), Field(ge=1, le=1000)] = 4.0
    """Prompts that are written to for each one that is chosen: `4x` or 4."""


class LabelsConfig(LabelledPrompts, StageConfig):
    """Completions of a model, judged by people or by simulated annotators."""

    held_out: LabelledPrompts | None = None
    """Judgements to measure the reward model by, in the artefact's `dev` part; they may come from somebody else."""
    num_completions: Annotated[int, Field(ge=2, le=MAX_RESPONSES)] = 4
    num_tasks: Annotated[int, Field(ge=1)] | None = None
    """Prompts that annotators are asked about beside `held_out`; all when left out, or with `select` one in `pool`."""
    without: list[str] = []
    """Preferences whose prompts are not asked about again."""
    select: SelectSection | None = None
    generation: GenerationSection = GenerationSection(temperature=1.0)
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _not_quantized(self) -> Self:
        if self.model.quantization:
            raise ValueError("model.quantization: is for training under an adapter; set model.dtype: bfloat16")
        return self

    @model_validator(mode="after")
    def _somebody_to_disagree(self) -> Self:
        if self.select is not None and self.select.by == "disagreement" and self.select.ref is None:
            raise ValueError("select.ref is missing: name the reward model by whose members tasks are chosen")
        return self
