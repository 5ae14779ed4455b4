"""What is reported of an update, under TRL 1.12's keys. Real tokens count and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.ppo.config import PPOConfig
from rlhf.ppo.losses import KLEstimator, explained_variance, masked_mean, per_token_kl
from rlhf.ppo.rollout import Rollout
from rlhf.ppo.signals import SIGNALS, signals

LATEST = frozenset({"episode", "lr", "eps", "objective/kl_coef"})
"""Metrics of which the last value is logged; of the others the mean over the updates since the last log."""

EVALUATION_KEYS = (
    "objective/scores",
    "objective/score_std",
    "objective/kl",
    "objective/rlhf_reward",
    "objective/non_score_reward",
    "objective/entropy",
    "completions/mean_length",
    "completions/eos_share",
    *SIGNALS,
)
"""What an evaluation reports, beside `objective/scores/<name>` of each scorer."""

JUDGE_KEYS = ("objective/judge", "objective/judge_se", "objective/judge_corr")
"""What it reports beside that of a held-out judge."""

MINIBATCH_KEYS = (
    "loss/policy_avg",
    "loss/value_avg",
    "policy/approxkl_avg",
    "policy/clipfrac_avg",
    "val/clipfrac_avg",
    "policy/entropy_avg",
    "val/ratio",
    "policy/kl_avg",
    "policy/grad_norm",
    "value/grad_norm",
)
"""Order of the numbers that one optimizer step hands over, each a mean over its real tokens.

`policy/kl_avg` alone is per sequence, as `objective/kl` is: the divergence from the reference while the update goes on.
"""

PTX_KEYS = ("loss/ptx_avg",)
"""What comes behind them where there is a PTX loss."""


@dataclass(frozen=True)
class Scores:
    """What the scorers say of a rollout, [B] each."""

    total: Tensor
    """The score, penalties taken off."""
    each: Mapping[str, Tensor]
    """Each scorer's own by its name, without weight or penalty."""
    shaped: Tensor | None = None
    """The score as it is paid; None where nothing is, as in an evaluation."""
    spread: Tensor | None = None
    """The disagreement of an ensemble of reward models; None without one."""


def rollout_metrics(
    rollout: Rollout, penalty: Tensor, scores: Scores, args: PPOConfig, kl_coef: float, stop_ids: Sequence[int]
) -> dict[str, float]:
    """Metrics of a rollout.

    `objective/kl`, `objective/entropy` and the rewards are per sequence: summed over its tokens, mean over sequences.
    `penalty` [B, T] is what `args.kl_estimator` gives; k2 is biased, and is not what `objective/kl` says then: that is
    always an unbiased estimate of the KL in nats, k3 where TRL would report it and k1 elsewhere.
    """
    kl = sequence_kl(rollout, args)
    total, shaped = scores.total, scores.shaped
    paid = total if shaped is None else shaped
    non_score = -kl_coef * penalty.sum(1).mean()
    stops = torch.isin(rollout.completion_ids, torch.tensor(list(stop_ids), device=rollout.mask.device)) & rollout.mask
    metrics = {
        "objective/kl": kl.mean(),
        "objective/entropy": -rollout.logprobs.sum(1).mean(),
        "objective/non_score_reward": non_score,
        "objective/rlhf_reward": non_score + paid.mean(),
        "objective/scores": total.mean(),
        "objective/score_std": total.std(correction=0),
        "val/num_eos_tokens": stops.sum(),
        "completions/mean_length": rollout.lengths.float().mean(),
        "completions/eos_share": rollout.ended.float().mean(),
    }
    metrics.update({f"objective/scores/{name}": values.mean() for name, values in scores.each.items()})
    if shaped is not None and (args.score_normalization != "none" or args.score_clip is not None):
        metrics["objective/shaped_scores"] = shaped.mean()
    return {name: float(value) for name, value in metrics.items()} | signals(rollout, total, scores.each, scores.spread)


def sequence_kl(rollout: Rollout, args: PPOConfig) -> Tensor:
    """An unbiased estimate of the KL from the reference [B], nats per sequence: k3 where TRL reports it, else k1."""
    unbiased: KLEstimator = "k3" if args.kl_estimator == "k3" else "k1"
    return per_token_kl(rollout.logprobs, rollout.ref_logprobs, rollout.mask, unbiased).sum(1)


def sampler_gap(rollout: Rollout) -> dict[str, float]:
    """How far the sampler's log-probs are from the measured ones in size, under TRL's keys; none without any.

    Rounding gives a little. A sampler that draws from another distribution than is trained shows here first.
    """
    if rollout.sampler_logprobs is None:
        return {}
    gap = (rollout.logprobs - rollout.sampler_logprobs).abs().masked_fill(~rollout.mask, 0.0)
    mean, largest = float(masked_mean(gap, rollout.mask)), float(gap.max())
    return {"sampling/sampling_logp_difference/mean": mean, "sampling/sampling_logp_difference/max": largest}


def training_metrics(steps: Sequence[Tensor], rollout: Rollout, returns: Tensor) -> dict[str, float]:
    """Means over the optimizer steps of one update, each a tensor in the order of MINIBATCH_KEYS and then PTX_KEYS."""
    table = torch.stack(list(steps)).double()
    keys = (*MINIBATCH_KEYS, *PTX_KEYS)[: table.size(1)]
    metrics = dict(zip(keys, table.mean(0).tolist(), strict=True)) | {"policy/num_steps": float(len(steps))}
    ratios = table[:, MINIBATCH_KEYS.index("val/ratio")]
    metrics["val/ratio_var"] = float(ratios.var(correction=1 if len(ratios) > 1 else 0))
    metrics["val/explained_variance"] = float(explained_variance(rollout.values, returns, rollout.value_mask))
    metrics["val/mean"] = float(masked_mean(rollout.values, rollout.value_mask))
    return metrics


class MetricLog:
    """Collects the metrics of updates between two logs."""

    def __init__(self) -> None:
        self.updates: list[dict[str, float]] = []

    def add(self, metrics: dict[str, float]) -> None:
        """Take in one update's metrics."""
        self.updates.append(metrics)

    def take(self) -> dict[str, float]:
        """Means since the last call (the last value for LATEST); empty when nothing came in.

        The mean is over those updates that have the figure: a run may be resumed with settings that add one.
        """
        values: dict[str, list[float]] = {}
        for update in self.updates:
            for key, value in update.items():
                values.setdefault(key, []).append(value)
        self.updates.clear()
        return {key: found[-1] if key in LATEST else sum(found) / len(found) for key, found in values.items()}
