"""Run folders as real stages leave them, with figures like those of a small real run."""

import math
import random
import shutil
from pathlib import Path

import pytest

from rlhf.report import (
    Comparison,
    LineageNode,
    Report,
    Sample,
    comparison,
    headlines,
    stage_report_from_run,
)
from rlhf.tracking import Run, TrackingConfig

HOSTILE = "<script>alert(1)</script> ${7*7} {{7*7}} <img src=x onerror=alert(2)> \" onmouseover='x' &amp; \x00\x1b[31m"


def open_run(home: Path, stage: str, config: dict | None = None) -> Run:
    return Run.create(
        home, stage=stage, config=config or {}, seed=7, tracking=TrackingConfig(wandb="off"), run_id=stage
    )


def make_sft(home: Path) -> Path:
    rng = random.Random(1)
    with open_run(home, "sft") as run:
        for step in range(10, 401, 10):
            loss = 0.9 + 2.2 * math.exp(-step / 90) + rng.gauss(0, 0.04)
            row = {"loss": loss, "mean_token_accuracy": 1 - loss / 4, "learning_rate": 1e-3 * (1 - step / 400)}
            run.log({**row, "grad_norm": 1 + rng.random(), "entropy": loss * 0.9}, step=step)
            if step % 50 == 0:
                run.log({"eval_loss": loss + 0.06, "eval_mean_token_accuracy": 0.985 - loss / 4}, step=step)
        run.finish(
            {
                "eval_loss": 0.9712,
                "perplexity": 2.6411,
                "token_accuracy": 0.7431,
                "num_train": 4200,
                "ref": "support/sft@v1",
                "seconds": 71.4,
            }
        )
    return run.folder


def make_reward(home: Path) -> Path:
    rng = random.Random(2)
    with open_run(home, "reward") as run:
        for step in range(5, 151, 5):
            accuracy = 0.5 + 0.39 * (1 - math.exp(-step / 35)) + rng.gauss(0, 0.015)
            mean = rng.gauss(0, 0.05)
            run.log(
                {
                    "loss": 0.69 - 0.42 * (1 - math.exp(-step / 40)) + rng.gauss(0, 0.01),
                    "accuracy": accuracy,
                    "margin": 3 * (accuracy - 0.5),
                    "mean_reward": mean,
                    "min_reward": mean - 2.1,
                    "max_reward": mean + 1.9,
                },
                step=step,
            )
            if step % 30 == 0:
                run.log({"eval_accuracy": accuracy - 0.01}, step=step)
        run.finish(
            {
                "accuracy": 0.8733,
                "accuracy_ci": [0.8507, 0.8940],
                "confidence": 0.95,
                "accuracy_longest": 0.5512,
                "num_pairs": 2950,
                "ref": "support/reward@v1",
                "seconds": 48.2,
            }
        )
    return run.folder


def make_ppo(home: Path) -> Path:
    rng = random.Random(3)
    config = {"trainer": {"kl_coef": 0.05, "kl_controller": "adaptive", "kl_target": 6.0}}
    with open_run(home, "ppo", config) as run:
        for step in range(1, 65):
            score = -0.8 + 2.5 * (1 - math.exp(-step / 18)) + rng.gauss(0, 0.09)
            kl = 4.2 * (1 - math.exp(-step / 22)) + abs(rng.gauss(0, 0.12))
            run.log(
                {
                    "objective/scores": score,
                    "objective/score_std": 0.7 - step / 200,
                    "objective/kl": kl,
                    "objective/kl_coef": 0.05 - step / 4000,
                    "objective/rlhf_reward": score - 0.05 * kl,
                    "objective/non_score_reward": -0.05 * kl,
                    "policy/approxkl_avg": 0.01 + rng.random() / 100,
                    "policy/clipfrac_avg": 0.05 + rng.random() / 20,
                    "val/clipfrac_avg": 0.02 + rng.random() / 30,
                    "val/ratio": 1 + rng.gauss(0, 0.01),
                    "val/explained_variance": 1 - math.exp(-step / 15),
                    "policy/entropy_avg": 1.4 - step / 120,
                    "loss/policy_avg": -0.01 + rng.gauss(0, 0.002),
                    "loss/value_avg": 0.5 * math.exp(-step / 20) + 0.05,
                    "completions/mean_length": 38 + step / 8 + rng.gauss(0, 1),
                    "completions/eos_share": 0.9 + step / 1000,
                    "policy/grad_norm": 0.8 + rng.random(),
                    "value/grad_norm": 1.8 + rng.random(),
                    "lr": 3e-5,
                    "episode": step * 64,
                },
                step=step,
            )
        run.log_samples([vars(sample) for sample in SAMPLES], step=64)
        run.finish(
            {
                "score_before": -0.81,
                "score_after": 1.68,
                "kl": 4.13,
                "ref": "support/policy@v1",
                "seconds": 118.0,
            }
        )
    return run.folder


