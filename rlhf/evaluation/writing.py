"""What a model writes, and how likely another model finds it."""

import gc
import inspect
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlhf.config import ModelSection
from rlhf.evaluation.config import Dtype, GenerationSection
from rlhf.generation import Completion, Messages, encode_prompt, eval_mode, sample
from rlhf.modeling import ModelSource, context_length, device, load_causal_lm

Progress = Callable[[int, int, str], None]
"""Told how many are done, of how many, of what."""


class Loaded:
    """A language model that is in memory while the `with` block lasts: several are compared, one is held."""

    def __init__(self, source: ModelSource, dtype: Dtype) -> None:
        self.source = source
        self._section = ModelSection(ref=source.ref, dtype=dtype)
        self._model: nn.Module | None = None

    def __enter__(self) -> Self:
        model = cast(nn.Module, load_causal_lm(self.source, self._section))
        self._model = model.to(device()).eval()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        held = weakref.ref(self.model)
        self._model = None
        if held() is not None:  # in a cycle of references, as adapters leave them: only the collector frees those
            gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.memory.empty_cache()

    @property
    def model(self) -> nn.Module:
        """The model; keep no reference to it beyond the block."""
        assert self._model is not None
        return self._model


@dataclass(frozen=True)
class Written:
    """Completions of N prompts by one model; `prompt_ids` are the prompts as it read them."""

    prompt_ids: list[list[int]]
    completions: list[Completion]

    @property
    def texts(self) -> list[str]:
        return [completion.text for completion in self.completions]

    @property
    def token_ids(self) -> list[list[int]]:
        return [completion.token_ids for completion in self.completions]

    @property
    def sequences(self) -> list[list[int]]:
        """Prompt and completion together."""
        return [prompt + ids for prompt, ids in zip(self.prompt_ids, self.token_ids, strict=True)]

    def only(self, rows: Sequence[int]) -> "Written":
        """These rows of it, in this order."""
        return Written([self.prompt_ids[i] for i in rows], [self.completions[i] for i in rows])


def fitting_rows(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Messages],
    max_new_tokens: int,
    at_most: int | None = None,
) -> list[int]:
    """The rows whose prompt leaves room for `max_new_tokens` in the model's context, the first `at_most` of them."""
    limit = context_length(model)
    found = (
        i
        for i, prompt in enumerate(prompts)
        if limit is None or len(encode_prompt(tokenizer, prompt)) + max_new_tokens <= limit
    )
    return list(islice(found, at_most))


def write(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Messages],
    section: GenerationSection,
    *,
    seed: int,
    num_return: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """`num_return` completions for each prompt, those of one prompt side by side.

    The same seed gives the same ones, and no other random draw is disturbed.
    """
    completions = sample(
        model,
        tokenizer,
        prompts,
        max_new_tokens=section.max_new_tokens,
        temperature=section.temperature,
        top_k=section.top_k,
        top_p=section.top_p,
        num_return=num_return,
        batch_size=section.batch_size,
        seed=seed,
        progress=progress,
    )
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    return Written([encoded[completion.prompt_index] for completion in completions], completions)


def sequence_logprobs(model: nn.Module, written: Written, *, temperature: float, batch_size: int) -> Tensor:
    """Log p(completion | prompt) [N] in nats, float64 on the CPU: the sum over the completion's tokens.

    Args:
        model: may be another than the one that wrote, with the same vocabulary.
        written: N prompts and completions; a stop token that was reached counts as a token.
        temperature: the logits are divided by it, as in sampling.
        batch_size: rows at once.
    """
    rows = list(zip(written.prompt_ids, written.token_ids, strict=True))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    sums = torch.zeros(len(rows), dtype=torch.float64)
    with torch.no_grad(), eval_mode(model):
        for start in range(0, len(order), batch_size):
            picked = order[start : start + batch_size]
            sums[picked] = _batch_logprobs(model, [rows[i] for i in picked], temperature)
    return sums


def _batch_logprobs(model: nn.Module, rows: Sequence[tuple[list[int], list[int]]], temperature: float) -> Tensor:
    """Sums [b] for one batch, padded on the right: a causal model never looks there."""
    where = next(model.parameters()).device
    lengths = torch.tensor([len(prompt) + len(completion) for prompt, completion in rows])
    ids = nn.utils.rnn.pad_sequence(
        [torch.tensor(prompt + completion) for prompt, completion in rows], batch_first=True
    )
    columns = torch.arange(ids.size(1))
    mask = columns < lengths[:, None]
    in_completion = mask & (columns >= torch.tensor([len(prompt) for prompt, _ in rows])[:, None])
    # logits only from where the first completion token of any row is predicted
    width = ids.size(1) - min(len(prompt) for prompt, _ in rows) + 1
    options: dict[str, Any] = {"use_cache": False}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = width
    logits = model(input_ids=ids.to(where), attention_mask=mask.long().to(where), **options).logits
    logits = logits[:, -width:-1].float() / temperature
    targets = ids[:, 1 - width :].to(where) if width > 1 else ids[:, :0].to(where)
    logprobs = logits.gather(-1, targets[..., None]).squeeze(-1) - logits.logsumexp(-1)
    counted = in_completion[:, ids.size(1) - (width - 1) :]
    return (logprobs.double().cpu() * counted).sum(1)
