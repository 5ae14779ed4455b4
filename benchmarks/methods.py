"""PPO beside best-of-n, DPO and RLOO: the same SFT model, the same reward model, as many sampled completions.

    rlhf demo                                            # makes the SFT model, the rankings and the reward model, once
    python -m benchmarks.methods rlhf-demo --json methods.json

Each seed trains every method by its command, on a copy of the demo's home, and has all of them judged by the rubric on
the demo's held-out prompts beside the SFT model. PPO and RLOO learn from BUDGET completions that they sample. DPO is
there twice: `dpo` learns from the annotators' rankings, from which the reward model has learned too, and samples
nothing; `dpo_sampled` from BUDGET completions of the SFT model, ranked by that reward model. Best-of-n trains nothing
and pays with every answer: best of 25 draws for 200 held-out prompts about as many as the others draw to learn.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
import yaml

from benchmarks.ppo.demo_run import read
from rlhf.config import ModelSection
from rlhf.generation import sample
from rlhf.modeling import find_model, load_causal_lm, load_tokenizer
from rlhf.registry import Registry
from rlhf.scorers import reward_model_scorer

BUDGET = 5120
GROUP = 4
"""Completions of a prompt that are compared with each other, in RLOO and in DPO's rankings."""
BEST_OF = (4, 25)
TRAINED = ("ppo", "rloo", "dpo", "dpo_sampled")
COMMON: dict[str, Any] = {"model": {"ref": "support/sft"}, "tracking": {"wandb": "off"}}
PROMPTS = {"sources": [{"path": "data/prompts_train.jsonl"}], "dev": [{"path": "data/prompts_dev.jsonl"}]}
DPO_TRAINER: dict[str, Any] = {
    "max_steps": 150,  # on the demo longer training spends more divergence and wins less
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 10,
    "beta": 0.1,
    "activation_checkpointing": False,
}
RLOO_TRAINER: dict[str, Any] = {
    "per_device_train_batch_size": 256,
    "per_device_eval_batch_size": 256,
    "num_generations": GROUP,
    "max_steps": BUDGET // 256,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "linear",
    "beta": 0.05,
    "temperature": 1.0,
    "max_completion_length": 64,
    "activation_checkpointing": False,
}


def main(
    home: Annotated[Path, typer.Argument(help="The home of an `rlhf demo` that has been run.")],
    seeds: Annotated[str, typer.Option(help="Of training, sampling and judging.")] = "0,1,2",
    json_path: Annotated[Path | None, typer.Option("--json", help="Where figures go; seeds in it are not run.")] = None,
) -> None:
    """Print a line for each method and seed, then the means."""
    known: dict[str, Any] = json.loads(json_path.read_text()) if json_path and json_path.exists() else {}
    for seed in seeds.split(","):
        if seed not in known:
            with TemporaryDirectory() as folder:
                copy = Path(folder) / "home"
                shutil.copytree(home, copy, symlinks=True)
                known[seed] = one_seed(copy, int(seed))
            if json_path:
                json_path.write_text(json.dumps(known) + "\n")
        for name, found in known[seed].items():
            sys.stdout.write(f"seed {seed}  {name:12} {_line(found)}\n")
        sys.stdout.flush()
    chosen = [known[seed] for seed in seeds.split(",")]
    sys.stdout.write(f"\nmeans over seeds {seeds}\n")
    for name in chosen[0]:
        rows = [one[name] for one in chosen]
        shown = ", ".join(f"{key} {_mean(rows, key)}" for key in ("win_rate", "rubric", "score", "kl", "seconds"))
        each = " ".join(f"{row['win_rate']:.3f}" for row in rows)
        sys.stdout.write(f"{name:12} {shown}  (win rates {each})\n")


