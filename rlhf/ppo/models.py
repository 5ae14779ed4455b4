"""Policy and critic as the one module that a PPO run optimises."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from rlhf.errors import UserError
from rlhf.modeling import have_parts_in_common, same_adapters_again
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.critic import AdapterCritic, SharedCritic, ValueModel, values_at
from rlhf.ppo.forward import hidden_at, logprobs_of, scatter
from rlhf.ppo.head_critic import HeadCritic
from rlhf.ppo.rollout import TokenBatch
from rlhf.trl_compat import disable_dropout_in_model

HEAD_LEARNING_RATE = 3e-3
"""Of a `head` critic: what a small network takes that is trained from the start."""


class PolicyAndValue(nn.Module):
    """Policy and critic as the one module that is optimised, prepared and wrapped. They may share a trunk or a base."""

    def __init__(self, policy: nn.Module, value_model: nn.Module) -> None:
        super().__init__()
        self.policy = policy
        self.value_model = value_model
        self.config = policy.config

    def forward(self, batch: TokenBatch, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs, entropies (no gradient) and values, [b, W] float32 each, 0 where nothing is asked."""
        hidden = hidden_at(self.policy, batch)
        logprobs, entropy = logprobs_of(self.policy, hidden, batch.targets, temperature)
        values = values_at(self.value_model, batch, hidden)
        return scatter(logprobs, batch), scatter(entropy, batch), scatter(values, batch)

    def logprobs(self, batch: TokenBatch, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies alone."""
        logprobs, entropy = logprobs_of(self.policy, hidden_at(self.policy, batch), batch.targets, temperature)
        return scatter(logprobs, batch), scatter(entropy, batch)

    def values(self, batch: TokenBatch) -> Tensor:
        """Values alone."""
        hidden = hidden_at(self.policy, batch) if isinstance(self.value_model, SharedCritic) else None
        return scatter(values_at(self.value_model, batch, hidden), batch)

    def critic_states(self, batch: TokenBatch) -> Tensor | None:
        """What the critic reads and no training changes, [n, d]; None for a critic that has no such thing."""
        return self.value_model.read(batch) if isinstance(self.value_model, HeadCritic) else None

    @property
    def critic_host(self) -> nn.Module:
        """The model that is run for values."""
        critic = self.value_model
        if isinstance(critic, SharedCritic):
            return self.policy
        if isinstance(critic, AdapterCritic):
            return critic.stack.host
        return critic.host if isinstance(critic, HeadCritic) else critic

    @property
    def is_one(self) -> bool:
        """Whether one forward pass serves both: the critic is a head on the policy's states, or on those of before."""
        return isinstance(self.value_model, SharedCritic | HeadCritic)

    @property
    def takes_turns(self) -> bool:
        """Whether policy and critic can only run one after the other: they have parts in common, such as one base."""
        return not self.is_one and have_parts_in_common(self.policy, self.critic_host)

    def parts(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters of policy and of critic. A trunk or a base that both use is the policy's."""
        critic = list(self.value_model.parameters())
        own = set(map(id, critic))
        return [p for p in self.policy.parameters() if id(p) not in own], critic

    @contextlib.contextmanager
    def policy_held(self) -> Iterator[None]:
        """Inside the block nothing of the policy is trained, and an optimizer step leaves it as it is."""
        trained = [p for p in self.parts()[0] if p.requires_grad]
        try:
            for parameter in trained:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


def give_critic_its_learning_rate(optimizer: torch.optim.Optimizer, model: PolicyAndValue, args: PPOConfig) -> None:
    """Put the critic's parameters into groups of the optimizer with a rate of their own, if they have one.

    Without a rate given, what starts from nothing beside weights that are tuned whole has ten times the policy's: a
    shared critic's head, and an adapter where the policy has none. The small network of a `head` has what such a
    network takes, whatever the policy's is (docs/ppo.md and docs/performance.md have what was measured).
    """
    rate = args.critic_learning_rate
    beside_a_full_policy = args.critic == "adapter" and not isinstance(model.policy, PeftModel)
    if rate is None and (args.critic == "shared" or beside_a_full_policy):
        rate = 10 * args.learning_rate
    if rate is None and args.critic == "head":
        rate = HEAD_LEARNING_RATE
    if rate is None:
        return
    critic = set(map(id, model.parts()[1]))
    for group in list(optimizer.param_groups):
        own = [p for p in group["params"] if id(p) in critic]
        group["params"] = [p for p in group["params"] if id(p) not in critic]
        if own:
            optimizer.add_param_group({**group, "params": own, "lr": rate})


def enable_checkpointing(model: PolicyAndValue, kwargs: dict[str, Any] | None) -> None:
    """Recompute activations in the backward pass of policy and critic instead of keeping them."""
    critic = model.value_model
    parts = [model.policy]
    if isinstance(critic, AdapterCritic):
        parts += [critic.stack.host] if critic.stack.host is not model.policy else []
    elif not isinstance(critic, SharedCritic | HeadCritic):
        parts.append(critic.backbone if isinstance(critic, ValueModel) else critic)
    for part in parts:
        given = {"use_reentrant": False} | (kwargs or {})
        if given["use_reentrant"] and isinstance(critic, AdapterCritic):
            raise UserError(
                "gradient_checkpointing_kwargs: use_reentrant = true recomputes without knowing which adapter was at "
                "work; leave it out, or take another critic"
            )
        if given["use_reentrant"] and isinstance(critic, SharedCritic | HeadCritic):
            raise UserError(
                "gradient_checkpointing_kwargs: use_reentrant = true gives no gradients of parts of a minibatch, as "
                f"critic: {'shared' if isinstance(critic, SharedCritic) else 'head'} needs; leave it out"
            )
        if isinstance(part, PeftModel) and not given["use_reentrant"]:
            given = {"context_fn": same_adapters_again(part)} | given
        enable = getattr(part, "activation_checkpointing_enable", None)
        enable = enable or cast(Any, part).gradient_checkpointing_enable  # its name in older transformers
        enable(given)


def disable_dropout(model: nn.Module) -> None:
    """Turn every dropout off for good: old and new log-probs must differ by the update alone."""
    disable_dropout_in_model(model)
    for module in model.modules():
        # Attention passes its rate as a number to a functional dropout.
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
