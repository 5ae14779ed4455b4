"""Drawing the next token: an inverse CDF over the softmax, one uniform number a row and step.

The uniform of (call, row, step) comes from a counter: each row has a Philox stream of its own (Salmon et al. 2011),
keyed by one number drawn from torch's generator for the whole call and by the row's place in it. So a row's completion
depends neither on how rows are cut into batches, nor on which others are there or have left, nor on `max_new_tokens`.
"""

import numpy as np
import torch
from torch import Tensor

MAX_ELEMENTS = 2**22
"""Of logits at once: 16 MiB as float32. Larger pieces of memory are fetched anew from the system at every step."""
BLOCK = 128
"""Tokens whose probabilities are summed up first; the CDF is searched over blocks, then within one."""


class NonFiniteProbabilities(RuntimeError):
    """NaN or infinity among the next-token probabilities: there is nothing to draw from."""

    def __init__(self) -> None:
        super().__init__("the probability tensor contains inf or nan")


def new_key() -> int:
    """63 bits from torch's global CPU generator: all that a call draws from it."""
    return int(torch.randint(2**63 - 1, (), dtype=torch.int64))


def uniforms(key: int, num_rows: int, num_steps: int) -> Tensor:
    """Numbers in [0, 1) [num_rows, num_steps] float64, 53 bits each; [i, t] depends on `key`, i and t alone."""
    raw = np.empty((num_rows, num_steps), dtype=np.uint64)
    for row in range(num_rows):
        raw[row] = np.random.Philox(key=[key, row]).random_raw(num_steps)
    return torch.from_numpy((raw >> np.uint64(11)) * 2.0**-53)


def pick(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [n] int64 where the CDF of each row first exceeds `uniform`, and their log-probs [n] float32.

    Args:
        weights: [n, V] float32, none negative: probabilities but for a factor. A weight of 0 is never drawn. A row
            with NaN or infinity, or of zeros, gives some token, whose log-prob is not finite.
        uniform: [n] float64 in [0, 1).
    """
    vocab_size = weights.size(1)
    sums = _block_sums(weights)
    cdf = sums.cumsum(1, dtype=torch.float64)
    total = cdf[:, -1:]
    target = uniform[:, None] * total
    block = _first_above(cdf, target)
    # how far into its block the target lies, as a share of it: the sums were rounded in another order
    block_sum = sums.gather(1, block).double()
    share = (target - (cdf.gather(1, block) - block_sum)) / block_sum
    columns = block * BLOCK + torch.arange(BLOCK, device=block.device)
    inside = weights.gather(1, columns.clamp(max=vocab_size - 1)).masked_fill(columns >= vocab_size, 0.0)
    cdf = inside.cumsum(1, dtype=torch.float64)
    place = _first_above(cdf, share * cdf[:, -1:])
    logprobs = inside.gather(1, place).double().log() - total.log()
    return (block * BLOCK + place).squeeze(1).clamp(max=vocab_size - 1), logprobs.squeeze(1).float()


def _block_sums(values: Tensor) -> Tensor:
    """[n, V] summed over blocks: [n, ceil(V / BLOCK)]; the last one may be shorter."""
    size = values.size(1)
    whole = size - size % BLOCK
    sums = values[:, :whole].unflatten(1, (whole // BLOCK, BLOCK)).sum(2)
    return sums if whole == size else torch.cat([sums, values[:, whole:].sum(1, keepdim=True)], 1)


def _first_above(cdf: Tensor, target: Tensor) -> Tensor:
    """[n, 1] int64: the first place of each row of `cdf` [n, m] above `target` [n, 1].

    Where rounding has brought the target to the row's end: the place that reaches the end, which has probability.
    """
    last = torch.searchsorted(cdf, cdf[:, -1:].contiguous())
    found = torch.searchsorted(cdf, target, right=True)
    return torch.minimum(found, last).clamp(max=cdf.size(1) - 1)


def keep_likely(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """`logits` [n, V] with -inf for all but the `top_k` highest (0: all) and then the nucleus of `top_p` (1: all).

    As transformers has it: what equals the k-th highest stays, and so does the token that takes the nucleus past
    `top_p` (Holtzman et al. 2020).
    """
    if 0 < top_k < logits.size(1):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p < 1.0:
        ascending, order = logits.sort(1)
        out = ascending.softmax(1).cumsum(1) <= 1.0 - top_p
        out[:, -1] = False
        logits = logits.masked_fill(out.scatter(1, order, out), -torch.inf)
    return logits


def draw(
    logits: Tensor, uniform: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Next tokens [n] int64 and their log-probs [n] float32.

    Args:
        logits: [n, V] of any float type; overwritten.
        uniform: [n] float64 in [0, 1).
        temperature: divides the logits; 0 takes the most likely token, the first of equals.
        top_k: see `keep_likely`.
        top_p: see `keep_likely`.

    Log-probs are those of the whole distribution at this temperature, whatever `top_k` and `top_p` leave of it, and at
    temperature 0 those at temperature 1. They are not finite where the row has NaN, inf or nothing but -inf.
    """
    rows = max(1, MAX_ELEMENTS // logits.size(1))
    if len(logits) > rows:
        pieces = zip(logits.split(rows), uniform.split(rows), strict=True)
        drawn = [draw(*piece, temperature, top_k, top_p) for piece in pieces]
        return torch.cat([tokens for tokens, _ in drawn]), torch.cat([logprobs for _, logprobs in drawn])
    logits = logits.float()
    tokens = None
    if temperature == 0:
        highest, tokens = logits.max(1, keepdim=True)
    else:
        highest = logits.amax(1, keepdim=True)
        if top_k > 0 or top_p < 1.0:
            likely = keep_likely(logits / temperature, top_k, top_p).softmax(1)
            tokens = pick(likely, uniform)[0][:, None]
    # in place, as every new [n, V] costs more than the arithmetic; the highest comes off first, which rounds least
    weights = logits.sub_(highest)
    if temperature not in (0, 1):
        weights.mul_(1.0 / temperature)
    weights.exp_()
    if tokens is None:
        return pick(weights, uniform)
    return tokens.squeeze(1), (weights.gather(1, tokens).log() - weights.sum(1, keepdim=True).log()).squeeze(1)
