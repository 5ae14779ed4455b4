"""A critic that is a small network on what a frozen reward model makes of each token."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlhf.modeling import AdapterRewardModel, AdapterStack
from rlhf.modeling.heads import Float32Linear
from rlhf.ppo.forward import hidden_at
from rlhf.ppo.rollout import TokenBatch

WIDTH = 2
"""Units of the network for each of the hidden states'."""


class HeadCritic(nn.Module):
    """Values are the reward model's scores of what is there so far, plus a correction that is learned.

    The reward model is in memory anyway and never changes, so its hidden states are computed once a rollout, and what
    is trained is the head alone. Its parameters are the head's.
    """

    def __init__(self, reward_model: nn.Module, score: nn.Linear) -> None:
        """`score` gives the values to begin with from hidden states [n, d] of `reward_model`'s backbone."""
        super().__init__()
        self.reward_model: nn.Module
        self.__dict__["reward_model"] = reward_model  # not a submodule
        self.score = CorrectedScore(score)

    @property
    def host(self) -> nn.Module:
        """The model that is run for them."""
        return self._stack.host if self._stack else self.reward_model

    @property
    def _stack(self) -> AdapterStack | None:
        return self.reward_model.stack if isinstance(self.reward_model, AdapterRewardModel) else None

    @torch.no_grad()
    def read(self, batch: TokenBatch) -> Tensor:
        """The reward model's hidden states [n, d] where `batch` asks."""
        with self._stack.at_work() if self._stack else nullcontext(self.reward_model) as trunk:
            return hidden_at(trunk, batch)


class CorrectedScore(nn.Module):
    """A linear score plus a network of two layers on the same hidden states at unit size; at first the score alone."""

    def __init__(self, score: nn.Linear) -> None:
        super().__init__()
        size, device = score.in_features, score.weight.device
        self.first = score
        self.up = Float32Linear(size, WIDTH * size, device=device)
        self.down = Float32Linear(WIDTH * size, 1, device=device)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Values [n, 1] float32 of hidden states [n, d]."""
        hidden = hidden.float()
        unit = functional.rms_norm(hidden, (hidden.size(-1),))
        values: Tensor = self.first(hidden) + self.down(functional.gelu(self.up(unit)))
        return values
