"""What is being sampled: how tokens are drawn, where they are kept, when a row ends."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.generation.sampler import NonFiniteProbabilities, draw, uniforms


@dataclass(frozen=True)
class SampledTokens:
    """Completions of B prompts; T is the longest of them."""

    ids: Tensor
    """[B, T] int64, right-padded."""
    mask: Tensor
    """[B, T] bool, True = real token. The stop token, where there is one, is real."""
    ended: Tensor
    """[B] bool, True where the completion ends with a stop token or a stop string; False where it was cut at the
    limit."""
    logprobs: Tensor | None = None
    """[B, T] float32, of each token under the whole distribution at the sampling temperature, 0 past a row's end, as
    the pass that drew it computed it. None of greedy completions."""


class StopStrings:
    """Tells which completions have come to hold one of some strings.

    A completion's text is its tokens' by themselves, special tokens spelled out. It is looked at behind every token:
    the completion ends with the token that brings the string, of which the rest may reach beyond it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._strings = tuple(strings)
        # a token adds a byte at least; a few more keep clear of what decoders do to the first token of a text
        self.window = max(len(string.encode()) for string in strings) + 4

    def found(self, tails: Sequence[Sequence[int]]) -> list[bool]:
        """For each row's last tokens, `window` of them where there are as many."""
        texts = self._tokenizer.batch_decode(tails, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return [any(string in text for string in self._strings) for text in texts]


class Recorder:
    """Draws and keeps the completions of B rows, in whatever batches and order they come."""

    def __init__(
        self,
        num_rows: int,
        *,
        max_new_tokens: int,
        temperature: float,
        top_k: int,
        top_p: float,
        stop_ids: Sequence[int],
        stop_strings: StopStrings | None,
        key: int,
        device: torch.device,
    ) -> None:
        """`key` decides all draws; see `sampler.uniforms`."""
        self.max_new_tokens = max_new_tokens
        self._how = (temperature, top_k, top_p)
        self._stop_ids = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
        self._stop_strings = stop_strings
        self._can_end = len(self._stop_ids) > 0 or stop_strings is not None
        shape = (max_new_tokens, num_rows)
        self._uniforms = uniforms(key, num_rows, max_new_tokens).t().contiguous().to(device)
        self._ids = torch.zeros(shape, dtype=torch.long, device=device)
        self._logprobs = torch.zeros(shape, dtype=torch.float32, device=device)
        self._mask = torch.zeros(shape, dtype=torch.bool, device=device)
        self._ended = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self._finite = torch.ones((), dtype=torch.bool, device=device)

    def next(self, logits: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        """Draw token `step` of `rows` [n] int64 from `logits` [n, V], which are overwritten.

        Returns the tokens [n] int64, and which rows have ended [n] bool: None where nothing ends a completion. What
        is drawn for a row that ended before is not kept.

        Raises:
            NonFiniteProbabilities: there was nothing to draw from (on an accelerator `check` raises it).
        """
        tokens, logprobs = draw(logits, self._uniforms[step][rows], *self._how)
        self._finite &= torch.isfinite(logprobs).all()
        if not self._finite.is_cuda:
            self.check()
        live = ~self._ended[rows]
        self._ids[step, rows] = tokens
        self._logprobs[step, rows] = logprobs
        self._mask[step, rows] = live
        if not self._can_end:
            return tokens, None
        ending = torch.isin(tokens, self._stop_ids)
        if self._stop_strings is not None:
            tails = self._ids[max(0, step + 1 - self._stop_strings.window) : step + 1, rows].t().tolist()
            ending |= torch.tensor(self._stop_strings.found(tails), device=ending.device)
        self._ended[rows] |= ending
        return tokens, self._ended[rows]

    def check(self) -> None:
        """Raise NonFiniteProbabilities if some draw had nothing to draw from; waits for the device."""
        if not bool(self._finite):
            raise NonFiniteProbabilities

    def result(self, pad_id: int) -> SampledTokens:
        """All completions, in the order of the rows' numbers; T is the longest."""
        width = int(self._mask.any(1).sum())
        mask = self._mask[:width].t().contiguous()
        ids = self._ids[:width].t().masked_fill(~mask, pad_id)
        logprobs = None if self._how[0] == 0 else self._logprobs[:width].t().masked_fill(~mask, 0.0)
        return SampledTokens(ids, mask, self._ended, logprobs)
