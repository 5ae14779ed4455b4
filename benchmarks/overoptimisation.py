"""Over-optimisation: PPO without a KL penalty on reward models that saw few rankings, one alone and an ensemble.

    rlhf demo                                                # makes the SFT model and the rankings, once
    python -m benchmarks.overoptimisation rlhf-demo --json overoptimisation.json

Each seed draws its rankings from the demo's and trains reward models on bootstrap samples of them. `single` is the
first of these, `ensemble` all of them as mean minus std. The judge is the rubric, which annotators judge by and PPO
never sees, on held-out prompts. The monitor looks at every evaluation and is told to warn, so that the whole curve is
seen; where it would have stopped is read from its alarms. The peak is that of the judge's mean over three evaluations.
"""

import json
import random
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from benchmarks.alarms import SETTINGS
from benchmarks.ppo.demo_run import read
from reward.config import RewardStageConfig
from reward.train import train_reward
from rlhf.config import ModelSection
from rlhf.demo.rubric import rubric_scores
from rlhf.modeling import find_model, load_causal_lm, load_tokenizer
from rlhf.ppo import PPOConfig, PPOTrainer
from rlhf.registry import Registry
from rlhf.scorers import reward_model_scorer
from rlhf.workspace import Workspace

ARMS: dict[str, dict[str, Any]] = {"single": {}, "ensemble": {"reward_ensemble": "mean_minus_std"}}
REWARD_TRAINER = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 16,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "activation_checkpointing": False,
    "disable_tqdm": True,
}
EVAL_STEPS = 1
SMOOTHED = 3
"""Evaluations that a point of the judge's curve is a mean over, so that noise makes no peak."""
Run = dict[str, Any]


def main(
    home: Annotated[Path, typer.Argument(help="The home of an `rlhf demo` that has been run.")],
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ...")] = 3,
    updates: Annotated[int, typer.Option(help="Updates of 64 episodes.")] = 40,
    rankings: Annotated[int, typer.Option(help="That the reward models of a seed have seen between them.")] = 400,
    members: Annotated[int, typer.Option(help="Reward models in the ensemble.")] = 4,
    learning_rate: Annotated[float, typer.Option(help="PPO's.")] = 1.5e-4,
    coef: Annotated[float, typer.Option(help="Standard deviations that are taken off the ensemble's mean.")] = 1.0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where curves go; those in it are not run.")] = None,
) -> None:
    """Print a line a run, then the peaks."""
    known: dict[str, Run] = json.loads(json_path.read_text()) if json_path and json_path.exists() else {}
    found: dict[str, list[Run]] = {arm: [] for arm in ARMS}
    for seed in range(seeds):
        with TemporaryDirectory() as folder:
            folders: list[Path] = []
            for arm, settings in ARMS.items():
                key = f"{arm} seed {seed}, {updates} updates, {rankings} rankings, {members} members, {coef}"
                if key not in known:
                    folders = folders or reward_models(home, Path(folder), seed, rankings, members)
                    scored_by = folders if settings else folders[:1]
                    how = {**settings, "reward_ensemble_coef": coef, "learning_rate": learning_rate}
                    known[key] = run(home, scored_by, seed, updates, how)
                    if json_path:
                        json_path.write_text(json.dumps(known) + "\n")
                found[arm].append(known[key])
                sys.stdout.write(f"{key}: {_line(known[key])}\n")
                sys.stdout.flush()
    for arm, runs in found.items():
        peaks = [peak(one)["rubric"] for one in runs]
        sys.stdout.write(f"{arm}: rubric at the peak {statistics.mean(peaks):.2f} ({' '.join(map(_two, peaks))})\n")


def reward_models(home: Path, folder: Path, seed: int, rankings: int, members: int) -> list[Path]:
    """Reward models on the demo's SFT model, each trained on a bootstrap sample of the same few rankings."""
    registry = Registry(home)
    sft, preferences = (Path(str(registry.open(f"support/{name}"))) for name in ("sft", "preferences"))
    rows = (preferences / "train.jsonl").read_text(encoding="utf-8").splitlines()
    draw = random.Random(seed)
    few = draw.sample(rows, rankings)
    workspace = Workspace.open(folder / "home", progress=False)
    models: list[Path] = []
    for member in range(members):
        sample = folder / f"{member}.jsonl"
        sample.write_text("\n".join(draw.choices(few, k=len(few))) + "\n", encoding="utf-8")
        config = {
            "model": {"ref": str(sft)},
            "data": {
                "sources": [{"path": str(sample)}],
                "dev": [{"path": str(preferences / "dev.jsonl")}],
                "cleaning": {"dedupe": "none"},
            },
            "trainer": REWARD_TRAINER,
            "seed": 100 * seed + member,
            "tracking": {"wandb": "off"},
            "output": {"name": f"over/reward-{member}"},
        }
        summary = train_reward(RewardStageConfig.model_validate(config), workspace)
        sys.stdout.write(f"  reward model {member} of seed {seed}: held-out accuracy {summary['accuracy']}\n")
        models.append(Path(str(workspace.registry.open(summary["artefact"]))))
    return models


