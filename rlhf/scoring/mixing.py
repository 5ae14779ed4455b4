"""Several scorers as one: a weighted sum, and reward models that check each other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rlhf.errors import UserError
from rlhf.generation import Messages
from rlhf.scoring.base import Columns, Scorer
from rlhf.scoring.functions import FunctionScorer
from rlhf.scoring.models import RewardModelScorer


@dataclass(frozen=True)
class Ensemble:
    """How several reward models make one score: a policy exploits what one of them gets wrong (Coste et al. 2024)."""

    kind: Literal["mean", "worst", "mean_minus_std"]
    coef: float = 1.0
    """Standard deviations that `mean_minus_std` takes off the mean."""

    def __call__(self, scores: Tensor) -> Tensor:
        """Scores [M, B] of M models as one [B]."""
        if self.kind == "worst":
            return scores.amin(0)
        mean = scores.mean(0)
        return mean - self.coef * scores.std(0, correction=0) if self.kind == "mean_minus_std" else mean


class WeightedScorer:
    """The weighted sum of several scorers; with an `ensemble`, the reward models among them are one of its terms."""

    def __init__(
        self,
        scorers: Sequence[Scorer],
        weights: Sequence[float] | None = None,
        name: str = "score",
        ensemble: Ensemble | None = None,
    ) -> None:
        """Weights default to 1; a reward model's is applied before the ensemble.

        Raises UserError when their number is not that of the scorers, names repeat, or fewer than two reward models
        are to be an ensemble.
        """
        weights = [1.0] * len(scorers) if weights is None else list(weights)
        if len(weights) != len(scorers):
            raise UserError(f"reward_weights: {len(weights)} weights for {len(scorers)} scorers; give one for each")
        names = [scorer.name for scorer in scorers]
        if len(set(names)) != len(names):
            raise UserError(f"reward: two scorers have one name ({', '.join(names)}); give each its own")
        self.scorers = list(scorers)
        self.weights = weights
        self.name = name
        self.ensemble = ensemble
        self.members = [s.name for s in scorers if isinstance(s, RewardModelScorer)] if ensemble else []
        if ensemble and len(self.members) < 2:
            raise UserError(
                f"reward_ensemble = {ensemble.kind}: it takes two or more reward models, and there are "
                f"{len(self.members)}; give more, or leave it out"
            )

    def score(
        self, prompts: Sequence[str | Messages], completions: Sequence[str], columns: Columns | None = None
    ) -> Tensor:
        """The weighted sum [B], float32."""
        return self.combine(self.score_each(prompts, completions, columns))

    def to(self, device: torch.device) -> None:
        """Move the models of those scorers that have one."""
        for scorer in self.scorers:
            if isinstance(scorer, RewardModelScorer | WeightedScorer):
                scorer.to(device)

    def score_each(
        self, prompts: Sequence[str | Messages], completions: Sequence[str], columns: Columns | None = None
    ) -> dict[str, Tensor]:
        """Each scorer's own unweighted scores [B] by its name."""
        return {scorer.name: scorer.score(prompts, completions, columns) for scorer in self.scorers}

    def combine(self, scores: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum [B] of `score_each`'s result, the ensemble as one term."""
        weighted = {s.name: w * scores[s.name] for s, w in zip(self.scorers, self.weights, strict=True)}
        terms = [value for name, value in weighted.items() if name not in self.members]
        if self.ensemble:
            terms.append(self.ensemble(torch.stack([weighted[name] for name in self.members])))
        return torch.stack(terms).sum(0)

    def spread(self, scores: Mapping[str, Tensor]) -> Tensor | None:
        """Standard deviation [B] over the ensemble's members, weights applied; None without an ensemble."""
        weights = {s.name: w for s, w in zip(self.scorers, self.weights, strict=True)}
        if not self.ensemble:
            return None
        return torch.stack([weights[name] * scores[name] for name in self.members]).std(0, correction=0)

    def prepare(self, columns: Iterable[str], timeout: float | None = None) -> None:
        """Tell the functions how long a call may take, and raise UserError for one that needs another column."""
        for scorer in self.scorers:
            if isinstance(scorer, FunctionScorer):
                scorer.timeout = timeout
                scorer.check_columns(columns)
            elif isinstance(scorer, WeightedScorer):
                scorer.prepare(columns, timeout)
