"""Score, KL, length and EOS share on held-out prompts, and what a judge says that PPO does not optimise."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.trainer_utils import speed_metrics

from rlhf.errors import UserError
from rlhf.generation import eval_mode, seeded
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.experience import as_text, sample_completions, score
from rlhf.ppo.losses import per_token_kl
from rlhf.ppo.metrics import Scores, rollout_metrics
from rlhf.ppo.prompts import PromptSet
from rlhf.ppo.rollout import Prompts, Rollout, assemble, blank
from rlhf.ppo.setup import RewardFunc
from rlhf.ppo.signals import spearman
from rlhf.scoring import FunctionScorer, NonFiniteScoreError, Scorer, WeightedScorer, require_finite

if TYPE_CHECKING:
    from rlhf.ppo.trainer import PPOTrainer


def build_judge(
    judge: Sequence[RewardFunc] | RewardFunc | None, eval_prompts: Mapping[str, PromptSet], args: PPOConfig
) -> WeightedScorer | None:
    """The judges' sum as one scorer; None without any. Raises UserError where there is nothing to judge."""
    if judge is None:
        return None
    if not eval_prompts:
        raise UserError("judge: it judges held-out prompts, and there are none; give an eval_dataset")
    judges = list(judge) if isinstance(judge, list | tuple) else [cast(RewardFunc, judge)]
    scorer = WeightedScorer([j if isinstance(j, Scorer) else FunctionScorer(j) for j in judges])
    for prompts in eval_prompts.values():
        scorer.prepare(prompts.columns, args.reward_timeout)
    scorer.to(args.device)
    return scorer


def evaluate_sets(trainer: "PPOTrainer", sets: Mapping[str, PromptSet], prefix: str) -> dict[str, float]:
    """`evaluate_prompts` for each set, under `prefix_<name>_`; UserError without any."""
    if not sets:
        raise UserError("eval_dataset: there is none to evaluate on; pass one here or to the constructor")
    metrics: dict[str, float] = {}
    for name, prompts in sets.items():
        metrics |= evaluate_prompts(trainer, prompts, f"{prefix}_{name}" if name else prefix)
    return metrics


def evaluate_prompts(trainer: "PPOTrainer", prompts: PromptSet, prefix: str) -> dict[str, float]:
    """Training's rollout metrics over all of `prompts` under `prefix_`, drawn from a generator of its own.

    With a judge also `objective/judge`, its standard error, its rank correlation with the score, and that one's error.
    """
    args, start_time, sampling = trainer.args, time.time(), trainer.sampling
    size = args.per_device_eval_batch_size
    batches = [range(i, min(i + size, len(prompts))) for i in range(0, len(prompts), size)]
    trainer.callback_handler.eval_dataloader = cast(Any, batches)  # the progress bar asks for its length
    rollouts: list[Rollout] = []
    all_scores: list[Tensor] = []
    all_each: list[dict[str, Tensor]] = []
    with seeded(args.seed):
        for rows in batches:
            rollout = trainer.collect(prompts.batch(rows))
            scores, each = score(rollout, trainer.scorer, args, sampling)
            rollouts.append(replace(rollout, critic_states=None))
            all_scores.append(scores)
            all_each.append(each)
            trainer.control = trainer.callback_handler.on_prediction_step(args, trainer.state, trainer.control)
        judged = _judged(trainer, rollouts)
    # Of all rows at once: a maximum, a correlation or a share of distinct n-grams is no mean of those of the batches.
    whole = _joined(rollouts, sampling.pad_id)
    each = {name: torch.cat([found[name] for found in all_each]) for name in all_each[0]}
    scores = Scores(torch.cat(all_scores), each, spread=trainer.scorer.spread(each))
    penalty = per_token_kl(whole.logprobs, whole.ref_logprobs, whole.mask, args.kl_estimator)
    found = rollout_metrics(whole, penalty, scores, args, trainer.kl_controller.value, sampling.eos_ids)
    del found["val/num_eos_tokens"]  # a count, and completions/eos_share says the same
    if judged is not None:
        found |= _judge_metrics(scores.total.cpu(), judged)
    metrics = {f"{prefix}_{name}": value for name, value in found.items()}
    return metrics | speed_metrics(prefix, start_time, num_samples=len(prompts), num_steps=len(batches))


def reference_scores(trainer: "PPOTrainer", prompts: Prompts) -> Tensor:
    """Scores [B], penalties taken off, of the reference's completions, drawn from a generator of its own."""
    sampling = trainer.sampling
    with seeded(trainer.args.seed), eval_mode(trainer.model), trainer.autocast(), trainer.reference.active() as model:
        tokens = sample_completions(model, prompts, sampling)
    nothing = blank(tokens)
    rollout = assemble(prompts, tokens, sampling.eos_ids, sampling.reward_at, nothing, nothing, nothing)
    scores, _ = score(rollout, trainer.scorer, trainer.args, sampling)
    return scores


def _joined(rollouts: Sequence[Rollout], pad_id: int) -> Rollout:
    """The rows of several rollouts as one rollout."""
    width = max(rollout.mask.size(1) for rollout in rollouts)

    def rows(name: str, fill: int = 0) -> Tensor:
        parts: list[Tensor] = [getattr(rollout, name) for rollout in rollouts]
        return torch.cat([pad(part, (0, width - part.size(1)), value=fill) for part in parts])

    prompts = [rollout.prompts for rollout in rollouts]
    return Rollout(
        prompts=Prompts(
            ids=[ids for part in prompts for ids in part.ids],
            texts=[text for part in prompts for text in part.texts],
            columns={name: [value for part in prompts for value in part.columns[name]] for name in prompts[0].columns},
        ),
        completion_ids=rows("completion_ids", pad_id),
        ended=torch.cat([rollout.ended for rollout in rollouts]),
        **{name: rows(name) for name in ("mask", "value_mask", "logprobs", "ref_logprobs", "values")},
    )


def _judged(trainer: "PPOTrainer", rollouts: Sequence[Rollout]) -> Tensor | None:
    """What the judge says of all N rows, [N] on the CPU; None without one.

    A NaN of the judge's spoils no training: it is an alarm, and all N are NaN, for a mean of the rest would be compared
    with means of all.
    """
    if trainer.judge is None:
        return None
    found: list[Tensor] = []
    try:
        for rollout in rollouts:
            texts, columns = as_text(rollout.prompts, rollout.completion_ids, rollout.mask, trainer.sampling)
            found.append(require_finite(trainer.judge.score(rollout.prompts.texts, texts, columns).cpu(), "judge"))
    except NonFiniteScoreError as error:
        trainer.tell(trainer.monitor.unjudged(error, trainer.state.global_step))
        return torch.full((sum(len(rollout.mask) for rollout in rollouts),), math.nan)
    return torch.cat(found)


def _judge_metrics(scores: Tensor, judged: Tensor) -> dict[str, float]:
    """Mean of the judge's scores [N] beside ours [N], and how sure both are; NaN where the judge gave no numbers."""
    root = len(scores) ** 0.5
    is_judged = bool(torch.isfinite(judged).all())
    return {
        "objective/score_se": float(scores.std(correction=0)) / root,
        "objective/judge": float(judged.mean()),
        "objective/judge_se": float(judged.std(correction=0)) / root,
        "objective/judge_corr": spearman(scores, judged) if is_judged else math.nan,
        "objective/judge_corr_se": 1.0 / max(len(scores) - 1, 1) ** 0.5,
    }
