"""One run: a folder that says what was done, with what, and what came of it.

runs/<id>/config.yaml        the resolved config
runs/<id>/environment.json   packages, commit, machine, command line, seed; one entry more for each resumption
runs/<id>/metrics.jsonl      one object a line: `time`, `stage`, `step`, then metric keys
runs/<id>/samples.jsonl      texts worth looking at: `time`, `stage`, `step`, `name`, then the row
runs/<id>/summary.json       what came of it; a run without one is still running, or was killed
runs/<id>/checkpoints/
runs/<id>/wandb/             W&B's own files
"""

import json
import logging
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict

from rlhf.errors import Interrupted, StoppedByMonitor, UserError
from rlhf.tracking.environment import environment, redact
from rlhf.tracking.metrics import JsonLines, plain_value, write_atomically
from rlhf.tracking.resuming import Named
from rlhf.tracking.wandb_sink import WandbSink, decide_mode

logger = logging.getLogger(__name__)

_STATUSES: tuple[tuple[type[BaseException], str], ...] = (
    (StoppedByMonitor, "stopped"),
    (Interrupted, "interrupted"),
    (KeyboardInterrupt, "interrupted"),
)


class TrackingConfig(BaseModel):
    """Section `tracking` of a config: where metrics go besides the run's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """`auto` is online with a key, else offline. WANDB_MODE and WANDB_DISABLED can only lessen it."""
    project: str = "rlhf"
    entity: str | None = None
    tags: list[str] = []


class Run:
    """An open run. Use it as a context manager: an exception on the way marks the run failed."""

    def __init__(self, folder: Path, *, stage: str) -> None:
        """Open the files of `folder`; `Run.create` is what makes one."""
        self.id = folder.name
        self.folder = folder
        self.stage = stage
        self._lock = _lock(folder)
        self._metrics = JsonLines(folder / "metrics.jsonl")
        self._samples: JsonLines | None = None
        self._sink: WandbSink | None = None
        self._started = time.monotonic()
        self.finished = False
        self.so_far: Mapping[str, Any] = {}
        """What the summary holds beside the error where the run does not come to its end."""

    @classmethod
    def create(
        cls,
        home: Path,
        *,
        stage: str,
        config: Mapping[str, Any],
        seed: int,
        tracking: TrackingConfig,
        group: str | None = None,
        run_id: str | None = None,
        data: str | None = None,
        inputs: Mapping[str, Named] | None = None,
    ) -> "Run":
        """Start a run under `home`/runs, or go on with the one named `run_id` if its folder is there.

        Args:
            home: `$RLHF_HOME`.
            stage: what the run does; every line of metrics carries it, and W&B shows it as the job type.
            config: the resolved config, made of what YAML holds; secrets are hidden before it is written.
            seed: the seed that all random draws come from.
            tracking: what W&B is to get.
            group: the W&B group: the runs of one `rlhf run` share it.
            run_id: a name of one's own; time, stage and four random digits when left out.
            data: the digest of the rows that the stage has read, for `check_resumable`.
            inputs: what the config names, by key, for the same.

        Raises:
            UserError: `run_id` is no name for a folder, another process has the run open, or W&B is to be
                online and there is no key.
        """
        mode = decide_mode(tracking.wandb, os.environ)  # before anything is written
        runs = Path(home).absolute() / "runs"
        folder = _new_folder(runs, stage) if run_id is None else _named_folder(runs, run_id)
        run = cls(folder, stage=stage)
        shown = redact(plain_value(config))
        run._write_config(shown)
        run._write_environment(seed=seed, group=group, data=data, inputs=inputs or {})
        (folder / "summary.json").unlink(missing_ok=True)
        if mode != "off":
            project = tracking.project
            if "project" not in tracking.model_fields_set:
                project = os.environ.get("WANDB_PROJECT") or project
            run._sink = WandbSink.open(
                mode,
                folder=folder,
                run_id=run.id,
                stage=stage,
                group=group,
                project=project,
                entity=tracking.entity,
                tags=tracking.tags,
                config=shown,
            )
        return run

    @property
    def checkpoints(self) -> Path:
        """Where this run's checkpoints go; made on first use."""
        folder = self.folder / "checkpoints"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def url(self) -> str | None:
        """The run's page on W&B; None when it is offline."""
        return self._sink.url if self._sink else None

    def log(self, metrics: Mapping[str, Any], *, step: int, stage: str | None = None) -> None:
        """Append one line to metrics.jsonl and send it to W&B; scalars of numpy and torch become numbers."""
        values = {key: _scalar(value) for key, value in metrics.items()}
        self._metrics.write({"time": time.time(), "stage": stage or self.stage, "step": step, **values})
        if self._sink:
            self._sink.log({key: value for key, value in values.items() if value is not None}, step=step)

    def alert(self, name: str, text: str, *, stops: bool, step: int) -> None:
        """Append an alarm to metrics.jsonl and send it to W&B, which tells those who asked to be told."""
        level = "stop" if stops else "warn"
        row = {"time": time.time(), "stage": self.stage, "step": step, "alarm": name, "level": level, "text": text}
        self._metrics.write(row)
        if self._sink:
            self._sink.alert(f"{self.stage}: {name}", text, stops=stops)

    def log_samples(self, rows: Sequence[Mapping[str, Any]], *, step: int, name: str = "samples") -> None:
        """Append texts to samples.jsonl, and send them to W&B as a table called `name`."""
        if not rows:
            return
        if self._samples is None:
            self._samples = JsonLines(self.folder / "samples.jsonl")
        now = time.time()
        for row in rows:
            self._samples.write({"time": now, "stage": self.stage, "step": step, "name": name, **row})
        if self._sink:
            self._sink.log_table(name, rows, step=step)

    def rewind(self, stage: str, step: int) -> None:
        """Drop what `stage` logged beyond `step`: a resumed run logs those steps again."""
        dropped = self._metrics.rewind(stage, step)
        if self._samples is None and (self.folder / "samples.jsonl").exists():
            self._samples = JsonLines(self.folder / "samples.jsonl")
        if self._samples is not None:
            self._samples.rewind(stage, step)
        if dropped:
            logger.info("%s: dropped %d metric lines of %s beyond step %d", self.id, dropped, stage, step)

    def finish(self, summary: Mapping[str, Any], status: str = "done") -> dict[str, Any]:
        """Write summary.json, wholly or not at all, and close the run.

        Args:
            summary: what came of the run; `seconds` is added where it is missing.
            status: done, failed, stopped (by a monitor) or interrupted.

        Returns:
            What was written.
        """
        seconds = round(time.monotonic() - self._started, 3)
        written: dict[str, Any] = plain_value({"run": self.id, "seconds": seconds, **summary, "status": status})
        text = json.dumps(written, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(self.folder / "summary.json", text.encode("utf-8", "backslashreplace"))
        self.finished = True
        self._metrics.close()
        if self._samples is not None:
            self._samples.close()
        if self._sink:
            self._sink.finish(written, failed=status == "failed")
            if self._sink.offline_folder:
                logger.info("W&B was offline; to send this run later: wandb sync %s", self._sink.offline_folder)
        _unlock(self._lock)
        return written

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.finished:
            return
        if error is None:
            self.finish({})
            return
        status = next((status for kind, status in _STATUSES if isinstance(error, kind)), "failed")
        said = {"error": f"{type(error).__name__}: {error}".removesuffix(": ")}
        self.finish({**self.so_far, **({"stopped": str(error)} if status == "stopped" else said)}, status)

    def _write_config(self, config: Any) -> None:
        """config.yaml; the config of a run that is resumed with another one is kept beside it."""
        path = self.folder / "config.yaml"
        content = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100).encode()
        if path.exists() and path.read_bytes() != content:
            former = len(list(self.folder.glob("config-*.yaml"))) + 1
            path.rename(self.folder / f"config-{former}.yaml")
        write_atomically(path, content)

    def _write_environment(
        self, *, seed: int, group: str | None, data: str | None, inputs: Mapping[str, Named]
    ) -> None:
        """environment.json: where the run began and, under `resumed`, where each resumption took place."""
        path = self.folder / "environment.json"
        now = {
            "time": time.time(),
            "seed": seed,
            "run": self.id,
            "stage": self.stage,
            "group": group,
            **({"data": data} if data else {}),
            "inputs": {key: vars(named) for key, named in inputs.items()},
            **environment(),
        }
        if path.exists():
            first = json.loads(path.read_text(encoding="utf-8"))
            now = {**first, "resumed": [*first.get("resumed", []), now]}
        text = json.dumps(now, indent=2, ensure_ascii=False) + "\n"
        write_atomically(path, text.encode("utf-8", "backslashreplace"))


def _scalar(value: Any) -> Any:
    """`value` as a number or text; scalars of numpy and torch have `item`."""
    value = value if value is None or isinstance(value, str | int | float) else plain_value(value)
    if isinstance(value, list | dict):
        raise TypeError(f"a metric is one number or text, not {value!r}")
    return value


def _new_folder(runs: Path, stage: str) -> Path:
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        folder = runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{stage}-{secrets.token_hex(2)}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def _named_folder(runs: Path, run_id: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", run_id):
        raise UserError(f"run id = {run_id!r}: use up to 128 letters, digits, `.`, `_` and `-`")
    folder = runs / run_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _lock(folder: Path) -> int | None:
    """Hold the run for this process; the system lets go of it when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes in one run are the user's to avoid
        return None
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"{folder}: another process has this run open; wait for it, or end it first") from None
    return handle


def _unlock(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)
