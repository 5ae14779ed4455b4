"""Read a report back from what lies in run folders, so that it can be made, or made again, at any time."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from rlhf import registry
from rlhf.errors import UserError
from rlhf.report import figures, plots
from rlhf.report.metrics import STAGES, describe, format_value, interval_name, signed
from rlhf.report.model import Comparison, Headline, LineageNode, MetricRow, Report, Sample, StageReport
from rlhf.tracking import read_metrics, read_samples

_NOT_RESULTS = frozenset(
    {"run", "status", "error", "artefacts", "ref", "artefact", "seconds", "stage", "stopped"}
    | {"judge_is_training_reward"}
    | {"groups", "reliability", "reliability_scaled", "scores", "frontier", "rounds"}  # figures show them
)
"""Keys of a summary that stand elsewhere in the report than in the table of results."""


_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json of a run; empty for one that is still running or was killed.

    Raises:
        UserError: `folder` is not a run folder, or the file is not JSON.
    """
    if not (folder / "config.yaml").is_file() and not (folder / "metrics.jsonl").is_file():
        raise UserError(f"{folder}: not a run folder: it has neither config.yaml nor metrics.jsonl")
    path = folder / "summary.json"
    if not path.is_file():
        return {}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); delete it, or run the stage again") from None
    if not isinstance(summary, dict):
        raise UserError(f"{path}: holds a JSON {type(summary).__name__}, not an object; run the stage again")
    return summary


def stage_report_from_run(folder: Path) -> StageReport:
    """What one run folder tells of its stage.

    Raises:
        UserError: as `read_summary`.
    """
    summary = read_summary(folder)
    environment = _read_json(folder / "environment.json")
    name = str(environment.get("stage") or summary.get("stage") or folder.name)
    rows = [row for row in read_metrics(folder) if row.get("stage", name) == name]
    stage = stage_report(
        name, summary, rows, references=reference_lines(_read_yaml(folder / "config.yaml")), folder=folder
    )
    left, problems = figures.figures_of_run(folder)
    return replace(stage, curves=(*figures.drawn(left), *stage.curves), notes=(*stage.notes, *problems))


def stage_report(
    name: str,
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]] = (),
    *,
    references: Sequence[plots.ReferenceLine] = (),
    folder: Path | None = None,
) -> StageReport:
    """One stage from its summary and its lines of metrics.

    Args:
        name: sft, reward, ppo, eval, export.
        summary: what the stage printed, by itself or under its name; empty if it did not end.
        rows: its lines of metrics.jsonl.
        references: lines to compare curves with.
        folder: where it ran, to be named when it did not end.
    """
    inner = summary.get(name)
    results: Mapping[str, Any] = inner if isinstance(inner, Mapping) else summary
    artefacts = summary.get("artefacts")
    named = artefacts.get(name) if isinstance(artefacts, Mapping) else None
    ref = results.get("ref") or results.get("artefact") or summary.get("ref") or named
    status = str(results.get("status") or summary.get("status") or "not finished")
    notes = []
    error = results.get("error") or results.get("stopped") or summary.get("error")
    if error:
        notes.append(str(error))
    elif not summary and folder is not None:
        notes.append("No summary was written: the run is still going, or it was killed.")
    notes += [f"Alarm ({row['level']}): {row['text']}" for row in rows if "alarm" in row and "text" in row]
    seconds = results.get("seconds", summary.get("seconds"))
    if seconds is None and len(rows) > 1:
        seconds = rows[-1]["time"] - rows[0]["time"]
    kind = "eval_reward" if name == "eval" and "accuracy" in results and "win_rate" not in results else name
    title, known_by = STAGES.get(kind, (name, ()))
    known = next((key for key in known_by if key in results), None)
    result = ""
    if known is not None:
        interval = _interval(results.get(f"{known}_ci"))
        result = f"{describe(known).label} {format_value(known, results[known], interval)}"
    return StageReport(
        name=name,
        status=status,
        title=title,
        result=result,
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        ref=None if ref is None else str(ref),
        metrics=metric_rows(results),
        curves=plots.curves(rows, references),
        notes=tuple(notes),
    )


