"""`rlhf eval reward`: how often a reward model agrees with people on preferences it has not seen."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf.datasets import load
from rlhf.errors import UserError
from rlhf.evaluation.ending import finite_or_named
from rlhf.evaluation.publishing import publish_report, published_names, rounded
from rlhf.evaluation.reward_config import RewardEvaluationConfig
from rlhf.evaluation.statistics import accuracy_with_interval, longest_wins
from rlhf.evaluation.writing import Progress
from rlhf.modeling import device, find_model
from rlhf.records import Preference, Ranking, Record, exchange, plain, prompt_key
from rlhf.scorers import REWARD_KINDS, reward_model_scorer
from rlhf.scoring import RewardModelScorer
from rlhf.workspace import Workspace, report_problems


def evaluate_reward(
    config: RewardEvaluationConfig, workspace: Workspace, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Score held-out pairs, count, publish.

    Returns:
        The run's summary: `accuracy` over all pairs (equal scores count half) with `accuracy_ci`, resampled by prompt;
        beside it `accuracy_longest`, that of always preferring the longer text.

    Raises:
        UserError: the input is wrong; nothing has been published.
    """
    source = find_model(config.model, workspace.registry, REWARD_KINDS, key="model")
    data = load(config.data, (Ranking, Preference), seed=config.seed, open_ref=workspace.open_ref)
    pairs = all_pairs(data.dev or data.train)
    scorer = reward_model_scorer(source, source.ref, batch_size=config.batch_size, device=device(), dtype=config.dtype)
    with (
        workspace.run(
            "eval", config, config.tracking, data=data, models=source.refs, publishes=published_names(config)
        ) as run,
        finite_or_named(),
    ):
        run.rewind(run.stage, -1)  # what an interrupted attempt has logged
        report_problems(data.problems, run.folder / "set_aside.jsonl")
        chosen, rejected = score_pairs(scorer, pairs, progress)
        summary = rounded(
            {
                "model": source.ref,
                **accuracy_figures(pairs, chosen, rejected, config.seed, config.num_bootstrap, config.confidence),
                "num_truncated": scorer.num_truncated,
                "num_set_aside": len(data.problems),
            }
        )
        run.log({f"eval/{key}": value for key, value in summary.items() if type(value) in (int, float)}, step=0)
        if config.output:
            samples = [
                {
                    "prompt": plain(pair.prompt),
                    "chosen": plain(pair.chosen),
                    "rejected": plain(pair.rejected),
                    "score_chosen": round(float(better), 6),
                    "score_rejected": round(float(worse), 6),
                }
                for pair, better, worse in zip(pairs, chosen, rejected, strict=True)
            ]
            parents = [("reward", source.publish(workspace.registry))]
            summary["model"] = parents[0][1].ref  # of a folder too, which has a ref now
            summary["artefact"] = publish_report(
                config, workspace.registry, run, "reward", parents, data, summary, samples
            )
        return run.finish(summary)


def all_pairs(records: Sequence[Record]) -> list[Preference]:
    """All pairs, those of rankings included.

    Raises:
        UserError: there is none.
    """
    pairs: list[Preference] = []
    for record in records:
        if isinstance(record, Ranking):
            pairs += record.pairs()
        elif isinstance(record, Preference):
            pairs.append(record)
    if not pairs:
        raise UserError("data: no ranking places one completion above another, so there is nothing to measure by")
    return pairs


def score_pairs(
    scorer: RewardModelScorer, pairs: Sequence[Preference], progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [P] of the chosen and of the rejected completions, each distinct text scored once."""
    sides = [exchange(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    rows = [tuple(scorer.encode(*side)) for side in sides]
    distinct = {row: index for index, row in enumerate(dict.fromkeys(rows))}
    texts, scores = list(distinct), []
    for start in range(0, len(texts), 8 * scorer.batch_size):
        scores.append(scorer.score_ids(texts[start : start + 8 * scorer.batch_size]).numpy())
        if progress:
            progress(min(start + 8 * scorer.batch_size, len(texts)), len(texts), "reward model")
    flat = np.concatenate(scores).astype(np.float64)[[distinct[row] for row in rows]]
    return flat[0::2], flat[1::2]


def accuracy_figures(
    pairs: Sequence[Preference],
    chosen: np.ndarray,
    rejected: np.ndarray,
    seed: int,
    num_bootstrap: int = 10000,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Accuracy with its interval over prompts and beside it that of "the longest wins"; scores are [P] each."""
    measured = accuracy_with_interval(
        chosen,
        rejected,
        [prompt_key(pair.prompt) for pair in pairs],
        num_bootstrap=num_bootstrap,
        confidence=confidence,
        seed=seed,
    )
    texts = [[exchange(pair.prompt, text)[1] for text in (pair.chosen, pair.rejected)] for pair in pairs]
    return {
        "accuracy": measured.value,
        "accuracy_ci": measured.interval,
        "confidence": confidence,
        "accuracy_longest": longest_wins([better for better, _ in texts], [worse for _, worse in texts]),
        "margin": float(np.mean(chosen - rejected)),
        "num_pairs": len(pairs),
        "num_prompts": measured.num_clusters,
    }
