"""Models: where they lie, how they are loaded, adapted, given a head and saved. Nothing else calls from_pretrained."""

from rlhf.modeling.loading import (
    context_length,
    load_causal_lm,
    load_reward_model,
    load_tokenizer,
    new_reward_model,
    new_value_model,
)
from rlhf.modeling.saving import save_model
from rlhf.modeling.sources import ModelSource, find_model

__all__ = [
    "ModelSource",
    "context_length",
    "find_model",
    "load_causal_lm",
    "load_reward_model",
    "load_tokenizer",
    "new_reward_model",
    "new_value_model",
    "save_model",
]
