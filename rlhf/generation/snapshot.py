"""The weights of a Llama-like decoder as decoding wants them: adapters merged, projections joined, one dtype."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

MAX_COPY = 2**30
"""Bytes of weights up to which they are copied for speed alone. Beyond it, only what is merged or cast is copied."""
MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Those whose frequencies do not depend on the length of the text."""


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
    activation: Callable[[Tensor], Tensor]
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
    scale: float
    """Of the attention scores."""
    rotary: nn.Module
    dtype: torch.dtype
    """Of matrix products and of the cache."""
    sliding_window: int | None
    """Positions that a token sees, itself included; None for all."""

    def rotations(self, num_positions: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [num_positions, 1, head_dim] float32, the first half of the sines negated."""
        device = self.embedding.device
        positions = torch.arange(num_positions, device=device)[None]
        cos, sin = self.rotary(torch.empty(0, dtype=torch.float32, device=device), positions)
        sin = torch.cat([-sin[0, :, : self.head_dim // 2], sin[0, :, self.head_dim // 2 :]], 1)
        return cos[0, :, None], sin[:, None]


def take_snapshot(model: nn.Module, dtype: torch.dtype) -> Snapshot | None:
    """The weights of a causal `model` as they are now, to be computed with in `dtype`; None for what is not known.

    Known are Llama, Mistral, Qwen2 and Qwen3 of transformers, all weights on one device and none of them quantised,
    sharded or away, and LoRA on linear layers. Adapters at work are merged into copies; the model stays as it is.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = getattr(inner, "config", None)
    if not _is_known(inner, config):
        return None
    config, inner = cast(Any, config), cast(Any, inner)
    decoder, first = inner.model, inner.model.layers[0].self_attn
    reader = _Reader(dtype, join=_num_bytes(decoder.layers, dtype) <= MAX_COPY)
    try:
        layers = tuple(_layer(layer, reader) for layer in decoder.layers)
        head = reader.projection([inner.lm_head], contiguous=False)
    except _Unknown:
        return None
    windows = {getattr(layer.self_attn, "sliding_window", None) for layer in decoder.layers}
    windows |= {config.sliding_window} if config.model_type == "mistral" else set()
    return Snapshot(
        embedding=decoder.embed_tokens.weight.detach(),
        layers=layers,
        norm=_norm(decoder.norm),
        head=head,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=first.head_dim,
        scale=first.scaling,
        rotary=decoder.rotary_emb,
        dtype=dtype,
        sliding_window=min((window for window in windows if window is not None), default=None),
    )


class _Unknown(Exception):
    """A module that is not computed with here."""


def _is_known(inner: nn.Module, config: Any) -> bool:
    if getattr(config, "model_type", None) not in MODEL_TYPES or not hasattr(inner, "lm_head"):
        return False
    parameters = list(inner.parameters())
    plain = all(type(p) is nn.Parameter and p.is_floating_point() and p.numel() > 0 for p in parameters)
    devices = {p.device for p in parameters}
    decoder = getattr(inner, "model", None)
    return (
        plain
        and len(devices) == 1
        and devices.pop().type != "meta"
        and type(getattr(decoder, "embed_tokens", None)) is nn.Embedding
        and getattr(getattr(decoder, "rotary_emb", None), "rope_type", None) in ROPE_TYPES
    )


def _num_bytes(layers: nn.Module, dtype: torch.dtype) -> int:
    return sum(p.numel() for p in layers.parameters()) * dtype.itemsize


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach().float(), float(module.variance_epsilon))


def _layer(layer: Any, reader: "_Reader") -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        attention_norm=_norm(layer.input_layernorm),
        qkv=reader.projection([attention.q_proj, attention.k_proj, attention.v_proj]),
        q_norm=_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        k_norm=_norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
        output=reader.projection([attention.o_proj]),
        mlp_norm=_norm(layer.post_attention_layernorm),
        gate_up=reader.projection([mlp.gate_proj, mlp.up_proj]),
        activation=mlp.act_fn,
        down=reader.projection([mlp.down_proj]),
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
