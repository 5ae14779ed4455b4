"""The PPO stage: from a config to a `policy` artefact."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase, set_seed

from rlhf import checkpoint
from rlhf.datasets import Loaded, load
from rlhf.errors import StoppedByMonitor, UserError
from rlhf.generation import encode_prompt
from rlhf.inputs import scorers_on_record
from rlhf.modeling import (
    ModelSource,
    OneBase,
    context_length,
    find_model,
    load_causal_lm,
    load_on_one_base,
    load_tokenizer,
    save_model,
)
from rlhf.modeling.trainer_config import build_args
from rlhf.ppo import checkpointing, watching
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.rollout import Prompts
from rlhf.ppo.samples import complete
from rlhf.ppo.stage_config import PPOStageConfig
from rlhf.ppo.trainer import PPOTrainer
from rlhf.records import Problem, Prompt, Record
from rlhf.registry import Kind
from rlhf.scorers import FoundScorer, find_scorers, load_scorers
from rlhf.scoring import Scorer
from rlhf.tracking import Run, begun_with
from rlhf.training import eval_strategy, finite, one_process, owned_args, saving_fields, train, without_own_output
from rlhf.workspace import Workspace, report_problems

logger = logging.getLogger(__name__)

NUM_SAMPLES = 16
"""Held-out prompts whose completions are kept before and after, for people to read."""
NUM_DEV_PROMPTS = 256
"""Held-out prompts that are evaluated on; where there are more, so many are drawn by the seed."""
TRAINABLE_KINDS = ("base", "sft", "policy")

Row = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """All that the stage reads, found and checked before anything is written.

    Attributes:
        source: the model training starts from.
        reference: what KL is measured from; None for `source`.
        scorers: reward models and functions.
        data: the records as loaded; `train_rows` and `dev_rows` are those that fit.
        fields: the `trainer` section with the stage's defaults.
        judges: scorers of evaluation alone.
        demonstrations: what the PTX loss is on.
        base: the frozen base of a policy that is an adapter, with all that stands on it.
    """

    source: ModelSource
    reference: ModelSource | None
    scorers: list[FoundScorer]
    tokenizer: PreTrainedTokenizerBase
    policy: nn.Module
    data: Loaded
    train_rows: list[Row]
    dev_rows: list[Row]
    too_long: list[Problem]
    fields: dict[str, Any]
    judges: list[FoundScorer]
    demonstrations: list[Row]
    base: OneBase | None

    @property
    def refs(self) -> list[str]:
        """Of all models."""
        models = (self.source, self.reference, *(scorer.source for scorer in (*self.scorers, *self.judges)))
        return [ref for model in models if model for ref in model.refs]

    def on_base(self, some: Sequence[FoundScorer]) -> dict[int, tuple[nn.Module, float]]:
        """Those of `scorers` or of `judges` that are in memory as adapters of the base, by their place in `some`."""
        first = 0 if some is self.scorers else len(self.scorers)
        found = self.base.reward_models if self.base else {}
        return {i: found[first + i] for i in range(len(some)) if first + i in found}


def train_ppo(config: PPOStageConfig, workspace: Workspace) -> dict[str, Any]:
    """Optimise a policy, measure, publish.

    Returns:
        The run's summary: held-out mean score before and after (penalties apart), KL from the reference (nats per
        sequence), length (tokens), share of completions that end, the artefact.

    Raises:
        UserError: the input is wrong; nothing has been published.
        StoppedByMonitor: training would have been ruined. The last checkpoint's policy, if there is one, has been
            published under the output's name with `-stopped` behind it.
        Interrupted: stopped by a signal; the run can be resumed.
    """
    one_process()
    inputs = _read(config, workspace)
    out = config.output
    names: dict[str, Kind] = {out.name: "policy", out.data_name: "dataset", out.stopped_name: "policy"}
    with workspace.run("ppo", config, config.tracking, data=inputs.data, models=inputs.refs, publishes=names) as run:
        report_problems([*inputs.data.problems, *inputs.too_long], run.folder / "set_aside.jsonl")
        _say_what_shares_the_base(inputs)
        scorer = load_scorers(inputs.scorers, in_memory=inputs.on_base(inputs.scorers))
        trainer = _trainer(config, inputs, scorer, run)
        watching.listen(trainer, run)
        shown = _shown(trainer)
        try:
            # 1. before
            before = trainer.evaluate() if inputs.dev_rows else {}
            samples_before = complete(trainer, shown, temperature=trainer.args.temperature)
            # 2. train, 3. after
            if checkpoint.latest_intact(run.checkpoints) is None:  # else it was logged when the run began
                run.log(finite(before), step=0)
            with watching.resumable(run, workspace):
                train(trainer, run, workspace, shown=SHOWN_FIGURES, seals=True)
            after = trainer.evaluate() if inputs.dev_rows else {}
        except StoppedByMonitor as error:
            _publish_last_good(config, workspace, run, trainer, inputs, error)
            raise
        # 4. publish
        summary: dict[str, Any] = _figures(before, after, trainer.args.missing_eos_penalty or 0.0) | {
            "num_updates": trainer.state.global_step,
            "num_episodes": trainer.state.episode,
            "num_prompts": len(inputs.train_rows),
            "num_dev_prompts": len(inputs.dev_rows),
            "num_set_aside": len(inputs.data.problems) + len(inputs.too_long),
        }
        artefact = _publish(config, workspace, run, trainer, inputs, name=config.output.name, metrics=finite(summary))
        _log_samples(run, trainer, shown, samples_before)
        return run.finish(summary | {"artefact": artefact})


SHOWN_FIGURES = ("objective/scores", "objective/kl", "completions/mean_length")
"""What stands beside the progress bar."""


def _read(config: PPOStageConfig, workspace: Workspace) -> Inputs:
    source = find_model(config.model.ref, workspace.registry, kinds=TRAINABLE_KINDS)
    scorers = find_scorers(config.reward, workspace.registry)
    judging = find_scorers(config.judge, workspace.registry, key="judge")
    reference = None
    if config.reference is not None:
        reference = find_model(config.reference, workspace.registry, kinds=TRAINABLE_KINDS, key="reference")
    tokenizer = load_tokenizer(source)
    data = load(config.data, (Prompt,), seed=config.seed, open_ref=workspace.open_ref)
    set_seed(config.seed)
    base = None
    if config.model.adapter:
        models = [found.source for found in (*scorers, *judging)]
        base = load_on_one_base(source, config.model, reference=reference, reward_models=models)
    policy = base.policy if base else load_causal_lm(source, config.model, trainable=True)
    fields = _trainer_fields(config, bool(data.dev))
    limit = _prompt_limit(fields, context_length(policy))
    train_rows, too_long = prompt_rows(data.train, tokenizer, limit)
    dev_rows, dev_too_long = prompt_rows(data.dev, tokenizer, limit)
    columns = {name for row in (*train_rows, *dev_rows) for name in row}
    train_rows, dev_rows = ([{name: row.get(name) for name in columns} for row in r] for r in (train_rows, dev_rows))
    if not train_rows:
        raise UserError(f"data: no prompt is short enough; the first: {too_long[0]}")
    return Inputs(
        source,
        reference,
        scorers,
        tokenizer,
        policy,
        data,
        train_rows,
        _drawn(dev_rows, config.seed),
        [*too_long, *dev_too_long],
        fields,
        judging,
        watching.demonstrations(config, workspace),
        base,
    )


def _drawn(rows: list[Row], seed: int) -> list[Row]:
    """At most NUM_DEV_PROMPTS of the rows, from all places: they stand in the order of their sources."""
    if len(rows) <= NUM_DEV_PROMPTS:
        return rows
    logger.info("%d of %d held-out prompts are evaluated on, drawn by the seed", NUM_DEV_PROMPTS, len(rows))
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))[:NUM_DEV_PROMPTS]]


def _trainer_fields(config: PPOStageConfig, has_dev: bool) -> dict[str, Any]:
    """The `trainer` section with the stage's defaults: stop at the end token, evaluate in sampling's batches, save."""
    given = config.trainer
    given = watching.defaults(config, has_dev) | given
    strategy = eval_strategy(given, has_dev, default="no")
    fields: dict[str, Any] = {
        "num_sample_generations": 0,
        "response_length": PPOConfig.response_length,
        "per_device_eval_batch_size": given.get(
            "local_rollout_forward_batch_size", PPOConfig.local_rollout_forward_batch_size
        ),
        "eval_strategy": strategy,
        **saving_fields({"logging_steps": PPOConfig.logging_steps} | dict(given), strategy),
    }
    if given.get("stop_token_id") is None:
        fields["stop_token"] = "eos"  # noqa: S105 - a name, no secret
    return fields | dict(given)


def _prompt_limit(fields: Mapping[str, Any], context: int | None) -> int | None:
    """The longest prompt in tokens; None where nothing limits it, or where long prompts are to be cut."""
    length = fields["response_length"]
    if context is not None and length >= context:
        raise UserError(
            f"trainer.response_length = {length}: the model reads {context} tokens, so no prompt has room; lower it"
        )
    if fields.get("truncate_prompts"):
        return None
    limits = [fields.get("max_prompt_length"), None if context is None else context - length]
    return min((limit for limit in limits if limit is not None), default=None)


def prompt_rows(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> tuple[list[Row], list[Problem]]:
    """Rows with a `prompt` and the record's further columns, and the prompts of more than `limit` tokens."""
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, record in enumerate(records, start=1):
        row = record.row()
        size = len(encode_prompt(tokenizer, row["prompt"]))
        if limit is None or size <= limit:
            rows.append(row)
        else:
            what = f"the prompt has {size} tokens, at most {limit} fit; lower trainer.response_length or shorten it"
            problems.append(Problem("data (after cleaning)", number, what))
    return rows, problems


