"""Completions for people to look at: before and after training, and on the console (stderr) and in W&B meanwhile."""

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table
from transformers import is_wandb_available

from rlhf.generation import eval_mode, seeded
from rlhf.ppo.experience import as_text, sample_completions
from rlhf.ppo.rollout import Prompts

if TYPE_CHECKING:
    from rlhf.ppo.trainer import PPOTrainer


def show_samples(trainer: "PPOTrainer", prompts: Prompts, rows_on_console: int = 5) -> list[dict[str, Any]]:
    """Complete `prompts` greedily and score them; returns one row `{query, model response, score}` for each.

    With an ensemble also `ensemble std`, what its members disagree by.
    """
    rows = [
        {
            "query": trainer.processing_class.decode(ids, skip_special_tokens=True),
            "model response": sample.text,
            "score": sample.score,
        }
        | ({} if sample.spread is None else {"ensemble std": sample.spread})
        for ids, sample in zip(prompts.ids, complete(trainer, prompts, temperature=0.0), strict=True)
    ]
    if not trainer.args.disable_tqdm:
        _print(rows[:rows_on_console], trainer.state.global_step)
    for listener in trainer.on_samples:
        listener(rows)
    if "wandb" in trainer.args.report_to and is_wandb_available():
        import wandb

        if wandb.run is not None:
            table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
            wandb.log({"completions": table})
    return rows


class Sample(NamedTuple):
    """A completion for people to read."""

    text: str
    score: float
    """Without penalties."""
    spread: float | None
    """What an ensemble's members disagree by on it; None without an ensemble."""


def complete(trainer: "PPOTrainer", prompts: Prompts, *, temperature: float) -> list[Sample]:
    """A completion of each prompt (greedy at temperature 0) with its score; the seed decides."""
    with seeded(trainer.args.seed), eval_mode(trainer.model):
        with trainer.autocast():
            tokens = sample_completions(trainer.policy_model, prompts, trainer.sampling, temperature)
        texts, columns = as_text(prompts, tokens.ids, tokens.mask, trainer.sampling)
        each = trainer.scorer.score_each(prompts.texts, texts, columns)
    spread = trainer.scorer.spread(each)
    spreads = [None] * len(texts) if spread is None else spread.tolist()
    return [Sample(*row) for row in zip(texts, trainer.scorer.combine(each).tolist(), spreads, strict=True)]


def _print(rows: list[dict[str, Any]], step: int) -> None:
    table = Table(*rows[0], title=f"completions after update {step}", show_lines=True)
    for row in rows:
        # Model text is not markup.
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else v.replace("[", r"\[") for v in row.values()))
    Console(file=sys.stderr).print(table)
