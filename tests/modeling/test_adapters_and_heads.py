"""Full models and adapters, on one another, with heads: what is saved is what is loaded again."""

import copy
import json

import pytest
import torch
from tiny import tiny_model
from torch import nn
from trained import logits, shake
from transformers import AutoModelForSequenceClassification

from rlhf.config import AdapterSection, ModelSection
from rlhf.errors import UserError
from rlhf.modeling import (
    can_write,
    find_model,
    load_causal_lm,
    load_reward_model,
    load_tokenizer,
    new_reward_model,
    save_model,
)
from rlhf.registry import Registry

LORA = AdapterSection(r=4)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "home")


def section(**values):
    return ModelSection(ref="unused", **values)


def assert_same(loaded, trained):
    """To the bit what the trained adapter is once merged, and beside rounding what it was during training."""
    torch.testing.assert_close(logits(loaded), logits(trained), atol=1e-5, rtol=0)
    assert torch.equal(logits(loaded), logits(copy.deepcopy(trained).merge_and_unload()))


def published(registry, model, below, tmp_path, *, kind, name):
    folder = tmp_path / name
    base = below.publish(registry)
    save_model(model, load_tokenizer(below), folder, base_ref=base.ref)
    return registry.publish(folder, kind=kind, name=f"group/{name}", parents=[("base", base)])


def test_adapters_stand_on_adapters_and_reload_exactly(base, registry, tmp_path):
    source = find_model(str(base), registry)
    sft = shake(load_causal_lm(source, section(adapter=LORA), trainable=True), 1)
    published(registry, sft, source, tmp_path, kind="sft", name="sft")
    below = find_model("group/sft", registry)
    assert below.is_adapter and below.base.ref == "base/base@v1"
    assert_same(load_causal_lm(below), sft)
    assert not torch.allclose(logits(load_causal_lm(source)), logits(sft), atol=1e-2)

    reward = shake(new_reward_model(below, section(adapter=LORA), seed=5), 2)
    published(registry, reward, below, tmp_path, kind="reward", name="reward")
    scored, offset = load_reward_model(find_model("group/reward", registry))
    assert_same(scored, reward)
    assert offset == 0.0 and logits(scored).shape == (2, 1)

    policy = shake(load_causal_lm(below, section(adapter=LORA), trainable=True), 3)
    published(registry, policy, below, tmp_path, kind="policy", name="policy")
    found = find_model("group/policy", registry)
    assert found.base.ref == "group/sft@v1" and found.base.base.ref == "base/base@v1"
    assert_same(load_causal_lm(found), policy)
    assert load_tokenizer(found).eos_token == "</s>"
    # a reward model that starts from a policy on an SFT model on a base has all of them below it
    backbone = new_reward_model(found, section(), seed=0)
    for (name, ours), (_, theirs) in zip(
        backbone.model.named_parameters(), load_causal_lm(found).model.named_parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_an_adapter_folder_from_elsewhere_is_taken_in_with_its_base(base, registry, tmp_path):
    source = find_model(str(base), registry)
    model = shake(load_causal_lm(source, section(adapter=LORA), trainable=True), 1)
    save_model(model, load_tokenizer(source), tmp_path / "mine")
    artefact = find_model(str(tmp_path / "mine"), registry).publish(registry)
    assert (artefact.ref, [parent.ref for parent in artefact.parents]) == ("base/mine@v1", ["base/base@v1"])
    found = find_model(artefact.ref, registry)
    assert found.base.ref == "base/base@v1"
    assert_same(load_causal_lm(found), model)


def test_an_adapter_is_saved_alone_and_names_its_base(base, registry, tmp_path):
    source = find_model(str(base), registry)
    model = load_causal_lm(source, section(adapter=LORA), trainable=True)
    save_model(model, load_tokenizer(source), tmp_path / "adapter", base_ref="base/base@v1")
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert "adapter_model.safetensors" in names and "model.safetensors" not in names and "README.md" not in names
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base/base@v1"
    assert str(base) not in "".join(path.read_text("utf-8", "ignore") for path in (tmp_path / "adapter").glob("*.json"))


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_reward_model_reloads_with_identical_scores(registry, tmp_path, adapter, kind):
    source = find_model(str(tiny_model(tmp_path / "start", kind)), registry)
    model = shake(new_reward_model(source, section(adapter=adapter), seed=5), 2)
    published(registry, model, source, tmp_path, kind="reward", name="reward")
    (tmp_path / "again").mkdir()
    found = find_model("group/reward", registry)
    loaded, _ = load_reward_model(found)
    if adapter is None:
        assert torch.equal(logits(loaded), logits(model))
        assert torch.equal(logits(AutoModelForSequenceClassification.from_pretrained(found.folder)), logits(model))
    else:
        assert torch.equal(logits(loaded), logits(load_reward_model(found)[0]))
        assert torch.equal(logits(loaded), logits(model.merge_and_unload()))


def test_the_new_head_is_drawn_from_the_seed_and_nothing_else_moves(base, registry):
    source = find_model(str(base), registry)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = new_reward_model(source, section(), seed=7)
    assert torch.equal(torch.rand(2), expected)
    torch.manual_seed(99)
    assert torch.equal(first.score.weight, new_reward_model(source, section(), seed=7).score.weight)
    assert not torch.equal(first.score.weight, new_reward_model(source, section(), seed=8).score.weight)
    writer = load_causal_lm(source)
    assert torch.equal(first.model.embed_tokens.weight, writer.model.embed_tokens.weight)


def test_the_offset_comes_from_the_file_beside_the_weights(tmp_path, registry):
    folder = tiny_model(tmp_path / "reward", "reward")
    (folder / "reward.json").write_text('{"score_offset": -1.5, "max_length": 96}')
    assert load_reward_model(find_model(str(folder), registry))[1] == -1.5


def test_a_scorer_with_two_labels_is_refused(tmp_path, registry):
    folder = tiny_model(tmp_path / "two", "reward")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, ignore_mismatched_sizes=True)
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="has 2 labels; a reward model has one score"):
        load_reward_model(find_model(str(folder), registry))


