"""One arm of the PPO benchmark in a process of its own: `arm.py ARM SHAPE forced|natural UPDATES`.

Prints one JSON object as its last line: seconds of each update after the first, of its phases, tokens, peak memory.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.ppo import shapes

ARMS: dict[str, dict[str, Any]] = {
    "A": {"bf16": False},
    "B": {"bf16": False, "critic": "separate"},
    "B16": {"bf16": True, "critic": "separate"},
    "C": {"bf16": True, "critic": "head"},
    "S": {"bf16": True, "critic": "shared"},
    "L": {"bf16": True, "critic": "adapter"},
    "O": {"bf16": True, "critic": "head"},
}


class Clock(TrainerCallback):
    """When each update ended, and how long its phases took."""

    trainer: Any

    def __init__(self) -> None:
        self.times = [time.perf_counter()]
        self.phases: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its time added to phase `name`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._sums[name] = self._sums.get(name, 0.0) + time.perf_counter() - start

        return call

    def on_train_begin(self, *_: object, **__: object) -> None:
        optimizer = self.trainer.optimizer  # ours is made no earlier
        optimizer.step = self.timed("optimizer", optimizer.step)

    def on_step_end(self, *_: object, **__: object) -> None:
        self.times.append(time.perf_counter())
        self.phases.append(self._sums)
        self._sums = {}


class Lengths(TrainerCallback):
    """Mean length of the completions, where the trainer reports it."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def on_log(self, *_: object, logs: dict[str, float] | None = None, **__: object) -> None:
        self.logged.append(logs or {})


def main(arm: str, size: str, ending: str, updates: int) -> None:
    shape, natural = shapes.SHAPES[size], ending == "natural"
    clock, lengths = Clock(), Lengths()
    if arm == "A":
        from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

        ppo_trainer.batch_generation = clock.timed("generate", ppo_trainer.batch_generation)
    else:
        from rlhf.ppo import PPOConfig, PPOTrainer, experience

        experience.sample_tokens = clock.timed("generate", experience.sample_tokens)
    policy: torch.nn.Module = shapes.policy(shape, natural)
    reference: torch.nn.Module | None = shapes.policy(shape, natural)
    rows = shapes.prompts(shape, updates)
    reward_model: torch.nn.Module = shapes.classifier(shape, 1)
    if arm == "O":
        policy, reward_model = shapes.on_one_base(policy, shape)
        reference = None
    critic = shapes.classifier(shape, 2) if ARMS[arm].get("critic", "separate") == "separate" else None
    with tempfile.TemporaryDirectory() as folder:
        args = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=shape.micro_batch,
            gradient_accumulation_steps=shape.batch // shape.micro_batch,
            num_mini_batches=1,
            num_ppo_epochs=shapes.NUM_PPO_EPOCHS,
            total_episodes=shape.batch * updates,
            response_length=shapes.RESPONSE_LENGTH,
            stop_token="eos" if natural else None,
            local_rollout_forward_batch_size=shape.batch,
            num_sample_generations=0,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            **ARMS[arm],
        )
        trainer = PPOTrainer(
            args=args,
            processing_class=shapes.tokenizer(shape),
            model=policy,
            ref_model=reference,
            reward_model=reward_model,
            value_model=critic,
            train_dataset=Dataset.from_dict({"input_ids": rows}),
            eval_dataset=Dataset.from_dict({"input_ids": rows[:8]}),
            callbacks=[clock, lengths],
        )
        clock.trainer = trainer
        trainer.train()
    phases = [
        known | {name.removeprefix("time/"): logged[name] for name in logged if name.startswith("time/")}
        for known, logged in zip(clock.phases, lengths.logged, strict=False)
    ]
    found = [logged["completions/mean_length"] for logged in lengths.logged if "completions/mean_length" in logged]
    print(
        json.dumps(
            {
                "seconds": [end - start for start, end in pairwise(clock.times[1:])],
                "phases": phases[1:],
                "mean_length": sum(found) / len(found) if found else None,
                "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
