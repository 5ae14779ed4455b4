"""What cannot be meant costs one clear line before the first rollout; the rest of it stands in test_trainer."""

from collections.abc import Callable
from typing import Any

import pytest

from ppo.tiny import make_classifier, make_policy, make_prompts, make_tokenizer
from rlhf.errors import UserError
from rlhf.ppo import PPOTrainer

MakeTrainer = Callable[..., PPOTrainer]


def policy_that_ends_with(token_id: int) -> Any:
    policy = make_policy(vocab_size=40)
    policy.generation_config.eos_token_id = [1, token_id]
    return policy


def tokenizer_without_eos() -> Any:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    return tokenizer


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"num_mini_batches": 3},
            "num_mini_batches: 3 does not divide the batch of 8 episodes (per_device_train_batch_size * "
            "gradient_accumulation_steps); change one of the three",
        ),
        (
            {"reward_model": make_policy()},
            "reward_model: a reward model has one output, this LlamaForCausalLM has 2; load it as a sequence "
            "classifier with num_labels=1",
        ),
        (
            {"reward_model": make_classifier(num_labels=3)},
            "reward_model: a reward model has one output, this LlamaForSequenceClassification has 3; load it as a "
            "sequence classifier with num_labels=1",
        ),
        (
            {"model": policy_that_ends_with(35)},
            "stop token 35: the tokenizer has 32 tokens, and none of that number; take the model's own tokenizer, or "
            "set stop_token_id",
        ),
        (
            {"model": policy_that_ends_with(99)},
            "stop token 99: the model's vocabulary has 40 tokens, from 0 on",
        ),
        (
            {"kl_controller": "adaptive", "kl_target": 0.0},
            "kl_target: found 0.0; give a number above 0",
        ),
        ({"kl_budget": 0.0}, "kl_budget: found 0.0; give a number above 0, or leave it out"),
        ({"kl_in": "both"}, "kl_in: found 'both'; use reward, loss"),
        ({"stop_strings": [""]}, "stop_strings: found ['']; give texts that are not empty"),
        ({"reward_ensemble": "best"}, "reward_ensemble: found 'best'; use None, mean, worst, mean_minus_std"),
        ({"score_clip": -1.0}, "score_clip: found -1.0; give a number above 0, or leave it out"),
        ({"monitor": "loud"}, "monitor: found 'loud'; use off, warn, stop, rollback"),
        (
            {"reward_ensemble": "worst", "reward_model": make_classifier()},
            "reward_ensemble = worst: it takes two or more reward models, and there are 1; give more, or leave it out",
        ),
        (
            {"train_dataset": make_prompts(5)},
            "train_dataset: 5 prompts do not fill one batch of 8 (per_device_train_batch_size * "
            "gradient_accumulation_steps); give more prompts or a smaller batch",
        ),
    ],
)
def test_it_is_refused_in_one_line(make_trainer: MakeTrainer, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as refused:
        make_trainer(**changes)
    assert refused.value.problems == (line,)


def test_a_tokenizer_without_an_end_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match="tokenizer: it has no EOS token"):
        policy = make_policy()
        policy.generation_config.eos_token_id = None
        make_trainer(model=policy, processing_class=tokenizer_without_eos())
