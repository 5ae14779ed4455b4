"""Figures of a rollout that show a policy going wrong before its score does; the monitor reads them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from rlhf.ppo.losses import per_token_kl
from rlhf.ppo.rollout import Rollout

SIGNALS = (
    "objective/kl_se",
    "objective/score_max_abs",
    "objective/scorer_std",
    "objective/score_length_corr",
    "objective/score_ref_corr",
    "completions/distinct_2",
    "completions/repeated_4grams",
)


def signals(
    rollout: Rollout, scores: Tensor, each_score: Mapping[str, Tensor], spread: Tensor | None = None
) -> dict[str, float]:
    """Variety, repetition, and what the scores [B] go by; `spread` [B] is the disagreement of an ensemble.

    `objective/scorer_std` is the largest of the scorers' standard deviations: penalties alone do not make a score.
    """
    lengths = rollout.lengths
    kl = per_token_kl(rollout.logprobs, rollout.ref_logprobs, rollout.mask).sum(1)
    values = (
        float(kl.std(correction=0)) / len(kl) ** 0.5,
        float(scores.abs().max()),
        max(float(values.std(correction=0)) for values in each_score.values()),
        spearman(scores, lengths),
        spearman(scores, rollout.ref_logprobs.sum(1) / lengths),
        distinct_ngrams(rollout.completion_ids, rollout.mask, 2),
        repeated_ngrams(rollout.completion_ids, rollout.mask, 4),
    )
    found = dict(zip(SIGNALS, values, strict=True))
    return found if spread is None else found | {"objective/score_ensemble_std": float(spread.mean())}


def spearman(x: Tensor, y: Tensor) -> float:
    """Rank correlation of x [B] and y [B], ties at their mean rank; 0 where one of them is constant."""
    ranks = [_ranks(values) for values in (x, y)]
    spread = [rank - rank.mean() for rank in ranks]
    size = spread[0].norm() * spread[1].norm()
    return float((spread[0] * spread[1]).sum() / size) if size > 0 else 0.0


def _ranks(values: Tensor) -> Tensor:
    """Ranks [B] float64 from 1 on, equal values at their mean rank."""
    _, group, counts = torch.unique(values.cpu(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[group]


def distinct_ngrams(ids: Tensor, mask: Tensor, n: int) -> float:
    """Distinct n-grams of ids [B, T] as a share of all, over the whole batch (Li et al. 2016); 1 without any."""
    grams, _ = _ngrams(ids, mask, n)
    return len(torch.unique(grams, dim=0)) / len(grams) if len(grams) else 1.0


def repeated_ngrams(ids: Tensor, mask: Tensor, n: int) -> float:
    """Share of n-grams of ids [B, T] that have stood in the same completion before; 0 without any."""
    grams, rows = _ngrams(ids, mask, n)
    if not len(grams):
        return 0.0
    distinct = torch.unique(torch.cat([rows[:, None], grams], dim=1), dim=0)
    return 1.0 - len(distinct) / len(grams)


def _ngrams(ids: Tensor, mask: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """All n-grams of real tokens, [N, n], and the row that each is from, [N]."""
    if ids.size(1) < n:
        return ids.new_zeros((0, n)), ids.new_zeros(0)
    whole = mask[:, n - 1 :]  # real tokens come first: the last one of a window is real if all are
    rows, columns = whole.nonzero(as_tuple=True)
    return ids.unfold(1, n, 1)[rows, columns], rows