def run(home: Path, rewards: list[Path], seed: int, updates: int, settings: dict[str, Any]) -> Run:
    """One PPO run: update, score, KL and rubric of each evaluation, and the monitor's alarms."""
    registry = Registry(home)
    source = find_model("support/sft", registry)
    scorers = [reward_model_scorer(find_model(str(path), registry), f"reward-{i}") for i, path in enumerate(rewards)]
    with TemporaryDirectory() as folder:
        args = SETTINGS | {"kl_coef": 0.0, "lr_scheduler_type": "constant", "eval_steps": EVAL_STEPS} | settings
        trainer = PPOTrainer(
            args=PPOConfig(output_dir=folder, seed=seed, max_steps=updates, **args),
            processing_class=load_tokenizer(source),
            model=load_causal_lm(source, ModelSection(ref="support/sft"), trainable=True),
            ref_model=None,
            reward_model=None,
            train_dataset=[{"prompt": row["prompt"]} for row in read(home, "prompts_train.jsonl")],
            eval_dataset=[
                {"prompt": row["prompt"]}
                for name in ("prompts_dev.jsonl", "prompts_heldout.jsonl")
                for row in read(home, name)
            ],
            reward_funcs=scorers,
            judge=rubric_scores,
        )
        alarms: list[dict[str, Any]] = []
        trainer.on_alarm.append(
            lambda alarm: alarms.append({"name": alarm.name, "level": alarm.level, "step": alarm.step})
        )
        trainer.train()
    keys = {"score": "scores", "kl": "kl", "rubric": "judge", "rubric_se": "judge_se"}
    curve = [
        {"update": row["step"]} | {name: float(row[f"eval_objective/{key}"]) for name, key in keys.items()}
        for row in trainer.state.log_history
        if "eval_objective/judge" in row
    ]
    return {"curve": curve, "alarms": alarms}


def smoothed(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """Means over SMOOTHED evaluations each, under the update of the middle one."""
    middle = SMOOTHED // 2
    rows = []
    for i in range(middle, len(curve) - middle):
        around = curve[i - middle : i + middle + 1]
        means = {key: statistics.mean(row[key] for row in around) for key in ("score", "kl", "rubric")}
        rows.append({"update": curve[i]["update"], **means})
    return rows


def peak(found: Run) -> dict[str, float]:
    """Where the smoothed rubric is highest, what is left of its gain at the end, and where the monitor would stop.

    `stopped_at` is the update of the first alarm that stops (NaN without one), `lost_at_stop` the share of the gain
    that was lost by then.
    """
    points = smoothed(found["curve"])
    top = max(points, key=lambda row: row["rubric"])
    gain = top["rubric"] - found["curve"][0]["rubric"]
    stops = [alarm["step"] for alarm in found["alarms"] if alarm["level"] == 2]
    stopped_at = min(stops, default=float("nan"))
    at_stop = [row["rubric"] for row in points if row["update"] <= stopped_at]
    return {
        **top,
        "rubric_end": points[-1]["rubric"],
        "score_end": points[-1]["score"],
        "lost_at_end": (top["rubric"] - points[-1]["rubric"]) / gain,
        "stopped_at": stopped_at,
        "lost_at_stop": (top["rubric"] - at_stop[-1]) / gain if at_stop else float("nan"),
    }


def _two(value: float) -> str:
    return f"{value:.2f}"


def _line(found: Run) -> str:
    first = next((alarm for alarm in found["alarms"] if alarm["level"] == 2), None)
    shown = ", ".join(f"{key} {value:.2f}" for key, value in peak(found).items())
    return f"{shown}; begins at {found['curve'][0]['rubric']:.2f}; stopped by {first['name'] if first else 'nothing'}"


if __name__ == "__main__":
    typer.run(main)
