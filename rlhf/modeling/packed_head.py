"""Log-probs of tokens behind a linear output layer, on a processor: the logits are held once and turned in place.

The softmax goes over blocks of rows that fit the cache. The probabilities stay for the backward pass, which makes the
logits' gradient of them where they lie; so nothing is computed twice and no second [n, V] is ever made.
"""

from typing import Any

import torch
from torch import Tensor

from rlhf.modeling.packed import in_dtype

BLOCK_CELLS = 2**18
"""Logits in a block: 1 MiB in float32."""
CHUNK_CELLS = 2**24
"""Logits that are held at a time where there is no backward pass to keep them for: 64 MiB in float32."""


def packed_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probs [n] of targets [n] under softmax((hidden [n, d] @ weight [V, d].T + bias [V]) / temperature).

    And entropies [n], without gradient; float32 both. The product is in the dtype of autocast where that is on, else
    in that of the weight; the softmax is in float32.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    with torch.autocast(device, enabled=False):
        copy = in_dtype(weight, dtype)
        logprobs, entropy = _LogprobFunction.apply(hidden, weight, bias, copy, targets, temperature)
    return logprobs, entropy


class _LogprobFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        copy: Tensor,
        targets: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        scaled = (hidden.float() / temperature).to(copy.dtype)
        shift = None if bias is None else bias.detach().float() / temperature
        logprobs, entropy = (torch.empty(len(targets), device=hidden.device) for _ in range(2))
        keep = any(ctx.needs_input_grad[:3])
        chunk = max(1, len(targets) if keep else CHUNK_CELLS // copy.size(0))
        for start in range(0, len(targets), chunk):
            rows = slice(start, start + chunk)
            logits = torch.mm(scaled[rows], copy.t())
            _softmax_in_place(logits, shift, targets[rows], logprobs[rows], entropy[rows], keep)
        if keep:
            ctx.save_for_backward(scaled, targets)
            ctx.probs, ctx.copy, ctx.temperature = logits if len(targets) else copy[:0, :0], copy, temperature
            ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(entropy)
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """With z the logits: dlogp / dz = onehot - p."""
        scaled, targets = ctx.saved_tensors
        if grads[0] is None or not len(targets):
            return (None,) * 6
        probs, ctx.probs = ctx.probs, None
        assert probs is not None, "the probabilities were turned into gradients by a backward pass before this one"
        grad = grads[0].unsqueeze(-1)
        grad_logits = _scale_in_place(probs, -grad)
        grad_logits.scatter_add_(1, targets.unsqueeze(-1), grad.to(probs.dtype))
        hidden_dtype, weight_dtype, bias_dtype = ctx.dtypes
        needs = ctx.needs_input_grad
        return (
            torch.mm(grad_logits, ctx.copy).to(hidden_dtype).div_(ctx.temperature) if needs[0] else None,
            torch.mm(grad_logits.t(), scaled).to(weight_dtype) if needs[1] else None,
            (grad_logits.float().sum(0) / ctx.temperature).to(bias_dtype) if needs[2] else None,
            None,
            None,
            None,
        )


def _scale_in_place(cells: Tensor, factors: Tensor) -> Tensor:
    """Cells [n, V] times factors [n, 1] float32, rounded once; in blocks, since two dtypes in one product are slow."""
    if cells.dtype == factors.dtype:
        return cells.mul_(factors)
    size = max(1, BLOCK_CELLS // cells.size(1))
    wide = torch.empty(size, cells.size(1), device=cells.device)
    for start in range(0, len(cells), size):
        block = cells[start : start + size]
        block.copy_(wide[: len(block)].copy_(block).mul_(factors[start : start + size]))
    return cells


def _softmax_in_place(
    logits: Tensor, shift: Tensor | None, targets: Tensor, logprobs: Tensor, entropy: Tensor, keep: bool
) -> None:
    """Logits [n, V] become probabilities if `keep`; fills logprobs and entropy, [n] each."""
    size = max(1, BLOCK_CELLS // logits.size(1))
    wide = torch.empty(0 if logits.dtype == torch.float32 else size, logits.size(1), device=logits.device)
    exps = torch.empty(size, logits.size(1), device=logits.device)
    for start in range(0, len(logits), size):
        block = logits[start : start + size]
        rows = slice(start, start + len(block))
        z = block if logits.dtype == torch.float32 else wide[: len(block)].copy_(block)
        if shift is not None:
            z.add_(shift)
        z.sub_(z.amax(1, keepdim=True))
        chosen = z.gather(1, targets[rows].unsqueeze(-1)).squeeze(-1)
        exp = torch.exp(z, out=exps[: len(block)])
        total = exp.sum(1)
        log_total = total.log()
        torch.sub(chosen, log_total, out=logprobs[rows])
        mean = torch.bmm(exp.unsqueeze(1), z.unsqueeze(2)).view(-1).div_(total)
        torch.sub(log_total, mean, out=entropy[rows])
        if keep:
            torch.div(exp, total.unsqueeze(-1), out=exp)
            block.copy_(exp)
