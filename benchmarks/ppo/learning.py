"""What each arm learns: `python -m benchmarks.ppo.learning HOME`, HOME being that of a finished `rlhf demo`.

PPO from the demo's SFT model with its reward model, the same prompts and settings, several seeds; each run in a process
of its own. Reports score and KL by update and by seconds, and the known rubric's score of held-out prompts at the end.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[2]
ORACLE = Path(os.environ.get("RLHF_TRL_ORACLE", ROOT / ".oracle"))
TAIL = 4
"""Updates at the end over which score and KL are averaged."""


def run(arm: str, home: Path, seed: int, updates: int) -> dict[str, Any]:
    """One run; returns score, KL and seconds of each update, and the rubric's mean score at the end."""
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        TrainerCallback,
        set_seed,
    )

    from benchmarks.ppo.arm import ARMS

    if arm == "A":
        from trl.experimental.ppo import PPOConfig, PPOTrainer
    else:
        from rlhf.ppo import PPOConfig, PPOTrainer
    from rlhf.demo.rubric import rubric_scores
    from rlhf.generation import sample
    from rlhf.registry import Registry

    registry = Registry(home)
    sft, reward = (str(registry.open(f"support/{name}")) for name in ("sft", "reward"))
    tokenizer = AutoTokenizer.from_pretrained(sft, padding_side="left")
    prompts = [json.loads(line)["prompt"] for line in (home / "data" / "prompts_train.jsonl").open(encoding="utf-8")]
    held_out = [json.loads(line) for line in (home / "data" / "prompts_heldout.jsonl").open(encoding="utf-8")]
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in prompts]

    class Curve(TrainerCallback):
        def __init__(self) -> None:
            self.start = time.perf_counter()
            self.rows: list[dict[str, float]] = []

        def on_log(self, *_: object, logs: dict[str, float] | None = None, **__: object) -> None:
            if logs and "objective/scores" in logs:
                row = {"seconds": time.perf_counter() - self.start}
                self.rows.append(row | {key: logs[f"objective/{key}"] for key in ("scores", "kl")})

    curve = Curve()
    set_seed(seed)
    policy = AutoModelForCausalLM.from_pretrained(sft, dtype=torch.float32)
    separate = ARMS[arm].get("critic", "separate") == "separate"
    with tempfile.TemporaryDirectory() as folder:
        args = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=128,  # TRL steps after each accumulation: without one, two steps a pass
            gradient_accumulation_steps=1,
            num_mini_batches=2,
            total_episodes=128 * updates,
            num_ppo_epochs=4,
            learning_rate=3e-4,
            kl_coef=0.05,
            temperature=1.0,
            response_length=64,
            stop_token="eos",
            missing_eos_penalty=1.0,
            local_rollout_forward_batch_size=128,
            num_sample_generations=0,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
            **ARMS[arm],
        )
        critic = AutoModelForSequenceClassification.from_pretrained(reward, num_labels=1) if separate else None
        trainer = PPOTrainer(
            args=args,
            processing_class=tokenizer,
            model=policy,
            ref_model=AutoModelForCausalLM.from_pretrained(sft, dtype=torch.float32),
            reward_model=AutoModelForSequenceClassification.from_pretrained(reward, num_labels=1),
            value_model=critic,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:8]),
            callbacks=[curve],
        )
        trainer.train()
    texts = [row["prompt"] for row in held_out]
    written = sample(policy.eval(), tokenizer, texts, max_new_tokens=64, temperature=1.0, batch_size=128, seed=seed)
    columns = {name: [row[name] for row in held_out] for name in held_out[0] if name != "prompt"}
    rubric = rubric_scores(prompts=texts, completions=[one.text for one in written], **columns)
    return {"curve": curve.rows, "rubric": statistics.mean(rubric)}


def main(
    home: Annotated[Path, typer.Argument(help="RLHF_HOME of a finished `rlhf demo`.")],
    arms: Annotated[str, typer.Option(help="Of A, B, B16, C.")] = "A,B,C",
    seeds: Annotated[int, typer.Option()] = 3,
    updates: Annotated[int, typer.Option()] = 24,
    one: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print a line a run, and the means by arm."""
    if one:
        arm, seed = one.split(":")
        print(json.dumps(run(arm, home, int(seed), updates)))
        return
    for arm in arms.split(","):
        found = []
        for seed in range(seeds):
            env = os.environ | {"PYTHONPATH": os.pathsep.join([*([str(ORACLE)] if arm == "A" else []), str(ROOT)])}
            command = [sys.executable, "-m", "benchmarks.ppo.learning", str(home), "--updates", str(updates)]
            done = subprocess.run(
                [*command, "--one", f"{arm}:{seed}"], env=env, cwd=ROOT, capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            found.append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(arm, seed, _line(found[-1]), flush=True)
        for key in ("score", "kl", "rubric", "seconds"):
            values = [_figures(result)[key] for result in found]
            print(f"{arm} {key:8} {statistics.mean(values):8.3f}  ({min(values):.3f} to {max(values):.3f})", flush=True)


def _figures(result: dict[str, Any]) -> dict[str, float]:
    tail = result["curve"][-TAIL:]
    return {
        "score": statistics.mean(row["scores"] for row in tail),
        "kl": statistics.mean(row["kl"] for row in tail),
        "rubric": result["rubric"],
        "seconds": result["curve"][-1]["seconds"],
    }


def _line(result: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:.3f}" for key, value in _figures(result).items())


if __name__ == "__main__":
    typer.run(main)