def metric_rows(results: Mapping[str, Any]) -> tuple[MetricRow, ...]:
    """A stage's results as a table: `x_ci` becomes the interval of `x`, nested objects one row a leaf."""
    found: list[MetricRow] = []
    for key, value in results.items():
        if key in _NOT_RESULTS or (key.endswith("_ci") and key.removesuffix("_ci") in results):
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
            text = format_value(key, value, _interval(results.get(f"{key}_ci")))
            whole = text if _DIGEST.fullmatch(text) else ""
            found.append(MetricRow(describe(key).label, text[:12] if whole else text, describe(key).explanation, whole))
    return tuple(found)


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
    if "accuracy" in (reward := stages.get("reward", {})):
        found.append(
            Headline(
                "Reward-model accuracy",
                format_value("accuracy", reward["accuracy"]),
                _range(reward, "accuracy"),
            )
        )
    ppo = stages.get("ppo", {})
    if _number(ppo.get("score_before")) and _number(ppo.get("score_after")):
        gain = ppo["score_after"] - ppo["score_before"]
        note = f"from {signed(ppo['score_before'], 2)} to {signed(ppo['score_after'], 2)}"
        found.append(Headline("Training reward gained", f"{'+' if gain > 0 else ''}{signed(gain, 2)}", note))
    if _number(ppo.get("kl")):
        value = format_value("kl", ppo["kl"]).removesuffix(" nats")
        error = f", ±{format_value('kl_se', ppo['kl_se'])} (1 SE)" if _number(ppo.get("kl_se")) else ""
        found.append(Headline("Distance from reference", value, f"nats of KL divergence per answer{error}"))
    if not found and "perplexity" in (sft := stages.get("sft", {})):
        found.append(Headline("Perplexity", format_value("perplexity", sft["perplexity"]), "on held-out data"))
    return tuple(found)


