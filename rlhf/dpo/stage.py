"""The DPO stage: from a config and judgements to a `policy` artefact, on TRL's DPOTrainer."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import set_seed
from trl import DPOConfig

from rlhf.datasets import Loaded, load
from rlhf.dpo.data import KINDS, say_what_is_not_heard, to_dataset, to_pairs
from rlhf.dpo.held_out import held_out, num_truncated
from rlhf.dpo.stage_config import DPOStageConfig
from rlhf.dpo.trainer import PairWeightedDPOTrainer
from rlhf.errors import StoppedByMonitor, UserError
from rlhf.modeling import (
    ModelSource,
    context_length,
    find_model,
    load_causal_lm,
    load_tokenizer,
    warn_of_low_precision,
)
from rlhf.modeling.trainer_config import build_args
from rlhf.registry import Kind
from rlhf.tracking import Run
from rlhf.training import (
    early_stopping,
    evaluation_fields,
    finite,
    longest_text,
    made_from_config,
    mean_train_loss,
    one_process,
    owned_args,
    publish_last_good,
    require_numbers,
    train,
)
from rlhf.training.policies import (
    TRAINABLE_KINDS,
    drop_reference_copy,
    load_reference,
    publish_policy,
    who_judged,
)
from rlhf.workspace import Workspace, report_problems

logger = logging.getLogger(__name__)

SHOWN_FIGURES = ("loss", "rewards/accuracies", "eval_loss")
"""What stands beside the progress bar."""


def train_dpo(config: DPOStageConfig, workspace: Workspace) -> dict[str, Any]:
    """Train on pairs, measure, publish.

    Returns:
        The run's summary: held-out loss (nats; log 2 before training), accuracy of the implied reward with its
        interval, beside it that of "the longest wins", the artefact.

    Raises:
        UserError: the input is wrong; nothing has been published.
        StoppedByMonitor: the loss or the gradient became NaN or infinite. The last good checkpoint, if there is one,
            has been published under the output's name with `-stopped` behind it.
        Interrupted: stopped by a signal; the run can be resumed.
    """
    one_process()
    # 1. read all input before anything is written
    source = find_model(config.model.ref, workspace.registry, kinds=TRAINABLE_KINDS)
    tokenizer = load_tokenizer(source)
    data = load(config.data, KINDS, seed=config.seed, open_ref=workspace.open_ref)
    train_pairs, num_without_order = to_pairs(data.train)
    dev_pairs, num_dev_without_order = to_pairs(data.dev)
    num_without_order += num_dev_without_order
    if not train_pairs:
        raise UserError("data: no ranking places one completion above another, so there is nothing to learn from")
    train_rows = to_dataset(train_pairs, tokenizer)
    dev_rows = to_dataset(dev_pairs, tokenizer) if dev_pairs else None
    fields = evaluation_fields(config, bool(dev_pairs)) | {"prediction_loss_only": True} | config.trainer
    set_seed(config.seed)
    model = load_causal_lm(source, config.model, trainable=True)
    max_length = longest_text(config.trainer, DPOConfig.max_length, context_length(model), source.ref)
    fields |= {"max_length": max_length}

    out = config.output
    names: dict[str, Kind] = {out.name: "policy", out.data_name: "preferences", out.stopped_name: "policy"}
    with workspace.run("dpo", config, config.tracking, data=data, models=source.refs, publishes=names) as run:
        report_problems(data.problems, run.folder / "set_aside.jsonl")
        say_what_is_not_heard(train_pairs)
        if num_without_order:
            logger.warning("%d rankings place no completion above another one, and were left out", num_without_order)
        # 2. train
        args = build_args(DPOConfig, fields, **owned_args(run, config.seed, config.trainer))
        warn_of_low_precision(model, args.learning_rate)
        with made_from_config():
            trainer = PairWeightedDPOTrainer(
                model=model,
                ref_model=_reference(config, source, model),
                args=args,
                train_dataset=train_rows,
                eval_dataset=dev_rows,
                processing_class=tokenizer,
                callbacks=early_stopping(config),
            )
        drop_reference_copy(model)
        _report_dropped(trainer, len(train_rows), len(dev_rows or ()))
        try:
            train(trainer, run, workspace, shown=SHOWN_FIGURES)
            # 3. measure
            after = held_out(trainer, dev_pairs, config.seed) if dev_rows else {}
            require_numbers({"eval_loss": after["eval_loss"]} if after else {}, "after training")
        except StoppedByMonitor as error:
            publish_last_good(trainer, run, error, partial(_publish, config, workspace, run, source, trainer, data, {}))
            raise
        summary: dict[str, Any] = {
            **after,
            **mean_train_loss(trainer.state.log_history),
            "num_train_pairs": len(trainer.train_dataset),
            "num_truncated": num_truncated(trainer.train_dataset, max_length),
            "num_set_aside": len(data.problems),
            "num_without_order": num_without_order,
        }
        figures = {f"held_out/{name}": value for name, value in finite(after).items()}
        run.log(figures, step=trainer.state.global_step)
        # 4. publish
        summary["artefact"] = _publish(config, workspace, run, source, trainer, data, summary)
        return run.finish(summary)


def _reference(config: DPOStageConfig, source: ModelSource, model: nn.Module) -> nn.Module | None:
    """The model as it begins; None where the policy is an adapter, which is switched off instead."""
    return None if isinstance(model, PeftModel) else load_reference(source, config.model)


def _report_dropped(trainer: PairWeightedDPOTrainer, num_train: int, num_dev: int) -> None:
    """What TRL leaves out: pairs of which the prompt alone fills `max_length`."""
    for num_pairs, rows, what, purpose in (
        (num_train, trainer.train_dataset, "", "learn"),
        (num_dev, trainer.eval_dataset, "held-out ", "measure"),
    ):
        if not num_pairs or len(rows) == num_pairs:
            continue
        if len(rows) == 0:
            raise UserError(
                f"data: every {what}prompt alone fills trainer.max_length = {trainer.args.max_length} tokens, so "
                f"nothing is left to {purpose}; raise it, shorten the prompts, or set trainer.truncation_mode: keep_end"
            )
        logger.warning(
            "%d of %d %spairs left out: the prompt alone fills max_length = %d",
            num_pairs - len(rows),
            num_pairs,
            what,
            trainer.args.max_length,
        )


def _publish(
    config: DPOStageConfig,
    workspace: Workspace,
    run: Run,
    source: ModelSource,
    trainer: PairWeightedDPOTrainer,
    data: Loaded,
    summary: Mapping[str, Any],
    stopped: str | None = None,
) -> str:
    judged = who_judged(data)
    rows = workspace.publish_data(data, name=config.output.data_name, kind="preferences", run=run, metadata=judged)
    interval = {"accuracy_ci": summary["accuracy_ci"]} if "accuracy_ci" in summary else {}
    return publish_policy(
        config,
        workspace,
        run,
        trainer,
        method="dpo",
        source=source,
        parents=[("preferences", rows)],
        metadata={"metrics": {**finite(summary), **interval}},
        stopped=stopped,
    )
