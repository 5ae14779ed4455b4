"""Run the stages of a plan in order; what has been done with the same config, data and ancestors is not done again."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from rlhf import report
from rlhf.errors import StoppedByMonitor
from rlhf.export.config import ExportConfig
from rlhf.export.export import export_model
from rlhf.pipeline.config import POLICIES, Plan
from rlhf.pipeline.fingerprint import fingerprint
from rlhf.pipeline.rounds import AGAINST_LAST, figures, later_round, what_came_of
from rlhf.pipeline.supply import check_supply
from rlhf.report.collect import read_summary
from rlhf.tracking import Run, TrackingConfig, write_figures
from rlhf.workspace import Workspace

logger = logging.getLogger(__name__)

StageFunction = Callable[[Any, Workspace], dict[str, Any]]

STAGES = {
    "sft": "sft.train:train_sft",
    "labels": "rlhf.pipeline.labels:collect_labels",
    "reward": "reward.train:train_reward",
    "eval_reward": "rlhf.evaluation.rewards:evaluate_reward",
    "ppo": "rlhf.ppo.stage:train_ppo",
    "dpo": "rlhf.dpo.stage:train_dpo",
    "rloo": "rlhf.rloo.stage:train_rloo",
    "eval": "rlhf.evaluation.policy:evaluate_policy",
    AGAINST_LAST: "rlhf.evaluation.policy:evaluate_policy",
}
"""The function of each stage that has a run of its own; imported when its turn comes."""


def run_stages(plan: Plan, workspace: Workspace, *, fresh: bool = False) -> dict[str, Any]:
    """Run every stage that has not been run yet.

    Args:
        plan: what to run.
        workspace: where; its artefacts are what later stages take from earlier ones.
        fresh: run finished stages anew.

    Returns:
        `{stage: its summary, ..., "artefacts": {stage: ref}, "seconds", "status"}`.

    Raises:
        UserError: the input of a stage is wrong; what is finished stays finished.
        StoppedByMonitor: a stage stopped training.
        Interrupted: stopped by a signal; the same command goes on from there.
    """
    started = time.monotonic()
    workspace = replace(workspace, resumes_itself=True)
    if plan.file.rounds.num > 1:
        check_supply(plan, workspace)
    going = _Going(plan, workspace, fresh)
    run: Run | None = None
    try:
        with workspace.within(group=plan.file.group).run("run", _Whole(plan), TrackingConfig(wandb="off")) as run:
            for number in range(1, plan.file.rounds.num + 1):
                going.round(number, run)
            summary = going.so_far()
            if "export" in plan.stages:
                config = plan.config("export", _pinned(plan.stages["export"], going.pins))
                summary["export"] = _export(config, workspace)
            summary["seconds"] = round(time.monotonic() - started, 1)
            written = run.finish(summary)
    except BaseException:
        if run is not None:  # after the run has ended, which writes a page of its own
            _try_to_write_report(going, run.folder, read_summary(run.folder))
        raise
    for line in (overtaken := _overtaken(summary["artefacts"], workspace)):
        logger.warning("%s", line)
    _try_to_write_report(going, run.folder, written, overtaken)
    return written | {"report": str(run.folder / "report.html")}


class _Going:
    """What has come of the stages so far: `summary`, `artefacts` and `pins` (name -> version) of the last round."""

    def __init__(self, plan: Plan, workspace: Workspace, fresh: bool) -> None:
        self.plan = plan
        self.workspace = workspace
        self.fresh = fresh
        self.summary: dict[str, dict[str, Any]] = {}
        self.artefacts: dict[str, str] = {}
        self.pins: dict[str, str] = {}
        self.folders: list[tuple[Path, str, int]] = []
        """Where what stage was run, or is running, and in what round."""
        self._made: list[dict[str, str]] = []
        self._rounds: list[dict[str, Any]] = []

    def round(self, number: int, run: Run) -> None:
        """Run one round's stages. What all rounds so far have gained is then in the run's figures and on its page."""
        num = self.plan.file.rounds.num
        if num > 1:
            logger.info("round %d of %d", number, num)
        if number == 1:
            stages = {name: written for name, written in self.plan.stages.items() if name != "export"}
        else:
            stages = later_round(self.plan.stages, self.plan.file.rounds, self._made)
        for stage, written in stages.items():
            config = self.plan.config(stage, _pinned(written, self.pins))
            folder, before = _find_run(stage, config, self.plan, self.workspace, self.fresh)
            self.folders.append((folder, stage, number))
            result = before or _run_stage(stage, config, self.plan, self.workspace, folder)
            self.summary[stage] = result
            if "artefact" in result:
                self.artefacts[stage] = result["artefact"]
                if stage != AGAINST_LAST:
                    self.pins[str(self.plan.output_name(stage))] = result["artefact"]
        self._made.append(dict(self.artefacts))
        self._rounds.append(what_came_of(number, self.summary, self.artefacts))
        if num > 1:
            run.so_far = self.so_far()
            write_figures(run.folder, figures(self._rounds))
            if number < num:
                _try_to_write_report(self, run.folder, run.so_far)

    def so_far(self) -> dict[str, Any]:
        """The summary after a round that has come to its end."""
        found: dict[str, Any] = {name: one for name, one in self.summary.items() if name != AGAINST_LAST}
        if self.plan.file.rounds.num > 1:
            found["rounds"] = list(self._rounds)
        return found | {"artefacts": {name: ref for name, ref in self.artefacts.items() if name != AGAINST_LAST}}


class _Whole:
    """The plan as a run's config."""

    def __init__(self, plan: Plan) -> None:
        self.seed = plan.file.seed
        self.plan = plan

    def model_dump(self, mode: str = "json") -> dict[str, Any]:
        return {**self.plan.file.model_dump(mode=mode), "stages": self.plan.stages}


