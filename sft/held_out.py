"""How well a language model predicts text it was not trained on."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlhf.errors import UserError

IGNORED = -100
"""The label of a token that does not count."""


@dataclass(frozen=True)
class HeldOut:
    """Means over all tokens that count, whatever batch they were in."""

    loss: float
    """Nats per token."""
    token_accuracy: float
    """Share of tokens that were the likeliest."""
    num_tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that is beyond a float."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf


@torch.no_grad()
def held_out(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], device: torch.device, autocast: torch.dtype | None = None
) -> HeldOut:
    """Score `batches` of `input_ids` and `labels` [B, T] (and `attention_mask`); the model's mode is left as it was.

    `autocast` is the dtype that training computes in: the trainer wraps its model for that once it trains, not before.

    Raises:
        UserError: no token counts.
    """
    was_training = model.training
    model.eval()
    nll, correct, count = 0.0, 0, 0
    for batch in batches:
        inputs = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
        labels = inputs.pop("labels")[:, 1:]
        counts = labels != IGNORED
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            logits = model(**inputs, use_cache=False).logits[:, :-1]
        # [n, V] of the n tokens that count: all of [B, T, V] in float32 may be more than there is memory for
        logits, labels = logits[counts].float(), labels[counts]
        nll += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        correct += int((logits.argmax(-1) == labels).sum())
        count += len(labels)
    model.train(was_training)
    if not count:
        raise UserError(
            "data: no token of the held-out rows is one to predict, so there is nothing to measure; hold out others, "
            "or none (data.dev_fraction: 0)"
        )
    return HeldOut(loss=nll / count, token_accuracy=correct / count, num_tokens=count)
