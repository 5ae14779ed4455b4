"""Where the stages of one project meet: the registry, the run folders, and how a stage opens one."""

import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from rlhf import checkpoint
from rlhf.config import StageConfig
from rlhf.datasets import Loaded
from rlhf.errors import Interrupted, StoppedByMonitor, UserError
from rlhf.inputs import named_inputs
from rlhf.records import Problem, write_jsonl
from rlhf.registry import Artefact, Kind, Registry
from rlhf.registry.runs import Ended
from rlhf.tracking import Run, TrackingConfig, check_resumable, read_metrics

logger = logging.getLogger(__name__)

HOME_VARIABLE = "RLHF_HOME"


def default_home() -> Path:
    """`$RLHF_HOME`, else ./.rlhf."""
    return Path(os.environ.get(HOME_VARIABLE) or ".rlhf").expanduser().absolute()


@dataclass(frozen=True)
class Workspace:
    """One `$RLHF_HOME`.

    Attributes:
        home: the folder.
        registry: its artefacts.
        group: W&B group of the runs opened from here.
        run_id: the run to open, or to go on with; a new one when None.
        progress: whether to show bars.
        command: what the user has typed, without `--resume`; None when no command was.
        resumes_itself: whether that command, typed again, goes on with an interrupted run by itself.
    """

    home: Path
    registry: Registry
    group: str | None = None
    run_id: str | None = None
    progress: bool = True
    command: str | None = None
    resumes_itself: bool = False

    @classmethod
    def open(cls, home: Path | None = None, **options: Any) -> "Workspace":
        """The workspace at `home`, else at `$RLHF_HOME`, else at ./.rlhf; made if need be."""
        folder = Path(home).expanduser().absolute() if home else default_home()
        return cls(folder, Registry(folder), **options)

    def within(self, *, group: str | None = None, run_id: str | None = None) -> "Workspace":
        """The same workspace for another run."""
        return replace(self, group=group or self.group, run_id=run_id)

    def how_to_go_on(self, run: Run) -> str:
        """What is to be typed to go on with a run that was interrupted."""
        if self.resumes_itself:
            return f"`{self.command}`" if self.command else "the same command"
        return f"`{self.command} --resume {run.id}`" if self.command else f"the same command and --resume {run.id}"

    def existing_run(self) -> Path | None:
        """The folder of the run to go on with; None for a new run."""
        if self.run_id is None:
            return None
        folder = self.home / "runs" / self.run_id
        return folder if folder.is_dir() else None

    @contextmanager
    def run(
        self,
        stage: str,
        config: StageConfig | Any,
        tracking: TrackingConfig,
        *,
        data: Loaded | None = None,
        models: Iterable[str] = (),
        publishes: Mapping[str, Kind] | None = None,
    ) -> Iterator[Run]:
        """Open a run for `stage`, known to the registry while it lasts. Call it once all input has been read.

        Args:
            stage: what the run does.
            config: the stage's config.
            tracking: what W&B is to get.
            data: the rows that have been read. gc leaves alone what they came from, and the run is resumed with no
                others.
            models: refs of the models that have been found, which gc leaves alone too.
            publishes: what the stage makes: names and their kinds.

        Raises:
            UserError: the run to go on with is done, or was begun as another one or with other models or functions;
                gc has deleted an input; or one of the names cannot be published under.
        """
        values = config.model_dump(mode="json")
        digest, inputs = data.digest if data else None, named_inputs(config, self.registry)
        _check_names(self.registry, publishes or {})
        existing = self.existing_run()
        if existing is not None:
            check_resumable(existing, stage=stage, config=values, data=digest, inputs=inputs)
        run = Run.create(
            self.home,
            stage=stage,
            config=values,
            seed=config.seed,
            tracking=tracking,
            group=self.group,
            run_id=self.run_id,
            data=digest,
            inputs=inputs,
        )
        self.registry.start_run(run.id)
        status: Ended = "failed"
        try:
            with run:
                self.registry.hold(run.id, [*models, *(data.refs if data else ())])
                yield run
            status = "done"
        except StoppedByMonitor:
            status = "stopped"
            raise
        except Interrupted:
            status = "interrupted"
            raise
        except KeyboardInterrupt:
            status = "interrupted"
            if not (self.resumes_itself or checkpoint.checkpoints(run.folder / "checkpoints")):
                raise  # there is nothing to go on from
            raise Interrupted(f"ended at once, in the middle of {stage}; go on with {self.how_to_go_on(run)}") from None
        finally:
            self.registry.finish_run(run.id, status)
            self._try_to_write_report(run.folder)
            if status == "done":
                _remove_checkpoints(run, values.get("trainer") or {})

    def _try_to_write_report(self, folder: Path) -> None:
        """What has been trained stands, and what went wrong is said, whether or not a page about it can be drawn."""
        try:
            self.write_report(folder)
        except Exception:
            logger.warning("%s: the report could not be written", folder, exc_info=True)

    def write_report(self, folder: Path) -> None:
        """Write `report.html`, `report.json` and what is drawn as PNGs for a run that has ended, however it ended."""
        from rlhf import report  # draws with matplotlib: not needed to open a workspace

        page = report.report_from_run(folder)
        ref = page.stages[0].ref
        if ref is not None:
            page = replace(page, lineage=report.lineage(self.registry.lineage(ref)))
        report.write_report(folder / "report.html", page)
        references = report.reference_lines(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        report.save_pngs(read_metrics(folder), folder / "curves", references)
        report.save_figures(report.figures_of_run(folder)[0], folder / "curves")

    def open_ref(self, ref: str) -> tuple[Path, str] | None:
        """The folder of a data artefact and the very version it is; None if the registry has no such name."""
        artefact = self.registry.find(ref)
        return None if artefact is None else (self.registry.open(artefact), artefact.ref)

    def publish_data(
        self,
        data: Loaded,
        *,
        name: str,
        kind: Kind,
        run: Run,
        metadata: Mapping[str, Any] | None = None,
    ) -> Artefact:
        """The rows a stage has used, as an artefact: `train.jsonl` and `dev.jsonl` after cleaning and splitting.

        The artefacts that were read become its parents; data sets of the Hub stand in its metadata.
        """
        with TemporaryDirectory(dir=run.folder) as scratch:
            write_jsonl(Path(scratch) / "train.jsonl", data.train)
            if data.dev:
                write_jsonl(Path(scratch) / "dev.jsonl", data.dev)
            about: dict[str, Any] = {"num_train": len(data.train), "num_dev": len(data.dev)}
            if data.hub:
                about["hub_datasets"] = list(data.hub)
            return self.registry.publish(
                Path(scratch),
                kind=kind,
                name=name,
                parents=[("source", ref) for ref in data.refs],
                metadata=about | dict(metadata or {}),
                run_id=run.id,
            )


def _check_names(registry: Registry, publishes: Mapping[str, Kind]) -> None:
    try:
        registry.check_names(publishes)
    except UserError as error:
        raise UserError([f"output.name: {problem}" for problem in error.problems]) from None


def _remove_checkpoints(run: Run, trainer: Mapping[str, Any]) -> None:
    """Checkpoints are there to go on from: once all is published they go, unless the user has said what is kept."""
    folder = run.folder / "checkpoints"
    if not folder.is_dir() or {"save_strategy", "save_total_limit"} & trainer.keys():
        return
    try:
        shutil.rmtree(folder)
    except OSError as error:
        logger.warning("%s: could not be removed (%s); it is of no more use", folder, error)


MAX_REASONS = 8
"""Reasons that are told one by one."""


def report_problems(problems: list[Problem], where: Path | None = None) -> None:
    """Say how many rows were set aside, for each reason how many and the first; all of them go to `where`."""
    if not problems:
        return
    reasons: dict[str, list[Problem]] = {}
    for problem in problems:
        reasons.setdefault(re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "*", problem.what), []).append(problem)
    if len(reasons) == 1:
        logger.warning("%d rows set aside; the first: %s", len(problems), problems[0])
    else:
        logger.warning("%d rows set aside, for %d reasons:", len(problems), len(reasons))
        for found in sorted(reasons.values(), key=len, reverse=True)[:MAX_REASONS]:
            logger.warning("%d of them; the first: %s", len(found), found[0])
    if where is not None:
        write_jsonl(where, map(asdict, problems))
