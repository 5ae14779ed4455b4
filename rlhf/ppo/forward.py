"""Forward passes over completions: hidden states, log-probs and values where they are asked for, and nowhere else.

Rows are padded on the right and no attention mask is given: in a causal decoder nothing that is asked for sees the
padding, and attention without a mask is attention's fast case.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel
from torch import Tensor, nn

from rlhf.errors import UserError
from rlhf.modeling import is_packable, packed_hidden, packed_logprobs
from rlhf.ppo.rollout import TokenBatch
from rlhf.trl_compat import chunked_logprobs, selective_log_softmax_and_entropy

TOLERANCE = {torch.float32: 1e-3}
"""Relative difference that passes for rounding in a self-check; 0.02 in half precision."""


def hidden_at(model: nn.Module, batch: TokenBatch) -> Tensor:
    """Hidden states [n, d] of `model`'s trunk, final norm included, where `batch` asks; adapters are at work.

    `model` is a policy, a reference or a critic. Of a policy it is what the output layer is given, and so what
    `logprobs_of` takes.
    """
    if output_layer(model) is not None and not _plan_of(model).trunk_alone:
        hidden = _input_of_output_layer(model, batch.input_ids)
    else:
        trunk = trunk_of(model)
        if (
            batch.input_ids.device.type == "cpu"
        ):  # elsewhere there is no such pass, and packing would wait for the device
            packed = packed_hidden(trunk, batch.packed)
            if packed is not None:
                return packed
        hidden = trunk(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, batch.positions)


def logprobs_of(model: nn.Module, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs [n] of targets [n] int64 at this temperature, and entropies [n] without gradient; float32 both.

    `hidden` [n, d] is from `hidden_at(model, ...)`.
    """
    if _plan_of(model).plain_output:
        layer = cast(nn.Linear, output_layer(model))
        measure = packed_logprobs if hidden.device.type == "cpu" else chunked_logprobs
        return measure(hidden, layer.weight, layer.bias, targets, temperature)
    logits = logits_of(model, hidden).float()
    logprobs, entropy = selective_log_softmax_and_entropy(
        logits, targets, entropy_requires_grad=False, temperature=temperature
    )
    return logprobs, entropy


def values_of(value_model: nn.Module, hidden: Tensor) -> Tensor:
    """Values [n] float32 of hidden [n, d]: each the estimate before the completion token that it predicts."""
    return cast(Any, unwrap_adapters(value_model)).score(hidden).squeeze(-1).float()


def is_reentrant(model: nn.Module, batches: Sequence[TokenBatch]) -> bool:
    """Whether several threads may measure these with `model` at once: nothing is hung on it or switched meanwhile."""
    if output_layer(model) is not None:
        plan = _plan_of(model)
        if not (plan.trunk_alone and plan.plain_output):
            return False
    return is_packable(trunk_of(model), max((max(batch.lengths) for batch in batches), default=0))


def scatter(cells: Tensor, batch: TokenBatch) -> Tensor:
    """Numbers [n] laid out as [b, W], 0 where nothing was asked."""
    return cells.new_zeros(batch.asked.shape).masked_scatter(batch.asked, cells)


def completion_logprobs(model: nn.Module, batch: TokenBatch, temperature: float) -> Tensor:
    """Log-probs [b, W] float32 of the completion tokens at this sampling temperature."""
    return scatter(logprobs_of(model, hidden_at(model, batch), batch.targets, temperature)[0], batch)


