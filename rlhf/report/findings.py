"""What the summaries of stages amount to: headline figures, tables, comparisons, warnings."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlhf.report.metrics import describe, format_value, interval_name, signed
from rlhf.report.model import SIMULATED, Comparison, Headline, MetricRow

_NOT_RESULTS = frozenset(
    {"run", "status", "error", "artefacts", "ref", "artefact", "seconds", "stage", "stopped"}
    | {"judge_is_training_reward", "judge_shares_annotators", "judge_shares_judgements"}  # warnings tell of them
    | {"groups", "reliability", "reliability_scaled", "scores", "rounds"}  # figures show them
    | {"candidates", "pairs", "judges", "annotators"}  # tables show them
)
"""Keys of a summary that stand elsewhere in the report than in the table of results."""


_DIGEST = re.compile(r"[0-9a-f]{64}")


def metric_rows(results: Mapping[str, Any]) -> tuple[MetricRow, ...]:
    """A stage's results as a table: `x_ci` becomes the interval of `x`, nested objects one row a leaf."""
    found: list[MetricRow] = []
    for key, value in results.items():
        if key in _NOT_RESULTS or _stands_with_another(key, results):
            continue
        if key == "requirements" and isinstance(value, Mapping):
            found += [_requirement(name, each) for name, each in value.items() if isinstance(each, Mapping)]
        elif isinstance(value, Mapping):
            inner = metric_rows(value)
            found += [replace(row, label=f"{describe(key).label}: {row.label}") for row in inner]
        elif isinstance(value, list | tuple):
            shown = ", ".join(format_value(key, item) for item in value)
            found.append(MetricRow(describe(key).label, shown, describe(key).explanation))
        else:
            found.append(_row(key, value, results))
    return tuple(found)


def _row(key: str, value: Any, results: Mapping[str, Any]) -> MetricRow:
    metric = describe(key)
    if key.endswith("_why"):
        return MetricRow(metric.label, "–", f"Not measured: {value}.")
    if value is None and f"{key}_why" in results:
        return MetricRow(metric.label, "–", f"Not measured: {results[f'{key}_why']}.")
    text = format_value(key, value, interval_of(results.get(f"{key}_ci")))
    error = results.get(f"{key}_se")
    if is_number(error) and is_number(value):
        bare = text.removesuffix(f" {metric.unit}") if metric.unit else text
        text = f"{bare} ± {format_value(f'{key}_se', error).split(' ')[0]} {metric.unit}".strip()
    whole = text if _DIGEST.fullmatch(text) else ""
    return MetricRow(metric.label, text[:12] if whole else text, metric.explanation, whole)


def _stands_with_another(key: str, results: Mapping[str, Any]) -> bool:
    """Whether it is an interval or a reason, which stand in the row of what they are of, or a side of a table."""
    plain = key.removesuffix("_ci")
    for ending in ("_ci", "_se", "_why"):
        if key.endswith(ending) and key.removesuffix(ending) in results:
            return True
    for one in ("candidate", "baseline", "reference"):
        of = plain.removesuffix(f"_{one}")
        if of != plain and {f"{of}_candidate", f"{of}_baseline"} <= results.keys():
            return True
    return False


def _requirement(name: str, each: Mapping[str, Any]) -> MetricRow:
    """A threshold of the config, and whether what was found meets it."""
    asked, known = each.get("asked"), describe(name)
    wanted = "" if isinstance(asked, bool) else f", asked for {format_value(name, asked)}"
    found = format_value(name, each.get("found"))
    return MetricRow(f"Required: {known.label}", f"{'met' if each.get('met') else 'not met'}: {found}{wanted}")


