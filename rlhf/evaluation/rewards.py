"""`rlhf eval reward`: how often a reward model agrees with people on preferences it has not seen."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf.datasets import load
from rlhf.errors import UserError
from rlhf.evaluation.config import RewardEvaluationConfig
from rlhf.evaluation.publishing import publish_report, rounded
from rlhf.evaluation.statistics import accuracy_with_interval, longest_wins
from rlhf.evaluation.writing import Progress, device
from rlhf.generation import Messages
from rlhf.modeling import find_model
from rlhf.records import Preference, Ranking, Record, Text, plain, prompt_key
from rlhf.scorers import REWARD_KINDS, reward_model_scorer
from rlhf.scoring import RewardModelScorer
from rlhf.workspace import Workspace, report_problems

Exchange = tuple[str | Messages, str]


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
    pairs = _pairs(data.dev or data.train)
    exchanges = [(_exchange(pair.prompt, pair.chosen), _exchange(pair.prompt, pair.rejected)) for pair in pairs]
    scorer = reward_model_scorer(source, source.ref, batch_size=config.batch_size, device=device(), dtype=config.dtype)
    with workspace.run("eval", config, config.tracking) as run:
        run.rewind(run.stage, -1)  # what an interrupted attempt has logged
        report_problems(data.problems, run.folder / "set_aside.jsonl")
        chosen, rejected = _scores(scorer, exchanges, progress)
        measured = accuracy_with_interval(
            chosen,
            rejected,
            [prompt_key(pair.prompt) for pair in pairs],
            num_bootstrap=config.num_bootstrap,
            confidence=config.confidence,
            seed=config.seed,
        )
        summary = rounded(
            {
                "model": source.ref,
                "accuracy": measured.value,
                "accuracy_ci": measured.interval,
                "accuracy_longest": longest_wins([c[1] for c, _ in exchanges], [r[1] for _, r in exchanges]),
                "margin": float(np.mean(chosen - rejected)),
                "num_pairs": len(pairs),
                "num_prompts": measured.num_clusters,
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
            summary["artefact"] = publish_report(config, workspace.registry, run, "reward", parents, summary, samples)
        return run.finish(summary)


def _pairs(records: Sequence[Record]) -> list[Preference]:
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


def _exchange(prompt: Text, completion: Text) -> Exchange:
    """Prompt and completion with the completion as text; its earlier messages, if any, join the prompt.

    Raises:
        UserError: the prompt is text and the completion is messages, or these do not end with the assistant's.
    """
    if isinstance(completion, str):
        return (prompt if isinstance(prompt, str) else _messages(prompt)), completion
    if isinstance(prompt, str) or completion[-1].role != "assistant":
        raise UserError(
            f"data: a completion in messages needs a prompt in messages and must end with the assistant's: "
            f"{plain(prompt)[:60]!r}"
        )
    return _messages(prompt) + _messages(completion[:-1]), completion[-1].content


def _messages(turns: Sequence[Any]) -> Messages:
    return [turn.model_dump(exclude_none=True) for turn in turns]


def _scores(
    scorer: RewardModelScorer, exchanges: Sequence[tuple[Exchange, Exchange]], progress: Progress | None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [P] of the chosen and of the rejected completions, each distinct text scored once."""
    rows = [tuple(scorer.encode(*exchange)) for pair in exchanges for exchange in pair]
    distinct = {row: index for index, row in enumerate(dict.fromkeys(rows))}
    texts, scores = list(distinct), []
    for start in range(0, len(texts), 8 * scorer.batch_size):
        scores.append(scorer.score_ids(texts[start : start + 8 * scorer.batch_size]).numpy())
        if progress:
            progress(min(start + 8 * scorer.batch_size, len(texts)), len(texts), "reward model")
    flat = np.concatenate(scores).astype(np.float64)[[distinct[row] for row in rows]]
    return flat[0::2], flat[1::2]
