"""Decoding by hand against transformers' own, on tiny random models of every kind it knows and some it does not."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from ppo.tiny import EOS, PAD, make_policy, make_tokenizer
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlhf.generation import NonFiniteProbabilities, SampledTokens, sample_tokens
from rlhf.generation import tokens as tokens_module
from rlhf.generation.decode import Batch
from rlhf.generation.snapshot import take_snapshot

# peft reads a name of transformers that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "vocab_size": 200,
}
KNOWN: dict[str, Callable[..., nn.Module]] = {
    "llama": lambda **changes: make_policy(**(SIZES | {"attention_bias": True, "mlp_bias": True} | changes)),
    "llama3 rope": lambda **changes: make_policy(
        **SIZES,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
        **changes,
    ),
    "mistral": lambda **changes: MistralForCausalLM(MistralConfig(**(SIZES | {"head_dim": 8} | changes))),
    "qwen2": lambda **changes: Qwen2ForCausalLM(Qwen2Config(**(SIZES | {"tie_word_embeddings": True} | changes))),
    "qwen3": lambda **changes: Qwen3ForCausalLM(Qwen3Config(**(SIZES | {"head_dim": 6} | changes))),
}
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=200, n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.4)
    ),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=2, num_experts_per_tok=1)),
    "window": lambda: KNOWN["mistral"](sliding_window=9),
    "dynamic rope": lambda: make_policy(
        **(SIZES | {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}})
    ),
}
PROMPTS = [[5 + (7 * i + 3 * j) % 190 for j in range(length)] for i, length in enumerate([4, 1, 9, 1, 6, 12, 3, 4])]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.manual_seed(0)
    yield


def make(kind: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    model = (KNOWN | OTHERS)[kind](**changes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases and norms start at 0 and 1
                parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


def with_lora(model: Any, **changes: Any) -> nn.Module:
    targets = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
    if model.lm_head.weight is not model.model.embed_tokens.weight:
        targets.append("lm_head")
    settings: dict[str, Any] = {"r": 3, "target_modules": targets, "task_type": "CAUSAL_LM"} | changes
    adapted = get_peft_model(model, LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    return adapted.eval()


def complete(model: nn.Module, prompts: list[list[int]] | None = None, seed: int = 0, **changes: Any) -> SampledTokens:
    settings: dict[str, Any] = {
        "max_new_tokens": 12,
        "temperature": 1.0,
        "stop_ids": [],
        "pad_id": PAD,
        "batch_size": 8,
    } | changes
    torch.manual_seed(seed)
    return sample_tokens(model, PROMPTS if prompts is None else prompts, **settings)


def completions(tokens: SampledTokens) -> list[list[int]]:
    return [ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]


def greedy_by_transformers(model: Any, prompt: list[int], stop_ids: list[int], limit: int = 12) -> list[int]:
    output = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=stop_ids or None,
        pad_token_id=PAD,
    )
    found: list[int] = output[0, len(prompt) :].tolist()
    return found


def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if transformers' `generate` is fallen back on."""
    monkeypatch.setattr(tokens_module, "generate", None)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", KNOWN)
