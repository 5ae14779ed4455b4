"""Models: where they lie, how they are loaded, adapted, given a head and saved. Nothing else calls from_pretrained."""

from rlhf.modeling.adapters import (
    AdapterRewardModel,
    AdapterStack,
    adapters_at_work,
    carry_adapter,
    put_to_work,
    same_adapters_again,
)
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
from rlhf.modeling.memory import device, warn_of_low_precision, weight_bytes
from rlhf.modeling.one_base import OneBase, load_on_one_base
from rlhf.modeling.packed import PackedTokens, is_packable, packed_hidden, weights_held
from rlhf.modeling.packed_head import packed_logprobs
from rlhf.modeling.saving import save_model
from rlhf.modeling.side_by_side import ModelWork, have_parts_in_common, models_side_by_side, side_by_side
from rlhf.modeling.sources import ModelSource, find_model

__all__ = [
    "AdapterRewardModel",
    "AdapterStack",
    "ModelSource",
    "ModelWork",
    "OneBase",
    "PackedTokens",
    "adapters_at_work",
    "can_write",
    "carry_adapter",
    "context_length",
    "device",
    "find_model",
    "have_parts_in_common",
    "is_packable",
    "load_causal_lm",
    "load_on_one_base",
    "load_reward_model",
    "load_tokenizer",
    "lora_config",
    "max_positions",
    "models_side_by_side",
    "new_reward_model",
    "packed_hidden",
    "packed_logprobs",
    "put_to_work",
    "same_adapters_again",
    "save_model",
    "set_pad_token",
    "side_by_side",
    "warn_of_low_precision",
    "weight_bytes",
    "weights_held",
]