def _trainer(config: PPOStageConfig, inputs: Inputs, scorer: Scorer, run: Run) -> PPOTrainer:
    trainer = PPOTrainer(
        args=build_args(PPOConfig, inputs.fields, **owned_args(run, config.seed, config.trainer)),
        processing_class=inputs.tokenizer,
        model=inputs.policy,
        ref_model=_reference(config, inputs),
        reward_model=None,
        train_dataset=inputs.train_rows,  # no Dataset: of that, a column's values are all of one type
        eval_dataset=inputs.dev_rows or None,
        reward_funcs=[scorer],
        judge=[load_scorers(inputs.judges, in_memory=inputs.on_base(inputs.judges))] if inputs.judges else None,
        ptx_dataset=inputs.demonstrations or None,
    )
    without_own_output(trainer)
    args = trainer.args
    assert args.batch_size is not None, "the trainer sets it"
    if args.max_steps <= 0 and args.total_episodes is not None and args.total_episodes < args.batch_size:
        logger.warning(
            "trainer.total_episodes = %d: a batch has %d episodes, and one batch is trained on",
            args.total_episodes,
            args.batch_size,
        )
    return trainer


def _reference(config: PPOStageConfig, inputs: Inputs) -> nn.Module | None:
    """On the policy's base where it stands on that, else a model of its own; None for the policy as it starts."""
    if inputs.base and inputs.base.reference is not None:
        return inputs.base.reference
    if inputs.reference is None:
        return None
    return load_causal_lm(inputs.reference, config.model.model_copy(update={"adapter": None}))


