"""Models: where they lie, how they are loaded, adapted, given a head and saved. Nothing else calls from_pretrained."""

from rlhf.modeling.adapters import (
    AdapterRewardModel,
    AdapterStack,
    adapters_at_work,
    carry_adapter,
    put_to_work,
    same_adapters_again,
)
from rlhf.modeling.ensembles import AdapterEnsemble, SharedBaseEnsemble, num_member_adapters
from rlhf.modeling.limits import context_length, max_positions
from rlhf.modeling.loading import (
    can_write,
    load_causal_lm,
    load_tokenizer,
    lora_config,
    set_pad_token,
)
from rlhf.modeling.memory import device, warn_of_low_precision, weight_bytes
from rlhf.modeling.one_base import OneBase, load_on_one_base
from rlhf.modeling.packed import PackedTokens, is_packable, packed_hidden, weights_held
from rlhf.modeling.packed_head import packed_logprobs
from rlhf.modeling.reward_file import REWARD_FILE, Combine, Offset, RewardFile, read_reward_file
from rlhf.modeling.reward_models import adapted_outputs, load_reward_model, new_reward_model
from rlhf.modeling.saving import save_model
from rlhf.modeling.side_by_side import ModelWork, have_parts_in_common, models_side_by_side, side_by_side
from rlhf.modeling.sources import ModelSource, find_model

__all__ = [
    "REWARD_FILE",
    "AdapterEnsemble",
    "AdapterRewardModel",
    "AdapterStack",
    "Combine",
    "ModelSource",
    "ModelWork",
    "Offset",
    "OneBase",
    "PackedTokens",
    "RewardFile",
    "SharedBaseEnsemble",
    "adapted_outputs",
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
    "num_member_adapters",
    "packed_hidden",
    "packed_logprobs",
    "put_to_work",
    "read_reward_file",
    "same_adapters_again",
    "save_model",
    "set_pad_token",
    "side_by_side",
    "warn_of_low_precision",
    "weight_bytes",
    "weights_held",
]
