"""Where a model's weights lie, and in what precision."""

import torch
from torch import nn


def device() -> torch.device:
    """The accelerator, if there is one."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def low_precision(model: nn.Module) -> bool:
    """Whether a trainable weight is stored in 16 bits, where steps of a usual learning rate round to nothing."""
    return any(p.dtype in {torch.bfloat16, torch.float16} for p in model.parameters() if p.requires_grad)
