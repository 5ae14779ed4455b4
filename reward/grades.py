"""What grades are to the loss: standardised values, or levels with thresholds between them."""

import bisect
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlhf.errors import UserError

MAX_LEVELS = 20
"""More grades than this are a measurement, and no scale that somebody chooses from."""


class GradeScale:
    """How the ratings of a data set are to be learned."""

    def __init__(self, values: Sequence[float], kind: Literal["regression", "ordinal"]) -> None:
        """Of the ratings to train on.

        Raises:
            UserError: all are equal, or `ordinal` finds more than MAX_LEVELS of them.
        """
        counts = Counter(values)
        if len(counts) == 1:
            raise UserError(
                f"data: all {len(values)} ratings are {values[0]:g}, so there is nothing to learn from; "
                "take completions of which some are better than others"
            )
        self.kind = kind
        self.levels = sorted(counts)
        if kind == "ordinal" and len(self.levels) > MAX_LEVELS:
            raise UserError(
                f"loss.kind = 'ordinal': learns a threshold between any two grades, and there are {len(self.levels)} "
                f"different ones ({self.levels[0]:g} to {self.levels[-1]:g}); take 'regression', or round them"
            )
        self.shares = [counts[level] / len(values) for level in self.levels]
        self.mean = sum(values) / len(values)
        self.std = math.sqrt(sum((value - self.mean) ** 2 for value in values) / len(values))

    def __call__(self, value: float) -> float:
        """A rating as the loss takes it: in standard deviations from the mean, or the number of the nearest level."""
        if self.kind == "regression":
            return (value - self.mean) / self.std
        above = min(bisect.bisect_left(self.levels, value), len(self.levels) - 1)
        below = max(above - 1, 0)
        return float(above if self.levels[above] - value <= value - self.levels[below] else below)

    def figures(self, thresholds: "Thresholds | None") -> dict[str, Any]:
        """For the run's summary: the unit of a regression's scores, or the thresholds [L-1], members' mean."""
        if thresholds is None:
            return {"rating_mean": round(self.mean, 6), "rating_std": round(self.std, 6)}
        with torch.no_grad():
            mean = thresholds().mean(1).tolist()
        return {"rating_levels": self.levels, "thresholds": [round(each, 4) for each in mean]}


class Thresholds(nn.Module):
    """L - 1 rising numbers for each of M members, learned beside the model; no score needs them afterwards."""

    def __init__(self, shares: Sequence[float], num_members: int) -> None:
        """Begins where a model whose scores are all 0 is most likely: at the log-odds of the `shares` [L] of levels."""
        super().__init__()
        below = torch.tensor(shares, dtype=torch.float64).cumsum(0)[:-1]
        start = torch.logit(below).float()
        self.first = nn.Parameter(start[:1, None].repeat(1, num_members))
        self.log_gaps = nn.Parameter(start.diff().log()[:, None].repeat(1, num_members))

    def forward(self) -> Tensor:
        """[L - 1, M]."""
        return torch.cat([self.first, self.log_gaps.exp()]).cumsum(0)