def headlines(summary: Mapping[str, Any]) -> tuple[Headline, ...]:
    """The big figures that the summary of `rlhf run` gives, best news first."""
    stages = {name: value for name, value in summary.items() if isinstance(value, Mapping)}
    found = []
    if "win_rate" in (evaluation := stages.get("eval", {})):
        found.append(
            Headline("Win rate", format_value("win_rate", evaluation["win_rate"]), _range(evaluation, "win_rate"))
        )
    judged = next(
        (stages[name] for name in ("reward", "eval_reward", "eval") if "accuracy" in stages.get(name, {})), {}
    )
    for label, results in (("Reward-model accuracy", judged), ("DPO’s accuracy on pairs", stages.get("dpo", {}))):
        if is_number(results.get("accuracy")):
            value = format_value("accuracy", results["accuracy"])
            found.append(Headline(label, value, _range(results, "accuracy")))
    found += _of_training("Training reward gained", "Distance from reference", stages.get("ppo", {}))
    found += _of_training("Training reward gained by RLOO", "RLOO’s distance from reference", stages.get("rloo", {}))
    if is_number(judged.get("ece_scaled")):
        value = format_value("ece_scaled", judged["ece_scaled"])
        note = f"after temperature scaling; {format_value('ece', judged.get('ece'))} before"
        found.append(Headline("Calibration error", value, note))
    if not found and "perplexity" in (sft := stages.get("sft", {})):
        found.append(Headline("Perplexity", format_value("perplexity", sft["perplexity"]), "on held-out data"))
    return tuple(found)


def _of_training(gained: str, moved: str, results: Mapping[str, Any]) -> list[Headline]:
    """What a policy's training has gained, under these labels, and how far it went for it."""
    found = []
    if is_number(results.get("score_before")) and is_number(results.get("score_after")):
        gain = results["score_after"] - results["score_before"]
        note = f"from {signed(results['score_before'], 2)} to {signed(results['score_after'], 2)}"
        found.append(Headline(gained, f"{'+' if gain > 0 else ''}{signed(gain, 2)}", note))
    if is_number(results.get("kl")):
        value = format_value("kl", results["kl"]).removesuffix(" nats")
        error = f", ±{format_value('kl_se', results['kl_se'])} (1 SE)" if is_number(results.get("kl_se")) else ""
        found.append(Headline(moved, value, f"nats of KL divergence per answer{error}"))
    return found