def test_greedy_decoding_is_that_of_transformers(kind: str, lora: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(kind)
    if lora:
        model = with_lora(model)
    whole = [greedy_by_transformers(model, prompt, []) for prompt in PROMPTS]
    stop_ids = sorted({whole[0][3], whole[2][5], whole[4][0]})
    expected = [greedy_by_transformers(model, prompt, stop_ids) for prompt in PROMPTS]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    by_hand(monkeypatch)
    assert completions(complete(model, temperature=0.0, batch_size=3)) == whole
    stopped = complete(model, temperature=0.0, stop_ids=stop_ids)
    assert completions(stopped) == expected
    assert stopped.ended.tolist() == [row[-1] in stop_ids for row in expected]
    assert int(stopped.ended.sum()) >= 3
    assert len({len(row) for row in expected}) > 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", OTHERS)
def test_other_models_are_sampled_from_by_transformers(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    model = make(kind)
    whole = [greedy_by_transformers(model, prompt, []) for prompt in PROMPTS]
    stop_ids = sorted({whole[0][3], whole[2][5]})
    expected = [greedy_by_transformers(model, prompt, stop_ids) for prompt in PROMPTS]
    with caplog.at_level(logging.WARNING):
        stopped = complete(model, temperature=0.0, stop_ids=stop_ids)
        complete(model)
    assert completions(stopped) == expected
    assert stopped.ended.tolist() == [row[-1] in stop_ids for row in expected]
    assert stopped.logprobs is None
    (told,) = (record.getMessage() for record in caplog.records if "generate" in record.getMessage())
    assert "is sampled from by transformers' generate, which is slower and goes on with rows that have ended: " in told
    assert kind == "window" or "it is of no known kind" in told
    check_logprobs(model, complete(model, stop_ids=stop_ids, temperature=0.7), 0.7)


def test_a_short_text_needs_no_sliding_window(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = make("window")
    short = [prompt for prompt in PROMPTS if len(prompt) <= 4]
    expected = [greedy_by_transformers(model, prompt, [], limit=5) for prompt in short]
    complete(model, short, max_new_tokens=5)
    assert not caplog.records
    complete(model, short, max_new_tokens=40)
    complete(model, short, max_new_tokens=41)
    (told,) = caplog.records
    assert "texts of up to 44 tokens pass its window of" in told.getMessage()
    by_hand(monkeypatch)
    assert completions(complete(model, short, temperature=0.0, max_new_tokens=5)) == expected


def test_a_model_that_computes_something_of_its_own_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    model: Any = make("llama")
    forward = model.model.layers[1].mlp.forward
    model.model.layers[1].mlp.forward = lambda x: forward(x) * 1.5
    expected = [greedy_by_transformers(model, prompt, []) for prompt in PROMPTS]
    with caplog.at_level(logging.INFO):
        assert completions(complete(model, temperature=0.0)) == expected
    assert "decoding by hand gives logits that are" in caplog.text


def test_hooks_are_called(caplog: pytest.LogCaptureFixture) -> None:
    model: Any = make("llama")
    complete(model)
    model.model.layers[1].register_forward_hook(lambda module, inputs, output: output * 1.5)
    expected = [greedy_by_transformers(model, prompt, []) for prompt in PROMPTS]
    assert completions(complete(model, temperature=0.0)) == expected


def check_logprobs(model: Any, tokens: SampledTokens, temperature: float, atol: float = 1e-5) -> float:
    """Against a pass over the whole text of each row; returns the greatest difference."""
    assert tokens.logprobs is not None
    assert float(tokens.logprobs.masked_select(~tokens.mask).abs().sum()) == 0
    worst = 0.0
    for prompt, ids, mask, logprobs in zip(PROMPTS, tokens.ids, tokens.mask, tokens.logprobs, strict=True):
        completion = ids[mask]
        with torch.no_grad():
            logits = model(torch.cat([torch.tensor(prompt), completion])[None]).logits[0].float()
        every = (logits[len(prompt) - 1 : -1] / temperature).log_softmax(1)
        worst = max(worst, float((every.gather(1, completion[:, None])[:, 0] - logprobs[mask]).abs().max()))
    assert worst <= atol, worst
    return worst


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", KNOWN)
def test_logprobs_are_those_of_a_pass_over_the_whole_text(
    kind: str, lora: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_lora(make(kind)) if lora else make(kind)
    by_hand(monkeypatch)
    tokens = complete(model, stop_ids=list(range(0, 200, 9)), temperature=0.7, max_new_tokens=20)
    assert len({*tokens.mask.sum(1).tolist()}) > 3
    check_logprobs(model, tokens, 0.7, atol=1e-5)


def test_completions_depend_neither_on_the_batch_nor_on_the_way() -> None:
    model = make("qwen3")
    settings: dict[str, Any] = {"stop_ids": list(range(0, 200, 15)), "max_new_tokens": 20}
    expected = completions(complete(model, **settings))
    assert len({len(row) for row in expected}) > 3
    for batch_size in (1, 2, 3, 5):
        assert completions(complete(model, batch_size=batch_size, **settings)) == expected
    assert completions(complete(model, PROMPTS[:3], **settings)) == expected[:3]
    cut = completions(complete(model, **(settings | {"max_new_tokens": 7})))
    assert cut == [row[:7] for row in expected]
    tokens_module._CHECKED[model] = False  # transformers' generate from now on
    assert completions(complete(model, **settings)) == expected
    assert completions(complete(model, seed=1, **settings)) != expected


def test_a_call_draws_one_number_from_torchs_generator() -> None:
    model = make("llama")
    complete(model)
    after = torch.rand(1)
    complete(model, PROMPTS[:1], max_new_tokens=2, batch_size=1)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(complete(model).ids, complete(model).ids)


def test_rows_that_have_ended_are_no_longer_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("llama")
    live: list[int] = []
    step = Batch.step

    def spy(batch: Batch, tokens: Tensor) -> Tensor:
        live.append(len(tokens))
        return step(batch, tokens)

    settings: dict[str, Any] = {"stop_ids": list(range(0, 200, 7)), "max_new_tokens": 30}
    complete(model, **settings)
    monkeypatch.setattr(Batch, "step", spy)
    tokens = complete(model, **settings)
    lengths = tokens.mask.sum(1)
    # the last token of a row is read by nobody
    assert live == [int((lengths > t).sum()) for t in range(1, int(lengths.max()))]
    assert live[-1] < len(PROMPTS)


def test_the_cache_holds_every_position_once() -> None:
    snapshot = take_snapshot(make("llama"), torch.float32)
    assert snapshot is not None
    batch = Batch(snapshot, [9, 4], [0, 1], 12)
    # keys and values, 3 layers, 2 rows, 9 + 12 - 1 positions, 2 heads of 4 numbers, 4 bytes
    assert batch.num_bytes == 2 * 3 * 2 * 20 * 2 * 4 * 4


def test_many_rows_attend_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("llama")
    expected = complete(model, stop_ids=[7, 8, 9, 10])
    monkeypatch.setattr("rlhf.generation.decode.SLICE_ROWS", 3)
    monkeypatch.setattr("rlhf.generation.decode.PREFILL_TOKENS", {"cpu": 10})
    found = complete(model, stop_ids=[7, 8, 9, 10])
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-5, rtol=1e-5)


def test_the_adapters_at_work_are_the_ones_that_are_merged() -> None:
    model: Any = with_lora(make("llama"), lora_bias=True, target_modules=["q_proj", "v_proj", "down_proj"])
    base = make("llama")
    with model.disable_adapter():
        assert completions(complete(model)) == completions(complete(base))
    assert completions(complete(model)) != completions(complete(base))
    model.add_adapter("second", LoraConfig(r=2, target_modules=["k_proj", "up_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    check_logprobs(model, complete(model), 1.0)
    check_logprobs(model.merge_and_unload(), complete(model), 1.0)


def test_an_adapter_of_another_kind_is_left_to_transformers() -> None:
    model = with_lora(make("llama"), use_dora=True)
    assert take_snapshot(model, torch.float32) is None
    check_logprobs(model, complete(model), 1.0)


def test_a_large_model_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = make("qwen2")
    monkeypatch.setattr("rlhf.generation.snapshot.MAX_COPY", 0)
    snapshot = take_snapshot(model, torch.float32)
    assert snapshot is not None
    assert snapshot.layers[0].qkv.weights[1].data_ptr() == model.model.layers[0].self_attn.k_proj.weight.data_ptr()
    check_logprobs(model, complete(model), 1.0)


def test_under_autocast_products_are_in_bf16_and_close() -> None:
    model = make("llama")
    with torch.autocast("cpu", torch.bfloat16):
        tokens = complete(model, temperature=0.7)
        gap = check_logprobs(model, tokens, 0.7, atol=0.5)
    assert gap > 1e-5
    check_logprobs(model, tokens, 0.7, atol=0.5)


def test_a_model_in_bf16_is_decoded_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand(monkeypatch)
    model = make("qwen3").to(torch.bfloat16)
    check_logprobs(model, complete(model, temperature=0.7), 0.7, atol=0.5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_probabilities_that_are_not_finite_are_refused(kind: str) -> None:
    model: Any = make(kind)
    complete(model)  # sound when it was first sampled from
    with torch.no_grad():
        model.get_input_embeddings().weight[PROMPTS[5][0]] = torch.nan
    with pytest.raises(NonFiniteProbabilities, match="probability tensor contains inf or nan"):
        complete(model)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_completion_ends_with_the_token_that_brings_a_stop_string(kind: str) -> None:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    small = GPT2Config(vocab_size=32, n_positions=64, n_embd=16, n_layer=1, n_head=2, initializer_range=0.3)
    model = make_policy().eval() if kind == "llama" else GPT2LMHeadModel(small).eval()
    prompts = [[3 + i % 29] for i in range(40)]
    free = completions(complete(model, prompts, max_new_tokens=20))
    strings = ["w1 w", "w20", "<eos>"]  # across tokens, within one, a special one
    tokens = complete(model, prompts, max_new_tokens=20, stop_strings=strings, tokenizer=tokenizer)

    def cut(row: list[int]) -> list[int]:
        for length in range(1, len(row) + 1):
            if any(string in tokenizer.decode(row[:length]) for string in strings):
                return row[:length]
        return row

    expected = [cut(row) for row in free]
    assert completions(tokens) == expected
    ended = [any(string in tokenizer.decode(row) for string in strings) for row in expected]
    assert tokens.ended.tolist() == ended
    assert {True, False} == set(ended)


def test_no_prompts_give_no_tokens() -> None:
    tokens = complete(make("llama"), [])
    assert tokens.ids.shape == (0, 0)
    assert tokens.ended.shape == (0,)
