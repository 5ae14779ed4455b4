"""The PPO stage: from a config to a `policy` artefact."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase, set_seed

from rlhf.datasets import load
from rlhf.errors import StoppedByMonitor, UserError
from rlhf.generation import Messages, context_length, encode_prompt, sample
from rlhf.modeling import find_model, load_causal_lm, load_tokenizer, lora_config, save_model
from rlhf.modeling.trainer_config import build_args
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.stage_config import PPOStageConfig
from rlhf.ppo.trainer import PPOTrainer
from rlhf.records import Problem, Prompt, Record
from rlhf.scorers import find_scorers, load_scorers
from rlhf.scoring import RewardModelScorer, Scorer, WeightedScorer
from rlhf.tracking import Run
from rlhf.training import eval_strategy, finite, owned_args, train, without_own_output
from rlhf.workspace import Workspace, report_problems

logger = logging.getLogger(__name__)

NUM_SAMPLES = 16
"""Held-out prompts whose completions are kept before and after, for people to read."""
TRAINABLE_KINDS = ("base", "sft", "policy")


def train_ppo(config: PPOStageConfig, workspace: Workspace) -> dict[str, Any]:
    """Optimise a policy, measure, publish.

    Returns:
        The run's summary: held-out mean score before and after, KL from the reference (nats per sequence), length
        (tokens), share of completions that end, the artefact.

    Raises:
        UserError: the input is wrong; nothing has been published.
        StoppedByMonitor: training would have been ruined; the last good policy has been published as such.
        Interrupted: stopped by a signal; the run can be resumed.
    """
    # 1. read all input before anything is written
    source = find_model(config.model.ref, workspace.registry, kinds=TRAINABLE_KINDS)
    found_scorers = find_scorers(config.reward, workspace.registry)
    reference = (
        find_model(config.reference, workspace.registry, kinds=TRAINABLE_KINDS, key="reference")
        if config.reference
        else None
    )
    tokenizer = load_tokenizer(source)
    data = load(config.data, (Prompt,), seed=config.seed, open_ref=workspace.open_ref)
    set_seed(config.seed)
    policy = load_causal_lm(source, config.model.model_copy(update={"adapter": None}), trainable=True)
    scorer = load_scorers(found_scorers)
    fields: dict[str, Any] = {"stop_token": "eos", "num_sample_generations": 0} | config.trainer
    if fields.get("stop_token_id") is not None:
        fields["stop_token"] = None
    fields["eval_strategy"] = eval_strategy(config.trainer, bool(data.dev), default="no")
    length = fields.get("response_length", PPOConfig.response_length)
    train_rows, too_long = prompt_rows(data.train, tokenizer, policy, length, fields)
    dev_rows, dev_too_long = prompt_rows(data.dev, tokenizer, policy, length, fields)
    if not train_rows:
        raise UserError(
            f"data: no prompt fits the model's context of {context_length(policy)} tokens; the first: {too_long[0]}"
        )

    with workspace.run("ppo", config, config.tracking) as run:
        report_problems([*data.problems, *too_long, *dev_too_long], run.folder / "set_aside.jsonl")
        # 2. train
        trainer = PPOTrainer(
            args=build_args(PPOConfig, fields, **owned_args(run, config.seed, config.trainer)),
            processing_class=tokenizer,
            model=policy,
            ref_model=load_causal_lm(reference) if reference else None,
            reward_model=None,
            train_dataset=Dataset.from_list(train_rows),
            value_model=_critic(config, scorer, tokenizer),
            eval_dataset=Dataset.from_list(dev_rows) if dev_rows else None,
            peft_config=lora_config(config.model.adapter) if config.model.adapter else None,
            reward_funcs=[scorer],
        )
        without_own_output(trainer)
        shown_rows = (dev_rows or train_rows)[:NUM_SAMPLES]
        shown = [row["prompt"] for row in shown_rows]
        before = trainer.evaluate() if dev_rows else {}
        run.log(finite(before), step=0)
        first = _complete(trainer, shown, config.seed)
        stopped: StoppedByMonitor | None = None
        try:
            train(
                trainer,
                run,
                workspace,
                shown=("objective/scores", "objective/kl", "completions/mean_length"),
                seals=True,
            )
        except StoppedByMonitor as error:
            stopped = error
        # 3. measure
        after: dict[str, float] = {}
        if not stopped:  # else the scorer may be what broke
            after = trainer.evaluate() if dev_rows else {}
            last = _complete(trainer, shown, config.seed)
            run.log_samples(_side_by_side(scorer, shown_rows, first, last), step=trainer.state.global_step)
        summary: dict[str, Any] = {
            **_figures(before, after),
            "num_updates": trainer.state.global_step,
            "num_episodes": trainer.state.episode,
            "num_prompts": len(train_rows),
            "num_set_aside": len(data.problems) + len(too_long) + len(dev_too_long),
            **({"stopped": str(stopped)} if stopped else {}),
        }
        # 4. publish
        if stopped and not _is_finite(trainer.policy_model):
            run.finish(summary, "stopped")
            raise stopped
        summary["artefact"] = _publish(config, workspace, run, trainer, source, reference, found_scorers, data, summary)
        if stopped:
            run.finish(summary, "stopped")
            raise stopped
        return run.finish(summary)


def prompt_rows(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    policy: nn.Module,
    length: int,
    fields: dict[str, Any],
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Rows with a `prompt` and the record's further columns, and the prompts that leave no room for a completion."""
    rows, problems = [], []
    limits = [fields.get("max_prompt_length"), (context_length(policy) or 0) - length or None]
    limit = min((value for value in limits if value), default=None)
    for number, record in enumerate(records, start=1):
        row = record.row()
        size = len(encode_prompt(tokenizer, row["prompt"]))
        if limit is None or size <= limit or fields.get("truncate_prompts"):
            rows.append(row)
        else:
            what = f"the prompt has {size} tokens; with trainer.response_length = {length} at most {limit} fit"
            problems.append(Problem("data (after cleaning)", number, what))
    columns = set.intersection(*(set(row) for row in rows)) if rows else set()
    return [{name: value for name, value in row.items() if name in columns} for row in rows], problems


