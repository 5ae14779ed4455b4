import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import UserError
from rlhf.ppo import PPOConfig, PPOTrainer
from rlhf.trl_compat import BaseConfig, BaseTrainer

TRL_1_12 = {
    "learning_rate": 3e-6,
    "dataset_num_proc": None,
    "num_mini_batches": 1,
    "total_episodes": None,
    "local_rollout_forward_batch_size": 64,
    "num_sample_generations": 10,
    "response_length": 53,
    "stop_token": None,
    "stop_token_id": None,
    "temperature": 0.7,
    "missing_eos_penalty": None,
    "sft_model_path": "EleutherAI/pythia-160m",
    "world_size": None,
    "num_total_batches": None,
    "micro_batch_size": None,
    "local_batch_size": None,
    "batch_size": None,
    "local_mini_batch_size": None,
    "mini_batch_size": None,
    "push_to_hub": False,
    "reward_model_path": "EleutherAI/pythia-160m",
    "model_adapter_name": None,
    "ref_adapter_name": None,
    "num_ppo_epochs": 4,
    "whiten_rewards": False,
    "kl_coef": 0.05,
    "kl_estimator": "k1",
    "cliprange": 0.2,
    "vf_coef": 0.1,
    "cliprange_value": 0.2,
    "gamma": 1.0,
    "lam": 0.95,
    "ds3_gather_for_generation": True,
}


def test_fields_and_defaults_are_those_of_trl_1_12() -> None:
    defaults = {field.name: field.default for field in fields(PPOConfig)}
    assert {name: defaults[name] for name in TRL_1_12} == TRL_1_12


def test_the_constructor_takes_the_arguments_of_trl_1_12_in_their_order() -> None:
    parameters = list(inspect.signature(PPOTrainer.__init__).parameters)[1:]
    assert parameters[:12] == [
        "args",
        "processing_class",
        "model",
        "ref_model",
        "reward_model",
        "train_dataset",
        "value_model",
        "data_collator",
        "eval_dataset",
        "optimizers",
        "callbacks",
        "peft_config",
    ]


def test_it_is_a_trl_trainer_as_others_are() -> None:
    assert issubclass(PPOTrainer, BaseTrainer)
    assert issubclass(PPOConfig, BaseConfig)


def test_the_package_opens_without_torch() -> None:
    code = "import sys, rlhf.ppo; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_the_best_model_is_the_one_with_the_highest_score(tmp_path: Path) -> None:
    given = {"output_dir": str(tmp_path), "use_cpu": True, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}

    def best(**changes: Any) -> tuple[Any, ...]:
        args = PPOConfig(**(given | changes))
        return args.metric_for_best_model, args.greater_is_better, args.lr_scheduler_kwargs

    assert best() == (None, None, None)
    assert best(load_best_model_at_end=True) == ("objective/scores", True, None)
    assert best(save_strategy="best") == ("objective/scores", True, None)
    assert best(metric_for_best_model="eval_objective/kl") == ("eval_objective/kl", False, None)
    assert best(metric_for_best_model="objective/kl", greater_is_better=True)[1] is True
    # a schedule that waits for the score to rise, not to fall
    for name in ("reduce_lr_on_plateau", "greedy"):
        assert best(lr_scheduler_type=name) == ("objective/scores", True, {"mode": "max"})
        assert best(lr_scheduler_type=name, metric_for_best_model="objective/kl")[2] == {"mode": "min"}
    kwargs = {"mode": "min", "patience": 3}
    assert best(lr_scheduler_type="reduce_lr_on_plateau", lr_scheduler_kwargs=kwargs)[2] == kwargs


@pytest.mark.parametrize("setting", [{"load_best_model_at_end": True}, {"save_strategy": "best"}])
def test_the_best_model_of_no_evaluation_is_refused(tmp_path: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"eval_strategy: found 'no'; the best model is found by evaluating"):
        PPOConfig(**({"output_dir": str(tmp_path), "use_cpu": True, "save_strategy": "no"} | setting))


def test_precision_follows_what_the_machine_has(tmp_path: Path) -> None:
    assert PPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True).bf16 is False
    assert PPOConfig(output_dir=str(tmp_path), use_cpu=True).bf16 is True
    assert (
        PPOConfig(output_dir=str(tmp_path), use_cpu=True, gradient_checkpointing=False).activation_checkpointing
        is False
    )
    assert PPOConfig(output_dir=str(tmp_path), use_cpu=True).activation_checkpointing is True
