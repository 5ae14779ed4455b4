"""One PPO run on the models of a finished `rlhf demo`, by TRL 1.12 or by ours, in a process of its own.

`start` is for whoever compares; it runs `python -m benchmarks.ppo.demo_run SPEC`, which prints the curve as JSON.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ORACLE = Path(os.environ.get("RLHF_TRL_ORACLE", ROOT / ".oracle"))
SETTINGS: dict[str, Any] = {
    "gradient_accumulation_steps": 1,  # TRL steps after each accumulation: without one, num_mini_batches steps a pass
    "num_mini_batches": 2,
    "num_ppo_epochs": 4,
    "learning_rate": 1.5e-4,
    "lr_scheduler_type": "constant",
    "kl_coef": 0.05,
    "temperature": 1.0,
    "num_sample_generations": 0,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
}
"""The demo's, at a constant learning rate of half its first: what was learned by some update then does not depend on
how many were to follow, so that curves may be cut at equal times."""
SAME_ALGORITHM: dict[str, Any] = {"bf16": False, "critic": "separate", "reward_at": "trl", "max_grad_norm": 0.0}
"""What makes ours take TRL's steps, which never clips gradients and pays the score one position after EOS."""


@dataclass(frozen=True)
class Spec:
    """What to run.

    Attributes:
        home: RLHF_HOME of a finished `rlhf demo`.
        oracle: run TRL 1.12's trainer, not ours.
        seed: of prompts, samples and minibatches.
        updates: how many.
        batch: episodes of an update.
        settings: fields of PPOConfig beside SETTINGS.
        judge_every: updates from one judgement by the rubric to the next, outside the clock; 0 for none.
    """

    home: str
    oracle: bool
    seed: int
    updates: int
    batch: int
    settings: dict[str, Any]
    judge_every: int = 0


def start(spec: Spec) -> list[dict[str, float]]:
    """Run `spec` on one thread; returns a row an update (row 0 before the first, if judged).

    Keys: update, cpu and wall (seconds since training began), scores, kl (nats per sequence), length (tokens, of ours
    alone), and rubric (mean over held-out prompts) where judged. Raises SystemExit with what the process said last.
    """
    paths = [*([str(ORACLE)] if spec.oracle else []), str(ROOT)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.ppo.demo_run", json.dumps(asdict(spec))]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{spec} failed:\n{done.stderr[-3000:]}")
    return list(json.loads(done.stdout.strip().splitlines()[-1]))


def run(spec: Spec) -> list[dict[str, float]]:
    """What `start` runs."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, set_seed

    if spec.oracle:
        from trl.experimental.ppo import PPOConfig, PPOTrainer
    else:
        from rlhf.ppo import PPOConfig, PPOTrainer
    from rlhf.registry import Registry

    home = Path(spec.home)
    registry = Registry(home)
    sft, reward = (str(registry.open(f"support/{name}")) for name in ("sft", "reward"))
    tokenizer = AutoTokenizer.from_pretrained(sft, padding_side="left")
    rows = [{"input_ids": tokenizer(row["prompt"])["input_ids"]} for row in read(home, "prompts_train.jsonl")]

    def policy() -> Any:
        return AutoModelForCausalLM.from_pretrained(sft, dtype=torch.float32)

    def classifier() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(reward, num_labels=1, dtype=torch.float32)

    set_seed(spec.seed)  # numpy's draws too, which TRL shuffles its minibatches by
    trained = policy()
    judge = _judge(trained, tokenizer, read(home, "prompts_heldout.jsonl"), spec.seed)
    curve = _curve(judge, spec.judge_every)
    with tempfile.TemporaryDirectory() as folder:
        args = PPOConfig(
            output_dir=folder,
            seed=spec.seed,
            per_device_train_batch_size=spec.batch,
            local_rollout_forward_batch_size=spec.batch,
            total_episodes=spec.batch * spec.updates,
            **SETTINGS | spec.settings,
        )
        trainer = PPOTrainer(
            args=args,
            processing_class=tokenizer,
            model=trained,
            ref_model=policy(),
            reward_model=classifier(),
            value_model=classifier() if getattr(args, "critic", "separate") == "separate" else None,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:8]),
            callbacks=[curve],
        )
        trainer.train()
    return list(curve.rows)


def read(home: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one of the demo's files."""
    with (home / "data" / name).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _judge(policy: Any, tokenizer: Any, held_out: list[dict[str, Any]], seed: int) -> Callable[[], float]:
    """The rubric's mean score of answers to all held-out prompts, always sampled in the same way."""
    from rlhf.demo.rubric import rubric_scores
    from rlhf.generation import sample

    prompts = [row["prompt"] for row in held_out]

    def judge() -> float:
        written = sample(policy, tokenizer, prompts, max_new_tokens=64, temperature=1.0, batch_size=256, seed=seed)
        return statistics.mean(rubric_scores(prompts, [one.text for one in written]))

    return judge


def _curve(judge: Callable[[], float], judge_every: int) -> Any:
    """A callback that keeps a row an update, the judge's time left out."""
    from transformers import TrainerCallback

    class Curve(TrainerCallback):
        def __init__(self) -> None:
            self.rows: list[dict[str, float]] = []
            self._begin = (0.0, 0.0)

        def on_train_begin(self, *_: object, **__: object) -> None:
            if judge_every:
                self.rows.append({"update": 0, "cpu": 0.0, "wall": 0.0, "rubric": judge()})
            self._begin = (time.process_time(), time.perf_counter())

        def on_log(self, *_: object, logs: dict[str, float] | None = None, **__: object) -> None:
            if not logs or "objective/scores" not in logs:
                return
            before = (time.process_time(), time.perf_counter())
            update = len([row for row in self.rows if row["update"]]) + 1
            row = {"update": update, "cpu": before[0] - self._begin[0], "wall": before[1] - self._begin[1]}
            row |= {key: float(logs[f"objective/{key}"]) for key in ("scores", "kl")}
            if "completions/mean_length" in logs:
                row["length"] = float(logs["completions/mean_length"])
            if judge_every and update % judge_every == 0:
                row["rubric"] = judge()
            self.rows.append(row)
            judged = (time.process_time() - before[0], time.perf_counter() - before[1])
            self._begin = (self._begin[0] + judged[0], self._begin[1] + judged[1])

    return Curve()


if __name__ == "__main__":
    print(json.dumps(run(Spec(**json.loads(sys.argv[1])))))
