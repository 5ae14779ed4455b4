"""A Llama-like decoder's forward pass over packed tokens: no padding, no mask, the last layer only where it is asked.

What transformers' own modules compute, at less cost on a processor; a model that is not known for sure, or for which
the two do not agree, is left to its own modules.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlhf.modeling.decoder_parts import DecoderParts, LayerParts, read_decoder
from rlhf.modeling.packed_functions import (
    AttentionFunction,
    AttentionGroup,
    Heads,
    ProjectFunction,
    RMSNormFunction,
    add,
)

logger = logging.getLogger(__name__)

MAX_LENGTH = 512
"""Tokens of a row up to which attention holds its probabilities."""
GROUP_CELLS = 2**19
"""Attention probabilities that are computed at a time: about what a core's cache holds."""


@dataclass(frozen=True)
class PackedTokens:
    """b rows of tokens end to end, n in all, and the m of them whose hidden states are wanted."""

    ids: Tensor
    """[n] int64."""
    lengths: tuple[int, ...]
    """b numbers that add up to n."""
    asked: Tensor
    """[m] int64, ascending, where the wanted tokens lie; those of one row follow one another."""
    num_asked: tuple[int, ...]
    """b numbers that add up to m."""


def packed_hidden(trunk: nn.Module, tokens: PackedTokens) -> Tensor | None:
    """Hidden states [m, d] of `trunk` at the asked tokens, final norm included; None for a decoder it cannot do.

    Computes in the dtype of autocast where that is on, else in that of the weights.
    """
    if tokens.ids.device.type != "cpu" or not is_packable(trunk, max(tokens.lengths)):
        return None
    decoder = _decoder(trunk)
    assert decoder is not None
    return decoder.hidden(tokens)


def is_packable(trunk: nn.Module, longest: int) -> bool:
    """Whether `packed_hidden` can do this decoder, on a processor, for rows of at most `longest` tokens."""
    decoder = _decoder(trunk)
    if decoder is None or decoder.parts.has_hooks():
        return False
    return longest <= min(MAX_LENGTH, decoder.parts.max_length)


_decoders: "WeakKeyDictionary[nn.Module, list[_Decoder]]" = WeakKeyDictionary()
_copies: ContextVar[dict[tuple[int, torch.dtype], Tensor] | None] = ContextVar("copies", default=None)


@contextlib.contextmanager
def weights_held() -> Iterator[None]:
    """A promise that no weight changes inside the block, so that each is cast to the compute dtype only once."""
    if _copies.get() is not None:
        yield
        return
    token = _copies.set({})
    try:
        yield
    finally:
        _copies.reset(token)


