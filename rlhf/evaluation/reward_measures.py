"""What an evaluation says of a reward model, from the scores of the pairs that people judged."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from rlhf.evaluation.calibration import Calibration, calibrate, why_not_calibrated
from rlhf.evaluation.grouping import accuracy_by_group, interval_of
from rlhf.evaluation.judged_pairs import JudgedPairs
from rlhf.evaluation.reward_config import RewardEvaluationConfig
from rlhf.evaluation.reward_figures import histogram
from rlhf.evaluation.statistics import (
    Estimate,
    Floats,
    bootstrap_mean,
    rank_correlation,
    rank_correlation_within,
    wins,
)


def measure(
    config: RewardEvaluationConfig,
    found: JudgedPairs,
    columns: Mapping[str, Sequence[str]],
    chosen: Floats,
    rejected: Floats,
    calibration: Calibration | None,
) -> dict[str, Any]:
    """The figures of a summary, but for what takes more than scores.

    Args:
        config: the evaluation's.
        found: the pairs.
        columns: the group [P] of each pair by each column.
        chosen: scores [P].
        rejected: scores [P].
        calibration: what `calibration_of` found.
    """
    return {
        **_accuracies(config, found, chosen, rejected),
        **_calibration_figures(calibration, found, chosen - rejected),
        **_lengths_and_scores(found, chosen, rejected),
        "groups": {
            name: accuracy_by_group(
                found,
                wins(chosen, rejected),
                labels,
                num_bootstrap=config.num_bootstrap,
                confidence=config.confidence,
                seed=config.seed,
            )
            for name, labels in columns.items()
        },
    }


def calibration_of(
    config: RewardEvaluationConfig, found: JudgedPairs, margins: Floats, temperature: float | None
) -> Calibration | None:
    """How far the model is from being as sure as it may be; None where that cannot be told."""
    if why_not_calibrated(margins, found.clusters):
        return None
    return calibrate(
        margins,
        found.clusters,
        temperature=temperature,
        num_bootstrap=config.num_bootstrap,
        confidence=config.confidence,
        seed=config.seed,
    )


def _accuracies(config: RewardEvaluationConfig, found: JudgedPairs, chosen: Floats, rejected: Floats) -> dict[str, Any]:
    """Accuracy and the two lines it is to be read against: "the longest wins", and what people agree on."""
    right = wins(chosen, rejected)

    def mean(values: Floats, picked: Any = slice(None)) -> Estimate:
        return bootstrap_mean(
            values[picked],
            np.array(found.clusters)[picked].tolist(),
            num_bootstrap=config.num_bootstrap,
            confidence=config.confidence,
            seed=config.seed,
        )

    accuracy, longest = mean(right), mean(found.longest_outcomes)
    gain = mean(right - found.longest_outcomes)
    figures: dict[str, Any] = {
        "accuracy": accuracy.value,
        "accuracy_ci": interval_of(accuracy),
        "confidence": config.confidence,
        "accuracy_longest": longest.value,
        "accuracy_longest_ci": interval_of(longest),
        "gain_over_longest": gain.value,
        "gain_over_longest_ci": interval_of(gain),
        "agreement_people": None,
        "agreement_people_ci": None,
        "margin": float(np.mean(chosen - rejected)),
        "pair_distance": float(np.abs(chosen - rejected).mean()),
        "num_pairs": len(found.pairs),
        "num_prompts": accuracy.num_clusters,
        "num_equal_scores": int((chosen == rejected).sum()),
        "num_equal_texts": found.num_equal_texts,
        "num_judged_both_ways": found.num_judged_both_ways,
    }
    twice = ~np.isnan(found.agreement_with_others)
    if not twice.any():
        named = any(pair.annotator is not None for pair in found.pairs)
        why = "no pair was judged by two annotators" if named else "the data does not say who judged"
        return figures | {"agreement_people_why": why}
    people, model = mean(found.agreement_with_others, twice), mean(right, twice)
    return figures | {
        "agreement_people": people.value,
        "agreement_people_ci": interval_of(people),
        "accuracy_judged_twice": model.value,
        "accuracy_judged_twice_ci": interval_of(model),
        "num_judged_twice": int(twice.sum()),
    }


def _calibration_figures(measured: Calibration | None, found: JudgedPairs, margins: Floats) -> dict[str, Any]:
    if measured is None:
        unknown = dict.fromkeys(field.name.replace("_interval", "_ci") for field in fields(Calibration))
        return {**unknown, "calibration_why": why_not_calibrated(margins, found.clusters)}
    # asdict leaves tuples as they are, and a summary has lists
    return {
        key.replace("_interval", "_ci"): list(value) if isinstance(value, tuple) else value
        for key, value in asdict(measured).items()
    }


def _lengths_and_scores(found: JudgedPairs, chosen: Floats, rejected: Floats) -> dict[str, Any]:
    """How scores spread, and how they go with length, over the distinct completions."""
    lengths: dict[tuple[str, str], tuple[int, float]] = {}
    for i, cluster in enumerate(found.clusters):
        for text, score in zip(found.texts[i], (chosen[i], rejected[i]), strict=True):
            lengths[cluster, text] = len(text), float(score)
    num_chars, scores = np.array(list(lengths.values())).T
    return {
        "length_correlation": rank_correlation(num_chars, scores),
        "length_correlation_within": rank_correlation_within(num_chars, scores, [key for key, _ in lengths]),
        "score_mean": float(scores.mean()),
        "score_std": float(scores.std()),
        "scores": histogram(chosen, rejected),
    }