def _find_run(
    stage: str, config: Any, plan: Plan, workspace: Workspace, fresh: bool
) -> tuple[Path, dict[str, Any] | None]:
    """The run folder of `stage`, which may not be there yet, and its summary where it need not be run."""
    prefix = f"{plan.file.group}-{stage}-{fingerprint(stage, config, workspace.registry)}"
    number = 1
    while (workspace.home / "runs" / f"{prefix}-{number + 1}").is_dir():
        number += 1
    folder = workspace.home / "runs" / f"{prefix}-{number}"
    before = read_summary(folder) if folder.is_dir() else {}
    done = before.get("status") == "done"
    if done and not fresh and _still_there(before, workspace):
        logger.info("%s: done before, in %s", stage, folder.name)
        return folder, before
    if done or (fresh and folder.is_dir()):
        folder = workspace.home / "runs" / f"{prefix}-{number + 1}"
    return folder, None


def _run_stage(stage: str, config: Any, plan: Plan, workspace: Workspace, folder: Path) -> dict[str, Any]:
    """The summary of `stage`: resumed, or run now."""
    before = read_summary(folder) if folder.is_dir() else {}
    if before.get("status") == "stopped":
        said = before.get("stopped") or before.get("error")  # the latter in runs of earlier versions
        raise StoppedByMonitor(f"{stage}: {said} (in {folder}); change its config, or run with --fresh")
    logger.info("%s: %s", stage, "goes on" if folder.is_dir() else "starts")
    module, _, name = STAGES[stage].partition(":")
    function: StageFunction = getattr(import_module(module), name)
    return function(config, workspace.within(group=plan.file.group, run_id=folder.name))


def _still_there(summary: Mapping[str, Any], workspace: Workspace) -> bool:
    ref = summary.get("artefact")
    return ref is None or workspace.registry.find(ref) is not None


def _pinned(value: Any, pins: Mapping[str, str]) -> Any:
    """`value` with the names of artefacts made in this run replaced by the very versions."""
    if isinstance(value, str):
        return pins.get(value, value)
    if isinstance(value, Mapping):
        return {key: inner if key == "output" else _pinned(inner, pins) for key, inner in value.items()}
    if isinstance(value, list):
        return [_pinned(inner, pins) for inner in value]
    return value


def _export(config: ExportConfig, workspace: Workspace) -> dict[str, Any]:
    return export_model(
        config.model,
        config.path,
        registry=workspace.registry,
        format=config.format,
        dtype=config.dtype,
        overwrite=config.overwrite,
    )


def _overtaken(artefacts: Mapping[str, str], workspace: Workspace) -> list[str]:
    """A line for each result that was found finished and after which another version has been published."""
    lines = []
    for ref in artefacts.values():
        name, _, version = ref.partition("@")
        newest = workspace.registry.find(name)
        if newest is not None and newest.ref != ref:
            lines.append(f"{name}: latest is {newest.ref.partition('@')[2]}; this run’s is {version}")
    return lines


def _try_to_write_report(going: _Going, folder: Path, summary: Mapping[str, Any], notes: Sequence[str] = ()) -> None:
    """What has been made stands, whether or not a page about it can be drawn."""
    try:
        _write_report(going, folder, summary, notes)
    except Exception:
        logger.warning("%s: the report of the whole run could not be written", folder, exc_info=True)


def _write_report(going: _Going, folder: Path, summary: Mapping[str, Any], notes: Sequence[str]) -> None:
    """One page for the whole run: every stage with its curves, and the way back from the policy."""
    plan, workspace = going.plan, going.workspace
    page = report.report_from_run(folder, title=plan.file.group)
    made = summary.get("artefacts", {})
    last = next((made[stage] for stage in (*POLICIES, "reward", "sft") if stage in made), None)
    compared = report.comparison(summary)
    folders = [one for one in going.folders if one[0].is_dir()]  # a stage that was refused has none
    samples = [sample for each, *_ in reversed(folders) for sample in report.samples_from_run(each)]
    rounds = plan.file.rounds.num > 1
    stages = [report.stage_report_from_run(each, name, number if rounds else None) for each, name, number in folders]
    exported = [report.stage_report("export", {**summary["export"], "status": "done"})] if "export" in summary else []
    page = replace(
        page,
        stages=(*stages, *exported),
        headlines=report.headlines(summary),
        comparisons=(compared,) if compared else (),
        samples=tuple(samples[:8]),
        lineage=report.lineage(workspace.registry.lineage(last)) if last else None,
        warnings=report.warnings(summary),
        notes=(*(page.stages[0].notes if summary.get("status") != "done" else ()), *notes),
    )
    report.write_report(folder / "report.html", page)
