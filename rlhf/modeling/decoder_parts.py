"""A Llama-like decoder taken apart: the modules and numbers that its forward pass is made of."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

ARCHITECTURES = ("Llama", "Mistral", "Qwen2", "Qwen3")
"""Class names of transformers begin with these."""
ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Those whose frequencies do not depend on the length of the text."""


@dataclass(frozen=True)
class LayerParts:
    """One decoder layer. Projections are modules, whatever adapters have made of them; norms have `weight`, [d]."""

    attention_norm: nn.Module
    query: nn.Module
    key: nn.Module
    value: nn.Module
    output: nn.Module
    query_norm: nn.Module | None
    """Over each head, where there is one; `key_norm` likewise."""
    key_norm: nn.Module | None
    mlp_norm: nn.Module
    gate: nn.Module
    up: nn.Module
    down: nn.Module


@dataclass(frozen=True)
class DecoderParts:
    """A whole decoder without its head."""

    embedding: nn.Module
    layers: tuple[LayerParts, ...]
    final_norm: nn.Module
    rotary: nn.Module
    """Has `inv_freq` [head_dim / 2] and `attention_scaling`."""
    eps: float
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    max_length: int
    """Tokens up to which attention reaches back to the first."""
    skipped: tuple[nn.Module, ...]
    """Modules that a forward pass made of these parts does not call: hooks on them would not run."""

    def has_hooks(self) -> bool:
        """Whether somebody waits for a call of a module that is not called."""
        return any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in self.skipped)

    def rotations(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines [length, head_dim / 2] float32 of positions from 0 on."""
        inv_freq = cast(Tensor, self.rotary.inv_freq).to(device, torch.float32)
        angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), inv_freq)
        scaling = float(cast(Any, self.rotary).attention_scaling)
        return angles.cos() * scaling, angles.sin() * scaling


def read_decoder(trunk: nn.Module) -> DecoderParts | None:
    """The parts of a transformers decoder, or None where anything in it is not known for sure.

    Known is what transformers' own classes for Llama, Mistral, Qwen2 and Qwen3 make, adapters inside the projections
    included. Everything that decides the arithmetic is asked of the modules, since adapters replace modules.
    """
    name = next((name for name in ARCHITECTURES if type(trunk).__name__ == f"{name}Model"), None)
    if name is None or not type(trunk).__module__.startswith("transformers.models."):
        return None
    try:
        return _read(cast(Any, trunk), name)
    except _Unknown:
        return None


class _Unknown(Exception):
    pass


def _read(trunk: Any, name: str) -> DecoderParts:
    config = trunk.config
    _need(config.hidden_act == "silu" and config.rope_parameters["rope_type"] in ROPE_TYPES)
    _need(type(trunk.rotary_emb).__name__ == f"{name}RotaryEmbedding")
    windows = [getattr(layer.self_attn, "sliding_window", None) for layer in trunk.layers]
    windows.append(getattr(config, "sliding_window", None) if name == "Mistral" else None)
    layers = tuple(_layer(layer, name) for layer in trunk.layers)
    _need(type(trunk.norm).__name__ == f"{name}RMSNorm" and len(layers) == config.num_hidden_layers)
    norms = [norm for layer in layers for norm in (layer.attention_norm, layer.mlp_norm, layer.query_norm)]
    eps = {float(cast(Any, norm).variance_epsilon) for norm in [*norms, trunk.norm] if norm is not None}
    _need(len(eps) == 1)
    head_dim = int(trunk.layers[0].self_attn.head_dim)
    _need(cast(Any, trunk.rotary_emb).inv_freq.numel() * 2 == head_dim)
    within = [*trunk.layers, *(part for layer in trunk.layers for part in (layer.self_attn, layer.mlp))]
    all_norms = [*norms, *(layer.key_norm for layer in layers), trunk.norm]
    return DecoderParts(
        embedding=trunk.embed_tokens,
        layers=layers,
        final_norm=trunk.norm,
        rotary=trunk.rotary_emb,
        eps=eps.pop(),
        num_heads=int(config.num_attention_heads),
        num_key_value_heads=int(config.num_key_value_heads),
        head_dim=head_dim,
        max_length=min((int(window) for window in windows if window is not None), default=2**31),
        skipped=(trunk, *within, *(norm for norm in all_norms if norm is not None)),
    )


def _layer(layer: Any, name: str) -> LayerParts:
    attention, mlp = layer.self_attn, layer.mlp
    _need(type(layer).__name__ == f"{name}DecoderLayer" and type(attention).__name__ == f"{name}Attention")
    _need(type(mlp).__name__ == f"{name}MLP" and not getattr(attention, "attention_dropout", 0.0))
    _need(attention.scaling == attention.head_dim**-0.5)
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    norms += [attention.q_norm, attention.k_norm] if name == "Qwen3" else []
    _need(all(type(norm).__name__ == f"{name}RMSNorm" for norm in norms))
    return LayerParts(
        attention_norm=norms[0],
        query=attention.q_proj,
        key=attention.k_proj,
        value=attention.v_proj,
        output=attention.o_proj,
        query_norm=norms[2] if name == "Qwen3" else None,
        key_norm=norms[3] if name == "Qwen3" else None,
        mlp_norm=norms[1],
        gate=mlp.gate_proj,
        up=mlp.up_proj,
        down=mlp.down_proj,
    )


def _need(known: bool) -> None:
    if not known:
        raise _Unknown