def in_dtype(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`weight` without gradient in this dtype; the same tensor again inside `weights_held`."""
    held = weight.detach()
    if weight.dtype == dtype:
        return held
    copies = _copies.get()
    if copies is None:
        return held.to(dtype)
    key = (id(weight), dtype)
    if key not in copies:
        copies[key] = held.to(dtype)
    return copies[key]


class _Decoder:
    """The forward pass of one trunk as its modules are now."""

    def __init__(self, trunk: nn.Module, parts: DecoderParts) -> None:
        self.trunk = trunk
        self.parts = parts
        group_size = parts.num_heads // parts.num_key_value_heads
        self.heads = Heads(parts.num_key_value_heads, group_size, parts.head_dim)

    def hidden(self, tokens: PackedTokens) -> Tensor:
        """Hidden states [m, d] of the asked tokens; float32, or what the weights are in."""
        device = tokens.ids.device
        autocast = torch.is_autocast_enabled(device.type)
        x = self.parts.embedding(tokens.ids)
        dtype = torch.get_autocast_dtype(device.type) if autocast else x.dtype
        run = _Run(self.parts, self.heads, dtype, autocast, tokens)
        layers = self.parts.layers
        with torch.autocast(device.type, enabled=False):
            for i, layer in enumerate(layers):
                recompute = _checkpointing(cast(Any, self.trunk).layers[i])
                last = i == len(layers) - 1
                x = recompute(run.layer, layer, x, last) if recompute else run.layer(layer, x, last)
            return run.norm(x, self.parts.final_norm, x.dtype)


class _Run:
    """One pass over one packed batch."""

    def __init__(
        self, parts: DecoderParts, heads: Heads, dtype: torch.dtype, autocast: bool, tokens: PackedTokens
    ) -> None:
        self.parts, self.heads, self.dtype, self.autocast, self.tokens = parts, heads, dtype, autocast, tokens
        cos, sin = parts.rotations(max(tokens.lengths), tokens.ids.device)
        self.tables = cos.to(dtype), sin.to(dtype)
        self.groups = attention_groups(tokens, heads.num_groups * heads.group_size, dtype, asked=False)
        self.last_groups = attention_groups(tokens, heads.num_groups * heads.group_size, dtype, asked=True)

    def layer(self, layer: LayerParts, x: Tensor, last: bool) -> Tensor:
        """Residual stream [n, d] to the next, [m, d] behind the last layer."""
        normed = self.norm(x, layer.attention_norm, self.dtype)
        if last:
            key, value = self.project(normed, layer.key, layer.value)
            x = x.index_select(0, self.tokens.asked)
            (query,) = self.project(normed.index_select(0, self.tokens.asked), layer.query)
        else:
            query, key, value = self.project(normed, layer.query, layer.key, layer.value)
        if layer.query_norm is not None:
            query = self.head_norm(query, layer.query_norm)
            key = self.head_norm(key, cast(nn.Module, layer.key_norm))
        groups = self.last_groups if last else self.groups
        mixed = AttentionFunction.apply(query, key, value, *self.tables, groups, self.heads)
        x = add(x, self.project(mixed, layer.output)[0])
        gate, up = self.project(self.norm(x, layer.mlp_norm, self.dtype), layer.gate, layer.up)
        return add(x, self.project(functional.silu(gate) * up, layer.down)[0])

    def norm(self, x: Tensor, norm: Any, dtype: torch.dtype) -> Tensor:
        """[n, d] in `dtype`."""
        return cast(Tensor, RMSNormFunction.apply(x, norm.weight, self.parts.eps, dtype))

    def head_norm(self, x: Tensor, norm: nn.Module) -> Tensor:
        """[n, heads * D], each head by itself."""
        return self.norm(x.view(-1, self.heads.head_dim), norm, self.dtype).view_as(x)

    def project(self, x: Tensor, *modules: nn.Module) -> tuple[Tensor, ...]:
        """Each module's output for x [n, in], in the compute dtype."""
        if all(_is_plain(module) for module in modules):
            weights = [cast(nn.Linear, module).weight for module in modules]
            biases = [cast(nn.Linear, module).bias for module in modules]
            if not any(bias is not None and bias.requires_grad for bias in biases):
                copies = [in_dtype(weight, self.dtype) for weight in weights]
                return cast(tuple[Tensor, ...], ProjectFunction.apply(x, copies, biases, *weights))
        with torch.autocast(x.device.type, dtype=self.dtype if self.autocast else None, enabled=self.autocast):
            return tuple(module(x).to(self.dtype) for module in modules)


def attention_groups(
    tokens: PackedTokens, num_heads: int, dtype: torch.dtype, *, asked: bool
) -> tuple[AttentionGroup, ...]:
    """Cut the rows of `tokens` into groups of consecutive rows; the asked tokens are the queries, or all are."""
    groups: list[AttentionGroup] = []
    first_row, first_token, first_query = 0, 0, 0
    starts = torch.tensor([0, *tokens.lengths[:-1]]).cumsum(0)
    while first_row < len(tokens.lengths):
        end = first_row + 1
        while end < len(tokens.lengths):
            width = max(tokens.lengths[first_row : end + 1])
            if (end + 1 - first_row) * num_heads * width * width > GROUP_CELLS:
                break
            end += 1
        lengths, counts = tokens.lengths[first_row:end], tokens.num_asked[first_row:end]
        num_keys, num_tokens = max(lengths), sum(lengths)
        keys = slice(first_token, first_token + num_tokens)
        places = _places(lengths, num_keys)
        positions = torch.arange(num_keys)
        if not asked:
            mask = _mask(positions[:, None] >= positions, dtype)
            groups.append(AttentionGroup(end - first_row, keys, places, num_keys, keys, places, num_keys, None, mask))
        else:
            num_queries, total = max(counts), sum(counts)
            queries = slice(first_query, first_query + total)
            ends = torch.tensor(counts).cumsum(0)
            starts_in_row = tokens.asked[queries][ends - torch.tensor(counts)] - starts[first_row:end]
            at = (starts_in_row[:, None] + torch.arange(num_queries)).clamp(max=num_keys - 1)
            mask = _mask(at[..., None] >= positions, dtype)
            groups.append(
                AttentionGroup(
                    *(end - first_row, keys, places, num_keys, queries, _places(counts, num_queries)),
                    *(num_queries, at, mask),
                )
            )
            first_query += total
        first_row, first_token = end, first_token + num_tokens
    return tuple(groups)


def _places(lengths: Sequence[int], width: int) -> Tensor | None:
    """Where tokens of rows that lie end to end go in rows of `width`; None where that is where they are."""
    if all(length == width for length in lengths):
        return None
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).flatten().nonzero().flatten()


def _mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear and not (
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _checkpointing(layer: Any) -> Callable[..., Tensor] | None:
    """What transformers would run this layer by where its activations are recomputed, else None."""
    if not (getattr(layer, "gradient_checkpointing", False) and layer.training and torch.is_grad_enabled()):
        return None
    return cast(Callable[..., Tensor], layer._gradient_checkpointing_func)


def _decoder(trunk: nn.Module) -> _Decoder | None:
    """The pass for `trunk`, tried against its own forward the first time and after its modules were replaced."""
    parts = read_decoder(trunk)
    if parts is None:
        return None
    found = _decoders.get(trunk)
    if found is None or (found and found[0].parts != parts):
        decoder = _Decoder(trunk, parts)
        found = _decoders[trunk] = [decoder] if _agrees(decoder) else []
    return found[0] if found else None


@torch.no_grad()
def _agrees(decoder: _Decoder) -> bool:
    """Whether two rows of different length give what the trunk's own forward gives."""
    trunk = decoder.trunk
    embedding = cast(Any, trunk).get_input_embeddings()
    size = embedding.weight.size(0) if hasattr(embedding, "weight") else 8
    device = next(trunk.parameters()).device
    if device.type != "cpu":
        return False
    ids = torch.arange(9) * 7 % size
    rows = [ids[:4], ids[4:]]
    tokens = PackedTokens(ids, (4, 5), torch.tensor([1, 2, 3, 8]), (3, 1))
    with torch.autocast(device.type, enabled=False):
        own = [trunk(input_ids=row[None], use_cache=False).last_hidden_state[0] for row in rows]
        expected = torch.cat([own[0][1:], own[1][4:]])
        found = decoder.hidden(tokens)
    tolerance = 1e-4 if expected.dtype == torch.float32 else 0.05
    difference = torch.linalg.vector_norm((found - expected).float())
    agrees = bool(difference <= tolerance * torch.linalg.vector_norm(expected.float()))
    if not agrees:
        logger.debug("%s: its packed forward pass differs from its own, which is used", type(trunk).__name__)
    return agrees
