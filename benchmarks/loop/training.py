"""One reward model from rankings, by `rlhf reward`'s own code, and how good it is."""

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from benchmarks.loop.pool import Pool
from reward.config import RewardStageConfig
from reward.train import train_reward
from rlhf.config import validate
from rlhf.modeling import find_model
from rlhf.records import Ranking, write_jsonl
from rlhf.scorers import reward_model_scorer
from rlhf.scoring import RewardModelScorer
from rlhf.workspace import Workspace

TRAINER = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 16,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "activation_checkpointing": False,
    "logging_steps": 20,
    "eval_strategy": "no",
    "save_strategy": "no",
}
"""The demo's."""


class _NoReport(Workspace):
    def write_report(self, folder: Path) -> None:
        """None: nobody reads dozens of them."""


@dataclass(frozen=True)
class Trained:
    """What came of a training: held-out accuracy with its interval, and the seconds it took."""

    accuracy: float
    accuracy_ci: list[float]
    num_rankings: int
    seconds: float


@contextmanager
def training(
    pool: Pool,
    rankings: Sequence[Ranking],
    seed: int,
    *,
    trainer: dict[str, Any] | None = None,
    **sections: Any,
) -> Iterator[tuple[Trained, RewardModelScorer]]:
    """Train in a home that lasts as long as the context; `sections` are those of the reward stage's config."""
    for package in ("rlhf", "reward"):
        logging.getLogger(package).setLevel(logging.ERROR)
    disable_progress_bar()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        write_jsonl(Path(scratch) / "rankings.jsonl", rankings)
        config = validate(
            {
                "model": {"ref": str(pool.sft)},
                "data": {
                    "sources": [{"path": str(Path(scratch) / "rankings.jsonl")}],
                    "dev": [{"path": str(pool.held_out)}],
                },
                "centre": {"ref": str(pool.sft), "num_prompts": 1, "max_new_tokens": 8},
                "trainer": {**TRAINER, **(trainer or {})},
                "tracking": {"wandb": "off"},
                "output": {"name": "loop/reward"},
                "seed": seed,
                **sections,
            },
            RewardStageConfig,
            origin="benchmarks.loop",
        )
        workspace = _NoReport.open(Path(scratch) / "home", progress=False)
        summary = train_reward(config, workspace)
        scorer = reward_model_scorer(find_model(summary["artefact"], workspace.registry), "reward", batch_size=256)
        seconds = round(time.monotonic() - started, 1)
        yield Trained(summary["accuracy"], summary["accuracy_ci"], len(rankings), seconds), scorer


def accuracy(pool: Pool, rankings: Sequence[Ranking], seed: int, **options: Any) -> Trained:
    """As `training`, of which only the figures are wanted."""
    with training(pool, rankings, seed, **options) as (trained, _):
        return trained
