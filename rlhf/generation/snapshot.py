"""The weights of a Llama-like decoder as decoding wants them: adapters merged, projections joined, one dtype."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from rlhf.modeling.decoder_parts import DecoderParts, LayerParts, read_decoder

MAX_COPY = 2**30
"""Bytes of weights up to which they are copied for speed alone. Beyond it, only what is merged or cast is copied."""


@dataclass(frozen=True)
class Projection:
    """Linear maps of one input, their outputs side by side."""

    weights: tuple[Tensor, ...]
    """Each [in, out_i], in the compute dtype."""
    biases: tuple[Tensor | None, ...]
    """Each [out_i]."""

    def __call__(self, x: Tensor) -> Tensor:
        """[n, in] in the compute dtype to [n, sum of out_i]."""
        outputs = [
            x @ weight if bias is None else torch.addmm(bias, x, weight)
            for weight, bias in zip(self.weights, self.biases, strict=True)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)


@dataclass(frozen=True)
class Norm:
    """RMS norm in float32."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """[..., d] of any float type to the same in `dtype`."""
        return functional.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(dtype)


@dataclass(frozen=True)
class Layer:
    """One decoder layer."""

    attention_norm: Norm
    qkv: Projection
    q_norm: Norm | None
    """Over each head, where there is one; `k_norm` likewise."""
    k_norm: Norm | None
    output: Projection
    mlp_norm: Norm
    gate_up: Projection
    down: Projection


@dataclass(frozen=True)
class Snapshot:
    """A model's weights at one moment."""

    embedding: Tensor
    """[V, d] in the model's dtype, which is that of the residual stream."""
    layers: tuple[Layer, ...]
    norm: Norm
    head: Projection
    num_heads: int
    num_kv_heads: int
    head_dim: int
    parts: DecoderParts
    """What they were taken from."""
    dtype: torch.dtype
    """Of matrix products and of the cache."""

    def rotations(self, num_positions: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [num_positions, 1, head_dim] float32, the first half of the sines negated."""
        cos, sin = self.parts.rotations(num_positions, self.embedding.device)
        return torch.cat([cos, cos], 1)[:, None], torch.cat([-sin, sin], 1)[:, None]


def take_snapshot(model: nn.Module, dtype: torch.dtype) -> Snapshot | None:
    """The weights of a causal `model` as they are now, to be computed with in `dtype`; None for what is not known.

    Known is what `read_decoder` knows, all weights on one device and none of them quantised, sharded or away, and LoRA
    on linear layers. Adapters at work are merged into copies; the model stays as it is.
    """
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    parts = read_decoder(getattr(inner, "model", None))
    if parts is None or not hasattr(inner, "lm_head") or not _is_plain(inner) or parts.has_hooks():
        return None
    reader = _Reader(dtype, join=_num_bytes(inner.model.layers, dtype) <= MAX_COPY)
    try:
        layers = tuple(_layer(layer, parts.eps, reader) for layer in parts.layers)
        head = reader.projection([inner.lm_head], contiguous=False)
    except _Unknown:
        return None
    return Snapshot(
        embedding=cast(Tensor, parts.embedding.weight).detach(),
        layers=layers,
        norm=_norm(parts.final_norm, parts.eps),
        head=head,
        num_heads=parts.num_heads,
        num_kv_heads=parts.num_key_value_heads,
        head_dim=parts.head_dim,
        parts=parts,
        dtype=dtype,
    )


class _Unknown(Exception):
    """A module that is not computed with here."""


def _is_plain(inner: Any) -> bool:
    """Whether the weights are there, in plain numbers, on one device."""
    if type(inner.model.embed_tokens) is not nn.Embedding:
        return False
    parameters = list(inner.parameters())
    devices = {p.device for p in parameters}
    plain = all(type(p) is nn.Parameter and p.is_floating_point() and p.numel() > 0 for p in parameters)
    return plain and len(devices) == 1 and devices.pop().type != "meta"


def _num_bytes(layers: nn.Module, dtype: torch.dtype) -> int:
    return sum(p.numel() for p in layers.parameters()) * dtype.itemsize


def _norm(module: nn.Module, eps: float) -> Norm:
    return Norm(cast(Tensor, module.weight).detach().float(), eps)


def _layer(parts: LayerParts, eps: float, reader: "_Reader") -> Layer:
    return Layer(
        attention_norm=_norm(parts.attention_norm, eps),
        qkv=reader.projection([parts.query, parts.key, parts.value]),
        q_norm=None if parts.query_norm is None else _norm(parts.query_norm, eps),
        k_norm=None if parts.key_norm is None else _norm(parts.key_norm, eps),
        output=reader.projection([parts.output]),
        mlp_norm=_norm(parts.mlp_norm, eps),
        gate_up=reader.projection([parts.gate, parts.up]),
        down=reader.projection([parts.down]),
    )


class _Reader:
    """Takes linear modules over into projections."""

    def __init__(self, dtype: torch.dtype, *, join: bool) -> None:
        self._dtype = dtype
        self._join = join

    def projection(self, modules: Sequence[nn.Module], *, contiguous: bool = True) -> Projection:
        """The modules' weights; joined and laid out [in, out] where that is worth a copy."""
        merged = [_merged(module) for module in modules]
        weights = [weight.to(self._dtype).t() for weight, _ in merged]
        biases = [None if bias is None else bias.to(self._dtype) for _, bias in merged]
        if not (self._join and contiguous):
            return Projection(tuple(weights), tuple(biases))
        bias = None
        if any(bias is not None for bias in biases):
            rows = zip(biases, weights, strict=True)
            bias = torch.cat([weight.new_zeros(weight.size(1)) if b is None else b for b, weight in rows])
        # as [in, out] a product of few rows takes 4/5 of the time
        return Projection((torch.cat(weights, 1).contiguous(),), (bias,))


def _merged(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [out, in] and bias [out] of a linear module with its adapters at work, the module's own without any."""
    if type(module) is nn.Linear:
        return module.weight.detach(), None if module.bias is None else module.bias.detach()
    if not isinstance(module, LoraLayer) or type(module.get_base_layer()) is not nn.Linear:
        raise _Unknown
    weight, bias = _merged(module.get_base_layer())
    if module.disable_adapters or module.merged:
        return weight, bias
    for name in module.active_adapters:
        if name not in module.lora_A:
            continue
        if name in module.lora_variant:
            raise _Unknown
        up, down, scaling = module.lora_B[name], module.lora_A[name], module.scaling[name]
        weight = weight + (up.weight.detach().float() @ down.weight.detach().float()) * scaling
        if up.bias is not None:
            bias = up.bias.detach() * scaling + (0.0 if bias is None else bias)
    return weight, bias
