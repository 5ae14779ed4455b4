"""The SFT stage: from a config to an `sft` artefact, on TRL's SFTTrainer."""

import logging
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, set_seed
from trl import SFTConfig, SFTTrainer

from rlhf.datasets import load
from rlhf.errors import StoppedByMonitor, UserError
from rlhf.modeling import (
    ModelSource,
    context_length,
    find_model,
    load_causal_lm,
    load_tokenizer,
    save_model,
    warn_of_low_precision,
)
from rlhf.modeling.trainer_config import build_args
from rlhf.registry import Kind
from rlhf.tracking import Run
from rlhf.training import (
    early_stopping,
    evaluation_fields,
    finite,
    made_from_config,
    mean_train_loss,
    one_process,
    owned_args,
    publish_last_good,
    require_numbers,
    train,
)
from rlhf.workspace import Workspace, report_problems
from sft.config import SFTStageConfig
from sft.data import KINDS, to_dataset
from sft.held_out import held_out
from sft.trainer import TokenWeightedSFTTrainer

logger = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 1024
"""SFTConfig's own, which a shorter context lowers."""


def train_sft(config: SFTStageConfig, workspace: Workspace) -> dict[str, Any]:
    """Fine-tune, measure, publish.

    Returns:
        The run's summary: held-out loss before and after (nats per token), perplexity, token accuracy, the artefact.

    Raises:
        UserError: the input is wrong; nothing has been published.
        StoppedByMonitor: the loss or the gradient became NaN or infinite. The last good checkpoint, if there is one,
            has been published under the output's name with `-stopped` behind it.
        Interrupted: stopped by a signal; the run can be resumed.
    """
    one_process()
    # 1. read all input before anything is written
    source = find_model(config.model.ref, workspace.registry, kinds=("base", "sft", "policy"))
    tokenizer = load_tokenizer(source)
    template_path = _chat_template(config, tokenizer, workspace)
    data = load(config.data, KINDS, seed=config.seed, open_ref=workspace.open_ref)
    set_seed(config.seed)
    model = load_causal_lm(source, config.model, trainable=True)
    max_length = _max_length(config, context_length(model), source)
    whole = bool(config.trainer.get("assistant_only_loss"))
    train_rows = to_dataset(data.train, tokenizer, whole_conversations=whole)
    dev_rows = to_dataset(data.dev, tokenizer, whole_conversations=whole) if data.dev else None

    fields = evaluation_fields(config, bool(dev_rows)) | {"eval_packing": False} | config.trainer
    fields |= {"max_length": max_length} | ({"chat_template_path": template_path} if template_path else {})

    out = config.output
    names: dict[str, Kind] = {out.name: "sft", out.data_name: "dataset", out.stopped_name: "sft"}
    with workspace.run("sft", config, config.tracking, data=data, models=source.refs, publishes=names) as run:
        report_problems(data.problems, run.folder / "set_aside.jsonl")
        # 2. train
        args = build_args(SFTConfig, fields, **owned_args(run, config.seed, config.trainer))
        warn_of_low_precision(model, args.learning_rate)
        with made_from_config():
            trainer = TokenWeightedSFTTrainer(
                model=model,
                args=args,
                train_dataset=train_rows,
                eval_dataset=dev_rows,
                processing_class=tokenizer,
                callbacks=early_stopping(config),
            )
        _report_dropped(trainer, len(train_rows), len(dev_rows or ()))
        before = _held_out(trainer) if dev_rows else {}
        try:
            train(trainer, run, workspace, shown=("loss", "eval_loss", "mean_token_accuracy"))
            # 3. measure
            after = _held_out(trainer) if dev_rows else {}
            require_numbers({"eval_loss": after["eval_loss"]} if after else {}, "after training")
        except StoppedByMonitor as error:
            publish_last_good(trainer, run, error, partial(_publish, config, workspace, run, source, trainer, data, {}))
            raise
        summary: dict[str, Any] = {
            **({"eval_loss_before": before["eval_loss"]} if before else {}),
            **after,
            **mean_train_loss(trainer.state.log_history),
            "num_train": len(data.train),
            "num_dev": len(data.dev),
            "num_set_aside": len(data.problems),
        }
        figures = {f"held_out/{name}": value for name, value in finite(after).items()}
        run.log(figures, step=trainer.state.global_step)
        # 4. publish
        summary["artefact"] = _publish(config, workspace, run, source, trainer, data, finite(summary))
        return run.finish(summary)


