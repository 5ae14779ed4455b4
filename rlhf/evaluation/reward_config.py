"""The file of `rlhf eval reward`. Imports no torch."""

from typing import Annotated

from pydantic import Field

from rlhf.config import ModelRef
from rlhf.evaluation.config import IntervalSection


class RewardEvaluationConfig(IntervalSection):
    """A reward model on held-out preferences or rankings."""

    model: ModelRef
    batch_size: Annotated[int, Field(ge=1)] = 32