def warnings(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """What nobody may overlook in the figures of a summary, whose stages stand under their names."""
    stages = [value for value in summary.values() if isinstance(value, Mapping)]
    found = []
    if any(stage.get("simulated") for stage in stages):
        found.append(SIMULATED)
    for stage in stages:
        found += _too_good(stage)
        if stage.get("judge_is_training_reward"):
            found.append(
                f"The judge is a reward that the policy was trained on: {_what_it_says(stage)} To learn whether the "
                "policy is better, set “judge” to something else."
            )
        found += _judged_by_their_own(stage)
        frontier = stage.get("frontier")
        if isinstance(frontier, Mapping) and frontier.get("overoptimised"):
            found.append(_overoptimised(frontier))
        if is_number(stage.get("kl")) and stage["kl"] < 0:
            found.append(_below_zero(stage))
    return tuple(dict.fromkeys(found))


def _judged_by_their_own(stage: Mapping[str, Any]) -> list[str]:
    """That candidates beside the main one, of which its own warning tells, have learned from their judge."""
    candidates, told = stage.get("candidates"), stage.get("judge_is_training_reward")
    if not isinstance(candidates, Mapping):
        return []
    names = [
        name
        for name, each in candidates.items()
        if isinstance(each, Mapping)
        and each.get("judge_is_training_reward")
        and not (told and each.get("model") == stage.get("candidate"))
    ]
    if not names:
        return []
    return [
        f"The judge is a reward that {listed(names)} {'was' if len(names) == 1 else 'were'} trained on or chosen by: a "
        "high win rate there says that this worked, not that the answers are better."
    ]


def _too_good(stage: Mapping[str, Any]) -> list[str]:
    """Why figures flatter: the judge and the policy, or the data and the reward model, have something in common."""
    found = []
    if stage.get("judge_shares_annotators") and not stage.get("judge_is_training_reward"):
        found.append(
            "The judge learned from people whom the policy’s reward learned from too: whatever they get wrong counts "
            "as a win. A judge trained on other people’s answers would tell more."
        )
    elif stage.get("judge_shares_judgements") and not stage.get("judge_is_training_reward"):
        found.append(
            "The judge learned from judgements that the policy’s reward learned from too, so it likes what that liked: "
            "the win rate says less than it seems to."
        )
    seen = stage.get("num_prompts_trained_on")
    if isinstance(seen, int) and seen > 0:
        of = f" of the {stage['num_prompts']}" if is_number(stage.get("num_prompts")) else ""
        found.append(
            f"The reward model was trained on {seen}{of} prompts that it is measured on here: its figures are too good."
        )
    return found


def _overoptimised(frontier: Mapping[str, Any]) -> str:
    """That training went on for too long, and where it had better ended."""
    at = f"after update {frontier.get('peak_step')} ({format_value('kl', frontier.get('peak_kl'))} from its reference)"
    return (
        f"The policy is over-optimised: by the held-out judge it was best {at}, and has become worse since, while the "
        "reward it is trained on kept rising. Take an earlier checkpoint, or train with less divergence."
    )


def _what_it_says(evaluation: Mapping[str, Any]) -> str:
    """What a win rate is worth that was judged by the training reward: it can only tell whether training worked."""
    interval = interval_of(evaluation.get("win_rate_ci"))
    if interval is None:
        return "a high win rate would say that training worked, not that the policy is better."
    if interval[0] > 0.5:
        return "the win rate says that training worked, not that the policy is better."
    if interval[1] < 0.5:
        return "by the very reward it was trained for, the policy has become worse."
    return "the win rate’s interval contains 50%, so not even by that reward is it known to have become better."


def _below_zero(results: Mapping[str, Any]) -> str:
    """A KL divergence is never negative, its estimate from samples can be."""
    value = format_value("kl", results["kl"])
    error = results.get("kl_se")
    if error is None or not is_number(error):
        return f"The KL divergence is an estimate from samples; {value} means that the true value is near 0."
    said = f"The KL divergence of {value} (standard error {format_value('kl_se', error)})"
    if results["kl"] + 2 * error >= 0:
        return f"{said} is within noise of 0."
    return f"{said} lies further below 0 than noise explains: see whether sampling and measuring were the same."


def comparison(summary: Mapping[str, Any]) -> Comparison | None:
    """The win rate of an evaluation as a bar; None without a rate and its interval."""
    found = summary.get("eval")
    result: Mapping[str, Any] = found if isinstance(found, Mapping) else summary
    interval = interval_of(result.get("win_rate_ci"))
    if not is_number(result.get("win_rate")) or interval is None:
        return None
    count = result.get("num_prompts")
    own = ", a reward that it was trained on" if result.get("judge_is_training_reward") else ""
    return Comparison(
        left=str(result.get("candidate") or "policy"),
        right=str(result.get("baseline") or "SFT"),
        judge=str(result.get("judge") or "the scorer") + own,
        win_rate=float(result["win_rate"]),
        interval=interval,
        interval_name=interval_name(result.get("confidence")),
        num_prompts=count if isinstance(count, int) else None,
    )


def _range(results: Mapping[str, Any], key: str) -> str:
    interval = interval_of(results.get(f"{key}_ci"))
    if interval is None:
        return ""
    name = interval_name(results.get("confidence"))
    return f"{name} {format_value(key, interval[0]).removesuffix('%')}–{format_value(key, interval[1])}"


def interval_of(value: Any) -> tuple[float, float] | None:
    """`[low, high]` of a summary; None where there is none."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(is_number(bound) for bound in value):
        return float(value[0]), float(value[1])
    return None


def is_number(value: Any) -> bool:
    """Whether it is a number that can be drawn and compared."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def finite(value: Any) -> float | None:
    """A finite number; None for anything else."""
    return float(value) if is_number(value) else None


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