@pytest.mark.parametrize("kind", ["encoder", "reward"])
def test_what_cannot_write_is_no_policy(tmp_path, registry, kind):
    source = find_model(str(tiny_model(tmp_path / kind, kind)), registry)
    assert not can_write(source)
    with pytest.raises(UserError, match=r"is no language model \(architectures: "):
        load_causal_lm(source)


def test_frozen_parameters_are_those_that_match(base, registry):
    source = find_model(str(base), registry)
    model = load_causal_lm(source, section(freeze=["model.embed_tokens.*", "*.mlp.*"]), trainable=True)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        "model.embed_tokens.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
    }
    reward = new_reward_model(source, section(freeze=["model.*"]), seed=0)
    assert [name for name, parameter in reward.named_parameters() if parameter.requires_grad] == ["score.weight"]


@pytest.mark.parametrize(
    ("freeze", "what"),
    [(["encoder.*"], "'encoder.*': matches no parameter"), (["*"], "freezes every parameter")],
)
def test_a_freeze_that_cannot_be_meant(base, registry, freeze, what):
    with pytest.raises(UserError) as caught:
        load_causal_lm(find_model(str(base), registry), section(freeze=freeze), trainable=True)
    assert what in caught.value.problems[0]


def test_freeze_means_nothing_to_a_model_that_is_only_read(base, registry):
    model = load_causal_lm(find_model(str(base), registry), section(freeze=["*"], adapter=LORA))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert "lora" not in " ".join(name for name, _ in model.named_parameters())