SAMPLES = (
    Sample(
        prompt="Customer: My parcel says delivered but nothing is here. Order 48213.\nAgent:",
        before="I am sorry to hear that your parcel is late. Please wait a few more days and contact us again.",
        after="I am sorry to hear that your parcel is missing. I have opened a search for order 48213 and will "
        "send a replacement today.",
        score_before=-0.62,
        score_after=1.91,
    ),
    Sample(
        prompt="Customer: I was charged twice for the blue lamp.\nAgent:",
        before="Thank you for your order. Have a nice day!",
        after="I see two charges for the blue lamp. The second one has been refunded; it takes three days to arrive.",
        score_before=-1.4,
        score_after=2.05,
    ),
    Sample(
        prompt="Customer: How do I change the address of my order?\nAgent: Which order is it?\nCustomer: 77120.",
        before="You can change the address of order 77120 in your account until it ships.",
        after="You can change the address of order 77120 in your account until it ships. Shall I do it for you now?",
        score_before=0.74,
        score_after=1.12,
    ),
)

LINEAGE = LineageNode(
    "support/policy@v1",
    "policy",
    digest="9f2c4a1be7d0335f",
    created="2026-11-20 14:02",
    children=(
        LineageNode(
            "support/sft@v1",
            "sft",
            "ref",
            "41bb0c9a77e1d2f4",
            "2026-11-20 13:55",
            (
                LineageNode("support/base@v1", "base", "base", "c0ffee12ab34cd56", "2026-11-20 13:52"),
                LineageNode("support/demonstrations@v1", "dataset", "data", "77ab21cd09ef3456", "2026-11-20 13:53"),
            ),
        ),
        LineageNode(
            "support/reward@v1",
            "reward",
            "reward",
            "b81d90ef23a45c67",
            "2026-11-20 13:59",
            (
                LineageNode(
                    "support/preferences@v1",
                    "preferences",
                    "data",
                    "5e6f7a8b9c0d1e2f",
                    "2026-11-20 13:57",
                    note="annotators: ada, ben, cleo (simulated)",
                ),
                LineageNode("support/sft@v1", "sft", "base", "41bb0c9a77e1d2f4", "2026-11-20 13:55", repeated=True),
            ),
        ),
    ),
)

SUMMARY = {
    "sft": {"eval_loss": 0.9712, "perplexity": 2.6411},
    "reward": {"accuracy": 0.8733, "accuracy_ci": [0.8507, 0.8940], "confidence": 0.95, "accuracy_longest": 0.5512},
    "ppo": {"score_before": -0.81, "score_after": 1.68, "kl": 4.13},
    "eval": {
        "win_rate": 0.9425,
        "win_rate_ci": [0.9125, 0.9675],
        "confidence": 0.95,
        "num_prompts": 200,
        "judge": "the rubric",
        "candidate": "support/policy@v1",
        "baseline": "support/sft@v1",
    },
    "export": {"path": "aligned/", "format": "merged"},
    "seconds": 268.4,
    "status": "done",
}


@pytest.fixture(scope="session")
def made_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three stages' run folders, to be read only."""
    home = tmp_path_factory.mktemp("home")
    return {"sft": make_sft(home), "reward": make_reward(home), "ppo": make_ppo(home)}


@pytest.fixture
def runs(made_runs: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """The same folders, a test's own."""
    return {name: Path(shutil.copytree(made, tmp_path / name)) for name, made in made_runs.items()}


@pytest.fixture(scope="session")
def report(made_runs: dict[str, Path]) -> Report:
    """The report of a whole pipeline."""
    compared = comparison(SUMMARY)
    assert isinstance(compared, Comparison)
    return Report(
        title="Customer-support replies",
        status="done",
        command="rlhf run configs/demo/run.yaml",
        seed=7,
        environment={
            "python": "3.11.7",
            "platform": "Linux-6.1-x86_64",
            "cpu": {"model": "Example CPU", "cores": 2, "memory_gib": 16.0},
            "gpus": [{"name": "Example GPU", "memory": "80 GiB", "driver": "1.0"}],
            "rlhf": {"version": "0.1.0", "commit": "0123456789abcdef0123", "dirty": True},
            "packages": {"torch": "2.13.0", "trl": "1.16.0"},
        },
        headlines=headlines(SUMMARY),
        stages=tuple(stage_report_from_run(folder) for folder in made_runs.values()),
        samples=SAMPLES,
        comparisons=(compared,),
        lineage=LINEAGE,
        warnings=("The annotators in this run were simulated: a program ranked the answers by a known rubric.",),
        created="2026-11-20 14:03",
        seconds=268.4,
    )
