"""Reward models with several members: heads of one backbone, or adapters of one base."""

import json

import pytest
import torch
from tiny import tiny_model
from trained import IDS, logits, shake

from rlhf.config import AdapterSection, ModelSection
from rlhf.errors import UserError
from rlhf.modeling import find_model, load_reward_model, load_tokenizer, new_reward_model, save_model
from rlhf.registry import Registry

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
