"""The reward stage: from judgements to a `reward` artefact."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedTokenizerBase, set_seed
from trl import RewardConfig

from reward.centring import find_centre, mean_scores, mean_scores_of_judged
from reward.config import RewardStageConfig
from reward.data import JudgementCollator
from reward.grades import Thresholds
from reward.judgements import KINDS
from reward.measuring import held_out_figures
from reward.preparing import Learnable, learnable
from reward.shared_prefix import can_share
from reward.trainer import JudgementTrainer
from reward.weights import refuse_weighted
from rlhf.config import ModelSection
from rlhf.datasets import Loaded, load
from rlhf.errors import StoppedByMonitor, UserError
from rlhf.modeling import (
    ModelSource,
    can_write,
    find_model,
    load_tokenizer,
    max_positions,
    new_reward_model,
    save_model,
    warn_of_low_precision,
)
from rlhf.modeling.reward_models import RewardModel
from rlhf.modeling.trainer_config import build_args
from rlhf.registry import Kind
from rlhf.scoring import Ensemble, RewardModelScorer
from rlhf.tracking import Run
from rlhf.training import (
    early_stopping,
    evaluation_fields,
    finite,
    made_from_config,
    one_process,
    owned_args,
    publish_last_good,
    train,
    write_json,
)
from rlhf.training.policies import who_judged
from rlhf.workspace import Workspace, report_problems


def train_reward(config: RewardStageConfig, workspace: Workspace) -> dict[str, Any]:
    """Train, centre, measure, publish.

    Returns:
        The run's summary: held-out accuracy with its interval, beside it that of "the longest wins", the offset, the
        artefact.

    Raises:
        UserError: the input is wrong; nothing has been published.
        StoppedByMonitor: the loss, the gradient or a score became NaN or infinite. The last good checkpoint, if there
            is one, has been published, uncentred, under the output's name with `-stopped` behind it.
        Interrupted: stopped by a signal; the run can be resumed.
    """
    one_process()
    # 1. read all input before anything is written
    source = find_model(config.model.ref, workspace.registry)
    tokenizer = load_tokenizer(source, generates=can_write(source))
    data = load(config.data, KINDS, seed=config.seed, open_ref=workspace.open_ref)
    if config.loss.weights == "reliability":
        named = [source.path for source in (*config.data.sources, *config.data.dev)]
        refuse_weighted(named, data.refs, workspace.registry)
    judgements = learnable(config, data)
    centre = find_centre(config, source, workspace, data)
    max_length = _max_length(config, source)
    held, dropout = _dropout(config)
    set_seed(config.seed)
    model = _new_model(config, source, held)
    scorer = _scorer(config, model, tokenizer, max_length)
    train_rows, dev_rows = judgements.rows(scorer.token_ids)
    num_truncated = scorer.num_truncated  # distinct texts of the data; measuring and centring add to it
    fields = evaluation_fields(config, dev_rows.dataset is not None)
    fields |= {"prediction_loss_only": True, "remove_unused_columns": False} | dropout | config.trainer

    models = [*source.refs, *(centre.source.refs if centre else [])]
    out = config.output
    names: dict[str, Kind] = {out.name: "reward", out.data_name: "preferences", out.stopped_name: "reward"}
    with workspace.run("reward", config, config.tracking, data=data, models=models, publishes=names) as run:
        report_problems(data.problems, run.folder / "set_aside.jsonl")
        # 2. train
        args = build_args(RewardConfig, fields, **owned_args(run, config.seed, config.trainer))
        warn_of_low_precision(model, args.learning_rate)
        with made_from_config():
            trainer = JudgementTrainer(
                model=model,
                args=args,
                data_collator=JudgementCollator(scorer.pad_id, shares_prompts=can_share(model)),
                train_dataset=train_rows.dataset,
                eval_dataset=dev_rows.dataset,
                processing_class=tokenizer,
                callbacks=early_stopping(config),
                loss=config.loss,
                thresholds=_thresholds(config, judgements),
                max_tokens_per_pass=config.max_tokens_per_pass,
            )
        try:
            train(trainer, run, workspace, shown=("loss", "accuracy", "eval_accuracy"))
            scorer.model = trainer.accelerator.unwrap_model(trainer.model)
            # 3. centre: what the SFT model writes is to score 0 on average, by each member of an ensemble
            if centre:
                means = mean_scores(scorer, centre, dtype=config.model.dtype, seed=config.seed)
                scorer.offset = means if config.ensemble else means[0]
            elif config.ensemble:
                scorer.offset = mean_scores_of_judged(scorer, judgements.train.groups, seed=config.seed)
            # 4. measure
            accuracy = held_out_figures(scorer, data.dev, config.seed)
        except StoppedByMonitor as error:
            scorer.offset = 0.0  # that of other weights is none of the last good ones'
            publish_last_good(trainer, run, error, partial(_publish, config, workspace, run, source, scorer, data, {}))
            raise
        summary: dict[str, Any] = {
            **accuracy,
            "score_offset": _rounded(scorer.offset),
            "centred_on": centre.source.ref if centre else None,
            "loss": config.loss.kind,
            "num_train_rankings": train_rows.num_compared,
            "num_train_pairs": train_rows.num_pairs,
            "num_train_ratings": train_rows.num_ratings,
            "num_truncated": num_truncated,
            "num_set_aside": len(data.problems),
            **judgements.figures(train_rows, dev_rows),
            **(judgements.scale.figures(trainer.thresholds) if judgements.scale else {}),
        }
        run.log({f"held_out/{key}": value for key, value in finite(summary).items()}, step=trainer.state.global_step)
        # 5. publish
        summary["artefact"] = _publish(config, workspace, run, source, scorer, data, summary)
        return run.finish(summary)


def _dropout(config: RewardStageConfig) -> tuple[ModelSection, dict[str, Any]]:
    """How the model is held, and the trainer field that lets dropout act where it is asked for.

    RewardConfig takes all dropout out of the model, which is not what `model.dropout` or an adapter's mean. With an
    adapter's alone, the model below still has none.
    """
    section = config.model
    asked_for = [
        f"model.{key} = {value}"
        for key, value in (
            ("dropout", section.dropout),
            ("adapter.dropout", section.adapter.dropout if section.adapter else None),
        )
        if value
    ]
    if not asked_for:
        return section, {}
    if config.trainer.get("disable_dropout"):
        raise UserError(f"trainer.disable_dropout = True: takes away {' and '.join(asked_for)}; drop one of them")
    if section.dropout is None and "disable_dropout" not in config.trainer:
        section = section.model_copy(update={"dropout": 0.0})
    return section, {"disable_dropout": False}


def _max_length(config: RewardStageConfig, source: ModelSource) -> int | None:
    """As written, else RewardConfig's own, which a shorter context lowers; None is what the context allows."""
    wanted, limit = config.trainer.get("max_length"), max_positions(source)
    if wanted and limit and wanted > limit:
        raise UserError(f"trainer.max_length = {wanted}: {source.ref} reads at most {limit} tokens")
    if "max_length" not in config.trainer and RewardConfig.max_length:
        return min(RewardConfig.max_length, limit or RewardConfig.max_length)
    return wanted


