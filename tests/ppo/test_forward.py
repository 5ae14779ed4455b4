"""Log-probs and values at completion tokens, against each model's own forward over each row alone."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    OPTConfig,
    PhiConfig,
)

from ppo.tiny import EOS, PAD, completion_mask, make_classifier, make_config, make_policy
from rlhf.generation import SampledTokens
from rlhf.ppo.forward import completion_logprobs, hidden_at, logprobs_of, scatter, values_of
from rlhf.ppo.losses import RewardAt
from rlhf.ppo.rollout import Prompts, TokenBatch, token_batches

TEMPERATURE = 0.7
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15]]
COMPLETIONS = [[3, 4, 5, 6], [7, 8, EOS, PAD], [9, EOS, PAD, PAD], [EOS, PAD, PAD, PAD]]
LENGTHS = [4, 3, 2, 1]
SIZES: dict[str, Any] = {"pad_token_id": PAD, "bos_token_id": None, "eos_token_id": EOS, "initializer_range": 0.3}
SMALL: dict[str, Any] = SIZES | {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
WITHOUT_GROUPS = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
ARCHITECTURES = {
    "llama": make_config(),
    "tied": make_config(tie_word_embeddings=True),
    "gemma2": Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=3.0, query_pre_attn_scalar=8),
    "cohere": CohereConfig(**SMALL, logit_scale=0.25),
    "granite": GraniteConfig(**SMALL, logits_scaling=4.0, embedding_multiplier=2.0),
    "phi": PhiConfig(**SMALL),  # its output layer has a bias
    "neox": GPTNeoXConfig(**WITHOUT_GROUPS),
    "bloom": BloomConfig(**SIZES, vocab_size=32, hidden_size=16, n_layer=2, n_head=2),
    "gpt2": GPT2Config(**SIZES, vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=64),
    "opt": OPTConfig(
        **SIZES,
        vocab_size=32,
        hidden_size=16,
        word_embed_proj_dim=8,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    ),
}


def make_batch(reward_at: RewardAt = "eos") -> TokenBatch:
    """The four rows above in one batch, longest last."""
    prompts = Prompts([torch.tensor(ids) for ids in PROMPTS], ["", "", "", ""], {})
    mask, ended = completion_mask(torch.tensor(COMPLETIONS), [EOS])
    (batch,) = token_batches(
        prompts, SampledTokens(torch.tensor(COMPLETIONS), mask, ended), range(4), 4, PAD, reward_at
    )
    return batch


def own_logprobs(model: nn.Module, row: int) -> torch.Tensor:
    """Log-probs [length] of one row's completion by a plain forward pass over that row alone."""
    real = COMPLETIONS[row][: LENGTHS[row]]
    ids = torch.tensor([PROMPTS[row] + real])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(real) - 1 : -1]
    logprobs = torch.log_softmax(logits.float() / TEMPERATURE, -1)
    return logprobs[torch.arange(len(real)), torch.tensor(real)]


def check_logprobs(model: nn.Module) -> None:
    batch = make_batch()
    logprobs = completion_logprobs(model, batch, TEMPERATURE)
    assert batch.rows.tolist() == [3, 1, 0, 2]  # by total length, 3, 4, 7 and 7 tokens
    for place, row in enumerate(batch.rows.tolist()):
        torch.testing.assert_close(logprobs[place, : LENGTHS[row]], own_logprobs(model, row), atol=1e-5, rtol=1e-5)
        assert logprobs[place, LENGTHS[row] :].tolist() == [0.0] * (4 - LENGTHS[row])


def test_rows_are_padded_on_the_right_and_their_asked_cells_found() -> None:
    batch = make_batch()
    assert batch.input_ids.tolist() == [
        [14, 15, 0, 0, 0, 0],
        [8, 7, 8, 0, 0, 0],
        [5, 6, 7, 3, 4, 5],
        [9, 10, 11, 12, 13, 9],
    ]
    assert batch.lengths == (2, 3, 6, 6)
    assert batch.asked.sum(1).tolist() == [1, 3, 4, 2]
    assert batch.positions.tolist() == [1, 6, 7, 8, 14, 15, 16, 17, 22, 23]
    assert batch.targets.tolist() == [1, 7, 8, 1, 3, 4, 5, 6, 9, 1]


def test_in_trls_mode_the_critic_is_asked_once_more_where_that_fits() -> None:
    batch = make_batch("trl")
    assert batch.asked.sum(1).tolist() == [2, 4, 4, 3]
    assert batch.input_ids[0].tolist() == [14, 15, EOS, 0, 0, 0, 0]
    assert batch.lengths == (3, 4, 6, 7)


