"""Reward models on every kind of backbone: one pad token, a whole head, and float32 where it counts."""

import json

import pytest
import torch
from tiny import tiny_model

from rlhf.config import AdapterSection, ModelSection
from rlhf.modeling import find_model, load_reward_model, load_tokenizer, new_reward_model, save_model
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
