"""The reward stage: from judgements to a `reward` artefact."""

import itertools
import logging
import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedTokenizerBase, set_seed
from trl import RewardConfig

from reward.config import CentreSection, RewardStageConfig
from reward.data import KINDS, PairCollator, to_dataset, to_groups
from reward.trainer import RankingRewardTrainer
from rlhf.config import ModelSection
from rlhf.datasets import Loaded, load
from rlhf.errors import StoppedByMonitor, UserError
from rlhf.evaluation.publishing import rounded
from rlhf.evaluation.rewards import accuracy_figures, all_pairs, score_pairs
from rlhf.generation import Messages, encode_prompt, sample
from rlhf.modeling import (
    ModelSource,
    can_write,
    device,
    find_model,
    load_causal_lm,
    load_tokenizer,
    max_positions,
    new_reward_model,
    save_model,
    warn_of_low_precision,
)
from rlhf.modeling.trainer_config import build_args
from rlhf.records import Preference, exchange, prompt_key
from rlhf.registry import Kind
from rlhf.scorers import Dtype
from rlhf.scoring import RewardModelScorer
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
from rlhf.workspace import Workspace, report_problems

logger = logging.getLogger(__name__)

Groups = list[list[Preference]]


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
    train_groups, dev_groups = to_groups(data.train), to_groups(data.dev)
    if not train_groups:
        raise UserError("data: no ranking places one completion above another, so there is nothing to learn from")
    centre = _centre(config, source, workspace, data)
    max_length = _max_length(config, source)
    fields = evaluation_fields(config, bool(dev_groups))
    held, dropout = _dropout(config)
    fields |= {"prediction_loss_only": True, "remove_unused_columns": False} | dropout | config.trainer
    set_seed(config.seed)
    model = new_reward_model(source, held, seed=config.seed)
    scorer = RewardModelScorer(model, tokenizer, "reward", max_length=max_length)

    models = [*source.refs, *(centre.source.refs if centre else [])]
    out = config.output
    names: dict[str, Kind] = {out.name: "reward", out.data_name: "preferences", out.stopped_name: "reward"}
    with workspace.run("reward", config, config.tracking, data=data, models=models, publishes=names) as run:
        report_problems(data.problems, run.folder / "set_aside.jsonl")
        # 2. train
        train_rows = to_dataset(train_groups, scorer.token_ids)
        dev_rows = to_dataset(dev_groups, scorer.token_ids) if dev_groups else None
        num_truncated = scorer.num_truncated  # distinct texts of the data; measuring and centring add to it
        args = build_args(RewardConfig, fields, **owned_args(run, config.seed, config.trainer))
        warn_of_low_precision(model, args.learning_rate)
        with made_from_config():
            trainer = RankingRewardTrainer(
                model=model,
                args=args,
                data_collator=PairCollator(scorer.pad_id),
                train_dataset=train_rows,
                eval_dataset=dev_rows,
                processing_class=tokenizer,
                callbacks=early_stopping(config),
            )
        try:
            train(trainer, run, workspace, shown=("loss", "accuracy", "eval_accuracy"))
            scorer.model = trainer.accelerator.unwrap_model(trainer.model)
            # 3. centre: what the SFT model writes is to score 0 on average
            if centre:
                scorer.offset = _mean_score(scorer, centre, dtype=config.model.dtype, seed=config.seed)
            # 4. measure
            accuracy = _held_out(scorer, data, config.seed) if dev_groups else {}
        except StoppedByMonitor as error:
            scorer.offset = 0.0  # that of other weights is none of the last good ones'
            publish_last_good(trainer, run, error, partial(_publish, config, workspace, run, source, scorer, data, {}))
            raise
        summary: dict[str, Any] = {
            **accuracy,
            "score_offset": round(scorer.offset, 6),
            "centred_on": centre.source.ref if centre else None,
            "num_train_rankings": len(train_groups),
            "num_train_pairs": sum(map(len, train_groups)),
            "num_truncated": num_truncated,
            "num_set_aside": len(data.problems),
        }
        run.log({f"held_out/{key}": value for key, value in finite(summary).items()}, step=trainer.state.global_step)
        # 5. publish
        summary["artefact"] = _publish(config, workspace, run, source, scorer, data, summary)
        return run.finish(summary)


@dataclass(frozen=True)
class Centre:
    """The model whose completions of `prompts` are to score 0 on average."""

    source: ModelSource
    section: CentreSection
    prompts: list[str | Messages]


def _centre(config: RewardStageConfig, source: ModelSource, workspace: Workspace, data: Loaded) -> Centre | None:
    """What the scores are centred on, with the first training prompts that leave it room, each prompt once."""
    section = config.centre
    if section:
        source = find_model(section.ref, workspace.registry, kinds=("base", "sft", "policy"), key="centre.ref")
        if not can_write(source):
            raise UserError(f"centre.ref = {section.ref!r}: is no language model, so it has no completions to score")
    elif can_write(source):
        section = CentreSection(ref=source.ref)
    else:
        logger.warning("%s cannot write, and `centre` is not set: scores are left as they are", source.ref)
        return None
    tokenizer = load_tokenizer(source)
    by_key = {prompt_key(record.prompt): record.prompt for record in data.train}  # type: ignore[attr-defined]
    limit = (max_positions(source) or math.inf) - section.max_new_tokens
    every = (exchange(prompt, "")[0] for prompt in by_key.values())
    fitting = (prompt for prompt in every if len(encode_prompt(tokenizer, prompt)) <= limit)
    prompts = list(itertools.islice(fitting, section.num_prompts))
    if not prompts:
        raise UserError(
            f"centre.max_new_tokens = {section.max_new_tokens}: no prompt leaves {source.ref} room for that; lower it"
        )
    return Centre(source, section, prompts)


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


def _mean_score(scorer: RewardModelScorer, centre: Centre, *, dtype: Dtype, seed: int) -> float:
    held = ModelSection(ref=centre.source.ref, dtype=dtype)
    completions = sample(
        load_causal_lm(centre.source, held).to(device()),
        load_tokenizer(centre.source),
        centre.prompts,
        max_new_tokens=centre.section.max_new_tokens,
        temperature=centre.section.temperature,
        seed=seed,
    )
    texts = [completion.text for completion in completions]
    scores = scorer.score([centre.prompts[completion.prompt_index] for completion in completions], texts)
    return scorer.offset + scores.double().mean().item()


def _held_out(scorer: RewardModelScorer, data: Loaded, seed: int) -> dict[str, Any]:
    pairs = all_pairs(data.dev)
    return rounded(accuracy_figures(pairs, *score_pairs(scorer, pairs), seed=seed))


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
        write_json(folder / "reward.json", {"score_offset": scorer.offset, "max_length": scorer.max_length})
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


def _interval(summary: dict[str, Any]) -> dict[str, Any]:
    return {"accuracy_ci": summary["accuracy_ci"]} if "accuracy_ci" in summary else {}


def who_judged(data: Loaded) -> dict[str, Any]:
    """The annotators by pseudonym with how much each judged, and whether any of it was simulated.

    A judgement that the mixture repeats is one.
    """
    records = {id(record): record for record in (*data.train, *data.dev)}.values()
    names = (getattr(record, "annotator", None) for record in records)
    counts = Counter(name for name in names if name)
    annotators = [{"name": name, "num_judgements": number} for name, number in sorted(counts.items())]
    return {
        "annotators": annotators,
        "simulated": any(getattr(record, "simulated", False) for record in records),
    }
