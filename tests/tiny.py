"""Tiny random models with a byte-level tokenizer, made on the spot: no file, no network, milliseconds to run."""

from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

CONTEXT = 96
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tiny_tokenizer(*, chat: bool = False) -> PreTrainedTokenizerFast:
    """Bytes and nothing else: 256 of them, an end and a padding token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*alphabet, "</s>", "<pad>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", model_max_length=CONTEXT
    )
    if chat:
        made.chat_template = CHAT_TEMPLATE
    return made


def tiny_model(
    folder: Path,
    kind: Literal["causal", "reward", "encoder"] = "causal",
    seed: int = 0,
    *,
    chat: bool = False,
    context: int = CONTEXT,
) -> Path:
    """A model and its tokenizer in `folder`: a Llama that writes, one that scores, or a Bert that scores."""
    tokenizer = tiny_tokenizer(chat=chat)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": context,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.3,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "causal":
            model = LlamaForCausalLM(LlamaConfig(**sizes))
            model.generation_config = GenerationConfig(
                do_sample=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
            )
        elif kind == "reward":
            model = LlamaForSequenceClassification(LlamaConfig(**sizes, num_labels=1))
        else:
            model = BertForSequenceClassification(BertConfig(**sizes, num_labels=1))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
