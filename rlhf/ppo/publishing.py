"""What the PPO stage keeps of a run: its figures, the samples, and the policy with what it came from."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlhf import checkpoint
from rlhf.errors import StoppedByMonitor
from rlhf.evaluation.frontier import fit_frontier, read_points
from rlhf.evaluation.publishing import rounded
from rlhf.inputs import scorers_on_record
from rlhf.modeling import save_model
from rlhf.ppo import checkpointing
from rlhf.ppo.reading import Inputs
from rlhf.ppo.rollout import Prompts
from rlhf.ppo.samples import Sample, complete
from rlhf.ppo.stage_config import PPOStageConfig
from rlhf.ppo.trainer import PPOTrainer
from rlhf.scoring import NonFiniteScoreError, WeightedScorer
from rlhf.tracking import Run, begun_with, read_metrics, write_figures
from rlhf.workspace import Workspace

logger = logging.getLogger(__name__)

MIN_JUDGED = 3
"""Held-out evaluations with a judge that say something of the way from one to the next."""


def figures(before: Mapping[str, float], after: Mapping[str, float], scorer: WeightedScorer) -> dict[str, float]:
    """The held-out figures a reader looks for first; the rest is in metrics.jsonl.

    Args:
        before: what `PPOTrainer.evaluate` reported before training; empty without held-out prompts.
        after: the same after training.
        scorer: the trainer's.

    Returns:
        `score_*` (see `own_score`), `length_*` (tokens), `eos_share_*`, and `kl` after training (nats per sequence).
    """
    summary: dict[str, float] = {}
    for name, found in (("before", before), ("after", after)):
        if found:
            summary[f"score_{name}"] = own_score(found, scorer)
            summary[f"length_{name}"] = found["eval_completions/mean_length"]
            summary[f"eos_share_{name}"] = found["eval_completions/eos_share"]
    if after:
        summary["kl"] = after["eval_objective/kl"]
    return {name: round(value, 4) for name, value in summary.items()}


def own_score(found: Mapping[str, float], scorer: WeightedScorer) -> float:
    """Mean of what the scorers themselves say in an evaluation, weighted: no penalty is in it, for length or ends.

    Nor is what `worst` and `mean_minus_std` take off for disagreement: an ensemble counts as the mean of its members.
    """
    return sum(share * found[f"eval_objective/scores/{name}"] for name, share in scorer.shares.items())


def draw_frontier(run: Run) -> dict[str, Any]:
    """What the judge said at each distance from the reference: drawn among the run's figures, and in numbers.

    Returns:
        For the summary, `frontier`; empty where too few evaluations had a judge.
    """
    points = read_points(read_metrics(run.folder))
    if len(points) < MIN_JUDGED:
        return {}
    frontier = fit_frontier(points)
    write_figures(run.folder, [frontier.figure()])
    return {"frontier": rounded(frontier.summary())}


def log_samples(run: Run, trainer: PPOTrainer, shown: Prompts, before: Sequence[Sample]) -> None:
    """Completions side by side; what has been trained and published stands, whether or not they can be made."""
    try:
        after = complete(trainer, shown, temperature=trainer.args.temperature)
    except Exception:
        logger.warning("the samples after training could not be made", exc_info=True)
        return
    told = {"held_out": bool(trainer.eval_prompts)}
    rows = [
        {"prompt": prompt, "before": old.text, "after": new.text, "score_before": old.score, "score_after": new.score}
        | ({} if old.spread is None else {"ensemble_std_before": old.spread, "ensemble_std_after": new.spread})
        | told
        for prompt, old, new in zip(shown.texts, before, after, strict=True)
    ]
    run.log_samples(rows, step=trainer.state.global_step)


def publish(
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
    """Publish the trainer's policy with its base, prompts, reward models and reference as parents; returns its ref.

    Args:
        config: the stage's.
        workspace: its registry takes the policy.
        run: the run that made it.
        trainer: holds the policy.
        inputs: what it was made from.
        name: of the artefact.
        metrics: held-out figures that go with it.
        stopped: why training was stopped, for a policy that is not to be the latest; it then gets no alias.
    """
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


def publish_last_good(
    config: PPOStageConfig,
    workspace: Workspace,
    run: Run,
    trainer: PPOTrainer,
    inputs: Inputs,
    error: StoppedByMonitor,
) -> None:
    """Publish the last intact checkpoint under a name of its own, so that it never is the `latest` of the real one.

    Where a scorer gave no numbers its function may be mended, as one that raises may be, and the run goes on.
    """
    summary: dict[str, Any] = {"stopped": str(error), "num_updates": trainer.state.global_step}
    folder = checkpointing.last_good(checkpoint.checkpoints(run.checkpoints))
    if folder is None:
        logger.warning("no checkpoint had been saved before, so there is nothing to publish; see trainer.save_steps")
    else:
        if isinstance(error, NonFiniteScoreError):
            summary["scorer_failed"] = True
            logger.warning("nothing is lost: mend the scorer and go on with %s", workspace.how_to_go_on(run))
        checkpointing.load_weights(trainer, folder)
        name = config.output.stopped_name
        summary["artefact"] = publish(
            config,
            workspace,
            run,
            trainer,
            inputs,
            name=name,
            metrics={},
            stopped=f"{error} (weights of {folder.name})",
        )
    run.finish(summary | draw_frontier(run), "stopped")
