"""One optimizer step on one minibatch of a rollout."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlhf.generation import SampledTokens
from rlhf.modeling import side_by_side, weights_held
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.experience import Sampling
from rlhf.ppo.forward import is_reentrant
from rlhf.ppo.losses import approx_kl, kl_loss, policy_loss, value_loss
from rlhf.ppo.metrics import MINIBATCH_KEYS, PTX_KEYS
from rlhf.ppo.models import PolicyAndValue
from rlhf.ppo.rollout import Rollout, TokenBatch, token_batches
from rlhf.scoring import NonFiniteError

MAX_SHARES = 2
"""Parts of a minibatch at a time: each holds gradients of its own."""
COUNTED_BY = {
    "loss/policy_avg": "tokens",
    "loss/value_avg": "values",
    "policy/approxkl_avg": "tokens",
    "policy/clipfrac_avg": "tokens",
    "val/clipfrac_avg": "values",
    "policy/entropy_avg": "tokens",
    "val/ratio": "tokens",
    "policy/kl_avg": "rows",
}
"""The numbers that come of the losses, and what the sum of each is divided by: tokens, values asked for, episodes."""
NORM_KEYS = ("policy/grad_norm", "value/grad_norm")
"""Those of `clip_gradients`."""
assert (*COUNTED_BY, *NORM_KEYS) == MINIBATCH_KEYS, "a step's numbers are in the order that whoever reads them expects"

Terms = tuple[Tensor, Tensor]
"""What is to go down, and numbers [8] by COUNTED_BY, each a sum over tokens or rows."""
Descend = Callable[[Tensor], None]
"""What adds the gradient of a loss."""


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
    model: PolicyAndValue,
    experience: Experience,
    rows: Sequence[int],
    args: PPOConfig,
    sampling: Sampling,
    autocast: Callable[[], contextlib.AbstractContextManager[None]],
    backward: Callable[[Tensor], None],
) -> Tensor:
    """Add the gradient of `rows`' loss to the parameters; returns its numbers [8] by COUNTED_BY.

    Every micro-batch is divided by the token count of all `rows`, so the result is that of one large batch. On a
    processor a critic of its own is trained beside the policy, at the same time; where both are one, micro-batches are.
    """
    rollout = experience.rollout
    tokens = SampledTokens(rollout.completion_ids, rollout.mask, rollout.ended)
    picked = torch.tensor(list(rows), device=rollout.mask.device)
    num_tokens, num_values = rollout.mask[picked].sum(), rollout.value_mask[picked].sum()
    size, max_tokens = args.per_device_train_batch_size, args.max_tokens_per_micro_batch
    how = (sampling.pad_id, sampling.reward_at, max_tokens, rollout.critic_states)
    batches = list(token_batches(rollout.prompts, tokens, rows, size, *how))

    def policy_terms(batch: TokenBatch) -> Terms:
        with autocast():
            logprobs, entropy = model.logprobs(batch, sampling.temperature)
        loss, numbers = _policy_terms(experience, batch, logprobs, entropy, args)
        return loss / num_tokens, numbers

    def value_terms(batch: TokenBatch) -> Terms:
        with autocast():
            values = model.values(batch)
        loss, numbers = _value_terms(experience, batch, values, args)
        return args.vf_coef * loss / num_values, numbers

    def both_terms(batch: TokenBatch) -> Terms:
        with autocast():
            logprobs, entropy, values = model(batch, sampling.temperature)
        policy, of_policy = _policy_terms(experience, batch, logprobs, entropy, args)
        value, of_value = _value_terms(experience, batch, values, args)
        return policy / num_tokens + args.vf_coef * value / num_values, of_policy + of_value

    def over(terms: Callable[[TokenBatch], Terms], batches: Sequence[TokenBatch], descend: Descend) -> Tensor:
        sums = torch.zeros(len(COUNTED_BY), device=rollout.mask.device)
        for batch in batches:
            loss, numbers = terms(batch)
            if loss.requires_grad:  # not that of a policy that is held
                descend(loss)
            sums += numbers
        return sums

    on_cpu = rollout.mask.device.type == "cpu"
    if on_cpu and model.is_one and is_reentrant(model.policy, batches):
        trained = [p for p in model.parameters() if p.requires_grad]
        sums = _shared_out(functools.partial(over, both_terms), batches, trained)
    elif on_cpu and not model.is_one and not model.takes_turns:
        tasks = [functools.partial(over, terms, batches, backward) for terms in (policy_terms, value_terms)]
        sums = torch.stack(side_by_side(tasks)).sum(0)
    else:
        sums = over(both_terms, batches, backward)
    counts = {"tokens": num_tokens, "values": num_values, "rows": torch.full_like(num_tokens, len(rows))}
    return sums / torch.stack([counts[what] for what in COUNTED_BY.values()])


def _shared_out(
    run: Callable[[Sequence[TokenBatch], Descend], Tensor],
    batches: Sequence[TokenBatch],
    parameters: Sequence[nn.Parameter],
) -> Tensor:
    """The sum of what `run` returns for shares of `batches`, which run side by side, a gradient of its own each.

    They are added in the order of the shares, so that the result does not depend on which is done first.
    """

    def share(batches: Sequence[TokenBatch]) -> tuple[Tensor, list[Tensor | None]]:
        totals: list[Tensor | None] = [None] * len(parameters)  # of what has no part in the loss it stays so

        def descend(loss: Tensor) -> None:
            for i, found in enumerate(torch.autograd.grad(loss, parameters, allow_unused=True)):
                if found is not None:  # cloned, since those of two parameters may be one tensor
                    total = totals[i]
                    totals[i] = found.clone() if total is None else total.add_(found)

        return run(batches, descend), totals

    workers = min(MAX_SHARES, torch.get_num_threads(), len(batches))
    shares = [batches[first::workers] for first in range(workers)]
    found = side_by_side([functools.partial(share, some) for some in shares])
    for _, gradients in found:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    return torch.stack([sums for sums, _ in found]).sum(0)


def _policy_terms(
    experience: Experience, batch: TokenBatch, logprobs: Tensor, entropy: Tensor, args: PPOConfig
) -> Terms:
    """The policy's loss summed over tokens, KL in it if it is to be, and its numbers."""
    rollout, cells = experience.rollout, batch.cells
    mask, old_logprobs = rollout.mask[cells], rollout.logprobs[cells]
    logprobs = logprobs.masked_fill(~mask, 0.0)
    policy = policy_loss(logprobs, old_logprobs, experience.advantages[cells], mask, args.cliprange)
    reference = (old_logprobs, rollout.ref_logprobs[cells], mask)
    loss = policy.loss
    if experience.kl_coef:
        loss = loss + experience.kl_coef * kl_loss(logprobs, *reference, args.kl_estimator)
    with torch.no_grad():
        numbers = {
            "loss/policy_avg": policy.loss,
            "policy/approxkl_avg": approx_kl(logprobs, old_logprobs, mask),
            "policy/clipfrac_avg": policy.clipped,
            "policy/entropy_avg": (entropy * mask).sum(),
            "val/ratio": (torch.exp(logprobs - old_logprobs) * mask).sum(),
            "policy/kl_avg": kl_loss(logprobs, *reference),
        }
        return loss, _by_key(numbers)


def _value_terms(experience: Experience, batch: TokenBatch, values: Tensor, args: PPOConfig) -> Terms:
    """The critic's loss summed over tokens, and its numbers."""
    rollout, cells = experience.rollout, batch.cells
    mask = rollout.value_mask[cells]
    value = value_loss(
        values.masked_fill(~mask, 0.0), rollout.values[cells], experience.returns[cells], mask, args.cliprange_value
    )
    return value.loss, _by_key({"loss/value_avg": value.loss.detach(), "val/clipfrac_avg": value.clipped})


def _by_key(numbers: Mapping[str, Tensor]) -> Tensor:
    """Numbers in the order of COUNTED_BY, which has each of them; 0 for one that is not given."""
    assert numbers.keys() <= COUNTED_BY.keys(), numbers.keys() - COUNTED_BY.keys()
    zero = next(iter(numbers.values())).new_zeros((), dtype=torch.float32)
    return torch.stack([numbers.get(key, zero).float() for key in COUNTED_BY])


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
