"""Pieces of a decoder with backward passes written out, so that few passes over memory are made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class RMSNormFunction(torch.autograd.Function):
    """x [n, d] / rms(x) * weight [d]: computed in float32, given in `dtype`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Keeps x and one number a row."""
        wide = x.float()
        rstd = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.size(-1)).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, rstd)
        return (wide * rstd).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """With u = x / rms: dx = (g w - u mean(g w u)) / rms, dw = sum(g u)."""
        x, weight, rstd = ctx.saved_tensors
        grad = grads[0].float()
        unit = x.float() * rstd
        product = grad * unit
        grad_weight = product.sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        mean = torch.mv(product, weight.float()).div_(x.size(-1)).unsqueeze(-1)
        grad_x = torch.mul(grad, weight, out=product).addcmul_(unit, mean, value=-1).mul_(rstd)
        return grad_x.to(x.dtype), grad_weight, None, None


class ProjectFunction(torch.autograd.Function):
    """Linear maps of one input. The weights at work are `copies` of the `weights` that take the gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, copies: Sequence[Tensor], biases: Sequence[Tensor | None], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        """X [n, in] in the dtype of the copies [out_i, in]; biases are without gradient."""
        ctx.save_for_backward(x)
        ctx.copies, ctx.dtypes = copies, [weight.dtype for weight in weights]
        return tuple(
            torch.mm(x, copy.t()) if bias is None else torch.addmm(bias.to(x.dtype), x, copy.t())
            for copy, bias in zip(copies, biases, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Dx = sum of g_i W_i, dW_i = g_i' x."""
        (x,) = ctx.saved_tensors
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.mm(grads[0], ctx.copies[0])
            for grad, copy in zip(grads[1:], ctx.copies[1:], strict=True):
                grad_x.addmm_(grad, copy)
        grad_weights = [
            torch.mm(grad.t(), x).to(dtype) if needed else None
            for grad, dtype, needed in zip(grads, ctx.dtypes, ctx.needs_input_grad[3:], strict=True)
        ]
        return grad_x, None, None, *grad_weights


def add(stream: Tensor, change: Tensor) -> Tensor:
    """The residual stream with one layer's output added, both [n, d], in the stream's dtype.

    Two dtypes in one sum are added six times slower than after a cast.
    """
    return stream + change if stream.dtype == change.dtype else change.to(stream.dtype).add_(stream)


@dataclass(frozen=True)
class AttentionGroup:
    """b rows of like length, padded to S keys and W queries each inside attention alone."""

    num_rows: int
    keys: slice
    """Where their tokens lie in the packed batch."""
    key_places: Tensor | None
    """Where these go in the flattened [b, S]; None where all rows have S."""
    num_keys: int
    queries: slice
    query_places: Tensor | None
    num_queries: int
    query_positions: Tensor | None
    """[b, W] int64, positions of the queries in their rows; None where all tokens ask."""
    mask: Tensor
    """[S, S] or [b, W, S] of the compute dtype: 0, and -inf where a query must not look."""


@dataclass(frozen=True)
class Heads:
    """How attention is shaped: K groups of G query heads to one key-value head each."""

    num_groups: int
    group_size: int
    head_dim: int


class AttentionFunction(torch.autograd.Function):
    """Causal attention with rotary positions over packed tokens, group by group, each small enough for the cache."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cos: Tensor,
        sin: Tensor,
        groups: Sequence[AttentionGroup],
        heads: Heads,
    ) -> Tensor:
        """Query [m, K * G * D], key and value [n, K * D] to [m, K * G * D]; cos and sin [S, D / 2]."""
        ctx.groups, ctx.heads, ctx.tables = groups, heads, (cos, sin)
        ctx.shapes = query.shape, key.shape
        scale = heads.head_dim**-0.5
        output = torch.empty_like(query)
        kept = []
        for group in groups:
            num_heads = group.num_rows * heads.num_groups
            q_cos, q_sin = _at(cos, sin, group)
            q = _rotate(_spread(query[group.queries], group, heads, True), q_cos * scale, q_sin * scale)
            k = _rotate(_spread(key[group.keys], group, heads, False), cos[: group.num_keys], sin[: group.num_keys])
            v = _spread(value[group.keys], group, heads, False).contiguous()
            q, k, v = (x.view(num_heads, -1, heads.head_dim) for x in (q, k, v))
            probs = _softmax(_scores(q, k, group, heads))
            mixed = torch.bmm(probs, v).view(group.num_rows, heads.num_groups, heads.group_size, -1, heads.head_dim)
            _gather(mixed, group, True, output)
            kept += [q, k, v, probs]
        ctx.save_for_backward(*kept)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """With P the probabilities: dV = P' g, dS = P (g V' - rowsum(P g V')), dQ = dS K, dK = dS' Q."""
        heads, (cos, sin) = ctx.heads, ctx.tables
        scale = heads.head_dim**-0.5
        grad_query = grads[0].new_empty(ctx.shapes[0])
        grad_key, grad_value = (grads[0].new_empty(ctx.shapes[1]) for _ in range(2))
        kept = ctx.saved_tensors
        for i, group in enumerate(ctx.groups):
            q, k, v, probs = kept[4 * i : 4 * i + 4]
            grad = _spread(grads[0][group.queries], group, heads, True).contiguous().view_as(q)
            grad_v = torch.bmm(probs.transpose(1, 2), grad)
            grad_scores = torch._softmax_backward_data(torch.bmm(grad, v.transpose(1, 2)), probs, -1, probs.dtype)
            grad_q, grad_k = torch.bmm(grad_scores, k), torch.bmm(grad_scores.transpose(1, 2), q)
            shape = (group.num_rows, heads.num_groups, -1, group.num_keys, heads.head_dim)
            q_cos, q_sin = _at(cos, sin, group)
            grad_q = grad_q.view(group.num_rows, heads.num_groups, heads.group_size, -1, heads.head_dim)
            grad_q = _rotate(grad_q, q_cos * scale, q_sin * -scale)
            grad_k = _rotate(grad_k.view(shape), cos[: group.num_keys], -sin[: group.num_keys])
            _gather(grad_q, group, True, grad_query)
            _gather(grad_k, group, False, grad_key)
            _gather(grad_v.view(shape), group, False, grad_value)
        return grad_query, grad_key, grad_value, None, None, None, None


def _scores(q: Tensor, k: Tensor, group: AttentionGroup, heads: Heads) -> Tensor:
    """Q k' with the mask on top, [b * K, G * W, S]."""
    mask = group.mask
    if mask.dim() == 2:
        return torch.baddbmm(mask.repeat(heads.group_size, 1), q, k.transpose(1, 2))
    scores = torch.bmm(q, k.transpose(1, 2))
    scores.view(group.num_rows, -1, group.num_queries, group.num_keys).add_(mask.unsqueeze(1))
    return scores


def _softmax(scores: Tensor) -> Tensor:
    """Over the last dimension, in float32; in half precision the detour takes two thirds of the direct way's time."""
    if scores.dtype == torch.float32:
        return scores.softmax(-1)
    return scores.copy_(torch.softmax(scores, -1, dtype=torch.float32))


def _at(cos: Tensor, sin: Tensor, group: AttentionGroup) -> tuple[Tensor, Tensor]:
    """The tables at the queries' positions, to go with [b, K, G, W, D / 2]."""
    if group.query_positions is None:
        return cos[: group.num_queries], sin[: group.num_queries]
    return cos[group.query_positions][:, None, None], sin[group.query_positions][:, None, None]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """X [..., D] turned by pairs (j, j + D / 2), contiguous; the turn back takes -sin."""
    half = x.size(-1) // 2
    turned = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    first, second = x[..., :half], x[..., half:]
    torch.mul(first, cos, out=turned[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=turned[..., half:]).addcmul_(first, sin)
    return turned


def _spread(x: Tensor, group: AttentionGroup, heads: Heads, is_query: bool) -> Tensor:
    """Packed tokens [.., heads * D] as a view [b, K, G, W or S, D], padded with zeros."""
    places, width = (group.query_places, group.num_queries) if is_query else (group.key_places, group.num_keys)
    if places is not None:
        x = x.new_zeros(group.num_rows * width, x.size(1)).index_copy_(0, places, x)
    return x.view(group.num_rows, width, heads.num_groups, -1, heads.head_dim).permute(0, 2, 3, 1, 4)


def _gather(x: Tensor, group: AttentionGroup, is_query: bool, into: Tensor) -> None:
    """The other way: [b, K, G, W or S, D] into the group's packed tokens."""
    places, where = (group.query_places, group.queries) if is_query else (group.key_places, group.keys)
    x = x.permute(0, 3, 1, 2, 4)
    if places is None:
        into[where].view(x.shape).copy_(x)
    else:
        into[where] = x.reshape(x.size(0) * x.size(1), -1).index_select(0, places)
