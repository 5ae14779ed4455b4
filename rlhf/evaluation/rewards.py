"""`rlhf eval reward`: how far a reward model can be trusted, on preferences it has not seen."""

import logging
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from rlhf.datasets import load
from rlhf.evaluation.ending import RequirementsNotMet, finite_or_named
from rlhf.evaluation.grouping import columns_of, interval_of
from rlhf.evaluation.judged_pairs import JudgedPairs, judged_pairs
from rlhf.evaluation.publishing import publish_report, published_names, rounded
from rlhf.evaluation.requirements import check_requirements
from rlhf.evaluation.reward_config import RewardEvaluationConfig
from rlhf.evaluation.reward_figures import reward_figures
from rlhf.evaluation.reward_inputs import given_temperature, prompts_trained_on
from rlhf.evaluation.reward_measures import calibration_of, measure
from rlhf.evaluation.statistics import (
    Floats,
    accuracy_with_interval,
    longest_wins,
)
from rlhf.evaluation.writing import Progress
from rlhf.modeling import device, find_model
from rlhf.records import Preference, Ranking, Record, Text, exchange, plain, prompt_key
from rlhf.scorers import REWARD_KINDS, reward_model_scorer
from rlhf.scoring import Scorer
from rlhf.tracking import write_figures
from rlhf.workspace import Workspace, report_problems

logger = logging.getLogger(__name__)

MOST_WRONG = "most_wrong.jsonl"
"""In the report artefact: the pairs whose rejected completion scores highest above the chosen one."""

SCORED_AT_ONCE = 256
"""Texts that a scorer gets in one call."""


