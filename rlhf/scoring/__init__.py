"""Prompt and completion in, score [B] out: reward models, plain functions, weighted mixes and ensembles of them."""

from rlhf.scoring.base import (
    NO_FURTHER_COLUMNS,
    Columns,
    NonFiniteError,
    NonFiniteScoreError,
    Scorer,
    data_columns,
    require_finite,
    with_token_ids,
)
from rlhf.scoring.disagreement import disagreement
from rlhf.scoring.ensemble import Ensemble
from rlhf.scoring.functions import FunctionScorer, ScorerError
from rlhf.scoring.mixing import WeightedScorer
from rlhf.scoring.models import RewardModelScorer

__all__ = [
    "NO_FURTHER_COLUMNS",
    "Columns",
    "Ensemble",
    "FunctionScorer",
    "NonFiniteError",
    "NonFiniteScoreError",
    "RewardModelScorer",
    "Scorer",
    "ScorerError",
    "WeightedScorer",
    "data_columns",
    "disagreement",
    "require_finite",
    "with_token_ids",
]
