"""Reward models as scorers."""

import logging
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.generation import Messages, eval_mode, padding_id
from rlhf.modeling import Offset, PackedTokens, context_length, packed_hidden, set_pad_token
from rlhf.scoring.base import Columns, require_finite
from rlhf.scoring.ensemble import Ensemble

logger = logging.getLogger(__name__)


class RewardModelScorer:
    """A sequence-classification model with one output, on any backbone and with its own tokenizer.

    With M outputs it is an ensemble of M members, of which `combine` makes one score. All members are read at once:
    `score_members` has theirs, and `score` is what `combine` makes of them.

    Text is formatted as TRL's RewardTrainer does it: `prompt + completion + EOS` for strings, the chat template for
    conversations. A text longer than `max_length` tokens loses its beginning (the prompt's, not the completion's).
    """

    num_members: int = 1
    combine: Ensemble | None = None

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "reward_model",
        *,
        batch_size: int = 32,
        max_length: int | None = None,
        offset: Offset = 0.0,
        combine: Ensemble | None = None,
        append_eos: bool = True,
    ) -> None:
        """`offset` is subtracted from every score; an ensemble may have one for each member.

        `max_length` defaults to what the model's positions allow. Raises UserError when the model has not exactly one
        output and is no ensemble, when it is one of a single member or of other members than offsets, or when no pad
        token is to be had.
        """
        outputs = getattr(model.config, "num_labels", None)
        if combine is None and outputs != 1:
            raise UserError(
                f"{name}: a reward model has one output, this {type(model).__name__} has "
                f"{'none' if outputs is None else outputs}; load it as a sequence classifier with num_labels=1"
            )
        if combine is not None and (outputs is None or outputs < 2):
            raise UserError(f"{name}: an ensemble has two or more members, and this model has {outputs or 'no'} output")
        self.num_members = int(cast(int, outputs))
        if isinstance(offset, list) and len(offset) != self.num_members:
            raise UserError(f"{name}: {len(offset)} offsets for {self.num_members} members; give one for each")
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.batch_size = batch_size
        self.max_length = max_length or context_length(model)
        self.offset = offset
        self.combine = combine
        self.append_eos = append_eos
        tokens = (padding_id(tokenizer, cast(Any, model).config.get_text_config().vocab_size), tokenizer.eos_token_id)
        self.pad_id = set_pad_token(model.config, next((i for i in tokens if i is not None), None), name)
        self.num_truncated = 0

    def score(
        self, prompts: Sequence[str | Messages], completions: Sequence[str], columns: Columns | None = None
    ) -> Tensor:
        """Scores [B], float32 on the CPU. A row's score does not depend on the rows beside it."""
        return self.combined(self.score_members(prompts, completions, columns))

    def score_members(
        self, prompts: Sequence[str | Messages], completions: Sequence[str], columns: Columns | None = None
    ) -> Tensor:
        """Scores [B, M] of the M members, as `score` has them before they are combined; M is 1 for a single model."""
        return self.member_scores_of_ids([self.encode(p, c) for p, c in zip(prompts, completions, strict=True)])

    def combined(self, scores: Tensor) -> Tensor:
        """One score [B] of `score_members`' [B, M]."""
        return scores[:, 0] if self.combine is None else self.combine(scores.T)

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

    def score_ids(self, rows: Sequence[Sequence[int] | Tensor]) -> Tensor:
        """Scores [B], float32 on the CPU, of token ids in this model's own vocabulary. Raises NonFiniteError."""
        return self.combined(self.member_scores_of_ids(rows))

    @torch.no_grad()
    def member_scores_of_ids(self, rows: Sequence[Sequence[int] | Tensor]) -> Tensor:
        """The same of each member, [B, M]."""
        rows = [self._truncate(torch.as_tensor(row, dtype=torch.long)) for row in rows]
        scores = torch.zeros(len(rows), self.num_members)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        device = next(self.model.parameters()).device
        with eval_mode(self.model):
            for start in range(0, len(order), self.batch_size):
                picked = order[start : start + self.batch_size]
                batch = [rows[i] for i in picked]
                logits = self._logits_without_padding(batch)
                if logits is None:
                    lengths = torch.tensor([len(row) for row in batch])
                    ids = nn.utils.rnn.pad_sequence(batch, True, self.pad_id).to(device)
                    mask = (torch.arange(ids.size(1)) < lengths[:, None]).long().to(device)
                    logits = self.model(input_ids=ids, attention_mask=mask).logits
                scores[picked] = logits.float().cpu() - torch.as_tensor(self.offset)
        return require_finite(scores, self.name)

    def _logits_without_padding(self, rows: Sequence[Tensor]) -> Tensor | None:
        """Logits [b, M] of a decoder with a `score` head at each row's last token; None for what has to be padded.

        As transformers' classifiers have it, a pad token at a row's end is no token of the text.
        """
        if not isinstance(self.model, PreTrainedModel) or type(getattr(self.model, "score", None)) is not nn.Linear:
            return None
        head = cast(nn.Linear, self.model.score)
        last = [row.ne(self.pad_id).nonzero() for row in rows]
        if not all(map(len, last)):
            return None
        read = [row[: int(end[-1]) + 1] for row, end in zip(rows, last, strict=True)]
        lengths = tuple(len(row) for row in read)
        ends = torch.tensor(lengths).cumsum(0) - 1
        tokens = PackedTokens(torch.cat(read).to(head.weight.device), lengths, ends, (1,) * len(read))
        hidden = packed_hidden(getattr(self.model, self.model.base_model_prefix), tokens)
        return None if hidden is None else head(hidden)

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
