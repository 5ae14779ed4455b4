"""Models: where they lie, how they are loaded, adapted, given a head and saved. Nothing else calls from_pretrained."""

from rlhf.modeling.limits import context_length, max_positions
from rlhf.modeling.loading import (
    can_write,
    load_causal_lm,
    load_reward_model,
    load_tokenizer,
    lora_config,
    new_reward_model,
    set_pad_token,
)
from rlhf.modeling.memory import device, warn_of_low_precision
from rlhf.modeling.saving import save_model
from rlhf.modeling.sources import ModelSource, find_model

__all__ = [
    "ModelSource",
    "can_write",
    "context_length",
    "device",
    "find_model",
    "load_causal_lm",
    "load_reward_model",
    "load_tokenizer",
    "lora_config",
    "max_positions",
    "new_reward_model",
    "save_model",
    "set_pad_token",
    "warn_of_low_precision",
]
