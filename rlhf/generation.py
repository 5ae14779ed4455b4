"""Sampling from a causal language model: token ids for the trainer, texts for evaluation and labelling."""

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.modeling import context_length

Messages = list[dict[str, Any]]
"""A conversation, `[{"role": ..., "content": ...}, ...]`."""


@dataclass(frozen=True)
class SampledTokens:
    """Completions of B prompts; T is the longest of them."""

    ids: Tensor
    """[B, T] int64, right-padded."""
    mask: Tensor
    """[B, T] bool, True = real token. The stop token, where there is one, is real."""
    ended: Tensor
    """[B] bool, True where the completion ends with a stop token; False where it was cut at the limit."""


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


def completion_mask(ids: Tensor, stop_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Real tokens of generated ids [B, T], up to and with the first stop token: mask [B, T] bool and ended [B] bool.

    Goes by the stop tokens alone: a pad token that was sampled is a token like any other, and pad may equal EOS.
    """
    if not stop_ids:
        return torch.ones_like(ids, dtype=torch.bool), torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    is_stop = torch.isin(ids, torch.tensor(sorted(stop_ids), device=ids.device))
    stops_before = is_stop.cumsum(1) - is_stop.long()
    return stops_before == 0, is_stop.any(1)


@torch.no_grad()
def sample_tokens(
    model: nn.Module,
    prompt_ids: Sequence[Sequence[int] | Tensor],
    *,
    max_new_tokens: int,
    temperature: float,
    stop_ids: Sequence[int],
    pad_id: int,
    batch_size: int,
    top_k: int = 0,
    top_p: float = 1.0,
    progress: Callable[[int], None] | None = None,
) -> SampledTokens:
    """Sample one completion for each of B prompts, `batch_size` rows at a time, with torch's global generator.

    temperature 0 is greedy decoding. `top_k` 0 and `top_p` 1 leave the distribution whole. With no stop ids every
    completion has `max_new_tokens` tokens. `progress` is told the number of completions done after each batch.
    """
    device = next(model.parameters()).device
    config = generation_config(max_new_tokens, temperature, stop_ids, pad_id, top_k, top_p)
    pieces: list[Tensor] = []
    with _generating_by(model, config):
        for start in range(0, len(prompt_ids), batch_size):
            ids, mask = left_pad(prompt_ids[start : start + batch_size], pad_id, device)
            output = model.generate(input_ids=ids, attention_mask=mask.long(), generation_config=config)
            pieces.append(output[:, ids.size(1) :])
            if progress is not None:
                progress(min(start + batch_size, len(prompt_ids)))
    width = max(piece.size(1) for piece in pieces)
    ids = torch.cat([nn.functional.pad(piece, (0, width - piece.size(1)), value=pad_id) for piece in pieces])
    mask, ended = completion_mask(ids, stop_ids)
    return SampledTokens(ids.masked_fill(~mask, pad_id), mask, ended)


def generation_config(
    max_new_tokens: int,
    temperature: float,
    stop_ids: Sequence[int],
    pad_id: int,
    top_k: int = 0,
    top_p: float = 1.0,
) -> GenerationConfig:
    """What is asked of `generate`: plain sampling, or greedy decoding at temperature 0."""
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(stop_ids) or None,
        pad_token_id=pad_id,
        use_cache=True,
        **sampling,
    )


@contextlib.contextmanager
def _generating_by(model: nn.Module, config: GenerationConfig) -> Iterator[None]:
    """Put the model's own generation config away: `generate` fills from it whatever a given one leaves at None.

    A repetition penalty from there, say, would sample from another distribution than the one log-probs are taken of.
    """
    holders: list[Any] = [model]
    if hasattr(model, "get_base_model"):
        holders.append(model.get_base_model())  # type: ignore[operator]
    kept = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = config
    try:
        yield
    finally:
        for holder, own in zip(holders, kept, strict=True):
            holder.generation_config = own


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from generators seeded with `seed`, and leave the global ones (Python, NumPy, torch, CUDA) as they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off, and every module's mode put back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


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