def _new_model(config: RewardStageConfig, source: ModelSource, held: ModelSection) -> RewardModel:
    ensemble = config.ensemble
    if ensemble is None:
        return new_reward_model(source, held, seed=config.seed)
    return new_reward_model(source, held, seed=config.seed, num_outputs=ensemble.num_members, members=ensemble.members)


def _scorer(
    config: RewardStageConfig, model: RewardModel, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> RewardModelScorer:
    ensemble = config.ensemble
    combine = Ensemble(ensemble.combine, ensemble.std_coef) if ensemble else None
    return RewardModelScorer(model, tokenizer, "reward", max_length=max_length, combine=combine)


def _thresholds(config: RewardStageConfig, judgements: Learnable) -> Thresholds | None:
    if config.loss.kind != "ordinal" or judgements.scale is None:
        return None
    return Thresholds(judgements.scale.shares, config.ensemble.num_members if config.ensemble else 1)


def _rounded(offset: float | list[float]) -> float | list[float]:
    return [round(each, 6) for each in offset] if isinstance(offset, list) else round(offset, 6)


def _publish(
    config: RewardStageConfig,
    workspace: Workspace,
    run: Run,
    source: ModelSource,
    scorer: RewardModelScorer,
    data: Loaded,
    summary: dict[str, Any],
    stopped: str | None = None,
) -> str:
    base = source.publish(workspace.registry)
    rows = workspace.publish_data(
        data,
        name=config.output.data_name,
        kind="preferences",
        run=run,
        metadata=who_judged(data),
    )
    with TemporaryDirectory(dir=run.folder) as scratch:
        folder = Path(scratch)
        tokenizer: PreTrainedTokenizerBase = scorer.tokenizer
        save_model(scorer.model, tokenizer, folder, base_ref=base.ref)  # type: ignore[arg-type]
        write_json(folder / "reward.json", _sidecar(config, scorer))
        artefact = workspace.registry.publish(
            folder,
            kind="reward",
            name=config.output.stopped_name if stopped else config.output.name,
            parents=[("base", base), ("preferences", rows)],
            metadata={"metrics": {**finite(summary), **_interval(summary)}, "seed": config.seed}
            | ({"stopped": stopped} if stopped else {}),
            alias=None if stopped else config.output.alias,
            run_id=run.id,
        )
    return artefact.ref


def _sidecar(config: RewardStageConfig, scorer: RewardModelScorer) -> dict[str, Any]:
    about: dict[str, Any] = {"score_offset": scorer.offset, "max_length": scorer.max_length}
    if config.ensemble:
        about |= {"combine": config.ensemble.combine, "std_coef": config.ensemble.std_coef}
    return about


def _interval(summary: dict[str, Any]) -> dict[str, Any]:
    return {"accuracy_ci": summary["accuracy_ci"]} if "accuracy_ci" in summary else {}
