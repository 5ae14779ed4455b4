"""Weights & Biases as a second place for the metrics, never as a condition for training.

Online with a key, else offline; no question is ever asked, and nothing waits longer than the limits below.
Metrics go under the names that transformers' own callback gives them (`train/objective/kl`, `eval/loss`),
against `train/global_step`, so that dashboards made with TRL's trainers carry over.
"""

import logging
import netrc
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from rlhf.errors import UserError

logger = logging.getLogger(__name__)

Mode = Literal["off", "offline", "online"]
_LADDER: tuple[Mode, ...] = ("off", "offline", "online")

INIT_TIMEOUT_SECONDS = 15.0
"""How long the server may take to accept a run before it is kept offline."""

FINISH_TIMEOUT_SECONDS = 60.0
"""How long the last uploads may take; what is not up by then stays in the folder, for `wandb sync`."""


def decide_mode(wanted: Literal["auto", "online", "offline", "off"], environ: Mapping[str, str]) -> Mode:
    """Where metrics go: the least of what the config wants, the environment allows and a key permits.

    Raises:
        UserError: `tracking.wandb` is "online", nothing forbids it, and there is no key.
    """
    allowed: Mode = "online"
    mode = environ.get("WANDB_MODE", "").lower()
    if mode == "disabled" or environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        allowed = "off"
    elif mode in ("offline", "dryrun"):
        allowed = "offline"
    asked: Mode = "online" if wanted == "auto" else wanted
    decided = min(asked, allowed, key=_LADDER.index)
    if decided != "online" or has_key(environ):
        return decided
    if wanted == "online":
        raise UserError(
            "tracking.wandb = online: no W&B key found; run `wandb login` or set WANDB_API_KEY, "
            "or use `tracking.wandb=auto` (offline without a key)"
        )
    return "offline"


def has_key(environ: Mapping[str, str]) -> bool:
    """Whether credentials for the W&B server lie where wandb looks: its environment variables or netrc."""
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    named = environ.get("NETRC")
    paths = [Path(named).expanduser()] if named else [Path("~/.netrc").expanduser(), Path("~/_netrc").expanduser()]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return False
    try:
        entry = netrc.netrc(path).authenticators(host)
    except (netrc.NetrcParseError, OSError) as error:
        logger.warning("%s could not be read, so no W&B key was found there: %s", path, error)
        return False
    return bool(entry and entry[2])


def wandb_names(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """`metrics` under the names that transformers' W&B callback gives them."""

    def name(key: str) -> str:
        if key.startswith("eval_"):
            return f"eval/{key.removeprefix('eval_')}"
        return key if key.startswith("eval/") else f"train/{key}"

    return {name(key): value for key, value in metrics.items()}


class WandbSink:
    """One W&B run, online or offline. `offline_folder` is what `wandb sync` takes; None for an online run."""

    def __init__(self, wandb: Any, run: Any, folder: Path, online: bool) -> None:
        self._wandb = wandb
        self._run = run
        self._folder = folder
        self._broken = False
        self.url: str | None = run.url if online else None
        self.offline_folder: Path | None = None if online else Path(run.settings.sync_dir)
        run.define_metric("train/global_step")
        run.define_metric("*", step_metric="train/global_step", step_sync=True)

    @classmethod
    def open(
        cls,
        mode: Literal["offline", "online"],
        *,
        folder: Path,
        run_id: str,
        stage: str,
        group: str | None,
        project: str,
        entity: str | None,
        tags: Sequence[str],
        config: Mapping[str, Any],
    ) -> "WandbSink | None":
        """Start a run: offline where the server does not take it in time, None where wandb does not work."""
        # wandb sends its errors to its makers unless told not to; it looks when it is first imported.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        def start(chosen: Literal["offline", "online"]) -> Any:
            return wandb.init(
                project=project,
                entity=entity,
                group=group,
                job_type=stage,
                name=run_id,
                id=run_id,
                resume="allow" if chosen == "online" else None,
                tags=list(tags) or None,
                config=dict(config),
                dir=folder,
                reinit="create_new",  # a run that the caller has open stays the caller's
                settings=wandb.Settings(
                    mode=chosen,
                    console="off",
                    silent=True,
                    symlink=False,
                    disable_code=True,
                    save_code=False,
                    init_timeout=INIT_TIMEOUT_SECONDS,
                    finish_timeout=FINISH_TIMEOUT_SECONDS,
                ),
            )

        # What goes wrong inside wandb (its errors share no base class) must not cost anyone a training run.
        if mode == "online":
            try:
                return cls(wandb, start("online"), folder, online=True)
            except Exception as error:
                _warn("is not reachable or refused the key, so this run is tracked offline", error)
                _end_service(wandb)  # it holds on to the run id until it ends
                for leftover in (folder / "wandb").glob(f"run-*-{run_id}"):
                    shutil.rmtree(leftover)
        try:
            return cls(wandb, start("offline"), folder, online=False)
        except Exception as error:
            _warn("cannot run here, so metrics go to metrics.jsonl alone", error)
            return None

    def log(self, metrics: Mapping[str, Any], *, step: int) -> None:
        """Send one line of metrics."""
        self._at_its_own_risk(lambda: self._run.log({**wandb_names(metrics), "train/global_step": step}))

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]], *, step: int) -> None:
        """Send `rows` as a table; a row's missing columns are empty."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        data = [[_cell(row.get(column)) for column in columns] for row in rows]

        def send() -> None:
            with _data_folder(self._folder / "wandb" / "data"):
                self._run.log({name: self._wandb.Table(columns=columns, data=data), "train/global_step": step})

        self._at_its_own_risk(send)

    def alert(self, title: str, text: str, *, stops: bool) -> None:
        """Send an alarm."""
        level = self._wandb.AlertLevel.ERROR if stops else self._wandb.AlertLevel.WARN
        self._at_its_own_risk(lambda: self._run.alert(title=title, text=text, level=level))

    def finish(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        """Send what came of the run, wait for the uploads, and end wandb's background process."""

        def end() -> None:
            self._run.summary.update(dict(summary))
            self._run.finish(exit_code=1 if failed else 0)
            _end_service(self._wandb)

        self._at_its_own_risk(end)

    def _at_its_own_risk(self, act: Callable[[], None]) -> None:
        """What fails inside wandb is said once, and the run goes on without it."""
        if self._broken:
            return
        try:
            act()
        except Exception as error:
            self._broken = True
            _warn("failed; from here on metrics go to metrics.jsonl alone", error)


def _warn(what: str, error: Exception) -> None:
    reason = str(error).splitlines()[0] if str(error) else ""
    logger.warning("W&B %s (%s: %s)", what, type(error).__name__, reason)


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _end_service(wandb: Any) -> None:
    """End wandb's background process, unless the caller has a run of its own open in it."""
    if wandb.run is None:
        wandb.teardown()


@contextmanager
def _data_folder(folder: Path) -> Iterator[None]:
    """Keep what a table leaves for a later sync in the run's folder; wandb's default is the home folder."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]
