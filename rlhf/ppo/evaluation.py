"""Score, KL, length and EOS share on held-out prompts, and what a judge says that PPO does not optimise."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers.trainer_utils import speed_metrics

from rlhf.errors import UserError
from rlhf.generation import eval_mode, seeded
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.experience import as_text, sample_completions, score
from rlhf.ppo.losses import per_token_kl
from rlhf.ppo.metrics import rollout_metrics
from rlhf.ppo.prompts import PromptSet
from rlhf.ppo.rollout import Prompts, Rollout, assemble, blank
from rlhf.ppo.setup import RewardFunc
from rlhf.ppo.signals import spearman
from rlhf.scoring import FunctionScorer, Scorer, WeightedScorer

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
    args, start_time = trainer.args, time.time()
    size = args.per_device_eval_batch_size
    batches = [range(i, min(i + size, len(prompts))) for i in range(0, len(prompts), size)]
    trainer.callback_handler.eval_dataloader = cast(Any, batches)  # the progress bar asks for its length
    totals: dict[str, float] = {}
    all_scores: list[Tensor] = []
    all_judged: list[Tensor] = []
    with seeded(args.seed):
        for rows in batches:
            rollout = trainer.collect(prompts.batch(rows))
            scores, each = score(rollout, trainer.scorer, args, trainer.sampling)
            penalty = per_token_kl(rollout.logprobs, rollout.ref_logprobs, rollout.mask, args.kl_estimator)
            coefficient, eos_ids = trainer.kl_controller.value, trainer.sampling.eos_ids
            spread = trainer.scorer.spread(each)
            found = rollout_metrics(rollout, penalty, scores, each, args, coefficient, eos_ids, None, spread)
            for name, value in found.items():
                totals[name] = totals.get(name, 0.0) + value * len(rows)
            all_scores.append(scores.cpu())
            all_judged.append(_judged(trainer, rollout))
            trainer.control = trainer.callback_handler.on_prediction_step(args, trainer.state, trainer.control)
    del totals["val/num_eos_tokens"]  # a count, and completions/eos_share says the same
    means = {name: value / len(prompts) for name, value in totals.items()}
    whole = torch.cat(all_scores)
    means["objective/score_std"] = float(whole.std(correction=0))
    if trainer.judge is not None:
        means |= _judge_metrics(whole, torch.cat(all_judged))
    metrics = {f"{prefix}_{name}": value for name, value in means.items()}
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


def _judged(trainer: "PPOTrainer", rollout: Rollout) -> Tensor:
    """What the judge says of a rollout, [B] on the CPU; empty without one."""
    if trainer.judge is None:
        return torch.zeros(0)
    texts, columns = as_text(rollout.prompts, rollout.completion_ids, rollout.mask, trainer.sampling)
    return trainer.judge.score(rollout.prompts.texts, texts, columns).cpu()


def _judge_metrics(scores: Tensor, judged: Tensor) -> dict[str, float]:
    """Mean of the judge's scores [N] beside ours [N], and how sure both are."""
    root = len(scores) ** 0.5
    return {
        "objective/score_se": float(scores.std(correction=0)) / root,
        "objective/judge": float(judged.mean()),
        "objective/judge_se": float(judged.std(correction=0)) / root,
        "objective/judge_corr": spearman(scores, judged),
        "objective/judge_corr_se": 1.0 / max(len(scores) - 1, 1) ** 0.5,
    }
