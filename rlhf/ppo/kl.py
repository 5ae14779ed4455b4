"""The coefficient of the KL penalty: fixed, or steered towards a target (Ziegler et al. 2019, section 2.2)."""

from typing import Protocol


class KLController(Protocol):
    """Gives the coefficient of each rollout, and learns of its KL afterwards."""

    value: float
    """The coefficient in force for the next rollout."""

    def update(self, kl: float, num_episodes: int) -> None:
        """Take in the mean KL (nats per sequence) of the last `num_episodes` episodes."""

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Put back what `state_dict` gave."""


class FixedKLController:
    """The coefficient stays what it is."""

    def __init__(self, value: float) -> None:
        self.value = value

    def update(self, kl: float, num_episodes: int) -> None:
        """Change nothing."""

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Put back what `state_dict` gave."""
        self.value = state["value"]


class AdaptiveKLController:
    """Proportional controller in log space: the coefficient grows while the KL is above `target`, shrinks below it.

    `value *= 1 + clip(kl / target - 1, -0.2, 0.2) * num_episodes / horizon`, with target in nats per sequence and
    horizon in episodes.
    """

    max_error = 0.2

    def __init__(self, value: float, target: float, horizon: int) -> None:
        self.value = value
        self.target = target
        self.horizon = horizon

    def update(self, kl: float, num_episodes: int) -> None:
        """Move the coefficient by at most 20% of `num_episodes / horizon`."""
        error = min(max(kl / self.target - 1.0, -self.max_error), self.max_error)
        # A batch counts for at most one horizon: a larger one would turn the coefficient to 0 or below, for good.
        self.value *= 1.0 + error * min(num_episodes / self.horizon, 1.0)

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Put back what `state_dict` gave."""
        self.value = state["value"]
