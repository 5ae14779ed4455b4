"""A prompt is read once for all of its completions: one row of a decoder holds the prompt, and them behind it.

Each completion sees the prompt and itself, at the positions it would have alone (a tree as attention mask, as in
Medusa, Cai et al. 2024, section 2.1.2), so that its score is what it is alone, and the prompt's gradient is the sum of
all. For decoders that `rlhf.modeling` knows through and through; others are given their texts one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.modeling.decoder_parts import read_decoder

MAX_ROW_TOKENS = 1024
"""Attention costs the square of a row, which a long ranking would pay for; what does not fit starts another row."""
WORTH = 0.8
"""The share of tokens, padding included, up to which rows of several texts are worth their mask."""


@dataclass(frozen=True)
class SharedRows:
    """G rows of at most S tokens that hold N texts."""

    ids: Tensor
    """[G, S]."""
    positions: Tensor
    """[G, S], where each token would stand in its text."""
    mask: Tensor
    """[G, 1, S, S] bool, True where a token (the third axis) sees another (the last)."""
    row: Tensor
    """[N], the row of each text."""
    last: Tensor
    """[N], where in its row its last token stands."""


def can_share(model: nn.Module) -> bool:
    """Whether rows that share a prompt are known to give this model's scores; tried once on a few tokens."""
    found = _trunk_and_head(model)
    if found is None:
        return False
    trunk, head = found
    parts = read_decoder(trunk)
    if parts is None or parts.max_length < MAX_ROW_TOKENS or trunk.config._attn_implementation != "sdpa":
        return False
    return _agrees(model, trunk, head)


def shared_rows(texts: Sequence[Sequence[int]], groups: Sequence[int], pad_id: int) -> SharedRows | None:
    """The texts of one group, which follow one another, behind what they have in common; None if that is not worth it.

    Args:
        texts: token ids, N lists.
        groups: [N], texts of one number have a prompt in common.
        pad_id: transformers' classifiers read a text up to its last token that is not this one.
    """
    read = [_without_end(text, pad_id) for text in texts]
    if not all(read):
        return None
    rows = _rows(read, groups)
    length = max(row.length for row in rows)
    if length * len(rows) > WORTH * len(texts) * max(map(len, texts)):
        return None
    ids = torch.full((len(rows), length), pad_id)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    segment = torch.full((len(rows), length), -1)
    row_of, last = torch.zeros(len(texts), dtype=torch.long), torch.zeros(len(texts), dtype=torch.long)
    for number, row in enumerate(rows):
        prefix = read[row.members[0]][: row.num_shared]
        ids[number, : len(prefix)], positions[number, : len(prefix)] = torch.tensor(prefix), torch.arange(len(prefix))
        segment[number, : len(prefix)] = 0
        at = len(prefix)
        for place, member in enumerate(row.members, start=1):
            own = torch.tensor(read[member][row.num_shared :])
            here = slice(at, at + len(own))
            ids[number, here], segment[number, here] = own, place
            positions[number, here] = torch.arange(row.num_shared, row.num_shared + len(own))
            at += len(own)
            row_of[member], last[member] = number, at - 1
    before = torch.ones(length, length, dtype=torch.bool).tril()
    related = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    # padding sees padding, and at least itself: a softmax over nothing is not a number
    return SharedRows(ids, positions, (before & related)[:, None], row_of, last)


def shared_scores(model: nn.Module, rows: SharedRows) -> Tensor:
    """Scores [N, M] in float32 of the texts in `rows`, for a model that `can_share`."""
    found = _trunk_and_head(model)
    assert found is not None
    return _scores(*found, rows)


def _scores(trunk: Any, head: nn.Module, rows: SharedRows) -> Tensor:
    device = next(head.parameters()).device
    hidden = trunk(
        input_ids=rows.ids.to(device),
        attention_mask=rows.mask.to(device),
        position_ids=rows.positions.to(device),
        use_cache=False,
    ).last_hidden_state
    return cast(Tensor, head(hidden[rows.row.to(device), rows.last.to(device)]).float())


@dataclass
class _Row:
    members: list[int]
    num_shared: int
    length: int


def _rows(texts: Sequence[Sequence[int]], groups: Sequence[int]) -> list[_Row]:
    rows: list[_Row] = []
    for member, text in enumerate(texts):
        row = rows[-1] if rows and groups[rows[-1].members[0]] == groups[member] else None
        if row is not None:
            members = [*row.members, member]
            # every text keeps a token of its own: its last, which is scored
            shared = min(_num_common(texts[row.members[0]], text), row.num_shared, len(text) - 1)
            length = shared + sum(len(texts[each]) - shared for each in members)
            if shared and length <= MAX_ROW_TOKENS:
                row.members, row.num_shared, row.length = members, shared, length
                continue
        rows.append(_Row([member], len(text) - 1, len(text)))
    return rows


def _num_common(one: Sequence[int], other: Sequence[int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _without_end(text: Sequence[int], pad_id: int) -> Sequence[int]:
    end = len(text)
    while end and text[end - 1] == pad_id:
        end -= 1
    return text[:end]


def _trunk_and_head(model: nn.Module) -> tuple[Any, nn.Module] | None:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, PreTrainedModel) or not hasattr(base, "score"):
        return None
    return getattr(base, base.base_model_prefix), cast(nn.Module, base.score)


@torch.no_grad()
def _agrees(model: nn.Module, trunk: Any, head: nn.Module) -> bool:
    was_training = model.training
    model.eval()
    try:
        size = trunk.config.vocab_size
        pad_id = trunk.config.pad_token_id
        tokens = [token for token in range(size) if token != pad_id][:16] * 2
        texts = [tokens[:9], tokens[:6] + tokens[11:15], tokens[:6] + tokens[8:16]]
        rows = shared_rows(texts, [0, 0, 0], pad_id)
        assert rows is not None
        device = next(head.parameters()).device
        alone = [model(input_ids=torch.tensor([text], device=device)).logits.float() for text in texts]
        return torch.allclose(_scores(trunk, head, rows), torch.cat(alone), rtol=1e-2, atol=1e-3)
    finally:
        model.train(was_training)
