"""Prompt and completion in, score [B] out: reward models, plain functions, weighted mixes of them."""

import inspect
import logging
import math
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlhf.errors import StoppedByMonitor, UserError
from rlhf.generation import Messages, eval_mode, padding_id
from rlhf.modeling import context_length, set_pad_token

logger = logging.getLogger(__name__)

Columns = Mapping[str, Sequence[Any]]
"""What a scorer is told beside prompts and completions, each column with one value a row: the further columns of the
data set, and `prompt_ids` and `completion_ids` as `with_token_ids` adds them."""

NO_FURTHER_COLUMNS = frozenset(
    {"prompt", "prompts", "completions", "prompt_ids", "completion_ids"}
    | {"input_ids", "attention_mask", "token_type_ids"}
)
"""Columns of a data set that are handed over under another name, or whose names are taken."""


def data_columns(rows: Sequence[Mapping[str, Any]], names: Iterable[str] | None = None) -> dict[str, list[Any]]:
    """The further columns of B rows of a data set, None where a row has no such column.

    `names` are the data set's, where `rows` are a part of it: a scorer gets the same columns for every part. Left out,
    they are what any of the rows has.
    """
    if names is None:
        names = {name for row in rows for name in row}
    return {name: [row.get(name) for row in rows] for name in sorted(set(names) - NO_FURTHER_COLUMNS)}


def with_token_ids(
    columns: Columns, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]]
) -> Columns:
    """`columns` with the token ids of B prompts and completions, as whoever wrote the completions has them.

    Every call of a scorer on sampled completions goes through here: a function that works in training works on samples
    and in evaluation too. A completion's stop token, if it was reached, is among its ids, as in TRL.
    """
    return {**columns, "prompt_ids": prompt_ids, "completion_ids": completion_ids}


class NonFiniteError(StoppedByMonitor):
    """A NaN or an infinity turned up where training would have been ruined by it; the message names the source."""


@runtime_checkable
class Scorer(Protocol):
    """Anything that gives each completion one number."""

    name: str

    def score(
        self, prompts: Sequence[str | Messages], completions: Sequence[str], columns: Columns | None = None
    ) -> Tensor:
        """Scores [B], float32 on the CPU, all finite; higher is better."""


