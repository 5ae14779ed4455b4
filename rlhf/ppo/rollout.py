"""What one update learns from: sampled completions and everything measured on them before the first gradient."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf.generation import Messages, SampledTokens, left_pad
from rlhf.ppo.losses import RewardAt, value_mask


@dataclass(frozen=True)
class Prompts:
    """B prompts of one batch."""

    ids: list[Tensor]
    """B tensors [p_i] int64, without padding."""
    texts: list[str | Messages]
    """The same as people wrote them: for scorers and tables."""
    columns: dict[str, list[Any]]
    """The data set's other columns, B values each: for reward functions."""


@dataclass(frozen=True)
class TokenBatch:
    """Some rows of a rollout, ready for a forward pass. W columns of completion hold all that these rows need.

    The prompts are padded on the left and the completions on the right, so that column t of every row's completion
    stands in one place. The last completion token is not fed: nothing is predicted from it.
    """

    rows: Tensor
    """[b] int64, which rows of the rollout."""
    input_ids: Tensor
    """[b, P + W - 1] int64."""
    attention_mask: Tensor
    """[b, P + W - 1] int64, 1 = real."""
    position_ids: Tensor
    """[b, P + W - 1] int64, from 0 at each row's first real token."""
    completion_ids: Tensor
    """[b, W] int64: what position P - 1 + t predicts."""

    def tensors(self) -> dict[str, Tensor]:
        """What a model's forward pass needs."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
            "completion_ids": self.completion_ids,
        }

    @property
    def width(self) -> int:
        """W, the columns of completion."""
        return self.completion_ids.size(1)


@dataclass(frozen=True)
class Rollout:
    """B episodes. T is the longest completion. Cells past a row's end hold 0 in every float field."""

    prompts: Prompts
    completion_ids: Tensor
    """[B, T] int64, right-padded with the pad token."""
    mask: Tensor
    """[B, T] bool, True = real token, the stop token included."""
    value_mask: Tensor
    """[B, T] bool, where the critic is asked; `mask` unless the score is paid one past EOS."""
    ended: Tensor
    """[B] bool, True where the completion holds a stop (or EOS) token."""
    logprobs: Tensor
    """[B, T] float32, of the policy that sampled."""
    ref_logprobs: Tensor
    """[B, T] float32."""
    values: Tensor
    """[B, T] float32."""

    @property
    def lengths(self) -> Tensor:
        """[B] int64, tokens of each completion."""
        return self.mask.sum(1)


def token_batches(
    prompts: Prompts, tokens: SampledTokens, rows: Sequence[int], size: int, pad_id: int, reward_at: RewardAt
) -> Iterator[TokenBatch]:
    """Cut `rows` into batches of `size`, rows of like length together so that little of a batch is padding."""
    lengths = tokens.mask.sum(1).tolist()
    order = sorted(rows, key=lambda i: (lengths[i] + len(prompts.ids[i]), i))
    limit = tokens.ids.size(1)
    for start in range(0, len(order), size):
        picked = order[start : start + size]
        # In "trl" mode the critic is asked once more, after the last token, where that fits.
        width = min(max(lengths[i] for i in picked) + (reward_at == "trl"), limit)
        yield _token_batch(prompts, tokens, picked, width, pad_id)


def _token_batch(prompts: Prompts, tokens: SampledTokens, rows: list[int], width: int, pad_id: int) -> TokenBatch:
    index = torch.tensor(rows, device=tokens.ids.device)
    prompt_ids, prompt_mask = left_pad([prompts.ids[i] for i in rows], pad_id, tokens.ids.device)
    completion_ids = tokens.ids[index, :width]
    input_ids = torch.cat([prompt_ids, completion_ids[:, :-1]], dim=1)
    attention_mask = torch.cat([prompt_mask, tokens.mask[index, : width - 1]], dim=1).long()
    position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)
    return TokenBatch(index, input_ids, attention_mask, position_ids, completion_ids)


def blank(tokens: SampledTokens) -> Tensor:
    """Zeros [B, T] float32 to be filled row by row."""
    return torch.zeros(tokens.ids.shape, dtype=torch.float32, device=tokens.ids.device)


def assemble(
    prompts: Prompts,
    tokens: SampledTokens,
    eos_ids: Sequence[int],
    reward_at: RewardAt,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor,
) -> Rollout:
    """Put the measured pieces [B, T] together, zeroed past each row's end."""
    is_eos = torch.isin(tokens.ids, torch.tensor(list(eos_ids), device=tokens.ids.device)) & tokens.mask
    asked = value_mask(tokens.mask, reward_at)
    return Rollout(
        prompts=prompts,
        completion_ids=tokens.ids,
        mask=tokens.mask,
        value_mask=asked,
        ended=tokens.ended | is_eos.any(1),
        logprobs=logprobs.masked_fill(~tokens.mask, 0.0),
        ref_logprobs=ref_logprobs.masked_fill(~tokens.mask, 0.0),
        values=values.masked_fill(~asked, 0.0),
    )
