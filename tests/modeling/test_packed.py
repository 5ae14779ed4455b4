"""The packed forward pass against transformers' own: hidden states and every gradient."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from rlhf.modeling import PackedTokens, packed_hidden, weights_held
from rlhf.modeling.decoder_parts import read_decoder

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "llama_grouped_queries": LlamaConfig(**SIZES, num_key_value_heads=2),
    "llama_one_key_head": LlamaConfig(**SIZES, num_key_value_heads=1),
    "llama_biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama_rope_llama3": LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama_rope_yarn": LlamaConfig(**SIZES, rope_parameters=YARN),
    "mistral_window_not_reached": MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=32),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=2),
    "qwen3_heads_of_another_size": Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=6),
}


def make_trunk(config: PretrainedConfig, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    trunk = AutoModel.from_config(config)
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            if "norm" in name or "bias" in name:
                parameter += 0.3 * torch.randn_like(parameter)
    return trunk


def make_tokens(lengths: list[int], asked: list[int], seed: int = 0) -> PackedTokens:
    """Rows of these lengths, each asked about at its last `asked[i]` tokens."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.tensor(lengths).cumsum(0).tolist()
    places = [end - count + i for end, count in zip(ends, asked, strict=True) for i in range(count)]
    ids = torch.randint(1, 40, (sum(lengths),), generator=generator)
    return PackedTokens(ids, tuple(lengths), torch.tensor(places), tuple(asked))


def own_hidden(trunk: nn.Module, tokens: PackedTokens) -> torch.Tensor:
    """The same by the model's own modules, row by row."""
    rows = [
        trunk(input_ids=row[None], use_cache=False).last_hidden_state[0] for row in tokens.ids.split(tokens.lengths)
    ]
    return torch.cat(rows)[tokens.asked]


def gradients(model: nn.Module, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    (hidden * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check(model: nn.Module, trunk: nn.Module, tokens: PackedTokens, rounding: float = 1e-5) -> None:
    """Hidden states and gradients agree but for rounding, the gradients' relative to the largest of their weight."""
    hidden = packed_hidden(trunk, tokens)
    assert hidden is not None
    expected = own_hidden(trunk, tokens)
    torch.testing.assert_close(hidden, expected, atol=rounding, rtol=rounding)
    found, wanted = gradients(model, hidden), gradients(model, expected)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            found[name], gradient, atol=rounding * max(scale, 1), rtol=rounding, msg=lambda m, n=name: f"{n}: {m}"
        )


TOKENS = make_tokens([5, 5, 7, 9], [2, 5, 3, 4])


@pytest.mark.parametrize("name", CONFIGS)
def test_hidden_states_and_gradients_are_the_models_own(name: str) -> None:
    trunk = make_trunk(CONFIGS[name])
    check(trunk, trunk, TOKENS)


@given(
    rows=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=12), seed=st.integers(0, 9)
)
@settings(max_examples=25, deadline=None)
def test_any_lengths_will_do(rows: list[tuple[int, int]], seed: int) -> None:
    lengths = sorted(max(row) for row in rows)
    trunk = make_trunk(CONFIGS["llama_grouped_queries"])
    asked = [min(asked, n) for (_, asked), n in zip(rows, lengths, strict=True)]
    check(trunk, trunk, make_tokens(lengths, asked, seed), rounding=2e-4)  # some lengths and weights round badly


def test_groups_are_cut_when_they_outgrow_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.modeling.packed.GROUP_CELLS", 300)
    trunk = make_trunk(CONFIGS["llama"])
    check(trunk, trunk, TOKENS)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
def test_adapters_take_part(targets: Any) -> None:
    policy = AutoModelForCausalLM.from_config(CONFIGS["llama_grouped_queries"])
    config = LoraConfig(r=3, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(policy, config)
    check(model, model.get_base_model().model, TOKENS)
    with model.disable_adapter():
        expected = own_hidden(model.get_base_model().model, TOKENS)
        torch.testing.assert_close(packed_hidden(model.get_base_model().model, TOKENS), expected, atol=1e-5, rtol=1e-5)


def test_recomputed_activations_give_the_same_gradients() -> None:
    trunk = make_trunk(CONFIGS["llama"]).train()
    plain = gradients(trunk, packed_hidden(trunk, TOKENS))
    trunk.gradient_checkpointing_enable({"use_reentrant": False})
    recomputed = gradients(trunk, packed_hidden(trunk, TOKENS))
    for name, gradient in plain.items():
        assert torch.equal(gradient, recomputed[name]), name


def test_bfloat16_arithmetic_stays_close_and_the_gradients_are_of_the_weights_dtype() -> None:
    trunk = make_trunk(CONFIGS["qwen3_heads_of_another_size"])
    expected = own_hidden(trunk, TOKENS)
    wanted = gradients(trunk, expected)
    with weights_held(), torch.autocast("cpu", torch.bfloat16):
        hidden = packed_hidden(trunk, TOKENS)
        found = gradients(trunk, hidden)
    assert hidden.dtype == torch.float32
    torch.testing.assert_close(hidden, expected, atol=0.1, rtol=0.05)
    for name, gradient in wanted.items():
        assert found[name].dtype == torch.float32
        cosine = torch.nn.functional.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0)
        assert cosine > 0.99, name


def test_held_weights_are_cast_once_and_let_go_afterwards() -> None:
    trunk = make_trunk(CONFIGS["llama"])
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        with weights_held():
            first = packed_hidden(trunk, TOKENS)
            trunk.layers[0].mlp.up_proj.weight.mul_(2)
            assert torch.equal(packed_hidden(trunk, TOKENS), first)
        assert not torch.equal(packed_hidden(trunk, TOKENS), first)


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SIZES, head_dim=4),
        LlamaConfig(**SIZES, hidden_act="gelu"),
        LlamaConfig(**SIZES, attention_dropout=0.1),
        LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}),
    ],
    ids=["gemma2", "gelu", "dropout", "dynamic_rope"],
)
def test_what_is_not_known_for_sure_is_left_to_the_model(config: PretrainedConfig) -> None:
    assert read_decoder(make_trunk(config)) is None
    assert packed_hidden(make_trunk(config), TOKENS) is None


def test_a_window_that_is_reached_is_left_to_the_model() -> None:
    config = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=8)
    assert packed_hidden(make_trunk(config), TOKENS) is None
    assert packed_hidden(make_trunk(config), make_tokens([8], [2])) is not None


def test_a_hook_on_a_module_that_is_passed_over_is_not_lost() -> None:
    trunk = make_trunk(CONFIGS["llama"])
    handle = trunk.layers[1].register_forward_hook(lambda *_: None)
    assert packed_hidden(trunk, TOKENS) is None
    handle.remove()
    assert packed_hidden(trunk, TOKENS) is not None


def test_a_trunk_that_computes_something_else_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = make_trunk(CONFIGS["llama"])
    own = type(trunk).forward

    def doubled(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = own(self, *args, **kwargs)
        output.last_hidden_state = 2 * output.last_hidden_state
        return output

    monkeypatch.setattr(type(trunk), "forward", doubled)
    assert packed_hidden(trunk, TOKENS) is None
