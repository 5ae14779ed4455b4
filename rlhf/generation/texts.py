"""Between texts and token ids: prompts in, completions out, and what ends or fills them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError

Messages = list[dict[str, Any]]
"""A conversation, `[{"role": ..., "content": ...}, ...]`."""


def stop_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a completion: the tokenizer's EOS, and those of the model's generation config.

    Chat models have several. In ascending order. Raises UserError when there is none.
    """
    found: set[int] = set()
    config = getattr(model, "generation_config", None)
    for source in (tokenizer.eos_token_id, getattr(config, "eos_token_id", None)):
        if source is not None:
            found.update([source] if isinstance(source, int) else source)
    if not found:
        raise UserError("tokenizer: it has no EOS token; set tokenizer.eos_token, or name a stop token id")
    return sorted(found)


def padding_id(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> int | None:
    """The token that fills batches of a model with `vocab_size` embeddings: the tokenizer's pad token, None without.

    A pad token that was added to the tokenizer alone has no embedding. Padding is masked, so any token serves in its
    place; EOS would not for reward models, which look for the last token that is no padding.
    """
    pad_id, eos_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad_id is None or pad_id < vocab_size:
        return pad_id
    others = (tokenizer.bos_token_id, tokenizer.unk_token_id, vocab_size - 1, vocab_size - 2)
    return next((int(i) for i in others if i is not None and 0 <= i < vocab_size and i != eos_id), 0)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str | Messages) -> list[int]:
    """Token ids of a text prompt, or of a conversation under the chat template with the assistant's turn opened."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if tokenizer.chat_template is None:
        raise UserError(
            "tokenizer: a prompt is a conversation but the tokenizer has no chat template; set one, or use text"
        )
    encoded = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)
    return list(encoded["input_ids"])


def decode_completion(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], completion_ids: Sequence[int]
) -> str:
    """The text that the completion adds to its prompt, without special tokens.

    Decoded behind the prompt: on their own, the first word's tokens lose its leading space in many tokenizers.
    """
    before = tokenizer.decode(list(prompt_ids), skip_special_tokens=True)
    whole = tokenizer.decode([*prompt_ids, *completion_ids], skip_special_tokens=True)
    if whole.startswith(before):
        return str(whole[len(before) :])
    return str(tokenizer.decode(list(completion_ids), skip_special_tokens=True))


def left_pad(rows: Sequence[Sequence[int] | Tensor], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of token ids as ids [B, P] int64 and mask [B, P] bool (True = real), padded on the left to the longest."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.as_tensor(row, dtype=torch.long)
        mask[i, width - len(row) :] = True
    return ids.to(device), mask.to(device)


def check_lengths(lengths: Sequence[int], max_new_tokens: int, limit: int | None, name: str = "prompts") -> None:
    """Raise UserError naming the rows (from 0) that are empty, or too long for `limit` with the tokens to come."""
    problems = [f"{name}: row {i} has no tokens; remove it or give it text" for i, n in enumerate(lengths) if n == 0]
    if limit is not None:
        problems += [
            f"{name}: row {i} has {n} tokens, with {max_new_tokens} new ones more than the model's context of {limit}; "
            "shorten or remove it, ask for fewer new tokens, or turn truncation on"
            for i, n in enumerate(lengths)
            if n + max_new_tokens > limit
        ]
    if len(problems) > 10:
        problems = [*problems[:10], f"{name}: {len(problems) - 10} more rows like these"]
    if problems:
        raise UserError(problems)
