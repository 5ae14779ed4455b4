"""PPO: the continuation of the trainer that TRL dropped in 1.13."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf.ppo.config import PPOConfig
    from rlhf.ppo.trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]


def __getattr__(name: str) -> Any:
    # Late, so that reading a config file in this package does not cost the import of torch.
    if name == "PPOConfig":
        from rlhf.ppo.config import PPOConfig

        return PPOConfig
    if name == "PPOTrainer":
        from rlhf.ppo.trainer import PPOTrainer

        return PPOTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
