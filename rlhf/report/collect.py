"""Read a report back from what lies in run folders, so that it can be made, or made again, at any time."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from rlhf import registry
from rlhf.errors import UserError
from rlhf.report import figures, plots, tables
from rlhf.report.findings import comparison, finite, headlines, interval_of, metric_rows, warnings
from rlhf.report.metrics import STAGES, describe, format_value
from rlhf.report.model import LineageNode, Report, Sample, StageReport
from rlhf.report.readable import as_text
from rlhf.tracking import Figure, read_metrics, read_samples

_OWN_KEYS = {
    # which has no reward model: what is accurate is the reward that its policy implies
    "dpo": {
        "accuracy": "rewards/accuracies",
        "accuracy_ci": "rewards/accuracies_ci",
        "margin": "rewards/margins",
    },
    "reward": {"loss": "loss_kind"},
}
"""What keys of a stage's summary are called here, where other stages mean something else by them."""


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


def stage_report_from_run(folder: Path, name: str | None = None, number: int | None = None) -> StageReport:
    """What one run folder tells of its stage.

    Args:
        folder: the run's.
        name: what the stage is called in a pipeline; as its run says when left out.
        number: the round of a loop that it belongs to.

    Raises:
        UserError: as `read_summary`.
    """
    summary = read_summary(folder)
    environment = _read_json(folder / "environment.json")
    kind = str(environment.get("stage") or summary.get("stage") or folder.name)
    rows = [row for row in read_metrics(folder) if row.get("stage", kind) == kind]
    references = reference_lines(_read_yaml(folder / "config.yaml"))
    left, problems = figures.figures_of_run(folder)
    stage = stage_report(name or kind, summary, rows, references=references, left=left, folder=folder)
    wrong = tables.most_wrong(read_samples(folder))
    return replace(
        stage,
        title=stage.title if number is None else f"{stage.title}, round {number}",
        tables=(*stage.tables, *wrong),
        notes=(*stage.notes, *problems),
    )


def stage_report(
    name: str,
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]] = (),
    *,
    references: Sequence[plots.ReferenceLine] = (),
    left: Sequence[Figure] = (),
    folder: Path | None = None,
) -> StageReport:
    """One stage from its summary and its lines of metrics.

    Args:
        name: sft, reward, ppo, eval, export.
        summary: what the stage printed, by itself or under its name; empty if it did not end.
        rows: its lines of metrics.jsonl.
        references: lines to compare curves with.
        left: the figures that it has left to be drawn.
        folder: where it ran, to be named when it did not end.
    """
    inner = summary.get(name)
    results: Mapping[str, Any] = inner if isinstance(inner, Mapping) else summary
    own = _OWN_KEYS.get(name, {})
    results = {own.get(key, key): value for key, value in results.items()}
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
        interval = interval_of(results.get(f"{known}_ci"))
        result = f"{describe(known).label} {format_value(known, results[known], interval)}"
    return StageReport(
        name=name,
        status=status,
        title=title,
        result=result,
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        ref=None if ref is None else str(ref),
        metrics=metric_rows(results),
        curves=(*figures.drawn([*tables.beside_reference_lines(results), *left]), *plots.curves(rows, references)),
        tables=tables.tables_of(results),
        notes=tuple(notes),
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
        simulated=node.simulated,
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
                firsts.setdefault(as_text(row["prompt"]), row)
                lasts[as_text(row["prompt"])] = row
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
            prompt=as_text(row["prompt"]),
            before=as_text(row["before"]),
            after=as_text(row["after"]),
            score_before=finite(row.get("score_before")),
            score_after=finite(row.get("score_after")),
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
    target = finite(trainer.get("kl_target"))
    return () if target is None else (plots.ReferenceLine("kl", target, "target"),)


def _read_json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    value = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return value if isinstance(value, dict) else {}
