from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ppo.tiny import count_good, make_policy, make_prompts, make_tokenizer
from rlhf.ppo import PPOConfig, PPOTrainer


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., PPOTrainer]:
    """Builds a trainer; keyword arguments are PPOConfig fields, or constructor arguments by their names."""

    def make(**changes: Any) -> PPOTrainer:
        given: dict[str, Any] = {
            "processing_class": make_tokenizer(),
            "model": None,
            "ref_model": None,
            "reward_model": None,
            "train_dataset": make_prompts(),
            "reward_funcs": count_good,
        }
        constructor = {*given, "value_model", "eval_dataset", "callbacks", "peft_config", "reward_processing_class"}
        constructor |= {"judge", "ptx_dataset"}
        given |= {key: changes.pop(key) for key in list(changes) if key in constructor}
        if given["model"] is None:
            given["model"] = make_policy()
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "run"),
            "per_device_train_batch_size": 8,
            "total_episodes": 16,
            "response_length": 6,
            "num_ppo_epochs": 2,
            "num_sample_generations": 0,
            "learning_rate": 1e-3,
            "stop_token": "eos",
            "bf16": False,
            "use_cpu": True,
            "gradient_checkpointing": False,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
        }
        return PPOTrainer(args=PPOConfig(**(settings | changes)), **given)

    return make
