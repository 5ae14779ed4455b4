"""The RLOO stage: from a config, prompts and scorers to a `policy` artefact, on TRL's RLOOTrainer."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from peft import PeftModel
from torch import nn
from trl import RLOOConfig

from rlhf import checkpoint
from rlhf.errors import StoppedByMonitor, UserError
from rlhf.generation import stop_token_ids
from rlhf.inputs import scorers_on_record
from rlhf.modeling import device, warn_of_low_precision
from rlhf.modeling.trainer_config import build_args
from rlhf.registry import Kind
from rlhf.rloo.evaluation import Measured, divergence, measure
from rlhf.rloo.reading import Inputs, read
from rlhf.rloo.rewards import ScorerFunction, missing_eos, whole
from rlhf.rloo.stage_config import RLOOStageConfig
from rlhf.rloo.trainer import ResumableRLOOTrainer, largest_weight
from rlhf.scorers import load_scorers
from rlhf.scoring import WeightedScorer
from rlhf.tracking import Run, begun_with
from rlhf.training import (
    finite,
    made_from_config,
    one_process,
    owned_args,
    publish_last_good,
    resumable,
    train,
)
from rlhf.training.policies import drop_reference_copy, load_reference, policy_of, publish_policy
from rlhf.training.prompts import PromptRows
from rlhf.workspace import Workspace, report_problems

logger = logging.getLogger(__name__)

NUM_SAMPLES = 16
"""Held-out prompts whose completions are kept before and after, for people to read."""
SHOWN_FIGURES = ("objective/scores", "objective/kl", "completions/mean_length")
"""What stands beside the progress bar."""


def train_rloo(config: RLOOStageConfig, workspace: Workspace) -> dict[str, Any]:
    """Optimise a policy, measure, publish.

    Returns:
        The run's summary, in PPO's names: the scorers' own held-out mean score before and after, without penalties, KL
        from the start (nats per sequence), length (tokens), share of completions that end, the artefact.

    Raises:
        UserError: the input is wrong; nothing has been published.
        StoppedByMonitor: the gradient, a score or a probability became NaN or infinite. The last good checkpoint, if
            there is one, has been published under the output's name with `-stopped` behind it.
        Interrupted: stopped by a signal, or a reward function failed; the run can be resumed.
    """
    one_process()
    inputs = read(config, workspace)
    out = config.output
    names: dict[str, Kind] = {out.name: "policy", out.data_name: "dataset", out.stopped_name: "policy"}
    with workspace.run("rloo", config, config.tracking, data=inputs.data, models=inputs.refs, publishes=names) as run:
        report_problems([*inputs.data.problems, *inputs.too_long], run.folder / "set_aside.jsonl")
        scorer = whole(load_scorers(inputs.scorers, device=device()), inputs.rows)
        trainer = _trainer(config, inputs, scorer, run)
        shown = inputs.dev if len(inputs.dev) else inputs.train.only(range(min(NUM_SAMPLES, len(inputs.train))))
        try:
            # 1. before
            before = measure(trainer, shown, scorer)
            if checkpoint.latest_intact(run.checkpoints) is None and len(inputs.dev):  # else it was logged at the start
                run.log(_as_ppo_logs(before.figures("before"), "before"), step=0)
            # 2. train, 3. after
            with resumable(run, workspace):
                train(trainer, run, workspace, shown=SHOWN_FIGURES, check=largest_weight)
            after = measure(trainer, shown, scorer)
            kl = divergence(trainer, after, _reference(config, inputs, trainer))
        except StoppedByMonitor as error:
            publish = partial(_publish, config, workspace, run, trainer, inputs, {})
            publish_last_good(trainer, run, error, publish, largest_weight)
            raise
        summary: dict[str, Any] = {}
        if len(inputs.dev):
            summary = before.figures("before") | after.figures("after") | {"kl": kl}
            told = _as_ppo_logs(after.figures("after"), "after") | {"eval_objective/kl": kl}
            run.log(told, step=trainer.state.global_step)
        summary |= {
            "num_updates": trainer.state.global_step,
            "num_episodes": _num_episodes(trainer),
            "num_prompts": len(inputs.train),
            "num_dev_prompts": len(inputs.dev),
            "num_set_aside": len(inputs.data.problems) + len(inputs.too_long),
        }
        # 4. publish
        summary["artefact"] = _publish(config, workspace, run, trainer, inputs, finite(summary))
        _log_samples(run, trainer, shown, before, after, held_out=bool(len(inputs.dev)))
        return run.finish(summary)


def _trainer(config: RLOOStageConfig, inputs: Inputs, scorer: WeightedScorer, run: Run) -> ResumableRLOOTrainer:
    functions: list[Any] = [ScorerFunction(each, inputs.tokenizer, inputs.rows) for each in scorer.scorers]
    weights = list(scorer.weights)
    if config.missing_eos_penalty:
        functions.append(missing_eos(stop_token_ids(inputs.policy, inputs.tokenizer)))
        weights.append(-config.missing_eos_penalty)
    owned = owned_args(run, config.seed, config.trainer)
    args = build_args(RLOOConfig, inputs.fields, **owned, reward_weights=weights)
    warn_of_low_precision(inputs.policy, args.learning_rate)
    prompts_a_rollout = args.generation_batch_size // args.num_generations
    if len(inputs.train) < prompts_a_rollout:
        raise UserError(
            f"data: {len(inputs.train)} prompts do not fill one rollout of {prompts_a_rollout} (trainer.generation_"
            "batch_size / num_generations); give more prompts or a smaller batch"
        )
    train_rows, dev_rows = inputs.datasets()
    with made_from_config():
        trainer = ResumableRLOOTrainer(
            model=inputs.policy,
            reward_funcs=functions,
            args=args,
            train_dataset=train_rows,
            eval_dataset=dev_rows,
            processing_class=inputs.tokenizer,
        )
    drop_reference_copy(inputs.policy)
    if trainer.ref_model is not None:
        # TRL has loaded it from the folder of the whole model at the bottom, below whatever has been merged into it
        reference = cast(nn.Module, trainer.accelerator.unwrap_model(trainer.ref_model))
        reference.load_state_dict(policy_of(trainer).state_dict())
    return trainer


def _reference(config: RLOOStageConfig, inputs: Inputs, trainer: ResumableRLOOTrainer) -> nn.Module | None:
    """The whole model as training began from it: TRL has none in memory for beta 0, and may have moved it."""
    if isinstance(inputs.policy, PeftModel):
        return None
    if trainer.ref_model is not None and not trainer.args.sync_ref_model:
        return cast(nn.Module, trainer.accelerator.unwrap_model(trainer.ref_model))
    return load_reference(inputs.source, config.model).to(trainer.args.device)


def _num_episodes(trainer: ResumableRLOOTrainer) -> int:
    """How many completions have been drawn to learn from."""
    micro_batches = trainer.state.global_step * trainer.args.gradient_accumulation_steps
    rollouts = -(-micro_batches // (trainer.args.steps_per_generation * trainer.num_iterations))
    return int(rollouts * trainer.args.generation_batch_size)


def _as_ppo_logs(figures: Mapping[str, float], when: str) -> dict[str, float]:
    """Under the keys of a PPO evaluation, which the report draws."""
    return {
        "eval_objective/scores": figures[f"score_{when}"],
        "eval_completions/mean_length": figures[f"length_{when}"],
        "eval_completions/eos_share": figures[f"eos_share_{when}"],
    }


def _log_samples(
    run: Run, trainer: ResumableRLOOTrainer, shown: PromptRows, before: Measured, after: Measured, *, held_out: bool
) -> None:
    rows = [
        {
            "prompt": record["prompt"],
            "before": before.written.texts[i],
            "after": after.written.texts[i],
            "score_before": float(before.scores[i]),
            "score_after": float(after.scores[i]),
            "held_out": held_out,
        }
        for i, record in enumerate(shown.records[:NUM_SAMPLES])
    ]
    run.log_samples(rows, step=trainer.state.global_step)


def _publish(
    config: RLOOStageConfig,
    workspace: Workspace,
    run: Run,
    trainer: ResumableRLOOTrainer,
    inputs: Inputs,
    metrics: Mapping[str, float],
    stopped: str | None = None,
) -> str:
    rows = workspace.publish_data(inputs.data, name=config.output.data_name, kind="dataset", run=run)
    rewards = [found.source.publish(workspace.registry) for found in inputs.scorers if found.source]
    scorers = scorers_on_record(config.reward, [reward.ref for reward in rewards], begun_with(run.folder))
    return publish_policy(
        config,
        workspace,
        run,
        trainer,
        method="rloo",
        source=inputs.source,
        parents=[("data", rows), *(("reward", reward) for reward in rewards)],
        metadata={"metrics": dict(metrics), "scorers": scorers},
        stopped=stopped,
    )
