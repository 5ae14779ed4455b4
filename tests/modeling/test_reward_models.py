"""Reward models on every kind of backbone: one pad token, a whole head, and float32 where it counts."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model, tiny_tokenizer
from trained import shake
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from rlhf.config import AdapterSection, ModelSection
from rlhf.errors import UserError
from rlhf.modeling import (
    context_length,
    find_model,
    load_reward_model,
    load_tokenizer,
    max_positions,
    new_reward_model,
    save_model,
)
from rlhf.registry import Registry
from rlhf.scoring import RewardModelScorer

LORA = AdapterSection(r=4)
PAD = 257
PROMPTS = ["a", "bc", "defg\x00\x00"]
COMPLETIONS = ["h", "ijklmnop", "!!"]


def section(**values):
    return ModelSection(ref="unused", **values)


def scorer(model, source, batch_size=8):
    return RewardModelScorer(model, load_tokenizer(source, generates=False), batch_size=batch_size)


def edit_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("config_pad", [0, -1, None])
def test_a_score_is_the_same_in_a_batch_whatever_pad_token_the_config_names(tmp_path, adapter, config_pad):
    base = tiny_model(tmp_path / "base")
    edit_config(base, pad_token_id=config_pad)
    source = find_model(str(base), Registry(tmp_path / "home"))
    model = new_reward_model(source, section(adapter=adapter), seed=1).eval()
    assert model.config.pad_token_id == PAD
    together, alone = (scorer(model, source, size).score(PROMPTS, COMPLETIONS) for size in (8, 1))
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    with torch.no_grad():  # the last token is what is pooled
        rows = [scorer(model, source).encode(*pair) for pair in zip(PROMPTS, COMPLETIONS, strict=True)]
        hidden = [model.base_model(input_ids=torch.tensor([row])) for row in rows]
        last = hidden[0].logits if adapter else model.score(hidden[0].last_hidden_state[:, -1])
    assert alone[0] == pytest.approx(last.item(), abs=1e-6)

    save_model(model, load_tokenizer(source), tmp_path / "saved", base_ref=str(base))
    found = find_model(str(tmp_path / "saved"), Registry(tmp_path / "home"))
    loaded, _ = load_reward_model(found)
    assert loaded.config.pad_token_id == PAD
    for size in (8, 1):
        torch.testing.assert_close(scorer(loaded, found, size).score(PROMPTS, COMPLETIONS), together, atol=1e-6, rtol=0)


def test_a_whole_reward_model_keeps_the_pad_token_it_was_trained_with(tmp_path):
    folder = tiny_model(tmp_path / "reward", "reward")
    for named, taken in ((5, 5), (-1, PAD)):
        edit_config(folder, pad_token_id=named)
        found = find_model(str(folder), Registry(tmp_path / "home"))
        assert load_reward_model(found)[0].config.pad_token_id == taken


def made(kind, folder):
    """A backbone as it is published: for writing, for filling gaps, or bare."""
    tokenizer = tiny_tokenizer()
    size, common = len(tokenizer), {"initializer_range": 0.3, "pad_token_id": PAD}
    dims = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        match kind:
            case "bert":
                model = BertForMaskedLM(BertConfig(vocab_size=size, **dims, **common))
            case "roberta":
                model = RobertaForMaskedLM(RobertaConfig(vocab_size=size, **dims, **common))
            case "deberta":
                model = DebertaV2ForMaskedLM(DebertaV2Config(vocab_size=size, **dims, **common))
            case "distilbert":
                model = DistilBertForMaskedLM(
                    DistilBertConfig(vocab_size=size, dim=16, hidden_dim=32, n_layers=1, n_heads=2, **common)
                )
            case "gpt2":
                model = GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, **common))
            case "llama":
                model = LlamaForCausalLM(LlamaConfig(vocab_size=size, **dims, **common))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


HEADS = {
    "bert": ["bert.pooler", "classifier"],
    "roberta": ["classifier"],
    "deberta": ["classifier", "pooler"],
    "distilbert": ["classifier", "pre_classifier"],
    "gpt2": ["score"],
    "llama": ["score"],
}


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("kind", HEADS)
def test_all_of_a_new_head_is_trained_saved_and_reloaded(tmp_path, kind, adapter):
    base = made(kind, tmp_path / "base")
    source = find_model(str(base), Registry(tmp_path / "home"))
    model = shake(new_reward_model(source, section(adapter=adapter), seed=1), 3)
    save_model(model, load_tokenizer(source, generates=False), tmp_path / "saved", base_ref=str(base))
    if adapter:
        config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
        assert config["modules_to_save"] == HEADS[kind]
        assert not [name for name in config["target_modules"] if name in HEADS[kind]]
    before = scorer(model, source).score(PROMPTS, COMPLETIONS)
    found = find_model(str(tmp_path / "saved"), Registry(tmp_path / "home"))
    again = [scorer(load_reward_model(found)[0], found).score(PROMPTS, COMPLETIONS) for _ in range(2)]
    assert torch.equal(again[0], again[1])
    torch.testing.assert_close(again[0], before, atol=1e-5, rtol=0)
    merged = model.merge_and_unload() if adapter else model
    assert torch.equal(again[0], scorer(merged, source).score(PROMPTS, COMPLETIONS))


@pytest.mark.parametrize("kind", ["bert", "deberta"])
def test_an_adapter_without_all_of_the_head_is_refused(tmp_path, kind):
    base = made(kind, tmp_path / "base")
    source = find_model(str(base), Registry(tmp_path / "home"))
    model = new_reward_model(source, section(adapter=LORA), seed=1)
    model.peft_config["default"].modules_to_save = ["classifier"]
    save_model(model, load_tokenizer(source, generates=False), tmp_path / "saved", base_ref=str(base))
    weights = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    (lost,) = (f"{name}.dense" for name in HEADS[kind] if name.endswith("pooler"))
    kept = {name: value for name, value in weights.items() if lost not in name}
    save_file(kept, tmp_path / "saved" / "adapter_model.safetensors")
    with pytest.raises(UserError, match=rf"lacks {lost}\.bias, {lost}\.weight, so that its scores"):
        load_reward_model(find_model(str(tmp_path / "saved"), Registry(tmp_path / "home")))


def test_weights_that_an_adapter_lacks_are_named(tmp_path):
    base = made("llama", tmp_path / "base")
    source = find_model(str(base), Registry(tmp_path / "home"))
    save_model(
        new_reward_model(source, section(adapter=LORA), seed=1),
        load_tokenizer(source),
        tmp_path / "saved",
        base_ref=str(base),
    )
    weights = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    kept = {name: value for name, value in weights.items() if "q_proj" not in name}
    save_file(kept, tmp_path / "saved" / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"does not fit its base: Found missing adapter keys .*q_proj"):
        load_reward_model(find_model(str(tmp_path / "saved"), Registry(tmp_path / "home")))


def test_a_language_model_is_no_reward_model(tmp_path):
    folder = tiny_model(tmp_path / "base")
    edit_config(folder, id2label={"0": "score"}, label2id={"score": 0})
    with pytest.raises(UserError, match=r"lacks score\.weight"):
        load_reward_model(find_model(str(folder), Registry(tmp_path / "home")))


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("kind", HEADS)
def test_the_head_is_float32_on_a_backbone_in_16_bits(tmp_path, kind, adapter):
    base = made(kind, tmp_path / "base")
    source = find_model(str(base), Registry(tmp_path / "home"))
    model = new_reward_model(source, section(dtype="bfloat16", adapter=adapter), seed=1)
    held = {name: parameter.dtype for name, parameter in model.named_parameters() if "lora" not in name}
    in_float32 = {name for name, dtype in held.items() if dtype == torch.float32}
    assert in_float32 == {name for name in held if any(f"{head}." in name for head in HEADS[kind])}
    # drawn as it is on a backbone in float32, and not rounded
    whole = new_reward_model(source, section(), seed=1)
    if not adapter:
        assert all(torch.equal(model.get_parameter(name), whole.get_parameter(name)) for name in in_float32)

    shake(model, 3)
    before = scorer(model, source).score(PROMPTS, COMPLETIONS)
    with torch.autocast("cpu", torch.bfloat16):
        ids = torch.tensor([scorer(model, source).encode("a", "b")])
        assert model(input_ids=ids).logits.dtype == torch.float32
    assert not torch.equal(before, before.bfloat16().float())
    save_model(model, load_tokenizer(source, generates=False), tmp_path / "saved", base_ref=str(base))
    found = find_model(str(tmp_path / "saved"), Registry(tmp_path / "home"))
    loaded, _ = load_reward_model(found, section(dtype="bfloat16"))
    assert loaded.dtype == torch.bfloat16
    head = {key: value for key, value in loaded.named_parameters() if any(f"{part}." in key for part in HEADS[kind])}
    assert {value.dtype for value in head.values()} == {torch.float32}
    merged = model.merge_and_unload() if adapter else model
    assert all(torch.equal(value, merged.get_parameter(key)) for key, value in head.items())
    again = scorer(loaded, found).score(PROMPTS, COMPLETIONS)
    # an adapter is merged into what the backbone was before it was rounded
    torch.testing.assert_close(again, before, atol=0.05 if adapter else 0, rtol=0)


def test_small_steps_move_the_head_of_a_reward_model_in_16_bits(tmp_path):
    source = find_model(str(made("llama", tmp_path / "base")), Registry(tmp_path / "home"))
    model = new_reward_model(source, section(dtype="bfloat16", adapter=LORA), seed=1)
    [weight] = [value for name, value in model.named_parameters() if "modules_to_save" in name]
    before = weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0)
    model(input_ids=torch.tensor([[65, 66, 67]])).logits.sum().backward()
    optimizer.step()
    torch.testing.assert_close((weight - before).abs().mean().item(), 1e-5, rtol=0.05, atol=0)


def test_what_a_model_reads_is_said_alike_by_its_config_and_by_the_model(tmp_path):
    registry = Registry(tmp_path / "home")
    for kind, expected in {"gpt2": 1024, "llama": 2048, "bert": 512, "roberta": 512 - PAD - 1}.items():
        source = find_model(str(made(kind, tmp_path / kind)), registry)
        model = new_reward_model(source, section(adapter=LORA), seed=1)
        assert max_positions(source) == context_length(model) == scorer(model, source).max_length == expected
