"""Decoding by hand: prompts without padding, a cache of fixed size, and only the rows that still have something to say.

A batch's cache has one column for each position, the prompts flush right in it, so that all rows write column t at
once. Rows stand in order of prompt length and attend in slices of a few; a slice reads only the columns its longest
row has, and masks what little the others lack. When rows finish, the last ones move into their places.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rlhf.generation.recorder import Recorder
from rlhf.generation.snapshot import Layer, Snapshot

SLICE_ROWS = 16
"""Rows that attend together on a CPU; elsewhere all do."""
PREFILL_TOKENS = {"cpu": 2048}
"""Most tokens of one prefill pass (but one row's at least); 16,384 elsewhere."""
WORTH_A_MOVE = 16
"""Rows leave when at least one in so many has finished."""
LOOK_EVERY = 8
"""Steps between two looks at which rows have finished, where looking means waiting for an accelerator."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Layer, queries [n, heads, d], keys and values [n, kv_heads, d] to what they attend to [n, heads * d]."""


def decode(snapshot: Snapshot, prompts: Sequence[Tensor], rows: Sequence[int], recorder: Recorder) -> None:
    """Complete some prompts and leave the completions with `recorder`.

    Args:
        snapshot: the model.
        prompts: int64 token ids, one tensor for each of `rows`, longest first.
        rows: whose completions they are, as `recorder` numbers them.
        recorder: draws the tokens, keeps them, and tells which rows have ended.
    """
    batch = Batch(snapshot, [len(prompt) for prompt in prompts], rows, recorder.max_new_tokens)
    logits = batch.prefill(prompts)
    for step in range(recorder.max_new_tokens):
        tokens, ended = recorder.next(logits, batch.rows, step)
        if step + 1 == recorder.max_new_tokens:
            break
        if ended is not None and (batch.on_cpu or step % LOOK_EVERY == LOOK_EVERY - 1):
            tokens = batch.drop(ended, tokens)
            if len(tokens) == 0:
                break
        logits = batch.step(tokens)
    recorder.check()


class Batch:
    """The rows that are being written and their cache."""

    def __init__(self, snapshot: Snapshot, lengths: Sequence[int], rows: Sequence[int], max_new_tokens: int) -> None:
        self._snapshot = snapshot
        device = snapshot.embedding.device
        self.on_cpu = device.type == "cpu"
        self.rows = torch.tensor(rows, device=device)
        """[n] int64, whose completion each live row is."""
        width = max(lengths)
        self._starts = width - torch.tensor(lengths, device=device)
        self._column = width
        """The next one to be written."""
        # the last token is drawn and never read
        shape = (2, len(lengths), width + max_new_tokens - 1, snapshot.num_kv_heads, snapshot.head_dim)
        self._cache = [torch.zeros(shape, dtype=snapshot.dtype, device=device) for _ in snapshot.layers]
        self._rotations = snapshot.rotations(shape[2])
        self._arrange()

    @property
    def num_bytes(self) -> int:
        """Of the cache."""
        return sum(layer.numel() * layer.element_size() for layer in self._cache)

    def prefill(self, prompts: Sequence[Tensor]) -> Tensor:
        """Read the prompts; logits [n, V] of the first completion token."""
        limit = PREFILL_TOKENS.get(self._snapshot.embedding.device.type, 16_384)
        logits, start = [], 0
        while start < len(prompts):
            end, tokens = start + 1, len(prompts[start])
            while end < len(prompts) and end - start < SLICE_ROWS and tokens + len(prompts[end]) <= limit:
                tokens += len(prompts[end])
                end += 1
            logits.append(self._prefill(prompts[start:end], start))
            start = end
        return torch.cat(logits)

    def _prefill(self, prompts: Sequence[Tensor], first_row: int) -> Tensor:
        """Rows from `first_row` on: their tokens end to end, padded (on the right, so causally unseen) to attend."""
        snapshot, device = self._snapshot, self._starts.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        ends = lengths.cumsum(0)
        row = torch.repeat_interleave(torch.arange(len(prompts), device=device), lengths)
        position = torch.arange(len(row), device=device) - (ends - lengths)[row]
        width = len(prompts[0])
        padded_from = (ends - lengths)[:, None] + torch.arange(width, device=device).clamp(max=lengths[:, None] - 1)
        padded_at = row * width + position
        where = (first_row + row, position + self._starts[first_row + row])

        def attend(index: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            for which, states in enumerate((key, value)):
                self._cache[index][which][where] = states
            padded = (states[padded_from].transpose(1, 2) for states in (query, key, value))
            mixed = self._attention(*padded, is_causal=True)
            return mixed.transpose(1, 2).flatten(2).flatten(0, 1)[padded_at]

        cos, sin = (table[position] for table in self._rotations)
        return _forward(snapshot, torch.cat(list(prompts)).to(device), cos, sin, attend, last=ends - 1)

    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token [n] of each live row; logits [n, V] of the next."""
        column = self._column
        self._column += 1
        position = column - self._starts

        def attend(index: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self._cache[index].unbind()
            keys[: len(tokens), column] = key
            values[: len(tokens), column] = value
            mixed = [
                self._attention(
                    query[rows, :, None],
                    keys[rows, first : column + 1].transpose(1, 2),
                    values[rows, first : column + 1].transpose(1, 2),
                    attn_mask=None if mask is None else mask[..., first : column + 1],
                ).flatten(1)
                for rows, first, mask in self._slices
            ]
            return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

        cos, sin = (table[position] for table in self._rotations)
        return _forward(self._snapshot, tokens, cos, sin, attend)

    def drop(self, ended: Tensor, tokens: Tensor) -> Tensor:
        """Rows of `ended` [n] bool leave, the last live ones move into their places: `tokens` [n] of those left.

        They stay, and are computed, until they are worth it.
        """
        num_left = len(ended) - int(ended.sum())
        if (len(ended) - num_left) * WORTH_A_MOVE < max(len(ended), WORTH_A_MOVE):
            return tokens
        holes = ended[:num_left].nonzero().squeeze(1)
        movers = (~ended[num_left:]).nonzero().squeeze(1) + num_left
        for per_row in (self.rows, self._starts, tokens):
            per_row[holes] = per_row[movers]
        for layer in self._cache:
            layer[:, holes] = layer[:, movers]
        self.rows, self._starts = self.rows[:num_left], self._starts[:num_left]
        self._arrange()
        return tokens[:num_left]

    def _arrange(self) -> None:
        """Cut the live rows into slices: rows, the first column they need, and a mask [n, 1, 1, columns] if any."""
        size = SLICE_ROWS if self.on_cpu else max(1, len(self._starts))
        columns = torch.arange(self._cache[0].size(2), device=self._starts.device)
        self._slices: list[tuple[slice, int, Tensor | None]] = []
        for start in range(0, len(self._starts), size):
            rows = slice(start, min(start + size, len(self._starts)))
            starts = self._starts[rows]
            first, last = starts.aminmax()
            mask = None
            if first != last:
                mask = torch.zeros((len(starts), 1, 1, len(columns)), dtype=self._snapshot.dtype, device=starts.device)
                mask.masked_fill_((columns < starts[:, None])[:, None, None], -torch.inf)
            self._slices.append((rows, int(first), mask))

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, **how: Any) -> Tensor:
        """[n, heads, q, d] over [n, kv_heads, k, d]."""
        grouped = self._snapshot.num_heads != self._snapshot.num_kv_heads
        return functional.scaled_dot_product_attention(query, key, value, enable_gqa=grouped, **how)


def _forward(
    snapshot: Snapshot, tokens: Tensor, cos: Tensor, sin: Tensor, attend: Attend, last: Tensor | None = None
) -> Tensor:
    """Logits [n, V] of tokens [n]; with `last` [m], of those alone, and the others go no further than they must."""
    x = snapshot.embedding[tokens]
    for index, layer in enumerate(snapshot.layers):
        query, key, value = _query_key_value(snapshot, layer, x, cos, sin)
        mixed = attend(index, query, key, value)
        if last is not None and index == len(snapshot.layers) - 1:
            x, mixed = x[last], mixed[last]
        x = x + layer.output(mixed)
        gate, up = layer.gate_up(layer.mlp_norm(x, snapshot.dtype)).chunk(2, 1)
        x = x + layer.down(functional.silu(gate) * up)
    return snapshot.head(snapshot.norm(x, snapshot.dtype))


def _query_key_value(
    snapshot: Snapshot, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [n, heads, d], keys and values [n, kv_heads, d], rotated by position."""
    joined = layer.qkv(layer.attention_norm(x, snapshot.dtype)).unflatten(1, (-1, snapshot.head_dim))
    num_heads, num_kv_heads = snapshot.num_heads, snapshot.num_kv_heads
    rotated, value = joined[:, : num_heads + num_kv_heads].float(), joined[:, num_heads + num_kv_heads :]
    if layer.q_norm is not None and layer.k_norm is not None:
        query, key = rotated[:, :num_heads], rotated[:, num_heads:]
        rotated = torch.cat([layer.q_norm(query, snapshot.dtype), layer.k_norm(key, snapshot.dtype)], 1)
    turned = rotated.roll(snapshot.head_dim // 2, -1)  # with the sines' signs: RoPE's rotate_half
    rotated = torch.addcmul(rotated * cos, turned, sin).to(snapshot.dtype)
    return rotated[:, :num_heads], rotated[:, num_heads:], value