def warnings(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """What nobody may overlook in the figures of a summary, whose stages stand under their names."""
    stages = [value for value in summary.values() if isinstance(value, Mapping)]
    found = []
    if any(stage.get("simulated") for stage in stages):
        found.append("The annotators were simulated: no person judged anything here.")
    for stage in stages:
        if stage.get("judge_is_training_reward"):
            found.append(
                f"The judge is a reward that the policy was trained on: {_what_it_says(stage)} To learn whether the "
                "policy is better, set “judge” to something else."
            )
        if _number(stage.get("kl")) and stage["kl"] < 0:
            found.append(_below_zero(stage))
    return tuple(found)


def _what_it_says(evaluation: Mapping[str, Any]) -> str:
    """What a win rate is worth that was judged by the training reward: it can only tell whether training worked."""
    interval = _interval(evaluation.get("win_rate_ci"))
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
    if error is None or not _number(error):
        return f"The KL divergence is an estimate from samples; {value} means that the true value is near 0."
    said = f"The KL divergence of {value} (standard error {format_value('kl_se', error)})"
    if results["kl"] + 2 * error >= 0:
        return f"{said} is within noise of 0."
    return f"{said} lies further below 0 than noise explains: see whether sampling and measuring were the same."


def comparison(summary: Mapping[str, Any]) -> Comparison | None:
    """The win rate of an evaluation as a bar; None without a rate and its interval."""
    found = summary.get("eval")
    result: Mapping[str, Any] = found if isinstance(found, Mapping) else summary
    interval = _interval(result.get("win_rate_ci"))
    if not _number(result.get("win_rate")) or interval is None:
        return None
    count = result.get("num_prompts")
    return Comparison(
        left=str(result.get("candidate") or "policy"),
        right=str(result.get("baseline") or "SFT"),
        judge=str(result.get("judge") or "the scorer"),
        win_rate=float(result["win_rate"]),
        interval=interval,
        interval_name=interval_name(result.get("confidence")),
        num_prompts=count if isinstance(count, int) else None,
    )


def lineage(node: registry.LineageNode) -> LineageNode:
    """The registry's tree as a report shows it; who annotated is named, and whether a program did."""
    names = [str(annotator.get("name", "?")) for annotator in node.annotators]
    note = f"annotators: {', '.join(names)}" if names else ""
    if node.simulated:
        note = f"{note} (simulated)" if note else "annotators were simulated"
    return LineageNode(
        ref=node.artefact.ref,
        kind=node.artefact.kind,
        role=node.role or "",
        digest=node.artefact.digest,
        created=node.artefact.created_at.strftime("%Y-%m-%d %H:%M"),
        children=tuple(lineage(child) for child in node.children),
        repeated=node.repeated,
        note=note,
    )


def samples_from_run(folder: Path, limit: int = 8) -> tuple[Sample, ...]:
    """Texts side by side: rows with `before` and `after`, else a prompt's first and last completion."""
    rows = read_samples(folder)
    paired = [row for row in rows if "before" in row and "after" in row and "prompt" in row]
    if not paired:
        firsts: dict[str, Mapping[str, Any]] = {}
        lasts: dict[str, Mapping[str, Any]] = {}
        for row in rows:
            if "prompt" in row and "completion" in row:
                firsts.setdefault(_text(row["prompt"]), row)
                lasts[_text(row["prompt"])] = row
        paired = [
            {
                "prompt": prompt,
                "before": first["completion"],
                "after": lasts[prompt]["completion"],
                "score_before": first.get("score"),
                "score_after": lasts[prompt].get("score"),
            }
            for prompt, first in firsts.items()
            if lasts[prompt] is not first
        ]
    return tuple(
        Sample(
            prompt=_text(row["prompt"]),
            before=_text(row["before"]),
            after=_text(row["after"]),
            score_before=_finite(row.get("score_before")),
            score_after=_finite(row.get("score_after")),
            held_out=row.get("held_out"),
        )
        for row in paired[:limit]
    )


def report_from_run(folder: Path, title: str | None = None) -> Report:
    """The whole report of one run folder, from nothing but what lies in it.

    Raises:
        UserError: as `read_summary`.
    """
    summary = read_summary(folder)
    environment = _read_json(folder / "environment.json")
    stage = stage_report_from_run(folder)
    known = summary if isinstance(summary.get(stage.name), Mapping) else {stage.name: summary}
    compared = comparison(known)
    whole = stage.name == "run"  # its stages have runs of their own, whose figures stand with them
    return Report(
        title=title or f"{stage.title} · {folder.name}",
        status=stage.status,
        command=str(environment.get("command", "")),
        seed=environment.get("seed"),
        environment=environment,
        headlines=headlines(known),
        figures=stage.curves if whole else (),
        stages=(replace(stage, curves=()) if whole else stage,),
        samples=samples_from_run(folder),
        comparisons=(compared,) if compared else (),
        seconds=stage.seconds,
        warnings=warnings(known),
    )


def reference_lines(config: Mapping[str, Any]) -> tuple[plots.ReferenceLine, ...]:
    """What a stage's config gives to compare curves with: the target of an adaptive KL controller."""
    trainer = config.get("trainer")
    if not isinstance(trainer, Mapping) or trainer.get("kl_controller") != "adaptive":
        return ()
    target = _finite(trainer.get("kl_target"))
    return () if target is None else (plots.ReferenceLine("kl", target, "target"),)


def _text(value: Any) -> str:
    """Text as it is; a conversation as one `role: content` paragraph a turn."""
    if isinstance(value, list) and all(isinstance(turn, Mapping) for turn in value):
        return "\n\n".join(f"{turn.get('role', '?')}: {turn.get('content', '')}" for turn in value)
    return str(value)


def _range(results: Mapping[str, Any], key: str) -> str:
    interval = _interval(results.get(f"{key}_ci"))
    if interval is None:
        return ""
    name = interval_name(results.get("confidence"))
    return f"{name} {format_value(key, interval[0]).removesuffix('%')}–{format_value(key, interval[1])}"


def _interval(value: Any) -> tuple[float, float] | None:
    if isinstance(value, list | tuple) and len(value) == 2 and all(_number(bound) for bound in value):
        return float(value[0]), float(value[1])
    return None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _finite(value: Any) -> float | None:
    return float(value) if _number(value) else None


def _read_json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    value = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return value if isinstance(value, dict) else {}
