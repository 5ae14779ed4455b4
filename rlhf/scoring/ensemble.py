"""How several reward models make one score, whether they are one artefact's members or stand in a list."""

from dataclasses import dataclass

from torch import Tensor

from rlhf.modeling import Combine


@dataclass(frozen=True)
class Ensemble:
    """How several reward models make one score: a policy exploits what one of them gets wrong (Coste et al. 2024)."""

    kind: Combine
    coef: float = 1.0
    """Standard deviations that `mean_minus_std` takes off the mean."""

    def __call__(self, scores: Tensor) -> Tensor:
        """Scores [M, B] of M models as one [B]; of M that are equal, that score to the bit."""
        if self.kind == "worst":
            return scores.amin(0)
        # in float64: a sum of equal numbers, divided, is that number again
        wide = scores.double()
        mean = wide.mean(0)
        if self.kind == "mean_minus_std":
            mean = mean - self.coef * wide.std(0, correction=0)
        return mean.to(scores.dtype)


def spread(scores: Tensor) -> Tensor:
    """What M models disagree by on each of B completions: the standard deviation [B] of scores [M, B] over the M."""
    return scores.double().std(0, correction=0).to(scores.dtype)