def _say_what_shares_the_base(inputs: Inputs) -> None:
    """One line for what is on the policy's base, and one for each adapter that stands elsewhere."""
    if inputs.base is None:
        return
    models = [found.source for found in (*inputs.scorers, *inputs.judges)]
    shared = [source.ref for i, source in enumerate(models) if source and i in inputs.base.reward_models]
    on_it = ["the policy", *(["its reference"] if inputs.base.reference is not None else []), *shared]
    logger.info("one base in memory, %s; adapters of it: %s", inputs.source.bottom.ref, ", ".join(on_it))
    apart = [("reward", source) for i, source in enumerate(models) if i not in inputs.base.reward_models]
    apart += [("reference", inputs.reference)] if inputs.base.reference is None else []
    for role, source in apart:
        if source and source.is_adapter and source.bottom.ref == inputs.source.bottom.ref:
            logger.warning(
                "%s %s replaces weights of its base that others keep: it is held as a model of its own",
                role,
                source.ref,
            )
        elif source and source.is_adapter:
            logger.warning(
                "%s %s is an adapter of %s, and the policy one of %s: it is held as a model of its own",
                *(role, source.ref, source.bottom.ref, inputs.source.bottom.ref),
            )


def _shown(trainer: PPOTrainer) -> Prompts:
    """Held-out prompts, or else training prompts, for the samples before and after."""
    prompts = trainer.eval_prompts.get("") or trainer.prompts
    return prompts.batch(range(min(NUM_SAMPLES, len(prompts))))


