"""The PPO stage: from a config to a `policy` artefact."""

import logging
from typing import Any

from torch import nn

from rlhf import checkpoint
from rlhf.errors import StoppedByMonitor
from rlhf.modeling import load_causal_lm
from rlhf.modeling.trainer_config import build_args
from rlhf.ppo import watching
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.publishing import draw_frontier, figures, log_samples, publish, publish_last_good
from rlhf.ppo.reading import Inputs, read
from rlhf.ppo.rollout import Prompts
from rlhf.ppo.samples import complete
from rlhf.ppo.stage_config import PPOStageConfig
from rlhf.ppo.trainer import PPOTrainer
from rlhf.registry import Kind
from rlhf.scorers import load_scorers
from rlhf.scoring import Scorer
from rlhf.tracking import Run
from rlhf.training import finite, one_process, owned_args, resumable, train, without_own_output
from rlhf.workspace import Workspace, report_problems

logger = logging.getLogger(__name__)

NUM_SAMPLES = 16
"""Held-out prompts whose completions are kept before and after, for people to read."""
SHOWN_FIGURES = ("objective/scores", "objective/kl", "completions/mean_length")
"""What stands beside the progress bar."""


def train_ppo(config: PPOStageConfig, workspace: Workspace) -> dict[str, Any]:
    """Optimise a policy, measure, publish.

    Returns:
        The run's summary: the scorers' own held-out mean score before and after, without penalties, KL from the
        reference (nats per sequence), length (tokens), share of completions that end, the artefact; with a judge also
        `frontier`, where its score was highest and whether it fell after that.

    Raises:
        UserError: the input is wrong; nothing has been published.
        StoppedByMonitor: training would have been ruined. The last checkpoint's policy, if there is one, has been
            published under the output's name with `-stopped` behind it.
        Interrupted: stopped by a signal; the run can be resumed.
    """
    one_process()
    inputs = read(config, workspace)
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
            with resumable(run, workspace):
                train(trainer, run, workspace, shown=SHOWN_FIGURES, seals=True)
                after = trainer.evaluate() if inputs.dev_rows else {}
        except StoppedByMonitor as error:
            publish_last_good(config, workspace, run, trainer, inputs, error)
            raise
        # 4. publish
        summary: dict[str, Any] = figures(before, after, trainer.scorer) | {
            "num_updates": trainer.state.global_step,
            "num_episodes": trainer.state.episode,
            "num_prompts": len(inputs.train_rows),
            "num_dev_prompts": len(inputs.dev_rows),
            "num_set_aside": len(inputs.data.problems) + len(inputs.too_long),
        }
        artefact = publish(config, workspace, run, trainer, inputs, name=config.output.name, metrics=finite(summary))
        log_samples(run, trainer, shown, samples_before)
        return run.finish(summary | draw_frontier(run) | {"artefact": artefact})


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
