"""Score, KL, length and EOS share of the policy on held-out prompts."""

import time
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers.trainer_utils import speed_metrics

from rlhf.generation import seeded
from rlhf.ppo.experience import score
from rlhf.ppo.losses import per_token_kl
from rlhf.ppo.metrics import rollout_metrics
from rlhf.ppo.prompts import PromptSet

if TYPE_CHECKING:
    from rlhf.ppo.trainer import PPOTrainer


def evaluate_prompts(trainer: "PPOTrainer", prompts: PromptSet, prefix: str) -> dict[str, float]:
    """Training's rollout metrics over all of `prompts` under `prefix_`, drawn from a generator of its own."""
    args, start_time = trainer.args, time.time()
    size = args.per_device_eval_batch_size
    batches = [range(i, min(i + size, len(prompts))) for i in range(0, len(prompts), size)]
    trainer.callback_handler.eval_dataloader = cast(Any, batches)  # the progress bar asks for its length
    totals: dict[str, float] = {}
    all_scores: list[Tensor] = []
    with seeded(args.seed):
        for rows in batches:
            rollout = trainer.collect(prompts.batch(rows))
            scores, each = score(rollout, trainer.scorer, trainer.processing_class, args.missing_eos_penalty)
            penalty = per_token_kl(rollout.logprobs, rollout.ref_logprobs, rollout.mask, args.kl_estimator)
            coefficient, eos_ids = trainer.kl_controller.value, trainer.sampling.eos_ids
            for name, value in rollout_metrics(rollout, penalty, scores, each, args, coefficient, eos_ids).items():
                totals[name] = totals.get(name, 0.0) + value * len(rows)
            all_scores.append(scores.cpu())
            trainer.control = trainer.callback_handler.on_prediction_step(args, trainer.state, trainer.control)
    del totals["val/num_eos_tokens"]  # a count, and completions/eos_share says the same
    means = {name: value / len(prompts) for name, value in totals.items()}
    means["objective/score_std"] = float(torch.cat(all_scores).std(correction=0))
    metrics = {f"{prefix}_{name}": value for name, value in means.items()}
    return metrics | speed_metrics(prefix, start_time, num_samples=len(prompts), num_steps=len(batches))
