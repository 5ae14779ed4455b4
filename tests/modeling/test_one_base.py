"""One base in memory for a policy, its reference and its reward models, through all stages and the registry."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from torch.utils.checkpoint import checkpoint
from trained import logits, shake
from transformers import AutoModelForCausalLM

from rlhf.config import AdapterSection, ModelSection
from rlhf.errors import UserError
from rlhf.modeling import (
    adapters_at_work,
    find_model,
    load_causal_lm,
    load_on_one_base,
    load_reward_model,
    load_tokenizer,
    new_reward_model,
    put_to_work,
    same_adapters_again,
    save_model,
    weight_bytes,
)
from rlhf.registry import Registry

SECTION = ModelSection(ref="unused", adapter=AdapterSection(r=4))


class Stages:
    """What the stages leave in a registry: a base, and adapters on it and on one another."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.registry = folder, Registry(folder / "home")
        self.base = find_model(str(tiny_model(folder / "base")), self.registry)

    def publish(self, model, below, kind, name):
        folder = self.folder / name
        base = below.publish(self.registry)
        save_model(model, load_tokenizer(below), folder, base_ref=base.ref)
        self.registry.publish(folder, kind=kind, name=f"group/{name}", parents=[("base", base)])
        return self.find(f"group/{name}")

    def find(self, ref):
        return find_model(ref, self.registry)

    def writer(self, below, name, seed):
        model = shake(load_causal_lm(below, SECTION, trainable=True), seed)
        return model, self.publish(model, below, "sft", name)

    def judge(self, below, name, seed):
        model = shake(new_reward_model(below, SECTION, seed=seed), seed)
        return model, self.publish(model, below, "reward", name)


@pytest.fixture
def stages(tmp_path):
    return Stages(tmp_path)


def test_sft_reward_and_policy_make_the_round_trip_on_one_base(stages):
    trained_sft, sft = stages.writer(stages.base, "sft", 1)
    trained_judge, judge = stages.judge(sft, "judge", 2)

    # scores of the reloaded reward model are those of the trained one, to the bit: head and all
    loaded = load_on_one_base(sft, SECTION, reward_models=[judge])
    assert torch.equal(logits(loaded.reward_models[0][0]), logits(trained_judge))
    alone, _ = load_reward_model(judge)
    assert torch.equal(logits(alone), logits(trained_judge.merge_and_unload()))

    # the policy starts as the SFT model and is measured against it
    torch.testing.assert_close(logits(loaded.policy), logits(trained_sft), atol=1e-5, rtol=0)
    shake(loaded.policy, 3)
    with loaded.reference.at_work() as reference:
        torch.testing.assert_close(logits(reference), logits(trained_sft), atol=1e-5, rtol=0)
    assert torch.equal(
        logits(loaded.reward_models[0][0]),
        logits(load_on_one_base(sft, SECTION, reward_models=[judge]).reward_models[0][0]),
    )

    # exported and merged it gives what it gave in memory
    policy = stages.publish(loaded.policy, sft, "policy", "policy")
    assert policy.base.ref == "group/sft@v1" and policy.base.base.ref == "base/base@v1"
    files = {path.name for path in policy.folder.rglob("*") if path.is_file()}
    assert files >= {"adapter_model.safetensors", "adapter_config.json"}
    assert {name.split(".")[-3] for name in load_file(policy.folder / "adapter_model.safetensors")} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    merged = load_causal_lm(policy)
    merged.save_pretrained(stages.folder / "aligned")
    exported = AutoModelForCausalLM.from_pretrained(stages.folder / "aligned")
    torch.testing.assert_close(logits(exported), logits(loaded.policy), atol=1e-4, rtol=0)


def test_models_that_stand_on_the_base_itself_share_it_with_one_that_stands_higher(stages):
    trained_sft, sft = stages.writer(stages.base, "sft", 1)
    trained = [stages.judge(stages.base, "low", 2), stages.judge(sft, "high", 3)]
    loaded = load_on_one_base(sft, SECTION, reward_models=[source for _, source in trained])
    for index, (model, _) in enumerate(trained):
        torch.testing.assert_close(logits(loaded.reward_models[index][0]), logits(model), atol=1e-5, rtol=0)
    assert torch.equal(logits(loaded.reward_models[0][0]), logits(trained[0][0]))
    assert torch.equal(logits(loaded.policy), logits(trained_sft))
    with loaded.reference.at_work() as reference:
        assert torch.equal(logits(reference), logits(trained_sft))
    # and the policy's own adapter is all that is trained
    names = {name for name, p in loaded.policy.named_parameters() if p.requires_grad}
    assert names and all(".default." in name for name in names)
    # on its own, with a copy of the base, a reward model is what it was
    alone = loaded.reward_models[1][0].standalone()
    torch.testing.assert_close(logits(alone), logits(trained[1][0]), atol=1e-5, rtol=0)
    assert torch.equal(logits(loaded.policy), logits(trained_sft))


def test_one_base_is_held_however_many_stand_on_it(stages):
    _, sft = stages.writer(stages.base, "sft", 1)
    judges = [stages.judge(sft, f"judge{n}", n)[1] for n in range(3)]
    loaded = load_on_one_base(sft, SECTION, reward_models=judges)
    assert sorted(loaded.reward_models) == [0, 1, 2] and loaded.reference.names == []
    whole = weight_bytes([load_causal_lm(sft)])
    adapter = weight_bytes([load_causal_lm(sft, SECTION, trainable=True)]) - whole
    head = 16 * 4
    models = [loaded.policy, loaded.reference, *(model for model, _ in loaded.reward_models.values())]
    assert weight_bytes(models) == whole + 4 * adapter + 3 * head
    apart = [load_reward_model(judge)[0] for judge in judges]
    assert weight_bytes(apart) == 3 * weight_bytes(apart[:1])


