"""One optimizer step on one minibatch of a rollout."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlhf.generation import SampledTokens
from rlhf.modeling import weights_held
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.experience import Sampling
from rlhf.ppo.losses import approx_kl, kl_loss, policy_loss, value_loss
from rlhf.ppo.metrics import MINIBATCH_KEYS, PTX_KEYS
from rlhf.ppo.models import PolicyAndValue
from rlhf.ppo.rollout import Rollout, token_batches
from rlhf.scoring import NonFiniteError


@dataclass(frozen=True)
class Experience:
    """A rollout with what the two losses need; all [B, T], 0 past a row's end."""

    rollout: Rollout
    advantages: Tensor
    returns: Tensor
    kl_coef: float = 0.0
    """What a nat per token costs in the loss; 0 where the penalty is in the rewards."""


@weights_held()
def accumulate_gradients(
    model: nn.Module,
    experience: Experience,
    rows: Sequence[int],
    args: PPOConfig,
    sampling: Sampling,
    autocast: Callable[[], contextlib.AbstractContextManager[None]],
    backward: Callable[[Tensor], None],
) -> Tensor:
    """Add the gradient of `rows`' loss to the parameters; returns its numbers [8], the first of MINIBATCH_KEYS.

    Every micro-batch is divided by the token count of all `rows`, so the result is that of one large batch.
    """
    rollout = experience.rollout
    tokens = SampledTokens(rollout.completion_ids, rollout.mask, rollout.ended)
    picked = torch.tensor(list(rows), device=rollout.mask.device)
    num_tokens = rollout.mask[picked].sum()
    num_values = rollout.value_mask[picked].sum()
    sums = torch.zeros(8, device=rollout.mask.device)
    size, max_tokens = args.per_device_train_batch_size, args.max_tokens_per_micro_batch
    how = (sampling.pad_id, sampling.reward_at, max_tokens)
    for batch in token_batches(rollout.prompts, tokens, rows, size, *how):
        cells = (batch.rows, slice(0, batch.width))
        mask, value_mask = rollout.mask[cells], rollout.value_mask[cells]
        old_logprobs = rollout.logprobs[cells]
        with autocast():
            logprobs, entropy, values = model(batch, sampling.temperature)
        logprobs = logprobs.masked_fill(~mask, 0.0)
        policy = policy_loss(logprobs, old_logprobs, experience.advantages[cells], mask, args.cliprange)
        value = value_loss(
            values.masked_fill(~value_mask, 0.0),
            rollout.values[cells],
            experience.returns[cells],
            value_mask,
            args.cliprange_value,
        )
        loss = policy.loss / num_tokens + args.vf_coef * value.loss / num_values
        reference = (old_logprobs, rollout.ref_logprobs[cells], mask)
        if experience.kl_coef:
            loss = loss + experience.kl_coef * kl_loss(logprobs, *reference, args.kl_estimator) / num_tokens
        backward(loss)
        with torch.no_grad():
            ratio = (torch.exp(logprobs - old_logprobs) * mask).sum()
            numbers = [
                policy.loss,
                value.loss,
                approx_kl(logprobs, old_logprobs, mask),
                policy.clipped,
                value.clipped,
            ]
            numbers += [(entropy * mask).sum(), ratio, kl_loss(logprobs, *reference)]
            sums += torch.stack([n.float() for n in numbers])
    num_rows = torch.full_like(num_tokens, len(rows))
    counts = [num_tokens, num_values, num_tokens, num_tokens, num_values, num_tokens, num_tokens, num_rows]
    return sums / torch.stack(counts)


def clip_gradients(model: PolicyAndValue, max_norm: float) -> Tensor:
    """Bound the gradient norms of policy and critic, each for itself (0: leave them); returns them as they were, [2].

    One bound over both would let a critic that is still cold shrink the policy's step.
    """
    bound = max_norm if max_norm > 0 else float("inf")
    norms = [nn.utils.clip_grad_norm_(part, bound) for part in model.parts()]
    device = next(model.parameters()).device  # a part without gradients has a norm on the CPU
    return torch.stack([norm.float().to(device) for norm in norms])


def require_finite_step(numbers: Tensor, where: str) -> None:
    """Raise NonFiniteError naming what is not finite among the numbers of a step, in the order of MINIBATCH_KEYS."""
    finite = torch.isfinite(numbers)
    if bool(finite.all()):
        return
    named = zip((*MINIBATCH_KEYS, *PTX_KEYS), numbers.tolist(), finite, strict=False)
    bad = [f"{name} is {value}" for name, value, ok in named if not ok]
    raise NonFiniteError(
        f"{where}: {', '.join(bad)}; the optimizer step was not made, the weights are those of the step before"
    )


def require_finite_weights(model: nn.Module, where: str) -> None:
    """Raise NonFiniteError naming the first trained weight that is not finite: finite steps can add up to that too."""
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    finite = torch.stack([torch.isfinite(p).all() for p in weights.values()])
    if not bool(finite.all()):
        first = next(name for name, ok in zip(weights, finite.tolist(), strict=True) if not ok)
        raise NonFiniteError(f"{where}: {first} is no longer finite; lower learning_rate. Nothing was saved since")
