"""The coefficient of the KL penalty: fixed, or steered towards a target; and a budget that KL has to keep within."""

import logging

from torch import Tensor

from rlhf.ppo.config import PPOConfig
from rlhf.ppo.metrics import MINIBATCH_KEYS

logger = logging.getLogger(__name__)


class KLController:
    """Gives the coefficient of each rollout, and learns of its KL afterwards; this one leaves it as it is."""

    def __init__(self, value: float) -> None:
        self.value = value
        """The coefficient in force for the next rollout."""
        self.factor = 1.0
        """What `scale` has made of it."""

    def update(self, kl: float, num_episodes: int) -> None:
        """Take in the mean KL (nats per sequence) of the last `num_episodes` episodes."""

    def is_spent(self, kl: float) -> bool:
        """Whether a policy at this KL (nats per sequence) may go no further from the reference."""
        return False

    def scale(self, factor: float) -> None:
        """Make a nat cost `factor` times as much from here on."""
        self.value *= factor
        self.factor *= factor

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"value": self.value, "factor": self.factor}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Put back what `state_dict` gave."""
        self.value, self.factor = state["value"], state.get("factor", 1.0)


class FixedKLController(KLController):
    """The coefficient stays what it is."""

    def __init__(self, value: float) -> None:
        super().__init__(value)
        self._given = value

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Put back the factor alone: nothing was learned, so the settings say what a nat costs, when resuming too."""
        before, self.factor = state["value"], state.get("factor", 1.0)
        self.value = self._given * self.factor
        if self.value != before:
            logger.info("kl_coef is %g from here on; it was %g when the checkpoint was saved", self.value, before)


class AdaptiveKLController(KLController):
    """Proportional controller in log space: the coefficient grows while the KL is above `target`, shrinks below it.

    `value *= 1 + clip(kl / target - 1, -0.2, 0.2) * num_episodes / horizon`, with target in nats per sequence and
    horizon in episodes (Ziegler et al. 2019, section 2.2).
    """

    max_error = 0.2

    def __init__(self, value: float, target: float, horizon: int) -> None:
        super().__init__(value)
        self.target = target
        self.horizon = horizon

    def update(self, kl: float, num_episodes: int) -> None:
        """Move the coefficient by at most 20% of `num_episodes / horizon`."""
        error = min(max(kl / self.target - 1.0, -self.max_error), self.max_error)
        # A batch counts for at most one horizon: a larger one would turn the coefficient to 0 or below, for good.
        self.value *= 1.0 + error * min(num_episodes / self.horizon, 1.0)


class BudgetedKLController(KLController):
    """Another controller's coefficient, times a price that rises while KL is at the budget's edge: dual ascent.

    The edge is 90% of the budget, so that one optimizer step and the noise of a batch stay within it. The price grows
    by half with each rollout beyond the edge (to 1000 at most) and falls by 5% with each within it, to no less than 1.
    """

    edge = 0.9
    max_price = 1000.0

    def __init__(self, inner: KLController, budget: float) -> None:
        self.inner = inner
        self.budget = budget
        self.price = 1.0
        super().__init__(inner.value)

    def update(self, kl: float, num_episodes: int) -> None:
        """Let the inner controller learn, then move the price."""
        self.inner.update(kl, num_episodes)
        self.price = min(self.price * 1.5, self.max_price) if self.is_spent(kl) else max(self.price * 0.95, 1.0)
        self.value = self.inner.value * self.price

    def is_spent(self, kl: float) -> bool:
        """Whether the KL is beyond 90% of the budget."""
        return kl > self.edge * self.budget

    def scale(self, factor: float) -> None:
        """Scale the inner coefficient."""
        self.inner.scale(factor)
        self.value = self.inner.value * self.price

    def state_dict(self) -> dict[str, float]:
        """The inner controller's state and the price."""
        return {**self.inner.state_dict(), "price": self.price}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Put back what `state_dict` gave; of a run that had no budget yet, the price is 1."""
        self.inner.load_state_dict(state)
        self.price = state.get("price", 1.0)
        self.value = self.inner.value * self.price


def ends_update(numbers: Tensor, args: PPOConfig, controller: KLController, spent: bool) -> bool:
    """Whether the rest of an update is left out, by the numbers of a minibatch in the order of MINIBATCH_KEYS.

    So it is beyond `max_approx_kl`, and where KL gets to the edge of its budget in an update that began within it.
    """
    if args.max_approx_kl is None and args.kl_budget is None:
        return False
    approx_kl, kl = (float(numbers[MINIBATCH_KEYS.index(f"policy/{name}_avg")]) for name in ("approxkl", "kl"))
    too_far = args.max_approx_kl is not None and approx_kl > args.max_approx_kl
    return too_far or (not spent and controller.is_spent(kl))


def build_kl_controller(args: PPOConfig) -> KLController:
    """What `kl_controller`, `kl_coef` and `kl_budget` ask for."""
    controller: KLController = FixedKLController(args.kl_coef)
    if args.kl_controller == "adaptive":
        controller = AdaptiveKLController(args.kl_coef, args.kl_target, args.kl_horizon)
    if args.kl_budget is not None:
        controller = BudgetedKLController(controller, args.kl_budget)
    return controller
