"""The critic: what the state before each token is worth.

`separate` is a model of its own (TRL's algorithm), `shared` a head on the policy's trunk, `adapter` an adapter of a
frozen model that is in memory anyway, with a head, and `head` a small network on the frozen reward model. Each is a
module with a `score`; `values_at` reads any.
"""

import copy
from typing import Any, Self, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.modeling import (
    AdapterEnsemble,
    AdapterRewardModel,
    AdapterStack,
    Offset,
    SharedBaseEnsemble,
    adapters_at_work,
    carry_adapter,
)
from rlhf.modeling.heads import Float32Linear, put_head_in_float32
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.forward import check_reads_policy, hidden_at, output_layer, unwrap_adapters, values_of
from rlhf.ppo.head_critic import CorrectedScore, HeadCritic
from rlhf.ppo.reference import Reference, copy_adapter, put_back_to_training
from rlhf.ppo.rollout import TokenBatch
from rlhf.scoring import RewardModelScorer, WeightedScorer

CRITIC_ADAPTER = "critic"
NO_JUDGE = "no reward model is a decoder with the policy's tokenizer, whose tokens a critic reads"


class ValueModel(nn.Module):
    """A critic grown from a policy: its backbone and a scalar head that starts at zero, so that values start at 0.

    Has the attributes by which a sequence classifier is used as critic: `base_model_prefix`, the backbone, `score`.
    """

    base_model_prefix = "backbone"

    def __init__(self, backbone: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = backbone.config
        self.score = _zero_head(backbone, hidden_size)


class SharedCritic(nn.Module):
    """A scalar head on the policy's trunk: one forward pass serves both. It starts at zero."""

    def __init__(self, policy: nn.Module, trunk_gradient: float) -> None:
        """`trunk_gradient` is the share of the value loss's gradient that goes on into the trunk; 0 for none."""
        super().__init__()
        self.score = _zero_head(policy, _hidden_size(policy))
        self.trunk_gradient = trunk_gradient

    def read(self, hidden: Tensor) -> Tensor:
        """`hidden` [n, d] of the policy as it is, with that share of its gradient."""
        if self.trunk_gradient == 1:
            return hidden
        held = hidden.detach()
        return held + self.trunk_gradient * (hidden - held) if self.trunk_gradient else held


class AdapterCritic(nn.Module):
    """An adapter of a frozen base with a head. Its parameters are the adapter's and the head's, not the base's."""

    def __init__(self, stack: AdapterStack, score: nn.Linear) -> None:
        """`stack` ends with the adapter that is trained."""
        super().__init__()
        self.stack = stack
        self.score = score
        mark = f".{stack.names[-1]}"
        self.adapter = nn.ParameterDict(
            {
                name.removeprefix("base_model.model.").replace(mark, "").replace(".", "/"): parameter
                for name, parameter in stack.host.named_parameters()
                if f"{mark}." in f"{name}."
            }
        )
        self.requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """The base goes along, which is nobody's submodule here: only layers in training recompute activations.

        It has no dropout, and whoever else reads it puts it into evaluation first.
        """
        self.stack.host.train(mode)
        return super().train(mode)


class ScoreHead(Float32Linear):
    """A critic's head that begins as a reward model's: until it is trained, its values are that model's scores."""

    @torch.no_grad()
    def rescale(self, mean: float, std: float) -> None:
        """Let what was a value v be (v - mean) / std; takes a bias."""
        self.weight.div_(std)
        self.bias.sub_(mean).div_(std)


def put_on_scale(critic: nn.Module, mean: float, std: float) -> bool:
    """Let a critic that began as a reward model be one of scores less `mean`, over `std`; returns whether it did."""
    head = cast(Any, unwrap_adapters(critic)).score
    head = head.first if isinstance(head, CorrectedScore) else head
    if isinstance(head, ScoreHead):
        head.rescale(mean, std)
    return isinstance(head, ScoreHead)


def values_at(critic: nn.Module, batch: TokenBatch, policy_hidden: Tensor | None) -> Tensor:
    """Values [n] float32 where `batch` asks; `policy_hidden` [n, d] is the policy's, which a shared critic reads."""
    if isinstance(critic, SharedCritic):
        assert policy_hidden is not None
        return values_of(critic, critic.read(policy_hidden))
    if isinstance(critic, AdapterCritic):
        with critic.stack.at_work() as trunk:
            return values_of(critic, hidden_at(trunk, batch))
    if isinstance(critic, HeadCritic):
        return values_of(critic, critic.read(batch) if batch.critic_states is None else batch.critic_states)
    return values_of(critic, hidden_at(critic, batch))


def build_critic(
    args: PPOConfig,
    policy: nn.Module,
    reference: Reference,
    value_model: nn.Module | None,
    scorer: WeightedScorer,
    tokenizer: PreTrainedTokenizerBase,
) -> nn.Module:
    """The critic that `args.critic` and `args.critic_init` ask for, in float32 and trainable.

    Args:
        args: the settings.
        policy: with its adapters attached.
        reference: what KL is measured from. It may carry a critic's adapter.
        value_model: a separate critic that was given.
        scorer: what judges; a critic can begin as one of its reward models.
        tokenizer: the policy's.

    Raises:
        UserError: what was given contradicts itself, or cannot serve.
    """
    if value_model is not None:
        for name, usual in (("critic", "separate"), ("critic_init", None)):
            if getattr(args, name) != usual:
                raise UserError(
                    f"value_model: given together with {name} = {getattr(args, name)!r}; it is a separate critic with "
                    "weights of its own: leave one of the two out"
                )
        check_value_model(value_model, policy)
        put_head_in_float32(unwrap_adapters(value_model), ["score"])  # under autocast as well: see ScoreHead
        return value_model
    judge = None if args.critic_init == "policy" else _judge(scorer, tokenizer)
    if judge is None:
        _refuse_adapters(args, scorer)
    if args.critic == "shared":
        return SharedCritic(policy, args.critic_trunk_gradient)
    if args.critic == "adapter":
        return _adapter_critic(args, policy, reference, judge)
    if args.critic == "head":
        return _head_critic(args, judge)
    if judge is None:
        _require_policy_init(args, NO_JUDGE)
        return _critic_from_policy(policy)
    critic = _critic_from_reward_model(*judge, is_rescaled=args.score_normalization != "none")
    check_value_model(critic, policy)
    return critic


def _require_policy_init(args: PPOConfig, why: str) -> None:
    if args.critic_init == "reward":
        raise UserError(f"critic_init: found 'reward', but {why}; set critic_init to policy, or leave it out")


def _refuse_adapters(args: PPOConfig, scorer: WeightedScorer) -> None:
    """Raise UserError where a critic is to begin as reward models that no one model is."""
    wish = "critic: found 'head'" if args.critic == "head" else "critic_init: found 'reward'"
    for part in scorer.scorers:
        is_several = isinstance(part, RewardModelScorer) and isinstance(
            part.model, AdapterEnsemble | SharedBaseEnsemble
        )
        if is_several and args.critic_init != "policy" and (args.critic == "head" or args.critic_init == "reward"):
            raise UserError(
                f"{wish}, but {part.name} is an ensemble of adapters, and no one model has its score; take critic: "
                "separate with critic_init: policy, or an ensemble of heads (ensemble.members: heads)"
            )


def _judge(scorer: WeightedScorer, tokenizer: PreTrainedTokenizerBase) -> tuple[RewardModelScorer, float] | None:
    """The first reward model that reads the policy's tokens from left to right, with its weight.

    That is a decoder (with a `score` head) with the policy's vocabulary.
    """
    for part, weight in zip(scorer.scorers, scorer.weights, strict=True):
        if not isinstance(part, RewardModelScorer) or not hasattr(unwrap_adapters(part.model), "score"):
            continue
        if part.tokenizer is tokenizer or part.tokenizer.get_vocab() == tokenizer.get_vocab():
            return part, weight
    return None


def _critic_from_policy(policy: nn.Module) -> nn.Module:
    """The policy's backbone with a head of zeros. All of it is trained, so it is kept in float32."""
    copied = copy.deepcopy(policy)
    if isinstance(copied, PeftModel):
        copied = copied.merge_and_unload()
    backbone = getattr(copied, cast(Any, copied).base_model_prefix)
    return ValueModel(backbone, _hidden_size(policy)).float().requires_grad_(True)


def _critic_from_reward_model(judge: RewardModelScorer, weight: float, *, is_rescaled: bool = False) -> nn.Module:
    """A critic whose first values are the scores that PPO sees, `weight * (score - offset)`, before normalisation."""
    model = judge.model
    if isinstance(model, AdapterRewardModel):
        critic: Any = model.standalone()
    else:
        critic = copy.deepcopy(model)
        critic = critic.merge_and_unload() if isinstance(critic, PeftModel) else critic
    critic.score = _score_head(critic.score, weight, judge.offset, is_rescaled)
    return cast(nn.Module, critic.float().requires_grad_(True))


def _score_head(head: nn.Linear, weight: float, offset: Offset, is_rescaled: bool) -> ScoreHead:
    """A copy of `head` that gives `weight * (score - offset)`; with a bias where it takes one, or will.

    Of an ensemble's heads it is their mean, however the ensemble combines their scores.

    Without the bias the critic would begin off by the offset, and the value clipping would make it slow to find out.
    """
    offset = sum(offset) / len(offset) if isinstance(offset, list) else offset
    has_bias = head.bias is not None or offset != 0 or is_rescaled
    made = ScoreHead(head.in_features, 1, bias=has_bias, device=head.weight.device)
    with torch.no_grad():
        made.weight.copy_(weight * head.weight.double().mean(0, keepdim=True).float())
        if made.bias is not None:
            made.bias.fill_(-weight * offset)
            made.bias += 0 if head.bias is None else weight * head.bias.double().mean().float()
    return made


def _zero_head(model: nn.Module, hidden_size: int) -> nn.Linear:
    head = Float32Linear(hidden_size, 1, bias=False, device=next(model.parameters()).device)
    nn.init.zeros_(head.weight)
    return head


def _hidden_size(policy: nn.Module) -> int:
    """Of what its output layer is given."""
    return int(cast(nn.Linear, output_layer(policy)).weight.size(1))


def _adapter_critic(
    args: PPOConfig, policy: nn.Module, reference: Reference, judge: tuple[RewardModelScorer, float] | None
) -> AdapterCritic:
    """An adapter of a model that is in memory anyway.

    The first that there is of: a reward model's adapter on the policy's base, copied; a reward model, frozen, below a
    new adapter (values begin as scores in both); the policy's base, below a copy of the policy's own adapter; a full
    policy's frozen reference, below a new one.
    """
    if judge is None:
        _require_policy_init(args, NO_JUDGE)
    scorer, weight = judge or (None, 1.0)
    model = scorer.model if scorer else None
    is_rescaled = args.score_normalization != "none"
    head = _score_head(cast(Any, model).score, weight, scorer.offset, is_rescaled) if scorer else None
    if isinstance(model, AdapterRewardModel) and model.stack.host is policy and model.stack.names:
        return _on_base(policy, model.stack.names[-1], model.stack.names[:-1], head)
    if model is not None and not isinstance(model, AdapterRewardModel | PeftModel):
        assert head is not None
        return AdapterCritic(AdapterStack(carry_adapter(model, CRITIC_ADAPTER), [CRITIC_ADAPTER]), head)
    _require_policy_init(args, "the reward model is an adapter of another base that is in memory for it alone")
    if isinstance(policy, PeftModel):
        trained = policy.active_adapter
        return _on_base(policy, trained, [name for name in adapters_at_work(policy) if name != trained])
    assert reference.model is not None
    carrier = carry_adapter(reference.model, CRITIC_ADAPTER)
    return AdapterCritic(AdapterStack(carrier, [CRITIC_ADAPTER]), _zero_head(carrier, _hidden_size(policy)))


def _head_critic(args: PPOConfig, judge: tuple[RewardModelScorer, float] | None) -> HeadCritic:
    """A head on the reward model, whose scores are its first values."""
    if judge is None:
        raise UserError(f"critic: found 'head', which reads the reward model, but {NO_JUDGE}; set critic to separate")
    scorer, weight = judge
    is_rescaled = args.score_normalization != "none"
    first = _score_head(cast(Any, unwrap_adapters(scorer.model)).score, weight, scorer.offset, is_rescaled)
    return HeadCritic(scorer.model, first)


def _on_base(policy: PeftModel, source: str, below: list[str], head: nn.Linear | None = None) -> AdapterCritic:
    """A critic whose adapter is a copy of the policy's adapter `source`, on those `below`."""
    if CRITIC_ADAPTER in policy.peft_config:
        raise UserError(f"model: its adapter {CRITIC_ADAPTER!r} has the name of the critic's; give it another")
    if policy.active_peft_config.is_prompt_learning:
        raise UserError(
            f"critic: found 'adapter', but the policy is adapted by {policy.active_peft_config.peft_type.value}, which "
            "its critic cannot share; use a LoRA, or critic: separate"
        )
    at_work = adapters_at_work(policy)
    copy_adapter(policy, source, CRITIC_ADAPTER)
    put_back_to_training(policy, at_work)
    return AdapterCritic(
        AdapterStack(policy, [*below, CRITIC_ADAPTER]), head or _zero_head(policy, _hidden_size(policy))
    )


def check_value_model(value_model: nn.Module, policy: nn.Module) -> None:
    """Raise UserError unless the critic has a scalar `score` head and the policy's vocabulary."""
    model = unwrap_adapters(value_model)
    score = getattr(model, "score", None)
    if score is None or not hasattr(model, "base_model_prefix"):
        raise UserError(
            f"value_model: {type(model).__name__} has no `score` head; load a decoder with "
            "AutoModelForSequenceClassification (num_labels=1), or leave value_model out"
        )
    outputs = getattr(score, "out_features", 1)
    if outputs != 1:
        raise UserError(f"value_model: it has {outputs} outputs; load it with num_labels=1")
    check_reads_policy(model, "value_model", policy)
