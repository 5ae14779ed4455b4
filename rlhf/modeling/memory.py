"""Where a model's weights lie, and in what precision."""

import logging
from collections.abc import Iterable

import torch
from torch import nn

logger = logging.getLogger(__name__)


def device() -> torch.device:
    """The accelerator, if there is one."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def weight_bytes(models: Iterable[nn.Module]) -> int:
    """Bytes that the weights of `models` take in memory; what several of them share counts once."""
    storages = {
        (str(tensor.device), tensor.untyped_storage().data_ptr()): tensor.untyped_storage().nbytes()
        for model in models
        for tensor in (*model.parameters(), *model.buffers())
    }
    return sum(storages.values())


def warn_of_low_precision(model: nn.Module, learning_rate: float) -> None:
    """Say so where a trainable weight is stored in 16 bits, where steps of a usual learning rate round to nothing."""
    if any(p.dtype in {torch.bfloat16, torch.float16} for p in model.parameters() if p.requires_grad):
        logger.warning(
            "trainable weights are stored in 16 bits, where a step of learning_rate %g rounds to nothing; "
            "load the model in float32 (bf16=True computes in bf16 all the same)",
            learning_rate,
        )
