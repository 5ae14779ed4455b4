"""Sampling from a causal language model: token ids for the trainer, texts for evaluation and labelling."""

from rlhf.generation.completions import Completion, sample
from rlhf.generation.modes import eval_mode, seeded
from rlhf.generation.recorder import SampledTokens
from rlhf.generation.sampler import NonFiniteProbabilities
from rlhf.generation.texts import (
    Messages,
    check_lengths,
    decode_completion,
    encode_prompt,
    left_pad,
    padding_id,
    stop_token_ids,
)
from rlhf.generation.tokens import sample_tokens
from rlhf.generation.vllm import VLLMSampler

__all__ = [
    "Completion",
    "Messages",
    "NonFiniteProbabilities",
    "SampledTokens",
    "VLLMSampler",
    "check_lengths",
    "decode_completion",
    "encode_prompt",
    "eval_mode",
    "left_pad",
    "padding_id",
    "sample",
    "sample_tokens",
    "seeded",
    "stop_token_ids",
]
