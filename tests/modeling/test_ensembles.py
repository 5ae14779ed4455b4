"""Reward models with several members: heads of one backbone, or adapters of one base."""

import json

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from trained import IDS, logits, shake

from rlhf.config import AdapterSection, ModelSection
from rlhf.errors import UserError
from rlhf.modeling import (
    find_model,
    load_causal_lm,
    load_on_one_base,
    load_reward_model,
    load_tokenizer,
    new_reward_model,
    save_model,
    weight_bytes,
)
from rlhf.registry import Registry
from rlhf.scoring import Ensemble, RewardModelScorer

LORA = AdapterSection(method="lora", r=2)
# peft reads a name of transformers that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


def section(**changes):
    return ModelSection(ref="base", **changes)


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "home")


def saved(model, source, folder, **about):
    save_model(model, load_tokenizer(source, generates=False), folder, base_ref=str(source.folder))
    (folder / "reward.json").write_text(json.dumps({"score_offset": 0.0, "max_length": None} | about))
    return folder


KINDS = {"full": (None, "heads"), "lora": (LORA, "heads"), "adapters": (LORA, "adapters")}


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_an_ensemble_reloads_with_identical_scores(registry, tmp_path, kind, how):
    adapter, members = KINDS[how]
    source = find_model(str(tiny_model(tmp_path / "start", kind)), registry)
    new = new_reward_model(source, section(adapter=adapter), seed=5, num_outputs=3, members=members)
    assert new.config.num_labels == 3
    model = shake(new, 2)
    folder = saved(model, source, tmp_path / "saved", combine="worst", score_offset=[1.0, 2.0, 3.0])
    loaded, offset = load_reward_model(find_model(str(folder), registry))
    assert offset == [1.0, 2.0, 3.0] and loaded.config.num_labels == 3
    assert logits(loaded).shape == (2, 3)
    expected = logits(model) if how != "lora" else logits(model.merge_and_unload())
    assert torch.equal(logits(loaded), expected)
    assert len(set(expected[0].tolist())) == 3


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_every_member_is_drawn_for_itself_and_by_the_seed(registry, tmp_path, kind, how):
    adapter, members = KINDS[how]
    source = find_model(str(tiny_model(tmp_path / "start", kind)), registry)
    first, again, other = (
        logits(new_reward_model(source, section(adapter=adapter), seed=seed, num_outputs=3, members=members))
        for seed in (5, 5, 6)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(set(first[0].tolist())) == 3


@pytest.mark.parametrize("how", ["full", "lora"])
def test_heads_that_are_all_the_same_give_the_single_models_score_to_the_bit(registry, tmp_path, how):
    source = find_model(str(tiny_model(tmp_path / "start")), registry)
    adapter, _ = KINDS[how]
    single = shake(new_reward_model(source, section(adapter=adapter), seed=5), 2)
    model = new_reward_model(source, section(adapter=adapter), seed=5, num_outputs=3)
    stored = single.state_dict()
    model.load_state_dict({n: t.repeat(3, 1) if "score" in n else t for n, t in stored.items()})
    assert torch.equal(logits(model), logits(single).repeat(1, 3))
    tokenizer = load_tokenizer(source)
    texts = (["P1:", "P2 is longer:"], ["ab", "cdefgh"])
    alone = RewardModelScorer(single, tokenizer, offset=0.3).score(*texts)
    for kind in ("mean", "worst", "mean_minus_std"):
        scorer = RewardModelScorer(model, tokenizer, offset=[0.3, 0.3, 0.3], combine=Ensemble(kind))
        assert torch.equal(scorer.score(*texts), alone)


def test_adapters_that_are_all_the_same_give_the_single_models_score_to_the_bit(registry, tmp_path):
    source = find_model(str(tiny_model(tmp_path / "start")), registry)
    single = shake(new_reward_model(source, section(adapter=LORA), seed=5), 2)
    model = new_reward_model(source, section(adapter=LORA), seed=9, num_outputs=3, members="adapters")
    own = get_peft_model_state_dict(single)
    model.load_state_dict({f"members.{i}.{name}": tensor for i in range(3) for name, tensor in own.items()})
    assert torch.equal(logits(model), logits(single).repeat(1, 3))


def test_gradients_reach_each_adapter_through_its_own_output_alone(registry, tmp_path):
    source = find_model(str(tiny_model(tmp_path / "start")), registry)
    model = shake(new_reward_model(source, section(adapter=LORA), seed=5, num_outputs=2, members="adapters"), 1)
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    model.train()(**batch).logits[:, 1].sum().backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert {name.rpartition(".member000")[2] for name, grad in plain.items() if grad.any()} == {"1.weight"}
    assert all(name.rpartition(".member000")[2] in ("0.weight", "1.weight") for name in plain)
    # recomputed activations are those of the adapter that was at work
    model.zero_grad()
    model.activation_checkpointing_enable()
    model.train()(**batch).logits[:, 1].sum().backward()
    again = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert again.keys() == plain.keys() and all(torch.equal(again[name], plain[name]) for name in plain)
    with pytest.raises(UserError, match="use_reentrant = true recomputes without knowing which adapter was at work"):
        model.activation_checkpointing_enable({"use_reentrant": True})


def test_a_checkpoint_of_adapters_holds_them_and_not_the_base(registry, tmp_path):
    source = find_model(str(tiny_model(tmp_path / "start")), registry)
    first, other = (
        new_reward_model(source, section(adapter=LORA), seed=seed, num_outputs=2, members="adapters") for seed in (1, 2)
    )
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    assert set(state) == {
        f"members.{i}.base_model.model.{name}.weight"
        for i in (0, 1)
        for name in (
            "score",
            *(
                f"model.layers.0.{part}_proj.lora_{which}"
                for part in (
                    "self_attn.q",
                    "self_attn.k",
                    "self_attn.v",
                    "self_attn.o",
                    "mlp.gate",
                    "mlp.up",
                    "mlp.down",
                )
                for which in "AB"
            ),
        )
    }
    other.load_state_dict(state)
    assert torch.equal(logits(other), logits(first))


@pytest.mark.parametrize("how", ["lora", "adapters"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_ensemble_shares_the_base_of_a_policy(registry, tmp_path, how, dtype):
    adapter, members = KINDS[how]
    source = find_model(str(tiny_model(tmp_path / "start")), registry)
    held = section(adapter=adapter, dtype=dtype)
    model = shake(new_reward_model(source, held, seed=5, num_outputs=3, members=members), 2)
    folder = saved(model, source, tmp_path / "saved", combine="mean", score_offset=[1.0, 2.0, 3.0])
    found = load_on_one_base(source, held, reward_models=[find_model(str(folder), registry)])
    judge, offset = found.reward_models[0]
    assert offset == [1.0, 2.0, 3.0] and judge.config.num_labels == 3
    assert torch.equal(logits(judge), logits(model))
    whole = load_causal_lm(source, section(dtype=dtype))
    own = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    new = sum(p.numel() * 4 for p in found.policy.parameters() if p.requires_grad)
    assert weight_bytes([found.policy, judge]) == weight_bytes([whole]) + own + new


def test_the_adapters_of_an_ensemble_take_an_adapter(registry, tmp_path):
    source = find_model(str(tiny_model(tmp_path / "start")), registry)
    with pytest.raises(UserError, match=r"model.adapter is not set; set it \(adapter: .*\), or take members"):
        new_reward_model(source, section(), seed=0, num_outputs=2, members="adapters")


def test_an_ensemble_of_adapters_is_no_model_to_start_from(registry, tmp_path):
    source = find_model(str(tiny_model(tmp_path / "start")), registry)
    model = new_reward_model(source, section(adapter=LORA), seed=5, num_outputs=2, members="adapters")
    found = find_model(str(saved(model, source, tmp_path / "saved", combine="mean")), registry)
    for start in (lambda: new_reward_model(found, section(), seed=1), lambda: load_causal_lm(found)):
        with pytest.raises(UserError, match="is an ensemble of 2 adapters, which cannot be merged into one"):
            start()


@pytest.mark.parametrize(
    ("how", "about", "line"),
    [
        ("full", {}, "has 3 labels; a reward model has one score, and the reward.json of an ensemble of 3 says how"),
        (
            "adapters",
            {},
            "has 3 labels; a reward model has one score, and the reward.json of an ensemble of 3 says how",
        ),
        (
            "lora",
            {"combine": "mean", "score_offset": [1.0, 2.0]},
            "has 2 offsets .score_offset. for a model of 3 outputs",
        ),
        ("full", {"combine": "best"}, "combine = 'best'; expected one of mean, worst, mean_minus_std, or null"),
        ("full", {"combine": "mean", "std_coef": -1}, "std_coef = -1; expected a number that is not negative"),
        ("full", {"combine": "mean", "score_offset": "0"}, "score_offset = '0'; expected a number, or a list with one"),
    ],
)
def test_a_reward_file_that_does_not_fit_its_weights_is_refused(registry, tmp_path, how, about, line):
    adapter, members = KINDS[how]
    source = find_model(str(tiny_model(tmp_path / "start")), registry)
    model = new_reward_model(source, section(adapter=adapter), seed=5, num_outputs=3, members=members)
    folder = saved(model, source, tmp_path / "saved", **about)
    with pytest.raises(UserError, match=line):
        load_reward_model(find_model(str(folder), registry))


def test_an_ensemble_of_one_is_refused(registry, tmp_path):
    source = find_model(str(tiny_model(tmp_path / "start")), registry)
    folder = saved(new_reward_model(source, section(), seed=5), source, tmp_path / "saved", combine="worst")
    with pytest.raises(UserError, match="combine = 'worst', and an ensemble has two or more members; this model has 1"):
        load_reward_model(find_model(str(folder), registry))


def test_members_of_unequal_shapes_are_refused(registry, tmp_path):
    source = find_model(str(tiny_model(tmp_path / "start")), registry)
    model = new_reward_model(source, section(adapter=LORA), seed=5, num_outputs=2, members="adapters")
    folder = saved(model, source, tmp_path / "saved", combine="mean")
    weights = load_file(folder / "adapter_model.safetensors")
    name = "members.1.base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    save_file(weights | {name: torch.zeros(3, 16)}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"members of its ensemble do not fit: .*lora_A.weight is \[3, 16\] and has to"):
        load_reward_model(find_model(str(folder), registry))
    with pytest.raises(UserError, match=r"does not fit its base: .*lora_A.*shape torch.Size\(\[3, 16\]\)"):
        load_on_one_base(source, section(adapter=LORA), reward_models=[find_model(str(folder), registry)])
    save_file({n: t for n, t in weights.items() if n != name}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"members of its ensemble do not fit: .*lora_A.weight stands in one of them"):
        load_reward_model(find_model(str(folder), registry))