def test_batches_of_so_many_tokens_hold_what_fits_and_at_least_one_row() -> None:
    prompts = Prompts([torch.tensor(ids) for ids in PROMPTS], ["", "", "", ""], {})
    mask, ended = completion_mask(torch.tensor(COMPLETIONS), [EOS])
    tokens = SampledTokens(torch.tensor(COMPLETIONS), mask, ended)
    for max_tokens, expected in ((1, [[3], [1], [0], [2]]), (6, [[3, 1], [0], [2]]), (12, [[3, 1], [0, 2]])):
        batches = token_batches(prompts, tokens, range(4), 1, PAD, "eos", max_tokens)
        assert [batch.rows.tolist() for batch in batches] == expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logprobs_are_those_of_the_models_own_forward(name: str) -> None:
    torch.manual_seed(0)
    check_logprobs(AutoModelForCausalLM.from_config(ARCHITECTURES[name]).eval())


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False, task_type="CAUSAL_LM"),
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
        PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    ],
    ids=["lora_on_the_output_layer", "saved_output_layer", "prompt_tuning", "prefix_tuning"],
)
@pytest.mark.filterwarnings("ignore:Position ids are not supported")
def test_logprobs_are_the_models_own_with_an_adapter(config: Any) -> None:
    torch.manual_seed(0)
    model = get_peft_model(make_policy(), config).eval()
    check_logprobs(model)
    with model.disable_adapter():
        check_logprobs(model)


def test_values_are_those_of_the_critics_own_trunk() -> None:
    critic = make_classifier().eval()
    values = scatter(values_of(critic, hidden_at(critic, make_batch())), make_batch())
    ids = torch.tensor([PROMPTS[1] + COMPLETIONS[1][:2]])
    expected = critic.score(critic.model(ids).last_hidden_state)[0, :, 0]
    torch.testing.assert_close(values[1, :3], expected, atol=1e-5, rtol=1e-5)


def test_no_micro_batch_waits_for_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that leave an accelerator make it wait: one list of counts for all micro-batches, and none for each."""
    prompts = Prompts([torch.tensor(ids) for ids in PROMPTS], ["", "", "", ""], {})
    mask, ended = completion_mask(torch.tensor(COMPLETIONS), [EOS])
    tokens = SampledTokens(torch.tensor(COMPLETIONS), mask, ended)
    waits: list[str] = []
    for name in ("tolist", "item", "nonzero", "cpu"):

        def counted(tensor: torch.Tensor, *given: Any, name: str = name, **more: Any) -> Any:
            waits.append(name)
            return getattr(torch._C.TensorBase, name)(tensor, *given, **more)

        monkeypatch.setattr(torch.Tensor, name, counted)
    assert len(list(token_batches(prompts, tokens, range(4), 1, PAD, "eos", critic_states=torch.ones(4, 4, 2)))) == 4
    assert waits == ["tolist"]


def test_off_the_processor_nothing_is_packed() -> None:
    """Which a device that holds no numbers would refuse."""

    class Trunk(nn.Module):
        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            return SimpleNamespace(last_hidden_state=input_ids.new_empty((*input_ids.shape, 16)))

    critic, batch = nn.Module(), make_batch()
    critic.base_model_prefix, critic.trunk = "trunk", Trunk()  # type: ignore[assignment]
    elsewhere = replace(batch, input_ids=batch.input_ids.to("meta"), positions=batch.positions.to("meta"))
    assert hidden_at(critic, elsewhere).shape == (10, 16)


def test_entropies_are_at_the_sampling_temperature_and_without_gradient() -> None:
    policy, batch = make_policy().eval(), make_batch()
    hidden = hidden_at(policy, batch)
    logprobs, entropy = logprobs_of(policy, hidden, batch.targets, TEMPERATURE)
    expected = torch.distributions.Categorical(logits=policy.lm_head(hidden) / TEMPERATURE).entropy()
    torch.testing.assert_close(entropy, expected, atol=1e-5, rtol=1e-5)
    assert logprobs.requires_grad
    assert not entropy.requires_grad


def test_a_soft_cap_is_seen_though_the_models_own_logits_are_small() -> None:
    config = Gemma2Config(**SMALL | {"initializer_range": 0.001}, head_dim=8, query_pre_attn_scalar=8)
    policy = AutoModelForCausalLM.from_config(config).eval()
    hidden = torch.randn(4, 16) * 1e5
    logprobs, _ = logprobs_of(policy, hidden, torch.tensor([3, 4, 5, 6]), 1.0)
    logits = 30.0 * torch.tanh(policy.lm_head(hidden) / 30.0)
    expected = torch.log_softmax(logits, -1)[torch.arange(4), torch.tensor([3, 4, 5, 6])]
    torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=1e-4)


def test_half_precision_weights_give_float32_logprobs() -> None:
    policy = make_policy().to(torch.bfloat16).eval()
    logprobs = completion_logprobs(policy, make_batch(), TEMPERATURE)
    assert logprobs.dtype == torch.float32
    expected = completion_logprobs(make_policy().eval(), make_batch(), TEMPERATURE)
    torch.testing.assert_close(logprobs, expected, atol=0.2, rtol=0.05)


def test_rotary_scaling_of_long_contexts_is_kept() -> None:
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    config = LlamaConfig(**SMALL, rope_parameters=rope)
    check_logprobs(AutoModelForCausalLM.from_config(config).eval())