def evaluate_reward(
    config: RewardEvaluationConfig, workspace: Workspace, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Score held-out pairs, count, publish.

    Returns:
        The run's summary: `accuracy` over all pairs (equal scores count half) with `accuracy_ci`, resampled by prompt;
        beside it `accuracy_longest`, that of always preferring the longer text, and `agreement_people`; `groups`,
        calibration before and after scaling by `temperature`, `scores`, correlations with length, `requirements`.

    Raises:
        UserError: the input is wrong; nothing has been published.
        RequirementsNotMet: a threshold of `require` is not met; everything has been written and published.
    """
    source = find_model(config.model, workspace.registry, REWARD_KINDS, key="model")
    data = load(config.data, (Ranking, Preference), seed=config.seed, open_ref=workspace.open_ref)
    found = judged_pairs(data.dev or data.train)
    columns = columns_of(found, config.groups)
    temperature = given_temperature(config.temperature, source, workspace.registry)
    seen = prompts_trained_on(source, workspace.registry)
    scorer = reward_model_scorer(source, source.ref, batch_size=config.batch_size, device=device(), dtype=config.dtype)
    with (
        workspace.run(
            "eval", config, config.tracking, data=data, models=source.refs, publishes=published_names(config)
        ) as run,
        finite_or_named(),
    ):
        run.rewind(run.stage, -1)  # what an interrupted attempt has logged
        report_problems(data.problems, run.folder / "set_aside.jsonl")
        chosen, rejected = score_pairs(scorer, found.pairs, progress)
        calibration = calibration_of(config, found, chosen - rejected, temperature)
        figures = {**measure(config, found, columns, chosen, rejected, calibration), **_ties(scorer, found)}
        required = check_requirements(config.require, figures)
        lines = [each.line for each in required if not each.met]
        summary = rounded(
            {
                "model": source.ref,
                **figures,
                "requirements": {r.name: {"asked": r.asked, "found": r.found, "met": r.met} for r in required},
                "num_prompts_trained_on": _num_seen(found, seen, source.ref),
                "num_truncated": getattr(scorer, "num_truncated", 0),
                "num_set_aside": len(data.problems),
            }
        )
        run.log({f"eval/{key}": value for key, value in summary.items() if type(value) in (int, float)}, step=0)
        write_figures(run.folder, reward_figures(found, chosen, rejected, summary, calibration, config.seed))
        samples = _samples(found, chosen, rejected)
        worst = _most_wrong(samples, config.num_worst)
        run.log_samples(worst, step=0, name="most_wrong")
        if config.output:
            parents = [("reward", source.publish(workspace.registry))]
            summary["model"] = parents[0][1].ref  # of a folder too, which has a ref now
            summary["artefact"] = publish_report(
                config, workspace.registry, run, "reward", parents, data, summary, samples, {MOST_WRONG: worst}
            )
        if lines:
            raise RequirementsNotMet(lines, run.finish(summary | {"stopped": "; ".join(lines)}, "stopped"))
        return run.finish(summary)


def all_pairs(records: Sequence[Record]) -> list[Preference]:
    """All pairs, those of rankings included.

    Raises:
        UserError: there is none.
    """
    return judged_pairs(records).pairs


def score_pairs(scorer: Scorer, pairs: Sequence[Preference], progress: Progress | None = None) -> tuple[Floats, Floats]:
    """Scores [P] of the chosen and of the rejected completions, each distinct text scored once."""
    sides = [side for pair in pairs for side in ((pair.prompt, pair.chosen), (pair.prompt, pair.rejected))]
    flat = _score(scorer, sides, progress)
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
        "accuracy_ci": interval_of(measured),
        "confidence": confidence,
        "accuracy_longest": longest_wins([better for better, _ in texts], [worse for _, worse in texts]),
        "margin": float(np.mean(chosen - rejected)),
        "num_pairs": len(pairs),
        "num_prompts": measured.num_clusters,
    }


def _score(scorer: Scorer, sides: Sequence[tuple[Text, Text]], progress: Progress | None = None) -> Floats:
    """Scores [S] of prompts and completions, each distinct exchange scored once."""
    exchanges = [exchange(prompt, completion) for prompt, completion in sides]
    distinct = {repr(one): one for one in exchanges}
    every, scores = list(distinct.values()), []
    for start in range(0, len(every), SCORED_AT_ONCE):
        some = every[start : start + SCORED_AT_ONCE]
        scores.append(scorer.score([prompt for prompt, _ in some], [text for _, text in some]).double().numpy())
        if progress:
            progress(start + len(some), len(every), "reward model")
    of = dict(zip(distinct, np.concatenate(scores), strict=True))
    return np.array([of[repr(one)] for one in exchanges])


def _num_seen(found: JudgedPairs, seen: set[str] | None, model: str) -> int | None:
    """How many of the prompts are no held-out ones; None where nobody knows what the model was trained on."""
    if seen is None:
        return None
    prompts = set(found.clusters)
    if num := len(prompts & seen):
        logger.warning(
            "%s was trained on %d of these %d prompts: what it shows here is too good", model, num, len(prompts)
        )
    return num


def _ties(scorer: Scorer, found: JudgedPairs) -> dict[str, Any]:
    """How far apart the model puts what people could not tell apart, to be read beside `pair_distance`."""
    if not found.ties:
        return {"num_ties": 0, "tie_distance": None}
    sides = [side for tie in found.ties for side in ((tie.prompt, tie.first), (tie.prompt, tie.second))]
    scores = _score(scorer, sides)
    return {"num_ties": len(found.ties), "tie_distance": float(np.abs(scores[0::2] - scores[1::2]).mean())}


def _samples(found: JudgedPairs, chosen: Floats, rejected: Floats) -> list[dict[str, Any]]:
    return [
        {
            "prompt": plain(pair.prompt),
            "chosen": plain(pair.chosen),
            "rejected": plain(pair.rejected),
            "score_chosen": round(float(better), 6),
            "score_rejected": round(float(worse), 6),
            "annotator": pair.annotator,
        }
        for pair, better, worse in zip(found.pairs, chosen, rejected, strict=True)
    ]


def _most_wrong(samples: Sequence[dict[str, Any]], num: int) -> list[dict[str, Any]]:
    """The `num` samples with the largest margin on the wrong side, each pair of texts once."""
    wrong = [sample for sample in samples if sample["score_rejected"] > sample["score_chosen"]]
    wrong.sort(key=lambda sample: cast(float, sample["score_chosen"] - sample["score_rejected"]))
    distinct: dict[tuple[str, ...], dict[str, Any]] = {}
    for sample in wrong:
        distinct.setdefault((sample["prompt"], sample["chosen"], sample["rejected"]), sample)
    return list(distinct.values())[:num]
