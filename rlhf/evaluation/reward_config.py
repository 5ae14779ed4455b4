"""The file of `rlhf eval reward`. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from rlhf.config import ModelRef, Section
from rlhf.evaluation.config import IntervalSection

Share = Annotated[float, Field(ge=0, le=1)]


class RequireSection(Section):
    """What a reward model has to reach; where it does not, the command ends with exit code 3."""

    accuracy: Share | None = None
    """Over all pairs, at least."""
    beats_longest: bool = False
    """More accurate than always preferring the longer text."""
    ece: Share | None = None
    """Expected calibration error of the scores as they are, at most."""
    ece_scaled: Share | None = None
    """The same after temperature scaling, at most."""
    by: Literal["value", "interval"] = "value"
    """What is held against the thresholds: the value itself, or the worse end of its interval."""


class RewardEvaluationConfig(IntervalSection):
    """A reward model on held-out preferences or rankings."""

    model: ModelRef
    batch_size: Annotated[int, Field(ge=1)] = 32
    groups: list[str] = []
    """Columns of the data by whose values accuracy is told apart; `annotator`, `strength` and `margin` always are."""
    num_worst: Annotated[int, Field(ge=0)] = 20
    """How many of the pairs that the model gets most wrong are kept as samples."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | str | None = None
    """What is measured after scaling is scaled by this, or by what an earlier report found, by its ref; left out, by
    what the other prompts of this data ask for."""
    require: RequireSection = RequireSection()
