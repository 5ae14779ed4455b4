"""Models as training would leave them, and what they say of two short texts."""

import torch
from torch import Tensor, nn

IDS = torch.tensor([[65, 66, 67, 68, 69, 256], [70, 71, 72, 73, 74, 256]])


@torch.no_grad()
def shake(model: nn.Module, seed: int) -> nn.Module:
    """Stand in for training: every trainable weight moves."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    """Logits of IDS: [2, 6, vocabulary] of a model that writes, [2, 1] of one that scores."""
    return model.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