def _log_samples(run: Run, trainer: PPOTrainer, shown: Prompts, before: Sequence[tuple[str, float]]) -> None:
    """Completions side by side; what has been trained and published stands, whether or not they can be made."""
    try:
        after = complete(trainer, shown, temperature=trainer.args.temperature)
    except Exception:
        logger.warning("the samples after training could not be made", exc_info=True)
        return
    told = {"held_out": bool(trainer.eval_prompts)}
    rows = [
        {"prompt": prompt, "before": old, "after": new, "score_before": old_score, "score_after": new_score, **told}
        for prompt, (old, old_score), (new, new_score) in zip(shown.texts, before, after, strict=True)
    ]
    run.log_samples(rows, step=trainer.state.global_step)


def _figures(before: Mapping[str, float], after: Mapping[str, float], penalty: float) -> dict[str, float]:
    """The held-out figures a reader looks for first; the rest is in metrics.jsonl.

    The scores are what the scorers say: the penalty for completions that do not end, which is part of
    `objective/scores`, is added back.
    """
    figures: dict[str, float] = {}
    for name, found in (("before", before), ("after", after)):
        if found:
            eos_share = found["eval_completions/eos_share"]
            figures[f"score_{name}"] = found["eval_objective/scores"] + penalty * (1 - eos_share)
            figures[f"length_{name}"] = found["eval_completions/mean_length"]
            figures[f"eos_share_{name}"] = eos_share
    if after:
        figures["kl"] = after["eval_objective/kl"]
    return {name: round(value, 4) for name, value in figures.items()}


def _publish_last_good(
    config: PPOStageConfig,
    workspace: Workspace,
    run: Run,
    trainer: PPOTrainer,
    inputs: Inputs,
    error: StoppedByMonitor,
) -> None:
    """Publish the last intact checkpoint under a name of its own, so that it never is the `latest` of the real one."""
    summary: dict[str, Any] = {"stopped": str(error), "num_updates": trainer.state.global_step}
    folder = checkpointing.last_good(checkpoint.checkpoints(run.checkpoints))
    if folder is None:
        logger.warning("no checkpoint had been saved before, so there is nothing to publish; see trainer.save_steps")
    else:
        checkpointing.load_weights(trainer, folder)
        name = config.output.stopped_name
        summary["artefact"] = _publish(
            config,
            workspace,
            run,
            trainer,
            inputs,
            name=name,
            metrics={},
            stopped=f"{error} (weights of {folder.name})",
        )
    run.finish(summary, "stopped")


def _publish(
    config: PPOStageConfig,
    workspace: Workspace,
    run: Run,
    trainer: PPOTrainer,
    inputs: Inputs,
    *,
    name: str,
    metrics: Mapping[str, float],
    stopped: str | None = None,
) -> str:
    registry = workspace.registry
    base = inputs.source.publish(registry)
    rows = workspace.publish_data(inputs.data, name=config.output.data_name, kind="dataset", run=run)
    parents = [("base", base), ("data", rows)]
    rewards = [found.source.publish(registry) for found in inputs.scorers if found.source]
    parents += [("reward", reward) for reward in rewards]
    parents += [("ref", inputs.reference.publish(registry))] if inputs.reference else []
    scorers = scorers_on_record(config.reward, [reward.ref for reward in rewards], begun_with(run.folder))
    about: dict[str, Any] = {"metrics": dict(metrics), "seed": config.seed, "scorers": scorers}
    with TemporaryDirectory(dir=run.folder) as scratch:
        save_model(trainer.policy_model, trainer.processing_class, Path(scratch), base_ref=base.ref)
        artefact = registry.publish(
            Path(scratch),
            kind="policy",
            name=name,
            parents=parents,
            metadata=about | ({"stopped": stopped} if stopped else {}),
            alias=None if stopped else config.output.alias,
            run_id=run.id,
        )
    return artefact.ref