def test_dropout_reaches_every_layer_that_has_one(tmp_path, base, registry):
    encoder = find_model(str(tiny_model(tmp_path / "bert", "encoder")), registry)
    model = new_reward_model(encoder, section(dropout=0.25), seed=0)
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.25}
    llama = load_causal_lm(find_model(str(base), registry), section(dropout=0.25), trainable=True)
    assert llama.config.attention_dropout == 0.25 and llama.model.layers[0].self_attn.attention_dropout == 0.25


def test_weights_are_held_in_the_dtype_asked_for(base, registry):
    source = find_model(str(base), registry)
    assert load_causal_lm(source).dtype == torch.float32
    assert load_causal_lm(source, section(dtype="bfloat16")).dtype == torch.bfloat16


def test_lora_options_reach_the_adapter(base, registry):
    options = AdapterSection(r=2, alpha=3.0, dropout=0.5, target_modules=["q_proj"])
    model = load_causal_lm(find_model(str(base), registry), section(adapter=options), trainable=True)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[-4] for name in trained} == {"q_proj"}
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (2, 3.0, 0.5)
    assert (
        load_causal_lm(find_model(str(base), registry), section(adapter=AdapterSection(r=5)), trainable=True)
        .peft_config["default"]
        .lora_alpha
        == 10
    )


def test_target_modules_that_are_not_there(base, registry):
    options = AdapterSection(target_modules=["no_such_layer"])
    with pytest.raises(UserError, match=r"model\.adapter: Target modules"):
        load_causal_lm(find_model(str(base), registry), section(adapter=options), trainable=True)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantization_without_bitsandbytes_is_one_line(base, registry, bits):
    with pytest.raises(UserError) as caught:
        load_causal_lm(find_model(str(base), registry), section(quantization=bits, adapter=LORA), trainable=True)
    (problem,) = caught.value.problems
    assert "bitsandbytes" in problem and "\n" not in problem


def test_weights_that_are_missing_or_broken_are_one_line(tmp_path, registry):
    folder = tiny_model(tmp_path / "broken")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError) as caught:
        load_causal_lm(find_model(str(folder), registry))
    assert "\n" not in caught.value.problems[0]
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json"):
        load_causal_lm(find_model(str(folder), registry))
    weights.unlink()
    with pytest.raises(UserError, match=r"holds no weights \(\*\.safetensors\)"):
        find_model(str(folder), registry)


def test_a_small_update_survives_being_merged_into_16_bits(base, registry, tmp_path):
    source = find_model(str(base), registry)
    trained = load_causal_lm(source, section(adapter=LORA), trainable=True)
    with torch.no_grad():  # every weight of the projections moves by some 1e-4 of it
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:
                parameter.fill_(3e-5)
    published(registry, trained, source, tmp_path, kind="sft", name="sft")
    below = find_model("group/sft", registry)
    whole = load_causal_lm(below)
    held = load_causal_lm(below, section(dtype="bfloat16"))
    assert held.dtype == held.config.dtype == torch.bfloat16
    for (name, ours), (_, theirs) in zip(held.named_parameters(), whole.named_parameters(), strict=True):
        assert torch.equal(ours, theirs.bfloat16()), name
    assert held.model.rotary_emb.inv_freq.dtype == torch.float32
    scorer = new_reward_model(below, section(dtype="bfloat16"), seed=0)
    weight = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(scorer.get_parameter(weight), whole.get_parameter(weight).bfloat16())
    # and the update is seen in 16 bits
    assert not torch.equal(
        whole.get_parameter(weight).bfloat16(), load_causal_lm(source).get_parameter(weight).bfloat16()
    )


def test_an_adapter_is_not_merged_into_quantized_weights(base, registry, tmp_path):
    source = find_model(str(base), registry)
    sft = load_causal_lm(source, section(adapter=LORA), trainable=True)
    published(registry, sft, source, tmp_path, kind="sft", name="sft")
    with pytest.raises(UserError, match=r"model\.quantization: group/sft@v1 is an adapter"):
        load_causal_lm(find_model("group/sft", registry), section(quantization="4bit", adapter=LORA), trainable=True)