class RewardModelScorer:
    """A sequence-classification model with one output, on any backbone and with its own tokenizer.

    Text is formatted as TRL's RewardTrainer does it: `prompt + completion + EOS` for strings, the chat template for
    conversations. A text longer than `max_length` tokens loses its beginning (the prompt's, not the completion's).
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "reward_model",
        *,
        batch_size: int = 32,
        max_length: int | None = None,
        offset: float = 0.0,
        append_eos: bool = True,
    ) -> None:
        """`offset` is subtracted from every score. `max_length` defaults to what the model's positions allow.

        Raises UserError when the model has not exactly one output, or no pad token is to be had.
        """
        if getattr(model.config, "num_labels", None) != 1:
            raise UserError(
                f"{name}: a reward model has one output, this {type(model).__name__} has "
                f"{getattr(model.config, 'num_labels', 'none')}; load it as a sequence classifier with num_labels=1"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.batch_size = batch_size
        self.max_length = max_length or context_length(model)
        self.offset = offset
        self.append_eos = append_eos
        tokens = (padding_id(tokenizer, cast(Any, model).config.get_text_config().vocab_size), tokenizer.eos_token_id)
        self.pad_id = set_pad_token(model.config, next((i for i in tokens if i is not None), None), name)
        self.num_truncated = 0

    def score(
        self, prompts: Sequence[str | Messages], completions: Sequence[str], columns: Columns | None = None
    ) -> Tensor:
        """Scores [B], float32 on the CPU. A row's score does not depend on the rows beside it."""
        return self.score_ids([self.encode(p, c) for p, c in zip(prompts, completions, strict=True)])

    def to(self, device: torch.device) -> None:
        """Move the model."""
        self.model.to(device)

    def encode(self, prompt: str | Messages, completion: str) -> list[int]:
        """Token ids of one exchange, not yet truncated."""
        if not isinstance(prompt, str):
            if self.tokenizer.chat_template is None:
                raise UserError(f"{self.name}: the prompts are conversations but its tokenizer has no chat template")
            messages = [*prompt, {"role": "assistant", "content": completion}]
            return list(self.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"])
        text = prompt + completion
        eos = self.tokenizer.eos_token
        if self.append_eos and eos is not None and not text.endswith(eos):
            text += eos
        return list(self.tokenizer(text)["input_ids"])

    def token_ids(self, prompt: str | Messages, completion: str) -> list[int]:
        """Token ids of one exchange as the model reads them: what it is trained on as well as scored by."""
        return self._truncate(torch.tensor(self.encode(prompt, completion), dtype=torch.long)).tolist()

    @torch.no_grad()
    def score_ids(self, rows: Sequence[Sequence[int] | Tensor]) -> Tensor:
        """Scores [B], float32 on the CPU, of token ids in this model's own vocabulary. Raises NonFiniteError."""
        rows = [self._truncate(torch.as_tensor(row, dtype=torch.long)) for row in rows]
        scores = torch.zeros(len(rows))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        device = next(self.model.parameters()).device
        with eval_mode(self.model):
            for start in range(0, len(order), self.batch_size):
                picked = order[start : start + self.batch_size]
                lengths = torch.tensor([len(rows[i]) for i in picked])
                ids = nn.utils.rnn.pad_sequence([rows[i] for i in picked], True, self.pad_id).to(device)
                mask = (torch.arange(ids.size(1)) < lengths[:, None]).long().to(device)
                logits = self.model(input_ids=ids, attention_mask=mask).logits
                scores[picked] = logits[:, 0].float().cpu() - self.offset
        return require_finite(scores, self.name)

    def _truncate(self, row: Tensor) -> Tensor:
        if self.max_length is None or len(row) <= self.max_length:
            return row
        if self.num_truncated == 0:
            logger.warning(
                "%s: a text of %d tokens is longer than %d; its beginning is cut off, as that of every longer one",
                self.name,
                len(row),
                self.max_length,
            )
        self.num_truncated += 1
        # The first token (BOS, or the [CLS] that an encoder pools) has a meaning of its own and stays.
        first = 1 if int(row[0]) in {self.tokenizer.bos_token_id, self.tokenizer.cls_token_id} else 0
        return torch.cat([row[:first], row[len(row) - self.max_length + first :]])


class FunctionScorer:
    """A plain function as TRL's GRPO takes them: `fn(prompts, completions, **columns) -> list[float]`.

    For conversations a completion is handed over as `[{"role": "assistant", "content": text}]`, as there. A function
    without `**kwargs` is given only the columns that it names.
    """

    def __init__(self, fn: Callable[..., Sequence[float]], name: str | None = None) -> None:
        self.fn = fn
        self.name: str = name or str(getattr(fn, "__name__", type(fn).__name__))
        parameters = inspect.signature(fn).parameters.values()
        takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        self._accepted = None if takes_all else {p.name for p in parameters}

    def score(
        self, prompts: Sequence[str | Messages], completions: Sequence[str], columns: Columns | None = None
    ) -> Tensor:
        """Scores [B], float32. Raises UserError for a wrong count or type, NonFiniteError for None, NaN or infinity."""
        columns = columns or {}
        extra = {k: list(v) for k, v in columns.items() if self._accepted is None or k in self._accepted}
        answers = [
            c if isinstance(p, str) else [{"role": "assistant", "content": c}]
            for p, c in zip(prompts, completions, strict=True)
        ]
        try:
            values = self.fn(prompts=list(prompts), completions=answers, **extra)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"reward function {self.name}: raised {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
            ) from error
        try:
            scores = [math.nan if value is None else float(value) for value in values]
        except (TypeError, ValueError) as error:
            raise UserError(f"reward function {self.name}: expected a list of numbers, found {values!r:.80}") from error
        if len(scores) != len(completions):
            raise UserError(
                f"reward function {self.name}: returned {len(scores)} scores for {len(completions)} completions; "
                "return one for each, in order"
            )
        return require_finite(torch.tensor(scores, dtype=torch.float32), f"reward function {self.name}")


class WeightedScorer:
    """The weighted sum of several scorers."""

    def __init__(self, scorers: Sequence[Scorer], weights: Sequence[float] | None = None, name: str = "score") -> None:
        """Weights default to 1. Raises UserError when their number is not that of the scorers, or names repeat."""
        weights = [1.0] * len(scorers) if weights is None else list(weights)
        if len(weights) != len(scorers):
            raise UserError(f"reward_weights: {len(weights)} weights for {len(scorers)} scorers; give one for each")
        names = [scorer.name for scorer in scorers]
        if len(set(names)) != len(names):
            raise UserError(f"reward: two scorers have one name ({', '.join(names)}); give each its own")
        self.scorers = list(scorers)
        self.weights = weights
        self.name = name

    def score(
        self, prompts: Sequence[str | Messages], completions: Sequence[str], columns: Columns | None = None
    ) -> Tensor:
        """The weighted sum [B], float32."""
        return self.combine(self.score_each(prompts, completions, columns))

    def to(self, device: torch.device) -> None:
        """Move the models of those scorers that have one."""
        for scorer in self.scorers:
            if isinstance(scorer, RewardModelScorer | WeightedScorer):
                scorer.to(device)

    def score_each(
        self, prompts: Sequence[str | Messages], completions: Sequence[str], columns: Columns | None = None
    ) -> dict[str, Tensor]:
        """Each scorer's own unweighted scores [B] by its name."""
        return {scorer.name: scorer.score(prompts, completions, columns) for scorer in self.scorers}

    def combine(self, scores: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum [B] of `score_each`'s result."""
        return torch.stack([w * scores[s.name] for s, w in zip(self.scorers, self.weights, strict=True)]).sum(0)


def require_finite(scores: Tensor, source: str) -> Tensor:
    """Scores [B] as they are; raises NonFiniteError naming `source`, the first bad row and its value."""
    bad = (~torch.isfinite(scores)).nonzero()
    if len(bad):
        row = int(bad[0])
        raise NonFiniteError(
            f"{source}: score of row {row} of the batch is {scores[row].item()} "
            f"({len(bad)} of {len(scores)} rows are not finite)"
        )
    return scores
