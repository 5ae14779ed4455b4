"""What one update learns from: sampled completions and everything measured on them before the first gradient."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlhf.generation import Messages, SampledTokens
from rlhf.modeling import PackedTokens
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
    """Some rows of a rollout, ready for a forward pass: b rows of at most S tokens, n cells that are asked about.

    A row is its prompt, followed at once by its completion without the last token, from which nothing is predicted.
    Padding is on the right. W is the number of completion columns that these rows need.
    """

    rows: Tensor
    """[b] int64, which rows of the rollout."""
    input_ids: Tensor
    """[b, S] int64."""
    lengths: tuple[int, ...]
    """b numbers of real tokens; the longest is S."""
    asked: Tensor
    """[b, W] bool, the cells of the completions that are asked about."""
    positions: Tensor
    """[n] int64, ascending: where in the flattened `input_ids` the asked cells are predicted."""
    targets: Tensor
    """[n] int64, the tokens in the asked cells."""
    critic_states: Tensor | None = None
    """[n, d], what a `HeadCritic` reads there, where it is known already."""

    @property
    def width(self) -> int:
        """W, the columns of completion."""
        return self.asked.size(1)

    @property
    def cells(self) -> tuple[Tensor, slice]:
        """Where these rows' cells lie in what is [B, T]; as an index it gives [b, W]."""
        return self.rows, slice(0, self.width)

    @cached_property
    def packed(self) -> PackedTokens:
        """The same without padding."""
        columns = torch.arange(self.input_ids.size(1), device=self.input_ids.device)
        real = columns < torch.tensor(self.lengths, device=columns.device)[:, None]
        asked = (real.flatten().cumsum(0) - 1)[self.positions]
        return PackedTokens(self.input_ids[real], self.lengths, asked, tuple(self.asked.sum(1).tolist()))


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
    sampler_logprobs: Tensor | None = None
    """[B, T] float32, what the sampler said of its tokens while it drew them: as `logprobs`, by another pass, token by
    token from a cache, perhaps by another engine."""
    critic_states: Tensor | None = None
    """[B, T, d], what a `HeadCritic` read."""

    @property
    def lengths(self) -> Tensor:
        """[B] int64, tokens of each completion."""
        return self.mask.sum(1)


def token_batches(
    prompts: Prompts,
    tokens: SampledTokens,
    rows: Sequence[int],
    size: int,
    pad_id: int,
    reward_at: RewardAt,
    max_tokens: int | None = None,
    critic_states: Tensor | None = None,
) -> Iterator[TokenBatch]:
    """Cut `rows` into batches of `size`, or of at most `max_tokens` tokens, padding counted, where that is given.

    Rows of like length come together, so that little of a batch is padding. In "trl" mode the critic is asked once
    more, after the last token, where that fits; that token is then fed too. `critic_states` are a rollout's.
    """
    asked = value_mask(tokens.mask, reward_at)
    num_asked = asked.sum(1).tolist()
    lengths = {i: num_asked[i] + len(prompts.ids[i]) - 1 for i in rows}
    order = sorted(rows, key=lambda i: (lengths[i], i))
    start = 0
    while start < len(order):
        end = start + size
        if max_tokens is not None:
            # Sorted, so the last row of a batch is its longest. One row is taken however long it is.
            end = start + 1
            while end < len(order) and (end + 1 - start) * lengths[order[end]] <= max_tokens:
                end += 1
        picked = order[start:end]
        yield _token_batch(prompts, tokens.ids, asked, picked, [num_asked[i] for i in picked], pad_id, critic_states)
        start = end


def _token_batch(
    prompts: Prompts,
    ids: Tensor,
    asked: Tensor,
    picked: Sequence[int],
    num_asked: Sequence[int],
    pad_id: int,
    critic_states: Tensor | None,
) -> TokenBatch:
    """The rows `picked`, the first `num_asked` cells of which are asked about.

    Where those lie is worked out on the processor from these counts: asking an accelerator for it is to wait for it.
    """
    fed = [torch.cat([prompts.ids[i].to(ids), ids[i, : n - 1]]) for i, n in zip(picked, num_asked, strict=True)]
    input_ids = pad_sequence(fed, batch_first=True, padding_value=pad_id)
    row = torch.tensor([at for at, n in enumerate(num_asked) for _ in range(n)])
    column = torch.tensor([place for n in num_asked for place in range(n)])
    first = torch.tensor([len(prompts.ids[i]) - 1 for i in picked])
    positions = (row * input_ids.size(1) + first[row] + column).to(ids.device)
    index = torch.tensor(picked)
    cells = index[row].to(ids.device), column.to(ids.device)
    return TokenBatch(
        rows=index.to(ids.device),
        input_ids=input_ids,
        lengths=tuple(len(row_ids) for row_ids in fed),
        asked=asked[index.to(ids.device), : max(num_asked)],
        positions=positions,
        targets=ids[cells],
        critic_states=None if critic_states is None else critic_states[cells],
    )


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
    critic_states: Tensor | None = None,
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
        sampler_logprobs=tokens.logprobs,
        critic_states=critic_states,
    )
