"""Every name of TRL that is not in its public API and that this project uses, so that a TRL release breaks one file."""

from torch import Tensor
from trl.kernels import ChunkedLogProbFunction
from trl.trainer.base_config import _BaseConfig as BaseConfig
from trl.trainer.base_trainer import _BaseTrainer as BaseTrainer
from trl.trainer.utils import (
    RepeatSampler,
    disable_dropout_in_model,
    selective_log_softmax_and_entropy,
    use_adapter,
)

__all__ = [
    "BaseConfig",
    "BaseTrainer",
    "RepeatSampler",
    "chunked_logprobs",
    "disable_dropout_in_model",
    "selective_log_softmax_and_entropy",
    "use_adapter",
]

VOCABULARY_CHUNK = 32768
"""Columns of logits that are held at a time, TRL's own choice."""


def chunked_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probs [n] of targets [n] under softmax(hidden [n, d] @ weight [V, d].T + bias), and entropies [n]; float32.

    The logits are never held whole in float32. No gradient goes through the entropies.
    """
    logprobs, entropy, *_ = ChunkedLogProbFunction.apply(
        hidden, weight, bias, targets, temperature, VOCABULARY_CHUNK, None, 1.0, ("entropy",)
    )
    return logprobs, entropy.detach()