def _max_length(config: SFTStageConfig, context: int | None, source: ModelSource) -> int | None:
    """As written, else SFTConfig's own, which a shorter context lowers; null is what the context allows."""
    wanted = config.trainer.get("max_length", min(DEFAULT_MAX_LENGTH, context or DEFAULT_MAX_LENGTH))
    if wanted and context and wanted > context:
        raise UserError(f"trainer.max_length = {wanted}: {source.ref} reads at most {context} tokens")
    return wanted or context


def _chat_template(config: SFTStageConfig, tokenizer: PreTrainedTokenizerBase, workspace: Workspace) -> str | None:
    """Put the template of `trainer.chat_template_path` in place; the path as TRL takes it: a .jinja file or a folder.

    A second chat template would silently take the place of the one the model was trained with, and is refused.
    """
    given = config.trainer.get("chat_template_path")
    if not given:
        return None
    key = "trainer.chat_template_path"
    if given.endswith((".jinja", ".j2")):
        if not Path(given).is_file():
            raise UserError(f"{key} = {given!r}: no such file")
        path, template = given, Path(given).read_text(encoding="utf-8")
    else:
        source = find_model(given, workspace.registry, key=key)
        path, template = str(source.folder), load_tokenizer(source, generates=False).chat_template
        if template is None:
            raise UserError(f"{key} = {given!r}: has no chat template; name a model that has one, or a .jinja file")
    if tokenizer.chat_template is not None and tokenizer.chat_template != template:
        raise UserError(
            f"{key} = {given!r}: {config.model.ref} has a chat template of its own, and they differ; "
            "leave the key out to keep the model's, or take `chat_template` out of the model's folder to replace it"
        )
    tokenizer.chat_template = template
    return path


def _report_dropped(trainer: SFTTrainer, num_train: int, num_dev: int) -> None:
    """What TRL leaves out: rows with nothing to learn or to predict within `max_length`."""
    args = trainer.args
    for num_rows, rows, packed, what, purpose in (
        (num_train, trainer.train_dataset, args.packing, "", "learn"),
        (num_dev, trainer.eval_dataset, args.eval_packing, "held-out ", "measure"),
    ):
        if not num_rows or packed or len(rows) == num_rows:
            continue
        if len(rows) == 0:
            raise UserError(
                f"data: every {what}prompt alone fills trainer.max_length = {args.max_length} tokens, so nothing is "
                f"left to {purpose}; raise it, shorten the prompts, or set trainer.truncation_mode: keep_end"
            )
        logger.warning(
            "%d of %d %srows left out: the prompt alone fills max_length = %d",
            num_rows - len(rows),
            num_rows,
            what,
            args.max_length,
        )


def _held_out(trainer: SFTTrainer) -> dict[str, float]:
    args = trainer.args
    autocast = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    found = held_out(trainer.model, trainer.get_eval_dataloader(), args.device, autocast)
    return {"eval_loss": found.loss, "perplexity": found.perplexity, "token_accuracy": found.token_accuracy}


def _publish(
    config: SFTStageConfig,
    workspace: Workspace,
    run: Run,
    source: ModelSource,
    trainer: SFTTrainer,
    data: Any,
    metrics: dict[str, float],
    stopped: str | None = None,
) -> str:
    base = source.publish(workspace.registry)
    rows = workspace.publish_data(data, name=config.output.data_name, kind="dataset", run=run)
    with TemporaryDirectory(dir=run.folder) as scratch:
        model = trainer.accelerator.unwrap_model(trainer.model)
        save_model(model, trainer.processing_class, Path(scratch), base_ref=base.ref)
        artefact = workspace.registry.publish(
            Path(scratch),
            kind="sft",
            name=config.output.stopped_name if stopped else config.output.name,
            parents=[("base", base), ("data", rows)],
            metadata={"metrics": metrics, "seed": config.seed} | ({"stopped": stopped} if stopped else {}),
            alias=None if stopped else config.output.alias,
            run_id=run.id,
        )
    return artefact.ref
