"""From a scorer's scores to what the policy is rewarded with: penalties, then normalisation, then clipping."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from rlhf.ppo.config import PPOConfig


def penalise(scores: Tensor, lengths: Tensor, ended: Tensor, args: PPOConfig) -> Tensor:
    """Scores [B] less the penalties: for a missing end (Stiennon et al. 2020) and for length.

    Args:
        scores: [B].
        lengths: [B] tokens of each completion.
        ended: [B] bool, whether it has an end token.
        args: `missing_eos_penalty` is paid once, `length_penalty` for each token beyond `length_penalty_after`.
    """
    if args.missing_eos_penalty is not None:
        scores = torch.where(ended, scores, scores - args.missing_eos_penalty)
    if args.length_penalty:
        scores = scores - args.length_penalty * (lengths - args.length_penalty_after).clamp(min=0).to(scores.dtype)
    return scores


def clip(scores: Tensor, bound: float | None) -> Tensor:
    """Scores [B] within +-`bound`; as they are without one."""
    return scores if bound is None else scores.clamp(-bound, bound)


class Moments:
    """Count, mean and standard deviation of all numbers taken in so far, in float64 (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    @property
    def std(self) -> float:
        """The standard deviation of the numbers themselves (no Bessel correction); 1 where they are all equal."""
        spread = (self.squares / self.count) ** 0.5 if self.count else 0.0
        return spread if spread > 1e-8 * max(1.0, abs(self.mean)) else 1.0

    def add(self, values: Tensor) -> None:
        """Take in values [B]."""
        batch = values.detach().double().cpu()
        count, mean = len(batch), float(batch.mean())
        apart = mean - self.mean
        total = self.count + count
        self.squares += float(((batch - mean) ** 2).sum()) + apart**2 * self.count * count / total
        self.mean += apart * count / total
        self.count = total

    def scale(self, values: Tensor) -> Tensor:
        """Values [B] less the mean, over the standard deviation; as they are before the first."""
        if not self.count:
            return values
        return ((values.double() - self.mean) / self.std).to(values.dtype)

    def state_dict(self) -> list[float]:
        """What a checkpoint keeps."""
        return [self.count, self.mean, self.squares]

    def load_state_dict(self, state: Sequence[float]) -> None:
        """Put back what `state_dict` gave."""
        self.count, self.mean, self.squares = int(state[0]), float(state[1]), float(state[2])


class ScoreShaper:
    """`score_normalization` and `score_clip`: scores [B] of a rollout in, what is paid at its last tokens out.

    "running" goes by all scores of the run up to and with this rollout; "reference" by `measure`'s, which are the
    reference's, so that it scores 0 with deviation 1.
    """

    def __init__(self, args: PPOConfig) -> None:
        self.kind = args.score_normalization
        self.bound = args.score_clip
        self.moments = Moments()

    @property
    def needs_reference(self) -> bool:
        """Whether `measure` is still to be called."""
        return self.kind == "reference" and not self.moments.count

    def measure(self, scores: Tensor) -> None:
        """Take in the scores [N] of the reference's completions."""
        self.moments.add(scores)

    @property
    def has_scale(self) -> bool:
        """Whether it is known by now what scores are scaled by; never where they are not."""
        return self.kind != "none" and self.moments.count > 0

    def __call__(self, scores: Tensor) -> Tensor:
        """Shape the scores [B] of one rollout of training."""
        if self.kind == "running":
            self.moments.add(scores)
        if self.kind != "none":
            scores = self.moments.scale(scores)
        return clip(scores, self.bound)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"moments": self.moments.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.moments.load_state_dict(cast(list[float], state["moments"]))
