"""What the PPO stage reads: models, scorers and prompts, found and checked before anything is written."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerBase, set_seed

from rlhf.datasets import Loaded, load
from rlhf.errors import UserError
from rlhf.generation import encode_prompt
from rlhf.modeling import (
    ModelSource,
    OneBase,
    context_length,
    find_model,
    load_causal_lm,
    load_on_one_base,
    load_tokenizer,
)
from rlhf.ppo import watching
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.stage_config import PPOStageConfig
from rlhf.records import Problem, Prompt, Record
from rlhf.scorers import FoundScorer, LoadedRewardModel, find_scorers
from rlhf.training import eval_strategy, saving_fields
from rlhf.workspace import Workspace

logger = logging.getLogger(__name__)

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

    def on_base(self, some: Sequence[FoundScorer]) -> dict[int, LoadedRewardModel]:
        """Those of `scorers` or of `judges` that are in memory as adapters of the base, by their place in `some`."""
        first = 0 if some is self.scorers else len(self.scorers)
        found = self.base.reward_models if self.base else {}
        return {i: found[first + i] for i in range(len(some)) if first + i in found}


def read(config: PPOStageConfig, workspace: Workspace) -> Inputs:
    """Find, load and check all that `config` names.

    Raises:
        UserError: a model, a scorer or data is not there or not what it is to be, or no prompt is short enough.
    """
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
    given = watching.defaults(config, has_dev) | config.trainer
    strategy = eval_strategy(given, has_dev, default="no")
    fields: dict[str, Any] = {
        "num_sample_generations": 0,
        "response_length": PPOConfig.response_length,
        "per_device_eval_batch_size": given.get(
            "local_rollout_forward_batch_size", PPOConfig.local_rollout_forward_batch_size
        ),
        "eval_strategy": strategy,
        **saving_fields({"logging_steps": PPOConfig.logging_steps} | given, strategy),
    }
    if given.get("stop_token_id") is None:
        fields["stop_token"] = "eos"  # noqa: S105 - a name, no secret
    return fields | given


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
