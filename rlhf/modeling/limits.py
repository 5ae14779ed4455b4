"""How long a text a model reads."""

from typing import Any

from torch import nn
from transformers import AutoConfig

from rlhf.errors import UserError
from rlhf.modeling.sources import ModelSource

NUMBERED_BEHIND_PADDING = {
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "xmod"),
    *("data2vec-text", "ibert", "mpnet", "esm", "luke"),
}
"""Model types that number positions from `pad_token_id + 1` on, and so have that many fewer of them."""


def context_length(model: nn.Module) -> int | None:
    """The number of tokens the model reads, or None where its config does not say."""
    config = getattr(model, "config", None)
    return None if config is None else _positions(config)


def max_positions(source: ModelSource) -> int | None:
    """`context_length` of a model that is not in memory.

    Raises:
        UserError: its config cannot be read.
    """
    try:
        return _positions(AutoConfig.from_pretrained(source.bottom.folder))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{source.ref}: its config cannot be read: {' '.join(str(error).split())[:300]}") from error


def _positions(config: Any) -> int | None:
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    if not limit or limit <= 0:
        return None
    pad_id = text.pad_token_id if text.pad_token_id is not None else 1
    return int(limit) - (pad_id + 1 if text.model_type in NUMBERED_BEHIND_PADDING else 0)