def test_a_base_is_known_by_its_weights_and_not_by_its_name(stages):
    _, judge = stages.judge(stages.base, "judge", 2)  # stands on base/base@v1
    copied = stages.find(str(tiny_model(stages.folder / "copied")))
    other = stages.find(str(tiny_model(stages.folder / "other", seed=9)))
    assert list(load_on_one_base(copied, SECTION, reward_models=[judge]).reward_models) == [0]
    loaded = load_on_one_base(other, SECTION, reference=copied, reward_models=[None, judge])
    assert loaded.reward_models == {} and loaded.reference is None


def test_a_reward_model_without_its_head_is_refused(stages):
    # OpenRLHF #1342: the head is lost when an adapter is saved
    model, _ = stages.judge(stages.base, "judge", 2)
    folder = stages.folder / "headless"
    save_model(model, load_tokenizer(stages.base), folder, base_ref=stages.base.publish(stages.registry).ref)
    weights = load_file(folder / "adapter_model.safetensors")
    assert any("score" in name for name in weights)
    save_file({n: t for n, t in weights.items() if "score" not in n}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"headless: lacks score\.weight, so that its scores would be drawn at random"):
        load_on_one_base(stages.base, SECTION, reward_models=[stages.find(str(folder))])


def test_an_adapter_of_another_shape_is_refused(stages):
    _, sft = stages.writer(stages.base, "sft", 1)
    _, judge = stages.judge(stages.base, "judge", 2)  # so that the SFT adapter is attached and not merged
    folder = stages.folder / "wrong"
    save_model(
        load_causal_lm(stages.base, SECTION, trainable=True), load_tokenizer(sft), folder, base_ref="base/base@v1"
    )
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({n: t for n, t in weights.items() if "q_proj" not in n}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"wrong: does not fit its base: .*q_proj.* stands in one of them alone"):
        load_on_one_base(stages.find(str(folder)), SECTION, reward_models=[judge])


def test_an_adapter_that_replaces_weights_is_merged_where_all_have_it_below_them(stages):
    model = load_causal_lm(stages.base, SECTION, trainable=True)
    config = model.peft_config["default"]
    config.modules_to_save = ["lm_head"]
    whole = shake(PeftModel(load_causal_lm(stages.base), config), 4)
    sft = stages.publish(whole, stages.base, "sft", "whole")
    _, low = stages.judge(stages.base, "low", 2)
    _, high = stages.judge(sft, "high", 3)
    loaded = load_on_one_base(sft, SECTION, reward_models=[low, high])
    assert list(loaded.reward_models) == [1] and loaded.reference.names == []
    torch.testing.assert_close(logits(loaded.policy), logits(whole), atol=1e-5, rtol=0)


def test_the_base_is_held_in_16_bits_and_heads_and_adapters_are_not(stages):
    _, judge = stages.judge(stages.base, "judge", 2)
    section = SECTION.model_copy(update={"dtype": "bfloat16"})
    loaded = load_on_one_base(stages.base, section, reward_models=[judge])
    dtypes = {("lora_" in name): p.dtype for name, p in loaded.policy.named_parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    model = loaded.reward_models[0][0]
    assert model.score.weight.dtype == logits(model).dtype == torch.float32


def test_reading_one_adapter_leaves_what_is_trained_and_what_is_at_work(stages):
    _, sft = stages.writer(stages.base, "sft", 1)
    _, judge = stages.judge(stages.base, "judge", 2)
    loaded = load_on_one_base(sft, SECTION, reward_models=[judge])
    trained = [name for name, p in loaded.policy.named_parameters() if p.requires_grad]
    with put_to_work(loaded.policy, ["held1"]):
        assert adapters_at_work(loaded.policy) == ["held1"]
        with loaded.reference.at_work():
            assert adapters_at_work(loaded.policy) == ["held0"]
        with put_to_work(loaded.policy, []):
            assert adapters_at_work(loaded.policy) == []
        assert adapters_at_work(loaded.policy) == ["held1"]
        assert [name for name, p in loaded.policy.named_parameters() if p.requires_grad] == trained
    assert adapters_at_work(loaded.policy) == ["held0", "default"]


def test_what_is_computed_again_is_computed_with_the_adapters_of_the_first_time(stages):
    _, judge = stages.judge(stages.base, "judge", 2)
    policy = load_on_one_base(stages.base, SECTION, reward_models=[judge]).policy
    layer = policy.get_base_model().model.layers[0].mlp
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def gradient(recompute):
        x.grad = None
        with put_to_work(policy, ["held0"]):
            if recompute:
                y = checkpoint(layer, x, use_reentrant=False, context_fn=same_adapters_again(policy))
            else:
                y = layer(x)
        y.sum().backward()  # another adapter is at work here
        return x.grad

    assert torch.equal(gradient(True).clone(), gradient(False))


def test_the_exported_adapter_names_its_base_and_nothing_else(stages):
    _, judge = stages.judge(stages.base, "judge", 2)
    loaded = load_on_one_base(stages.base, SECTION, reward_models=[judge])
    save_model(loaded.policy, load_tokenizer(stages.base), stages.folder / "policy", base_ref="base/base@v1")
    assert not [path for path in (stages.folder / "policy").iterdir() if path.is_dir()]
    config = json.loads((stages.folder / "policy" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "base/base@v1"
    names = load_file(stages.folder / "policy" / "adapter_model.safetensors")
    assert names and not [name for name in names if "held" in name or "score" in name]
