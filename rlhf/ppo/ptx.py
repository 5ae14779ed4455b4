"""PPO-ptx: the SFT loss beside PPO's, so that the policy keeps what it was taught (Ouyang et al. 2022, eq. 2)."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.generation import encode_prompt
from rlhf.ppo.config import PPOConfig

MAX_LENGTH = 1024
"""Tokens of a row that are learned at most; less where the model's context is shorter."""
IGNORED = -100


class PTXData:
    """Demonstrations as token ids, and which of them belong to which optimizer step."""

    def __init__(
        self,
        dataset: Sequence[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
        context_length: int | None = None,
    ) -> None:
        """Rows are `prompt` with `completion`, `messages`, `text`, or `input_ids`.

        Of rows with a prompt the completion alone is learned, of messages the last turn. Raises UserError naming a row
        that is none of these.
        """
        if len(dataset) == 0:
            raise UserError("ptx_dataset: it has no rows; give demonstrations, or set ptx_coef to 0")
        limit = min(MAX_LENGTH, context_length or MAX_LENGTH)
        encoded = [_encode(dataset[i], i, tokenizer) for i in range(len(dataset))]
        rows = [(ids[:limit], num_given) for ids, num_given in encoded if num_given < min(len(ids), limit)]
        if not rows:
            raise UserError(f"ptx_dataset: no row has a token to learn within {limit}; shorten the prompts")
        self._rows = [
            (torch.tensor(ids), torch.tensor([IGNORED] * num_given + ids[num_given:])) for ids, num_given in rows
        ]
        self._seed = seed

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, at: Sequence[int], count: int) -> list[tuple[Tensor, Tensor]]:
        """`count` rows (token ids, labels) for the optimizer step `at`; a function of the seed and the step alone."""
        picked = np.random.default_rng([self._seed, *at]).choice(len(self), min(count, len(self)), replace=False)
        return [self._rows[i] for i in picked]


def accumulate_gradients(
    policy: nn.Module,
    rows: Sequence[tuple[Tensor, Tensor]],
    coef: float,
    size: int,
    autocast: Callable[[], contextlib.AbstractContextManager[None]],
    backward: Callable[[Tensor], None],
) -> Tensor:
    """Add `coef` times the gradient of the mean loss per learned token to the parameters, `size` rows at a time.

    Returns the mean loss, [], in nats per token.
    """
    device = next(policy.parameters()).device
    # A row's first token is predicted from nothing.
    num_tokens = sum(int((labels[1:] != IGNORED).sum()) for _, labels in rows)
    total = torch.zeros((), device=device)
    order = sorted(rows, key=lambda row: len(row[0]))
    for start in range(0, len(order), size):
        some = order[start : start + size]
        ids = pad_sequence([row for row, _ in some], batch_first=True).to(device)
        labels = pad_sequence([row for _, row in some], batch_first=True, padding_value=IGNORED).to(device)
        mask = (torch.arange(ids.size(1)) < torch.tensor([len(row) for row, _ in some])[:, None]).long().to(device)
        with autocast():
            logits = policy(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logits = logits[:, :-1].float().flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")
        if loss.requires_grad:  # the policy is held while its critic warms up
            backward(coef * loss / num_tokens)
        total += loss.detach()
    return total / num_tokens


def build_ptx(
    dataset: Sequence[Mapping[str, Any]] | None,
    tokenizer: PreTrainedTokenizerBase,
    args: PPOConfig,
    context_length: int | None,
) -> PTXData | None:
    """The demonstrations of a PTX loss; None without. Raises UserError where there is one of data and weight alone."""
    if args.ptx_coef > 0 and dataset is None:
        raise UserError(f"ptx_coef = {args.ptx_coef:g}: there is no ptx_dataset; give demonstrations, or leave it at 0")
    if dataset is None:
        return None
    if args.ptx_coef == 0:
        raise UserError(
            "ptx_dataset: ptx_coef is 0, so nothing would be learned from it; give a weight, or leave it out"
        )
    return PTXData(dataset, tokenizer, seed=args.seed, context_length=context_length)


def _encode(record: Mapping[str, Any], row: int, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], int]:
    """Token ids of one row, and how many of them at its beginning are given and not learned."""
    if record.get("input_ids") is not None:
        return [int(i) for i in record["input_ids"]], 0
    prompt, completion = record.get("prompt"), record.get("completion")
    if record.get("messages"):
        prompt, completion = record["messages"][:-1], record["messages"][-1:]
    if isinstance(prompt, list) and isinstance(completion, list):
        given = encode_prompt(tokenizer, prompt)
        whole = tokenizer.apply_chat_template([*prompt, *completion], tokenize=True, return_dict=True)["input_ids"]
        return [int(i) for i in whole], len(given)
    text = record.get("text")
    if text is None and not (isinstance(prompt, str) and isinstance(completion, str)):
        raise UserError(
            f"ptx_dataset: row {row} has {', '.join(sorted(record))}; "
            "give `prompt` and `completion`, `messages` or `text`"
        )
    given = [] if text is not None else encode_prompt(tokenizer, cast(str, prompt))
    ids = list(tokenizer(text if text is not None else cast(str, prompt) + cast(str, completion))["input_ids"])
    eos = tokenizer.eos_token_id
    return ids + ([eos] if eos is not None and ids[-1:] != [eos] else []), len(given)
