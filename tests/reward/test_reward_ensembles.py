"""Ensembles of adapters in the stage: checkpoints, recomputed activations, the best weights put back."""

import signal

import pytest
import torch
from safetensors.torch import load_file

from rlhf.errors import Interrupted
from rlhf.modeling import find_model
from rlhf.scorers import reward_model_scorer
from rlhf.training.callbacks import StopOnSignal

ROWS = [{"prompt": f"Q{n}", "chosen": "aaaa", "rejected": "bbbb"} for n in range(40)]
OPTIONS = (
    "ensemble={num_members: 3, members: adapters}",
    "model.adapter={r: 2}",
    "trainer.max_steps=8",
    "trainer.per_device_train_batch_size=4",
)


def test_adapters_of_an_ensemble_go_on_from_a_checkpoint_to_the_bit(reward, monkeypatch):
    whole = reward(*OPTIONS, rows=ROWS)
    original = StopOnSignal.on_step_end

    def at_step_5(self, args, state, control, **kwargs):
        if state.global_step == 5:
            self._note(signal.SIGTERM, None)
        return original(self, args, state, control, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(StopOnSignal, "on_step_end", at_step_5)
        with pytest.raises(Interrupted, match="at step 5"):
            reward(*OPTIONS, "output.name=tiny/again", rows=ROWS, run_id="broken-off")
    for weights in (reward.workspace.home / "runs" / "broken-off" / "checkpoints").glob("*/model.safetensors"):
        assert {name.split(".")[1] for name in load_file(weights)} == {"0", "1", "2"}  # no base
    resumed = reward(*OPTIONS, "output.name=tiny/again", rows=ROWS, run_id="broken-off")
    assert resumed["score_offset"] == whole["score_offset"]
    registry = reward.workspace.registry
    assert registry.resolve("tiny/reward").digest == registry.resolve("tiny/again").digest


def test_recomputed_activations_and_the_best_weights_put_back_change_nothing(reward):
    saving = [f"trainer.{kind}_{what}" for kind in ("save", "eval") for what in ("strategy=steps", "steps=8")]
    plain = reward(*OPTIONS, rows=ROWS)
    again = reward(
        *OPTIONS,
        *saving,
        "trainer.load_best_model_at_end=true",
        "trainer.gradient_checkpointing=true",
        "output.name=tiny/again",
        rows=ROWS,
    )
    registry = reward.workspace.registry
    assert again["score_offset"] == plain["score_offset"]
    assert registry.resolve("tiny/reward").digest == registry.resolve("tiny/again").digest


def test_members_on_an_encoder_that_nothing_is_written_for_average_0_on_what_was_judged(reward, caplog):
    options = ("ensemble={num_members: 3, combine: worst}", "centre=null", "trainer.max_steps=4")
    summary = reward(*options, "data.dev_fraction=0", rows=ROWS, model="encoder")
    assert summary["centred_on"] is None and len(set(summary["score_offset"])) == 3
    assert "each member is shifted so that its scores of completions trained on average 0" in caplog.text
    scorer = reward_model_scorer(find_model("tiny/reward", reward.workspace.registry), "reward")
    prompts = [row["prompt"] for row in ROWS for _ in range(2)]
    scores = scorer.score_members(prompts, [row[side] for row in ROWS for side in ("chosen", "rejected")])
    torch.testing.assert_close(scores.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
