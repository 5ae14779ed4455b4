"""A tiny random Llama and a word tokenizer, made on the spot: no file, no network."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

WORDS = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(29))]
PAD, EOS, GOOD = 0, 1, 5
CHAT_TEMPLATE = "{% for m in messages %}w0 {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}w1{% endif %}"


def make_tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def make_config(vocab_size: int = len(WORDS), **changes: Any) -> LlamaConfig:
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": PAD,
        "bos_token_id": None,
        "eos_token_id": EOS,
        "initializer_range": 0.3,
    }
    return LlamaConfig(vocab_size=vocab_size, **(sizes | changes))


def make_policy(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(make_config(**changes))


def make_classifier(seed: int = 1, **changes: Any) -> LlamaForSequenceClassification:
    torch.manual_seed(seed)
    return LlamaForSequenceClassification(make_config(**({"num_labels": 1} | changes)))


def make_prompts(count: int = 16) -> Dataset:
    return Dataset.from_dict({"prompt": [" ".join(f"w{(i + j) % 29}" for j in range(2 + i % 3)) for i in range(count)]})


def count_good(prompts: list[Any], completions: list[str], **columns: Any) -> list[float]:
    """The share of one word in each completion."""
    return [completion.split().count("w2") / 6 for completion in completions]


def completion_mask(ids: torch.Tensor, stop_ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Real tokens of generated ids [B, T], up to and with the first stop token: mask [B, T] bool and ended [B] bool.

    Goes by the stop tokens alone: a pad token that was sampled is a token like any other, and pad may equal EOS.
    """
    if not stop_ids:
        return torch.ones_like(ids, dtype=torch.bool), torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    is_stop = torch.isin(ids, torch.tensor(sorted(stop_ids), device=ids.device))
    stops_before = is_stop.cumsum(1) - is_stop.long()
    return stops_before == 0, is_stop.any(1)
