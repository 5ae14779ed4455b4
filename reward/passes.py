"""Scores of a batch's texts, in as many passes as memory takes."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def scores_of(model: nn.Module, ids: Tensor, mask: Tensor, max_tokens: int | None = None) -> Tensor:
    """Scores [N, M] in float32 of the texts `ids` [N, T] with `mask` [N, T], True or 1 for real tokens.

    A batch of more than `max_tokens`, padding included, is cut into texts of like length. Of each part the scores alone
    are kept, and what their gradient needs is computed once more when it is due: the gradient is the same, the memory
    that of one part, the time that of one more forward pass.
    """
    if max_tokens is None or ids.numel() <= max_tokens:
        return cast(Tensor, model(input_ids=ids, attention_mask=mask).logits.float())
    lengths = mask.sum(1)
    order = torch.argsort(lengths, stable=True)
    scores: list[Tensor] = []
    for rows in _parts(lengths[order].tolist(), max_tokens):
        picked = order[rows]
        longest = int(lengths[picked].max())
        part = (ids[picked, :longest], mask[picked, :longest])
        scores.append(_kept(model, *part) if torch.is_grad_enabled() else _logits(model, *part))
    joined = torch.cat(scores)
    return joined[torch.argsort(order)]


def _logits(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    return cast(Tensor, model(input_ids=ids, attention_mask=mask).logits.float())


def _kept(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    return cast(Tensor, checkpoint(_logits, model, ids, mask, use_reentrant=False))


def _parts(lengths: list[int], max_tokens: int) -> list[slice]:
    """Slices of rising `lengths`, each of one row at least and of `max_tokens` at most, padding included."""
    parts: list[slice] = []
    start = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or (end + 1 - start) * lengths[end] > max_tokens:
            parts.append(slice(start, end))
            start = end
    return parts
