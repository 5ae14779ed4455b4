"""Completions of text prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn
from transformers import PreTrainedTokenizerBase

from rlhf.generation.modes import eval_mode, seeded
from rlhf.generation.texts import (
    Messages,
    check_lengths,
    decode_completion,
    encode_prompt,
    padding_id,
    stop_token_ids,
)
from rlhf.generation.tokens import sample_tokens
from rlhf.modeling import context_length


@dataclass(frozen=True)
class Completion:
    """One sampled completion of `prompts[prompt_index]`."""

    prompt_index: int
    text: str
    """What it adds to the prompt, without special tokens."""
    token_ids: list[int]
    """With the stop token, if it was reached."""
    ended: bool
    """Whether a stop token was reached within the limit."""


def sample(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Messages],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    num_return: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    stop_ids: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Completion]:
    """Sample `num_return` completions for each prompt; those of prompt i stand at `i * num_return ...`.

    Draws from its own seeded generator, so that it may be called in the middle of training. temperature 0 is greedy.
    `stop_ids` defaults to `stop_token_ids(model, tokenizer)`. `progress` is told how many completions are done.
    Raises UserError for a prompt that has no tokens or that, with `max_new_tokens`, passes the model's context.
    """
    stops = stop_token_ids(model, tokenizer) if stop_ids is None else list(stop_ids)
    vocab_size = cast(Any, model).config.get_text_config().vocab_size
    pad_id = next((i for i in (padding_id(tokenizer, vocab_size), *stops) if i is not None), 0)
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    check_lengths([len(ids) for ids in encoded], max_new_tokens, context_length(model))
    # Rows of like length share a batch, so that little of it is padding; the order does not depend on the batch size.
    jobs = [i for i in range(len(encoded)) for _ in range(num_return)]
    order = sorted(range(len(jobs)), key=lambda j: (len(encoded[jobs[j]]), j))
    if not order:
        return []
    with seeded(seed), eval_mode(model):
        tokens = sample_tokens(
            model,
            [encoded[jobs[j]] for j in order],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            stop_ids=stops,
            pad_id=pad_id,
            batch_size=batch_size,
            progress=progress,
        )
    completions: list[Completion | None] = [None] * len(jobs)
    for j, ids, mask, ended in zip(order, tokens.ids, tokens.mask, tokens.ended.tolist(), strict=True):
        token_ids = ids[mask].tolist()
        text = decode_completion(tokenizer, encoded[jobs[j]], token_ids)
        completions[j] = Completion(jobs[j], text, token_ids, ended)
    return [completion for completion in completions if completion is not None]
