"""The models of a PPO run: policy and critic as one module, and the reference."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.errors import UserError
from rlhf.ppo.forward import hidden_at, logprobs_of, scatter, unwrap_adapters, values_of
from rlhf.ppo.rollout import TokenBatch
from rlhf.trl_compat import disable_dropout_in_model, use_adapter

REFERENCE_ADAPTER = "reference"


class ValueModel(nn.Module):
    """A critic grown from a policy: its backbone and a scalar head that starts at zero, so that values start at 0.

    Has the attributes by which a sequence classifier is used as critic: `base_model_prefix`, the backbone, `score`.
    """

    base_model_prefix = "backbone"

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = backbone.config
        weight = next(backbone.parameters())
        hidden_size = self.config.get_text_config().hidden_size
        self.score = nn.Linear(hidden_size, 1, bias=False, device=weight.device, dtype=weight.dtype)
        nn.init.zeros_(self.score.weight)


class PolicyAndValue(nn.Module):
    """Policy and separate critic as the one module that is optimised, prepared and wrapped."""

    def __init__(self, policy: nn.Module, value_model: nn.Module) -> None:
        super().__init__()
        self.policy = policy
        self.value_model = value_model
        self.config = policy.config

    def forward(self, batch: TokenBatch, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs, entropies (no gradient) and values, [b, W] float32 each, 0 where nothing is asked."""
        hidden = hidden_at(self.policy, batch)
        logprobs, entropy = logprobs_of(self.policy, hidden, batch.targets, temperature)
        values = values_of(self.value_model, hidden_at(self.value_model, batch))
        return scatter(logprobs, batch), scatter(entropy, batch), scatter(values, batch)


def build_value_model(policy: nn.Module, reward_model: nn.Module | None, same_tokenizer: bool) -> nn.Module:
    """A critic: a copy of the reward model where that can serve, else the policy's backbone with a new head.

    It can where it reads the policy's tokens from left to right: a decoder (with a `score` head) and one tokenizer.
    All of it is trained, so it is kept in fp32, whatever precision it is copied from.
    """
    if reward_model is not None and same_tokenizer and hasattr(unwrap_adapters(reward_model), "score"):
        model = copy.deepcopy(reward_model)
        if isinstance(model, PeftModel):
            model = model.merge_and_unload()
        return model.float().requires_grad_(True)
    merged = copy.deepcopy(policy)
    if isinstance(merged, PeftModel):
        merged = merged.merge_and_unload()
    backbone = getattr(merged, cast(Any, merged).base_model_prefix)
    return ValueModel(backbone).float().requires_grad_(True)


def critic_from_reward_model(reward_model: nn.Module, *, offset: float, weight: float) -> nn.Module:
    """A critic whose first values are the scores that PPO sees: `weight * (score - offset)`.

    `reward_model` is a decoder with a linear `score` head; it is copied. Without the bias the critic would begin off by
    the offset, and the value clipping would make it slow to find that out.
    """
    critic = copy.deepcopy(reward_model).requires_grad_(True)
    head = cast(nn.Linear, cast(Any, critic).score)
    biased = nn.Linear(head.in_features, 1, bias=True, device=head.weight.device, dtype=head.weight.dtype)
    with torch.no_grad():
        biased.weight.copy_(weight * head.weight)
        biased.bias.fill_(-weight * offset)
    cast(Any, critic).score = biased
    return critic


def check_value_model(value_model: nn.Module, policy: nn.Module) -> None:
    """Raise UserError unless the critic has a scalar `score` head and the policy's vocabulary."""
    model = unwrap_adapters(value_model)
    score = getattr(model, "score", None)
    if score is None or not hasattr(model, "base_model_prefix"):
        raise UserError(
            f"value_model: {type(model).__name__} has no `score` head; load a decoder with "
            "AutoModelForSequenceClassification (num_labels=1), or leave value_model out"
        )
    outputs = getattr(model.config, "num_labels", 1) if isinstance(model, PreTrainedModel) else 1
    if outputs != 1:
        raise UserError(f"value_model: it has {outputs} outputs; load it with num_labels=1")
    sizes = [cast(Any, m).config.get_text_config().vocab_size for m in (model, policy)]
    if sizes[0] < sizes[1]:
        raise UserError(
            f"value_model: its vocabulary of {sizes[0]} tokens is smaller than the policy's {sizes[1]}; "
            "the critic reads the policy's tokens, so take one with the same tokenizer, or leave value_model out"
        )


class Reference:
    """The policy that KL is measured against: a frozen model, or the policy itself with another adapter or none."""

    def __init__(self, policy: nn.Module, ref_model: nn.Module | None, adapter: str | None) -> None:
        """`ref_model` None: `policy` is a PEFT model, and `adapter` names the one that is the reference (None: off)."""
        self.model = ref_model
        self._policy = policy
        self._adapter = adapter

    @contextlib.contextmanager
    def active(self) -> Iterator[nn.Module]:
        """The reference as a model, for as long as the block lasts."""
        if self.model is not None:
            yield self.model
            return
        with use_adapter(cast(PeftModel, self._policy), self._adapter):
            yield self._policy


def build_reference(
    policy: nn.Module, ref_model: nn.Module | None, ref_adapter_name: str | None, fresh_adapter: bool
) -> Reference:
    """The reference for `policy` as it is now.

    Without a `ref_model`: a full policy is copied; a PEFT policy whose adapter is new (`fresh_adapter`) is referred to
    its base, adapters off; one that came with an adapter (from SFT, say) keeps a frozen copy of that adapter as it is
    now under the name "reference", so that KL starts at 0 whatever the adapter had learned.
    """
    if ref_model is not None:
        return Reference(policy, ref_model.requires_grad_(False).eval(), None)
    if not isinstance(policy, PeftModel):
        return Reference(policy, copy.deepcopy(policy).requires_grad_(False).eval(), None)
    if ref_adapter_name is not None:
        if ref_adapter_name not in policy.peft_config:
            raise UserError(
                f"ref_adapter_name: the policy has no adapter {ref_adapter_name!r}; it has {[*policy.peft_config]}"
            )
        return Reference(policy, None, ref_adapter_name)
    if fresh_adapter:
        return Reference(policy, None, None)
    active = policy.active_adapter
    config = copy.deepcopy(policy.peft_config[active])
    config.inference_mode = True
    policy.add_adapter(REFERENCE_ADAPTER, config)
    weights = get_peft_model_state_dict(policy, adapter_name=active)
    set_peft_model_state_dict(policy, weights, adapter_name=REFERENCE_ADAPTER)
    policy.set_adapter(active)
    return Reference(policy, None, REFERENCE_ADAPTER)


def enable_checkpointing(model: PolicyAndValue, kwargs: dict[str, Any] | None) -> None:
    """Recompute activations in the backward pass of policy and critic instead of keeping them."""
    for part in (model.policy, model.value_model):
        target = part.backbone if isinstance(part, ValueModel) else part
        enable = getattr(target, "activation_checkpointing_enable", None)
        enable = enable or cast(Any, target).gradient_checkpointing_enable  # its name in older transformers
        enable(kwargs or {"use_reentrant": False})


def disable_dropout(model: nn.Module) -> None:
    """Turn every dropout off for good: old and new log-probs must differ by the update alone."""
    disable_dropout_in_model(model)
    for module in model.modules():
        # Attention passes its rate as a number to a functional dropout.
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
