"""The models, prompts and tokenizer that all arms share; weights are drawn from one seed."""

from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

PAD, EOS = 0, 1
MIN_PROMPT, MAX_PROMPT = 16, 48
RESPONSE_LENGTH = 48
NUM_PPO_EPOCHS = 4
COMMON = 4.0
"""Length of the direction that embeddings have in common, in their own typical lengths."""


@dataclass(frozen=True)
class Shape:
    """A model and the batch it is trained on."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    batch: int
    """Episodes of an update."""
    micro_batch: int
    """Rows of a backward pass, where an arm counts rows."""
    eos_norm: float = 0.0
    """Of EOS's embedding where completions end by themselves; found by trial, and each run prints the mean length."""

    @property
    def trunk_parameters(self) -> int:
        """Weights that every token passes through, embedding and head apart."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.intermediate)

    @property
    def head_parameters(self) -> int:
        """Weights of the output embedding."""
        return self.vocabulary * self.hidden

    def config(self, **extra: int) -> LlamaConfig:
        """The configuration of one model."""
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            eos_token_id=EOS,
            bos_token_id=None,
            **extra,
        )


SHAPES = {
    "5.8M": Shape(4096, 256, 688, 6, 8, batch=64, micro_batch=16, eos_norm=2.1),
    "40M": Shape(32_000, 512, 1376, 8, 8, batch=32, micro_batch=8, eos_norm=2.95),
    "0.5B": Shape(32_000, 1536, 4096, 16, 12, batch=64, micro_batch=16),
    "1.5B": Shape(32_000, 2048, 5504, 28, 16, batch=64, micro_batch=16),
}


def tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    """One word a token."""
    from tokenizers import Tokenizer, models

    words = {"<pad>": PAD, "</s>": EOS, **{f"w{i}": i for i in range(2, shape.vocabulary)}}
    made = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", padding_side="left")


def prompts(shape: Shape, updates: int) -> list[list[int]]:
    """Random prompts for so many updates, of 16 to 48 tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(MIN_PROMPT, MAX_PROMPT + 1, (shape.batch * updates,), generator=generator).tolist()
    return [torch.randint(2, shape.vocabulary, (length,), generator=generator).tolist() for length in lengths]


def policy(shape: Shape, natural_eos: bool) -> LlamaForCausalLM:
    """A policy with random weights; with `natural_eos` its completions end by themselves at half the limit on average.

    Then all embeddings have a direction in common, and EOS's points along it: every hidden state has about the same
    share of that direction, and so every position a like chance to end.
    """
    torch.manual_seed(0)
    model = LlamaForCausalLM(shape.config())
    if natural_eos:
        direction = torch.randn(shape.hidden)
        direction /= direction.norm()
        with torch.no_grad():
            embedding = model.model.embed_tokens.weight
            embedding += COMMON * direction * model.config.initializer_range * shape.hidden**0.5
            embedding[EOS] = shape.eos_norm * direction
    return model


def classifier(shape: Shape, seed: int) -> LlamaForSequenceClassification:
    """A reward model or critic with random weights."""
    torch.manual_seed(seed)
    return LlamaForSequenceClassification(shape.config(num_labels=1))


def on_one_base(policy: LlamaForCausalLM, shape: Shape) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A LoRA of `policy` to be trained, and a reward model that is another LoRA on the same weights, with a head."""
    from peft import LoraConfig, get_peft_model

    from rlhf.modeling import AdapterRewardModel, AdapterStack

    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    host = get_peft_model(policy, lora)
    host.add_adapter("judge", lora)
    host.set_adapter("default")
    classifier = LlamaForSequenceClassification(shape.config(num_labels=1))
    classifier.model = host.get_base_model().model
    return host, AdapterRewardModel(AdapterStack(host, ["judge"]), classifier, ["score"])