def _is_finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def _critic(config: PPOStageConfig, scorer: Scorer, tokenizer: PreTrainedTokenizerBase) -> nn.Module | None:
    """A copy of the first reward model that reads the policy's tokens; None for the policy's own backbone."""
    if config.critic == "policy":
        return None
    parts: Sequence[Scorer] = scorer.scorers if isinstance(scorer, WeightedScorer) else [scorer]
    for part in parts:
        if not isinstance(part, RewardModelScorer) or not hasattr(part.model, "score"):
            continue
        if part.tokenizer.get_vocab() == tokenizer.get_vocab():
            return copy.deepcopy(part.model).requires_grad_(True)
    return None


def _complete(trainer: PPOTrainer, prompts: Sequence[str | Messages], seed: int) -> list[str]:
    completions = sample(
        trainer.policy_model,
        trainer.processing_class,
        prompts,
        max_new_tokens=trainer.args.response_length,
        temperature=trainer.args.temperature,
        stop_ids=trainer.sampling.stop_ids,
        seed=seed,
    )
    return [completion.text for completion in completions]


def _side_by_side(
    scorer: Scorer, rows: Sequence[dict[str, Any]], before: list[str], after: list[str]
) -> list[dict[str, Any]]:
    prompts = [row["prompt"] for row in rows]
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    scores = [scorer.score(prompts, texts, columns).tolist() for texts in (before, after)]
    return [
        {"prompt": prompt, "before": old, "after": new, "score_before": old_score, "score_after": new_score}
        for prompt, old, new, old_score, new_score in zip(prompts, before, after, *scores, strict=True)
    ]


def _figures(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """The held-out figures a reader looks for first; the rest is in metrics.jsonl."""
    names = {
        "score_after": (after, "eval_objective/scores"),
        "score_before": (before, "eval_objective/scores"),
        "kl": (after, "eval_objective/kl"),
        "length_before": (before, "eval_completions/mean_length"),
        "length_after": (after, "eval_completions/mean_length"),
        "eos_share": (after, "eval_completions/eos_share"),
    }
    return {name: round(source[key], 4) for name, (source, key) in names.items() if key in source}


def _publish(
    config: PPOStageConfig,
    workspace: Workspace,
    run: Run,
    trainer: PPOTrainer,
    source: Any,
    reference: Any,
    scorers: Any,
    data: Any,
    summary: dict[str, Any],
) -> str:
    registry = workspace.registry
    base = source.publish(registry)
    rows = workspace.publish_data(data, config.data, name=f"{config.output.name}-data", kind="dataset", run=run)
    parents = [("base", base), ("data", rows)]
    parents += [("reward", found.source.publish(registry)) for found in scorers if found.source]
    parents += [("ref", reference.publish(registry))] if reference else []
    with TemporaryDirectory(dir=run.folder) as scratch:
        save_model(trainer.policy_model, trainer.processing_class, Path(scratch), base_ref=base.ref)
        artefact = registry.publish(
            Path(scratch),
            kind="policy",
            name=config.output.name,
            parents=parents,
            metadata={"metrics": finite(summary), "seed": config.seed, "stopped": summary.get("stopped")},
            alias=None if summary.get("stopped") else config.output.alias,
            run_id=run.id,
        )
    return artefact.ref
