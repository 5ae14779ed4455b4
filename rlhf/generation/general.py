"""Sampling by transformers' `generate`, for models that `decode` does not know: the same draws, slower."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from rlhf.generation.recorder import Recorder
from rlhf.generation.texts import left_pad


def generate(model: nn.Module, prompts: Sequence[Tensor], rows: Sequence[int], recorder: Recorder, pad_id: int) -> None:
    """Complete `prompts`, those of `rows`, and leave the completions with `recorder`. All run until all have ended."""
    device = next(model.parameters()).device
    ids, mask = left_pad(prompts, pad_id, device)
    config = GenerationConfig(
        max_new_tokens=recorder.max_new_tokens, do_sample=False, eos_token_id=None, pad_token_id=pad_id, use_cache=True
    )
    drawing = _Drawing(recorder, torch.tensor(rows, device=device), ids.size(1))
    with _generating_by(model, config):
        model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask.long(),
            generation_config=config,
            logits_processor=LogitsProcessorList([drawing]),
            stopping_criteria=StoppingCriteriaList([_HaveEnded(drawing)]),
        )
    recorder.check()


class _Drawing(LogitsProcessor):
    """Leaves greedy search one token to find, the one that was drawn."""

    def __init__(self, recorder: Recorder, rows: Tensor, prompt_width: int) -> None:
        self._recorder = recorder
        self._rows = rows
        self._prompt_width = prompt_width
        self.ended = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        tokens, ended = self._recorder.next(scores.clone(), self._rows, input_ids.size(1) - self._prompt_width)
        if ended is not None:
            self.ended = ended
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


class _HaveEnded(StoppingCriteria):
    def __init__(self, drawing: _Drawing) -> None:
        self._drawing = drawing

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return self._drawing.ended


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