def unwrap_adapters(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT model, its adapters still at work; any other model as it is."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def trunk_of(model: nn.Module) -> nn.Module:
    """The decoder below a model's head, its adapters still at work."""
    inner = cast(Any, unwrap_adapters(model))
    return cast(nn.Module, getattr(inner, inner.base_model_prefix))


def output_layer(model: nn.Module) -> nn.Module | None:
    """What turns a policy's hidden states into logits; None for a model that has no such thing, as a critic."""
    inner = unwrap_adapters(model)
    get = getattr(inner, "get_output_embeddings", None)
    return get() if get is not None else None


def check_reads_policy(model: nn.Module, name: str, policy: nn.Module) -> None:
    """Raise UserError unless `model`, called `name`, knows every token that the policy may write."""
    sizes = [cast(Any, unwrap_adapters(m)).config.get_text_config().vocab_size for m in (model, policy)]
    if sizes[0] < sizes[1]:
        raise UserError(
            f"{name}: its vocabulary of {sizes[0]} tokens is smaller than the policy's {sizes[1]}, whose tokens it "
            f"is to read; take one with the same tokenizer, or leave {name} out"
        )


def check_writes(model: nn.Module, name: str) -> None:
    """Raise UserError unless `model`, called `name`, has an output layer over a vocabulary."""
    if output_layer(model) is None:
        raise UserError(
            f"{name}: {type(unwrap_adapters(model)).__name__} has no output layer over the vocabulary; load it with "
            "AutoModelForCausalLM"
        )


def logits_of(model: nn.Module, hidden: Tensor) -> Tensor:
    """Logits [n, V] of hidden [n, d] by the model's own forward, with whatever it does to them behind the output layer.

    The model runs on one token, and its output layer is given `hidden` instead of what came of that.
    """
    token = torch.zeros((1, 1), dtype=torch.long, device=hidden.device)
    with _given_to_output_layer(model, lambda _: hidden[None]):
        logits: Tensor = cast(Any, unwrap_adapters(model))(input_ids=token, use_cache=False).logits
    return logits[0]


# ---- What a model allows, found out once by trying ----


@dataclass(frozen=True)
class _Plan:
    """How a policy's log-probs may be computed."""

    trunk_alone: bool
    """The output layer is given the trunk's last hidden state, position by position."""
    plain_output: bool
    """Logits are the output layer's product and nothing else, and it is a plain linear layer."""


_plans: "WeakKeyDictionary[nn.Module, _Plan]" = WeakKeyDictionary()


def _plan_of(model: nn.Module) -> _Plan:
    """The plan for `model` as its adapters are now: output layers can come and go with them."""
    layer = output_layer(model)
    assert layer is not None
    key = model if _adds_virtual_tokens(model) else layer
    if key not in _plans:
        with torch.autocast(next(layer.parameters()).device.type, enabled=False):
            _plans[key] = _make_plan(model, layer)
    return _plans[key]


@torch.no_grad()
def _make_plan(model: nn.Module, layer: nn.Module) -> _Plan:
    """Compare the short ways with the model's own forward on five tokens.

    The output layer is tried on hidden states that make logits of about 30, so that a soft cap shows.
    """
    weight = next(layer.parameters())
    ids = torch.arange(5, device=weight.device)[None] % cast(Any, model).config.get_text_config().vocab_size
    given = _input_of_output_layer(model, ids)
    trunk_alone = False
    if not _adds_virtual_tokens(model):
        own = trunk_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        trunk_alone = own.shape == given.shape and _close(own, given)
    plain_output = False
    if type(layer) is nn.Linear:
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(4, layer.in_features, generator=generator).to(weight)
        hidden = hidden * (30 / layer(hidden).float().std().clamp(min=1e-6)).to(weight)
        own = logits_of(model, hidden)
        plain_output = own.shape[-1] == layer.out_features and _close(layer(hidden), own)
    return _Plan(trunk_alone, plain_output)


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape differ by no more than rounding."""
    difference = torch.linalg.vector_norm(one.float() - other.float())
    return bool(difference <= TOLERANCE.get(one.dtype, 0.02) * torch.linalg.vector_norm(other.float()))


def _adds_virtual_tokens(model: nn.Module) -> bool:
    """Whether the adapter at work is one that puts something before the tokens (prompt or prefix tuning)."""
    return isinstance(model, PeftModel) and bool(getattr(model.active_peft_config, "is_prompt_learning", False))


def _input_of_output_layer(model: nn.Module, input_ids: Tensor) -> Tensor:
    """What the output layer is given [b, S, d] for tokens [b, S], without the columns of virtual tokens."""
    kept: list[Tensor] = []

    def keep(hidden: Tensor) -> Tensor:
        kept.append(hidden)
        return hidden[:1, -1:]  # the logits are of no use here

    inputs: dict[str, Any] = {"input_ids": input_ids, "use_cache": False}
    if _adds_virtual_tokens(model):
        inputs["attention_mask"] = torch.ones_like(input_ids)  # PEFT lengthens it
    with _given_to_output_layer(model, keep):
        model(**inputs)
    if len(kept) != 1:
        raise UserError(
            f"model: {type(unwrap_adapters(model)).__name__} does not send its hidden states through its output "
            "embedding, so its log-probs cannot be measured; use another architecture"
        )
    return kept[0][:, -input_ids.size(1) :]


@contextmanager
def _given_to_output_layer(model: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """As long as the block lasts, the output layer is given `change(hidden)` for hidden [b, S, d]."""
    layer = cast(nn.Module, output_layer(model))
    handle = layer.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))
    try:
        yield
    finally:
        handle.remove()
