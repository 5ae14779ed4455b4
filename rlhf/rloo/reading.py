"""What the RLOO stage reads: the model, scorers and prompts, found and checked before anything is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase, set_seed
from trl import RLOOConfig

from rlhf.datasets import Loaded, load
from rlhf.errors import UserError
from rlhf.modeling import ModelSource, context_length, find_model, load_causal_lm, load_tokenizer
from rlhf.records import Problem, Prompt
from rlhf.rloo.stage_config import RLOOStageConfig
from rlhf.scorers import FoundScorer, find_scorers
from rlhf.training import eval_strategy, saving_fields
from rlhf.training.policies import TRAINABLE_KINDS
from rlhf.training.prompts import PromptRows, drawn_to_evaluate, prompt_rows
from rlhf.workspace import Workspace

LENGTH_KEY = "trainer.max_completion_length"


@dataclass(frozen=True)
class Inputs:
    """All that the stage reads.

    Attributes:
        source: the model training starts from, and KL is measured from.
        policy: that model, to be trained.
        scorers: reward models and functions.
        data: the records as loaded; `train` and `dev` are those that fit.
        fields: the `trainer` section with the stage's defaults.
    """

    source: ModelSource
    tokenizer: PreTrainedTokenizerBase
    policy: nn.Module
    scorers: list[FoundScorer]
    data: Loaded
    train: PromptRows
    dev: PromptRows
    fields: dict[str, Any]

    @property
    def refs(self) -> list[str]:
        """Of all models."""
        models = (self.source, *(scorer.source for scorer in self.scorers))
        return [ref for model in models if model for ref in model.refs]

    @property
    def too_long(self) -> list[Problem]:
        """The prompts that do not fit."""
        return [*self.train.too_long, *self.dev.too_long]

    @property
    def rows(self) -> PromptRows:
        """Prompts to train on, then those that are held out."""
        return PromptRows([*self.train.records, *self.dev.records], [*self.train.ids, *self.dev.ids], self.too_long)

    def datasets(self) -> tuple[Dataset, Dataset | None]:
        """TRL's rows to train and to evaluate on: each prompt, and its `row` in `rows`."""
        rows = [{"prompt": record["prompt"], "row": i} for i, record in enumerate(self.rows.records)]
        first = len(self.train)
        return Dataset.from_list(rows[:first]), Dataset.from_list(rows[first:]) if rows[first:] else None


def read(config: RLOOStageConfig, workspace: Workspace) -> Inputs:
    """Find, load and check all that `config` names.

    Raises:
        UserError: a model, a scorer or data is not there or not what it is to be, or no prompt is short enough.
    """
    source = find_model(config.model.ref, workspace.registry, kinds=TRAINABLE_KINDS)
    scorers = find_scorers(config.reward, workspace.registry)
    tokenizer = load_tokenizer(source)
    data = load(config.data, (Prompt,), seed=config.seed, open_ref=workspace.open_ref)
    fields = _trainer_fields(config.trainer, bool(data.dev))
    set_seed(config.seed)
    policy = load_causal_lm(source, config.model, trainable=True)
    limit = _prompt_limit(fields["max_completion_length"], context_length(policy))
    train = prompt_rows(data.train, tokenizer, limit, LENGTH_KEY)
    dev = prompt_rows(data.dev, tokenizer, limit, LENGTH_KEY)
    if not len(train):
        raise UserError(f"data: no prompt is short enough; the first: {train.too_long[0]}")
    kinds = {isinstance(record["prompt"], str) for record in (*train.records, *dev.records)}
    if len(kinds) > 1:
        raise UserError("data: plain text and conversations are mixed; set `conversational: true` on the plain sources")
    return Inputs(source, tokenizer, policy, scorers, data, train, drawn_to_evaluate(dev, config.seed), fields)


def _trainer_fields(given: Mapping[str, Any], has_dev: bool) -> dict[str, Any]:
    """The `trainer` section with the stage's defaults: no dropout, no evaluation on the way, checkpoints."""
    strategy = eval_strategy(given, has_dev, default="no")
    fields: dict[str, Any] = {
        "disable_dropout": True,
        "max_completion_length": RLOOConfig.max_completion_length,
        "eval_strategy": strategy,
        **saving_fields(given, strategy),
    }
    return fields | dict(given)


def _prompt_limit(length: int, context: int | None) -> int | None:
    """The longest prompt in tokens; None where nothing limits it."""
    if context is None:
        return None
    if length >= context:
        raise UserError(f"{LENGTH_KEY} = {length}: the model reads {context} tokens, so no prompt has room; lower it")
    return context - length
