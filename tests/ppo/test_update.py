"""What one optimizer step says of itself."""

import contextlib
from collections.abc import Callable

import pytest
import torch

from ppo.tiny import make_classifier, make_policy
from rlhf.ppo import PPOTrainer
from rlhf.ppo.update import COUNTED_BY, Experience, _by_key, accumulate_gradients

MakeTrainer = Callable[..., PPOTrainer]


def test_each_number_is_divided_by_what_it_counts(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(ref_model=make_policy(3), value_model=make_classifier(), reward_at="trl", response_length=24)
    rollout = trainer.collect(trainer.prompts.batch(range(8)))
    advantages, returns = torch.ones_like(rollout.values) * rollout.mask, rollout.values + rollout.value_mask
    rows = list(range(8))
    numbers = accumulate_gradients(
        trainer.model,
        Experience(rollout, advantages, returns),
        rows,
        trainer.args,
        trainer.sampling,
        contextlib.nullcontext,
        lambda loss: loss.backward(),
    )
    found = dict(zip(COUNTED_BY, numbers.tolist(), strict=True))
    mask = rollout.mask[rows]
    entropy, num_values = found.pop("policy/entropy_avg"), int(rollout.value_mask[rows].sum())
    kl = (rollout.logprobs - rollout.ref_logprobs)[rows][mask].sum() / 8
    assert num_values > int(mask.sum())  # asked once more in a row that has room, so the two counts differ
    assert 0.0 < entropy < 3.5  # nats, of 32 tokens
    assert found == pytest.approx(
        {
            "loss/policy_avg": -1.0,  # of an advantage of 1
            "loss/value_avg": 0.5,  # half the square of an error of 1
            "policy/approxkl_avg": 0.0,
            "policy/clipfrac_avg": 0.0,
            "val/clipfrac_avg": 0.0,
            "val/ratio": 1.0,
            "policy/kl_avg": float(kl),
        },
        abs=1e-5,
    )


def test_a_number_without_a_place_is_no_silent_loss() -> None:
    assert _by_key({"val/ratio": torch.tensor(2.0)}).tolist() == [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0]
    with pytest.raises(AssertionError, match="val/new"):
        _by_key({"val/new": torch.tensor(2.0)})
