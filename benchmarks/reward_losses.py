"""Which loss makes the best reward model: held-out accuracy of one after the other on the same data and seeds.

    rlhf demo                                            # makes the SFT model and the annotators' rankings, once
    python -m benchmarks.reward_losses demo --home rlhf-demo --json losses-demo.json
    python -m benchmarks.reward_losses qa_feedback --data ../shared/data --model MINILM --json losses-qa.json

`qa_feedback` are pairs, `oasst` rankings of OpenAssistant's trees, `medical` ratings; `--model` is the folder of the
backbone, such as all-MiniLM-L6-v2. Held-out prompts are the same for every loss and seed. A run that stands in the JSON
file is not run again.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
import yaml

from reward.config import RewardStageConfig
from reward.train import train_reward
from rlhf.config import load_config
from rlhf.registry import Registry
from rlhf.workspace import Workspace

COMPARISONS: dict[str, list[str]] = {
    "bradley_terry": [],
    "plackett_luce": ["loss.kind=plackett_luce"],
    "smoothed": ["loss.label_smoothing=0.05"],
    "centred": ["trainer.center_rewards_coefficient=0.01"],
}
OF_RANKINGS = COMPARISONS | {"margins": ["loss.margin=tiers", "loss.margin_unit=0.5"]}
OF_PEOPLE = OF_RANKINGS | {"reliability": ["loss.weights=reliability"]}
OF_RATINGS = {"bradley_terry": [], "ordinal": ["loss.kind=ordinal"], "regression": ["loss.kind=regression"]}

ENCODER = {"num_train_epochs": 3, "per_device_train_batch_size": 16, "learning_rate": 1e-4, "max_length": 256}
DEMO = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 5e-4}
SETTINGS = {"lr_scheduler_type": "cosine", "warmup_steps": 10, "gradient_checkpointing": False, "save_strategy": "no"}

DATA: dict[str, tuple[dict[str, list[str]], dict[str, Any]]] = {
    "demo": (OF_PEOPLE, {}),
    "qa_feedback": (
        COMPARISONS,
        {
            "sources": [{"path": "preferences/qa_feedback.train.jsonl"}],
            "dev": [{"path": "preferences/qa_feedback.dev.jsonl"}],
        },
    ),
    "oasst": (
        OF_RANKINGS,
        {
            "sources": [
                {"path": "rankings/oasst_en100_trees.jsonl.gz", "format": "openassistant", "conversational": False}
            ],
            "dev_fraction": 0.3,
        },
    ),
    "medical": (
        OF_RATINGS,
        {
            "sources": [
                {
                    "path": "ratings/medical_liveqa_ccby.jsonl",
                    "columns": {"prompt": "question", "completion": "answer", "rating": "score"},
                }
            ],
            "dev_fraction": 0.3,
        },
    ),
}
FIGURES = (
    "rating_correlation",
    "accuracy",
    "accuracy_ci",
    "accuracy_longest",
    "num_pairs",
    "num_prompts",
    "num_train_rankings",
    "annotators",
)


def main(
    name: Annotated[str, typer.Argument(help=f"Of {', '.join(DATA)}.")],
    home: Annotated[Path, typer.Option(help="The home of an `rlhf demo` that has been run.")] = Path("rlhf-demo"),
    data: Annotated[Path, typer.Option(help="The folder of the data sets.")] = Path("../shared/data"),
    model: Annotated[
        str | None, typer.Option(help="The backbone's folder; the demo's SFT model when left out.")
    ] = None,
    losses: Annotated[str, typer.Option(help="Which, by commas; all that the data has a use for when left out.")] = "",
    seeds: Annotated[str, typer.Option(help="By commas.")] = "0,1,2",
    override: Annotated[list[str] | None, typer.Option(help="key=value for every run's config.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where all figures go.")] = None,
) -> None:
    """Run all of them and print a table."""
    arms, section = DATA[name]
    if name == "demo":
        registry = Registry(home)
        rows = registry.open("support/preferences")
        section = {"sources": [{"path": str(rows), "split": "train"}], "dev": [{"path": str(rows), "split": "dev"}]}
        model = model or str(registry.open("support/sft"))
    if model is None:
        raise typer.BadParameter("--model: the folder of a backbone, such as all-MiniLM-L6-v2")
    config = {
        "model": {"ref": str(Path(model).absolute())},
        "data": _absolute(section, data),
        "trainer": (DEMO if name == "demo" else ENCODER) | SETTINGS,
        "tracking": {"wandb": "off"},
        "output": {"name": "bench/reward"},
    }
    known = json.loads(json_path.read_text())["runs"] if json_path and json_path.exists() else []
    done = {(found["data"], found["loss"], found["seed"]): found for found in known}
    chosen = losses.split(",") if losses else list(arms)
    for loss in chosen:
        for seed in map(int, seeds.split(",")):
            if (name, loss, seed) not in done:
                found = run(config, [*arms[loss], *(override or ())], seed)
                done[name, loss, seed] = {"data": name, "loss": loss, "seed": seed, **found}
                if json_path is not None:  # what is done so far
                    json_path.write_text(json.dumps({"runs": list(done.values())}, indent=1) + "\n")
    for loss in chosen:
        sys.stdout.write(_line(loss, [found for key, found in done.items() if key[:2] == (name, loss)]))


def run(config: dict[str, Any], overrides: Sequence[str], seed: int) -> dict[str, Any]:
    """One training in a home of its own; its held-out figures and what it took."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "reward.yaml"
        path.write_text(yaml.safe_dump(config | {"seed": seed}))
        began = time.perf_counter()
        summary = train_reward(
            load_config(path, RewardStageConfig, overrides), Workspace.open(Path(folder) / "home", progress=False)
        )
    return {"seconds": round(time.perf_counter() - began, 1)} | {key: summary[key] for key in FIGURES if key in summary}


def _absolute(section: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {
        key: [one | {"path": str((folder / one["path"]).absolute())} for one in value]
        if isinstance(value, list)
        else value
        for key, value in section.items()
    }


def _line(loss: str, runs: list[dict[str, Any]]) -> str:
    runs = [found for found in runs if "accuracy" in found]
    if not runs:
        return f"{loss:14} nothing held out to compare\n"
    accuracies = [found["accuracy"] for found in runs]
    each = "  ".join(
        f"{found['accuracy']:.3f} [{found['accuracy_ci'][0]:.3f}, {found['accuracy_ci'][1]:.3f}]" for found in runs
    )
    seconds = statistics.mean(found["seconds"] for found in runs)
    correlations = [found["rating_correlation"] for found in runs if "rating_correlation" in found]
    rated = f"; correlation with ratings {statistics.mean(correlations):.3f}" if correlations else ""
    return (
        f"{loss:14} mean {statistics.mean(accuracies):.3f} of {len(runs)} seeds: {each}; the longest wins: "
        f"{runs[0]['accuracy_longest']:.3f}; {runs[0]['num_pairs']} pairs{rated}; {seconds:.0f} s\n"
    )


if __name__ == "__main__":
    typer.run(main)
