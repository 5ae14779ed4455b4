"""From verdicts and texts to the figures of a summary."""

import math
from collections.abc import Hashable
from typing import Any

import numpy as np

from rlhf.evaluation.candidates import Texts
from rlhf.evaluation.config import BASELINE, EvaluationConfig
from rlhf.evaluation.independence import judge_is_training_reward
from rlhf.evaluation.judging import Judged, unjudged
from rlhf.evaluation.length import length_controlled_win_rate
from rlhf.evaluation.reading import Inputs
from rlhf.evaluation.statistics import Estimate, Floats, bootstrap_mean, standard_error
from rlhf.evaluation.texts import diversity
from rlhf.evaluation.writing import Written
from rlhf.records import prompt_key
from rlhf.registry import Registry


def clusters_of(texts: Texts) -> list[Hashable]:
    """What row belongs to which prompt: rows of one prompt are no independent pieces of evidence."""
    return [prompt_key(record.prompt) for record in texts.records]


def verdict_figures(config: EvaluationConfig, texts: Texts, judged: Judged, name: str) -> dict[str, Any]:
    """Win rate of the candidate `name` over the baseline, as it is and at equal lengths, counts, and mean scores."""
    compared = judged.compared[name]
    rows = np.flatnonzero(np.isfinite(compared.verdicts))
    verdicts = compared.verdicts[rows]
    won = _mean(config, texts, compared.verdicts, rows)
    figures: dict[str, Any] = {
        "win_rate": won.value,
        "win_rate_ci": won.interval,
        "confidence": config.confidence,
        "wins": int((verdicts > 0.5).sum()),
        "ties": int((verdicts == 0.5).sum()),
        "losses": int((verdicts < 0.5).sum()),
        **_at_equal_lengths(config, texts, compared.verdicts, rows, name),
    }
    if lost := unjudged(compared):
        figures["num_unjudged"] = lost
    for who, scores in (("candidate", compared.first_scores), (BASELINE, compared.second_scores)):
        if scores is not None:
            scored = _mean(config, texts, scores, rows)
            figures |= {f"score_{who}": scored.value, f"score_{who}_ci": scored.interval}
    return figures


def kl_figures(texts: Texts, name: str) -> dict[str, Any]:
    """The divergence from the reference, estimated from the candidate's own samples."""
    ratios = texts.log_ratios.get(name)
    if ratios is None:
        return {"kl": None, "kl_se": None}
    return {"kl": float(ratios.mean()), "kl_se": standard_error(ratios, clusters_of(texts))}


def best_of_kl_bound(num: int) -> float:
    """How far best-of-n is at most from the model that it draws from: log n - (n - 1) / n nats.

    Given as the divergence by Stiennon et al. 2020 (appendix G.3); Beirami et al. 2024 (arXiv:2401.01879) show that it
    is an upper bound, reached where no two of a prompt's completions can be the same.
    """
    return math.log(num) - (num - 1) / num


def text_figures(who: str, written: Written) -> dict[str, Any]:
    """Length, diversity and ends of what one side wrote, each key with `_who` behind it."""
    found: dict[str, Any] = {
        "length": float(np.mean([len(ids) for ids in written.token_ids])),
        **diversity(written.texts),
        "ends_with_eos": float(np.mean([completion.ended for completion in written.completions])),
    }
    return {f"{key}_{who}": value for key, value in found.items()}


def by_candidate(
    inputs: Inputs,
    texts: Texts,
    judged: Judged,
    registry: Registry,
    *,
    verdicts_alone: bool = False,
) -> dict[str, Any]:
    """Every candidate's figures under its name; the same ones as in the summary of a single candidate."""
    found: dict[str, Any] = {}
    for name in inputs.candidates:
        own = {
            key.replace("score_candidate", "score"): value
            for key, value in judged.figures[name].items()
            if key != "confidence" and not key.startswith("score_baseline")
        }
        if judged.disagreement[name] != 0:
            own["order_disagreement"] = judged.disagreement[name]
        found[name] = own
        if verdicts_alone:
            continue
        model, num = inputs.writers[name], inputs.best_of.get(name)
        if num is not None:
            own["best_of"] = num
            if model.ref == inputs.reference.ref:
                own["kl_bound"] = best_of_kl_bound(num)
        own |= {
            "model": model.ref,
            **kl_figures(texts, name),
            "tokens_sampled_per_prompt": float(texts.tokens_drawn[name].mean()),
            **{key.removesuffix("_"): value for key, value in text_figures("", texts.written[name]).items()},
            "judge_is_training_reward": judge_is_training_reward(
                model, inputs.judges, registry, inputs.choosers.get(name, ())
            ),
        }
    return found


def by_pair(config: EvaluationConfig, inputs: Inputs, texts: Texts, judged: Judged) -> dict[str, Any]:
    """Win rate of each candidate over each that comes after it, where the judge scores one by one."""
    found: dict[str, Any] = {}
    for (one, other), verdicts in judged.pairs.items():
        won = _mean(config, texts, verdicts, np.arange(len(verdicts)))
        found.setdefault(one, {})[other] = {"win_rate": won.value, "win_rate_ci": won.interval}
    return found


def _mean(config: EvaluationConfig, texts: Texts, values: Floats, rows: Any) -> Estimate:
    clusters = clusters_of(texts)
    return bootstrap_mean(
        values[rows],
        [clusters[row] for row in rows],
        num_bootstrap=config.num_bootstrap,
        confidence=config.confidence,
        seed=config.seed,
    )


def _at_equal_lengths(config: EvaluationConfig, texts: Texts, verdicts: Floats, rows: Any, name: str) -> dict[str, Any]:
    clusters = clusters_of(texts)
    first, second = ([len(texts.written[who].texts[row]) for row in rows] for who in (name, BASELINE))
    found = length_controlled_win_rate(
        verdicts[rows],
        first,
        second,
        [clusters[row] for row in rows],
        num_bootstrap=config.num_bootstrap,
        confidence=config.confidence,
        seed=config.seed,
    )
    if found is None:
        return {"win_rate_length_controlled": None}
    return {"win_rate_length_controlled": found.value, "win_rate_length_controlled_ci": found.interval}