def one_seed(home: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Train every method and judge them side by side; figures by method."""
    sampled = time.perf_counter()
    write_rankings(home, seed)
    seconds = dict.fromkeys(TRAINED, 0.0) | {"dpo_sampled": time.perf_counter() - sampled}
    summaries = {}
    for name in TRAINED:
        begun = time.perf_counter()
        summaries[name] = command(home, name.partition("_")[0], stage(home, name) | {"seed": seed})
        seconds[name] += time.perf_counter() - begun
    reward = {"ref": "support/reward"}
    found = command(
        home,
        "eval policy",
        {
            "candidates": {name: f"support/{name}" for name in TRAINED}
            | {f"best_of_{n}": {"ref": "support/sft", "best_of": n, "by": [reward]} for n in BEST_OF},
            "baseline": "support/sft",
            "data": {"sources": [{"path": "data/prompts_heldout.jsonl"}]},
            "judge": [{"function": "rlhf.demo.rubric:rubric_scores", "name": "rubric"}],
            "generation": {"max_new_tokens": 64, "temperature": 1.0, "batch_size": 128},
            "seed": seed,
            "tracking": {"wandb": "off"},
        },
    )
    return {
        name: {
            "win_rate": one["win_rate"],
            "win_rate_ci": one["win_rate_ci"],
            "rubric": one["score"],
            "kl": one["kl"],
            "score": summaries.get(name, {}).get("score_after"),
            "seconds": seconds.get(name),
        }
        for name, one in found["candidates"].items()
    }


def stage(home: Path, name: str) -> dict[str, Any]:
    """The config of a method's stage; PPO's trainer is the demo's own."""
    output = {"output": {"name": f"support/{name}"}}
    if name == "ppo":
        trainer = yaml.safe_load((home / "ppo.yaml").read_text())["trainer"]
        return COMMON | output | {"reward": [{"ref": "support/reward"}], "data": PROMPTS, "trainer": trainer}
    if name == "rloo":
        reward = {"reward": [{"ref": "support/reward"}], "missing_eos_penalty": 1.0}
        return COMMON | output | reward | {"data": PROMPTS, "trainer": RLOO_TRAINER}
    source = {"path": "support/preferences", "split": "train"} if name == "dpo" else {"path": "sampled.jsonl"}
    data = {"sources": [source], "dev": [{"path": "support/preferences", "split": "dev"}]}
    return COMMON | output | {"data": data, "trainer": DPO_TRAINER}


def write_rankings(home: Path, seed: int) -> None:
    """BUDGET completions of the SFT model, GROUP for each prompt, ranked by the reward model, in sampled.jsonl."""
    registry = Registry(home)
    source = find_model("support/sft", registry)
    scorer = reward_model_scorer(find_model("support/reward", registry, ("base", "reward")), "reward")
    prompts = [row["prompt"] for row in read(home, "prompts_train.jsonl")][: BUDGET // GROUP]
    many = [prompt for prompt in prompts for _ in range(GROUP)]
    model, tokenizer = load_causal_lm(source, ModelSection(ref="support/sft")), load_tokenizer(source)
    how: dict[str, Any] = {"max_new_tokens": 64, "temperature": 1.0, "batch_size": 256, "seed": seed}
    texts = [one.text for one in sample(model, tokenizer, many, **how)]
    scores = scorer.score(many, texts).tolist()
    with (home / "sampled.jsonl").open("w", encoding="utf-8") as lines:
        for start, prompt in zip(range(0, len(many), GROUP), prompts, strict=True):
            mine = texts[start : start + GROUP]
            tiers: dict[float, list[int]] = {}
            for at, score in enumerate(scores[start : start + GROUP]):
                tiers.setdefault(score, []).append(at)
            row = {"prompt": prompt, "completions": mine, "tiers": [tiers[key] for key in sorted(tiers, reverse=True)]}
            lines.write(json.dumps(row) + "\n")


def command(home: Path, name: str, config: dict[str, Any]) -> dict[str, Any]:
    """What `rlhf NAME CONFIG --json` prints; SystemExit with its last words where it fails."""
    path = home / f"{config.get('output', {}).get('name', name).replace('/', '-').replace(' ', '-')}.yaml"
    path.write_text(yaml.safe_dump(config))
    main = "import sys; from rlhf.cli.main import main; sys.exit(main())"
    line = [sys.executable, "-c", main, "--home", str(home), *name.split(), str(path), "--json"]
    done = subprocess.run(line, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout))


def _line(found: dict[str, Any]) -> str:
    low, high = found["win_rate_ci"]
    shown = [f"win rate {found['win_rate']:.3f} [{low:.3f}, {high:.3f}]"]
    shown += [f"{key} {found[key]:.2f}" for key in ("rubric", "score", "kl", "seconds") if found[key] is not None]
    return ", ".join(shown)


def _mean(rows: list[dict[str, Any]], key: str) -> str:
    values = [row[key] for row in rows if row[key] is not None]
    return f"{statistics.mean(values):.2f}" if values else "-"


if __name__ == "__main__":
    typer.run(main)
