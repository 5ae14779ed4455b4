"""PPO's maths as pure functions.

Shapes: B rows, T completion positions. A mask is True where a token is real. Log-probabilities are natural, KL is in
nats. `values[:, t]` is the critic's estimate before token t is chosen; `rewards[:, t]` is paid for choosing it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]
RewardAt = Literal["eos", "trl"]


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x [...] over the True cells of mask [...]; 0 when there are none."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Unbiased variance (Bessel) of x [...] over the True cells of mask [...]; 0 for fewer than two cells."""
    count = mask.sum()
    mean = masked_mean(x, mask)
    return ((x - mean) ** 2 * mask).sum() / (count - 1).clamp(min=1)


def masked_whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale x [...] to unit variance over mask [...], and to zero mean if `shift_mean`; 0 where masked."""
    mean = masked_mean(x, mask)
    whitened = (x - mean) * torch.rsqrt(masked_var(x, mask) + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return whitened.masked_fill(~mask, 0.0)


def per_token_kl(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, estimator: KLEstimator = "k1") -> Tensor:
    """Estimate KL(policy || reference) [B, T] in nats from log-probabilities [B, T] of sampled tokens; 0 where masked.

    With r = p_ref / p_policy at the sampled token (Schulman 2020, http://joschu.net/blog/kl-approx.html):
    k1 = -log r (unbiased), k2 = (log r)^2 / 2 (biased, low variance), k3 = r - 1 - log r (unbiased, never negative).
    """
    log_ratio = (ref_logprobs - logprobs).masked_fill(~mask, 0.0)
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio**2
    return torch.expm1(log_ratio) - log_ratio


def kl_loss(
    logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, estimator: KLEstimator = "k1"
) -> Tensor:
    """Sum over mask of the KL estimate times the ratio to the sampling policy; differentiable. Arguments [B, T].

    Its gradient is that of the expectation that the estimator stands for: of KL(policy || reference) for k1 and k3, of
    E[k2] for k2. Without the ratio it would not be: k1's gradient is 0 on average, k3's that of the reverse direction
    (Tang and Munos 2025; DeepSeek-V3.2, section 3.1). What a token costs its successors is left out.
    """
    ratio = torch.exp((logprobs - old_logprobs).masked_fill(~mask, 0.0))
    return (ratio * per_token_kl(logprobs, ref_logprobs, mask, estimator)).sum()


def score_positions(mask: Tensor, reward_at: RewardAt = "eos") -> Tensor:
    """Column [B] at which each row of mask [B, T] is paid its score.

    "eos": the last real token. "trl": one past it where that still fits into T, else the last real token (TRL 1.12).
    Rows hold at least one real token, and real tokens come first.
    """
    lengths = mask.sum(1)
    if reward_at == "eos":
        return lengths - 1
    return torch.where(lengths < mask.size(1), lengths, lengths - 1)


def value_mask(mask: Tensor, reward_at: RewardAt = "eos") -> Tensor:
    """Cells [B, T] at which the critic is asked and trained: the real tokens, in "trl" mode one more where it fits."""
    if reward_at == "eos":
        return mask
    columns = torch.arange(mask.size(1), device=mask.device)
    return columns <= mask.sum(1, keepdim=True)


def per_token_rewards(kl: Tensor, scores: Tensor, positions: Tensor, kl_coef: float) -> Tensor:
    """Rewards [B, T]: minus kl_coef times kl [B, T], plus scores [B] at column positions [B] (Ziegler et al. 2019)."""
    rewards = -kl_coef * kl
    rows = torch.arange(rewards.size(0), device=rewards.device)
    return rewards.index_put((rows, positions), scores.to(rewards.dtype), accumulate=True)


def gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns, [B, T] each (Schulman et al. 2016, eq. 16).

    rewards and values [B, T] are 0 past a row's end, so that the state after the last one is worth 0 (terminal).
    """
    advantages = torch.zeros_like(rewards)
    last = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(last)
    for t in range(rewards.size(1) - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        last = delta + gamma * lam * last
        advantages[:, t] = last
        next_value = values[:, t]
    return advantages, advantages + values


def advantages_towards_reference(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Advantages [B, T] of a policy that is to lose KL and nothing else: minus each token's own KL (k1).

    What a token costs its successors is left out: it would be a sum of many noisy terms.
    """
    return -per_token_kl(logprobs, ref_logprobs, mask)


@dataclass(frozen=True)
class LossSums:
    """Sums over one micro-batch; divided by the minibatch's token count they add up to its mean, however it is cut."""

    loss: Tensor
    """[] differentiable sum of per-token losses."""
    clipped: Tensor
    """[] number of tokens for which the clipped branch was the larger one."""


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, cliprange: float) -> LossSums:
    """Clipped surrogate (Schulman et al. 2017, eq. 7), negated and summed over mask. All arguments are [B, T]."""
    ratio = torch.exp((logprobs - old_logprobs).masked_fill(~mask, 0.0))
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - cliprange, 1.0 + cliprange)
    return LossSums((torch.max(plain, clipped) * mask).sum(), ((clipped > plain) & mask).sum().detach())


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, cliprange: float) -> LossSums:
    """Half the squared error, the larger of clipped and plain, summed over mask. All arguments are [B, T]."""
    near = torch.max(torch.min(values, old_values + cliprange), old_values - cliprange)
    plain = (values - returns) ** 2
    clipped = (near - returns) ** 2
    return LossSums(0.5 * (torch.max(plain, clipped) * mask).sum(), ((clipped > plain) & mask).sum().detach())


def approx_kl(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Sum over mask of (log ratio)^2 / 2, the estimate of KL(old || new) that TRL logs. Arguments [B, T]."""
    return (0.5 * (logprobs - old_logprobs) ** 2 * mask).sum()


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over mask [B, T]; 1 for a perfect critic, 0 for constant returns."""
    spread = masked_var(returns, mask)
    explained = 1.0 - masked_var(returns - values, mask) / spread.clamp(min=1e-12)
    return torch.where(spread > 1e-12, explained, torch.zeros_like(spread))
