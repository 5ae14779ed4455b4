"""Sampling on token ids, by the fast way where the model is known and by transformers' where it is not."""

import logging
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlhf.generation.decode import Batch, decode
from rlhf.generation.general import generate
from rlhf.generation.modes import eval_mode
from rlhf.generation.recorder import Recorder, SampledTokens, StopStrings
from rlhf.generation.sampler import new_key
from rlhf.generation.snapshot import Snapshot, take_snapshot

logger = logging.getLogger(__name__)

UNKNOWN = "it is of no known kind, or has adapters of another kind than LoRA, or hooks"
_CHECKED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether decoding by hand gave a model's own logits when it was first sampled from."""
_TOLD: WeakSet[nn.Module] = WeakSet()
"""Models of which it has been said that texts are too long for decoding by hand."""


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
    stop_strings: Sequence[str] = (),
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Callable[[int], None] | None = None,
) -> SampledTokens:
    """Sample one completion for each of B prompts, `batch_size` rows at a time, prompts of like length together.

    torch's global CPU generator gives one number; from it, the row's place among the prompts and the step come the
    draws. A completion so depends on its place, but for rounding not on `batch_size` or on the other prompts. Under
    autocast products and the cache are in its dtype, else in the weights'.

    Args:
        model: a causal model; how it is computed says `decode`, for others than Llama-like ones `general`.
        prompt_ids: B rows of at least one token.
        max_new_tokens: a completion's limit.
        temperature: 0 is greedy decoding.
        stop_ids: tokens that end a completion. Without any, and without stop strings, all reach the limit.
        pad_id: fills what comes behind a completion.
        batch_size: rows at once.
        top_k: the most likely tokens that are drawn from; 0 for all.
        top_p: the share of probability that is drawn from, most likely tokens first; 1 for all.
        stop_strings: texts that end a completion, with the token that completes one; see `StopStrings`.
        tokenizer: spells the tokens for `stop_strings`.
        progress: told the number of completions done after each batch.

    Raises:
        NonFiniteProbabilities: NaN or infinity among the next-token probabilities.
    """
    device = next(model.parameters()).device
    prompts = [torch.as_tensor(ids, dtype=torch.long) for ids in prompt_ids]
    assert not stop_strings or tokenizer is not None, "stop strings are compared with text"
    recorder = Recorder(
        len(prompts),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_ids=stop_ids,
        stop_strings=StopStrings(tokenizer, stop_strings) if stop_strings and tokenizer is not None else None,
        key=new_key(),
        device=device,
    )
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    snapshot = _trusted_snapshot(model, prompts, max_new_tokens) if prompts else None
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        picked = [prompts[i] for i in rows]
        if snapshot is None:
            generate(model, picked, rows, recorder, pad_id)
        else:
            with torch.autocast(device.type, enabled=False):
                decode(snapshot, picked, rows, recorder)
        if progress is not None:
            progress(min(start + batch_size, len(order)))
    return recorder.result(pad_id)


def _trusted_snapshot(model: nn.Module, prompts: Sequence[Tensor], max_new_tokens: int) -> Snapshot | None:
    """The model's weights for `decode`, where it is known to give this model's logits for texts of this length."""
    weight = next(model.parameters())
    own, kind = weight.dtype, weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else own
    if not _CHECKED.get(model, True):
        return None
    snapshot = take_snapshot(model, dtype)
    if model not in _CHECKED:
        in_own_dtype = snapshot if dtype == own else take_snapshot(model, own)
        problem = UNKNOWN if in_own_dtype is None else _difference(model, in_own_dtype, prompts)
        _CHECKED[model] = problem is None
        if problem is not None:
            _say_that_it_is_slower(model, problem)
            return None
    longest = max(len(prompt) for prompt in prompts) + max_new_tokens
    if snapshot is not None and longest > snapshot.parts.max_length:
        if model not in _TOLD:
            _say_that_it_is_slower(
                model, f"texts of up to {longest} tokens pass its window of {snapshot.parts.max_length}"
            )
            _TOLD.add(model)
        return None
    return snapshot


def _say_that_it_is_slower(model: nn.Module, why: str) -> None:
    """On the console: whoever waits wants to know for what. It is said once of a model."""
    logger.warning(
        "%s is sampled from by transformers' generate, which is slower and goes on with rows that have ended: %s",
        type(model).__name__,
        why,
    )


def _difference(model: nn.Module, snapshot: Snapshot, prompts: Sequence[Tensor]) -> str | None:
    """What is wrong with the logits that decoding gives for the beginnings of two prompts, None if nothing is."""
    device = snapshot.embedding.device
    texts = [torch.cat([prompt[:16], prompt[-1:]]) for prompt in sorted(prompts, key=len)[:: max(1, len(prompts) - 1)]]
    texts = sorted(texts, key=len, reverse=True)[:2]
    with eval_mode(model), torch.autocast(device.type, enabled=False):
        whole = [model(input_ids=text[None].to(device)).logits[0, -2:].float() for text in texts]
        batch = Batch(snapshot, [len(text) - 1 for text in texts], range(len(texts)), 2)
        first = batch.prefill([text[:-1] for text in texts])
        then = batch.step(torch.stack([text[-1] for text in texts]).to(device))
    expected = torch.stack(whole)
    found = torch.stack([first, then], 1).float()
    exact = snapshot.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    allowed = (1e-4 if exact else 0.05) * max(1.0, float(expected.abs().max()))
    gap = float((found - expected).abs().max())
    return None if gap <= allowed else f"decoding by hand gives logits that are {gap:.2g} from its own"
