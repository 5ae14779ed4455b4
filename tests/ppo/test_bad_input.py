"""What cannot be meant costs one clear line before the first rollout; the rest of it stands in test_trainer."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ppo.tiny import make_classifier, make_policy, make_prompts, make_tokenizer
from rlhf.errors import UserError
from rlhf.ppo import PPOConfig, PPOTrainer

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
        (
            {"ref_model": make_policy(vocab_size=20)},
            "ref_model: its vocabulary of 20 tokens is smaller than the policy's 32, whose tokens it is to read; take "
            "one with the same tokenizer, or leave ref_model out",
        ),
        (
            {"ref_model": make_classifier()},
            "ref_model: LlamaForSequenceClassification has no output layer over the vocabulary; load it with "
            "AutoModelForCausalLM",
        ),
        (
            {"model": make_classifier()},
            "model: LlamaForSequenceClassification has no output layer over the vocabulary; load it with "
            "AutoModelForCausalLM",
        ),
        (
            {"ref_model": make_policy(max_position_embeddings=8)},
            "ref_model: it reads 8 tokens, and train_dataset has a prompt of 4, which with response_length makes 10; "
            "lower response_length or max_prompt_length, or take one that reads as many as the policy",
        ),
        (
            {"value_model": make_classifier(max_position_embeddings=9)},
            "critic: it reads 9 tokens, and train_dataset has a prompt of 4, which with response_length makes 10; "
            "lower response_length or max_prompt_length, or take one that reads as many as the policy",
        ),
        (
            {"eval_dataset": [{"prompt": "w1 w2 " * 20}], "ref_model": make_policy(max_position_embeddings=32)},
            "ref_model: it reads 32 tokens, and eval_dataset has a prompt of 40, which with response_length makes 46; "
            "lower response_length or max_prompt_length, or take one that reads as many as the policy",
        ),
        (
            {"train_dataset": make_prompts().to_iterable_dataset()},
            "train_dataset: a IterableDataset has no number of rows; load it as a whole (streaming=False), or give a "
            "list of its rows",
        ),
        (
            {"train_dataset": {"train": make_prompts(), "test": make_prompts()}},
            "train_dataset: it is several data sets by name (train, test); give one of them",
        ),
        (
            {"train_dataset": "prompts.jsonl"},
            "train_dataset: found 'prompts.jsonl', a text; load the data set, as by datasets.load_dataset",
        ),
        (
            {"eval_dataset": {"odd": iter([{"prompt": "w1"}])}},
            "eval_dataset odd: a list_iterator has no number of rows; load it as a whole (streaming=False), or give a "
            "list of its rows",
        ),
        (
            {"eval_strategy": "epoch"},
            "eval_strategy: found 'epoch', and there is no eval_dataset to evaluate on; give one, or set it to no",
        ),
        (
            {"processing_class": None},
            "processing_class: expected the policy's tokenizer, found None; load it with AutoTokenizer.from_pretrained",
        ),
        (
            {"model": "gpt2"},
            "model: expected a model, found 'gpt2'; load it with AutoModelForCausalLM.from_pretrained",
        ),
        (
            {"reward_model": "judge"},
            "reward_model: expected a model, found 'judge'; load it with "
            "AutoModelForSequenceClassification.from_pretrained",
        ),
        (
            {"peft_config": {"r": 8}},
            "peft_config: expected a peft.PeftConfig such as LoraConfig, found dict; give one, or leave it out",
        ),
        (
            {"per_device_train_batch_size": 0},
            "per_device_train_batch_size: found 0; give a whole number of at least 1",
        ),
        ({"response_length": "6"}, "response_length: found '6'; give a whole number"),
        ({"num_ppo_epochs": 1.5}, "num_ppo_epochs: found 1.5; give a whole number"),
        ({"length_penalty": math.nan}, "length_penalty: found nan; give a number"),
        ({"score_clip": math.inf}, "score_clip: found inf; give a number"),
        ({"learning_rate": "1e-5"}, "learning_rate: found '1e-5'; give a number"),
        ({"logging_steps": "5"}, "logging_steps: found '5'; give a number"),
        ({"whiten_rewards": "no"}, "whiten_rewards: found 'no'; give true or false"),
        ({"reward_weights": [math.nan]}, "reward_weights: found [nan]; give a list of numbers"),
        ({"stop_strings": "stop"}, "stop_strings: found 'stop'; give a list of texts"),
    ],
)
def test_it_is_refused_in_one_line(make_trainer: MakeTrainer, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as refused:
        make_trainer(**changes)
    assert refused.value.problems == (line,)


def test_all_that_is_no_number_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        PPOConfig(output_dir=str(tmp_path), gamma="1", lam=None, kl_horizon=1e4)  # type: ignore[arg-type]
    assert refused.value.problems == (
        "gamma: found '1'; give a number",
        "lam: found None; give a number",
        "kl_horizon: found 10000.0; give a whole number",
    )


def test_a_tokenizer_without_an_end_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match="tokenizer: it has no EOS token"):
        policy = make_policy()
        policy.generation_config.eos_token_id = None
        make_trainer(model=policy, processing_class=tokenizer_without_eos())
