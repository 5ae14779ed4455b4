import json
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf.errors import UserError
from rlhf.tracking import Run, TrackingConfig, read_metrics, wandb_sink
from rlhf.tracking.wandb_sink import decide_mode, has_key, wandb_names

KEY = {"WANDB_API_KEY": "a" * 40}


@pytest.fixture(autouse=True)
def no_account(tmp_path, monkeypatch):
    """No test sees the developer's own key, settings or home."""
    for name in list(os.environ):
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@pytest.mark.parametrize(
    ("wanted", "environ", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", KEY, "online"),
        ("online", KEY, "online"),
        ("offline", KEY, "offline"),
        ("off", KEY, "off"),
        ("auto", {**KEY, "WANDB_MODE": "offline"}, "offline"),
        ("online", {**KEY, "WANDB_MODE": "dryrun"}, "offline"),
        ("online", {"WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "online"}, "offline"),
        ("offline", {**KEY, "WANDB_MODE": "online"}, "offline"),
        ("online", {**KEY, "WANDB_MODE": "disabled"}, "off"),
        ("auto", {**KEY, "WANDB_DISABLED": "true"}, "off"),
        ("auto", {**KEY, "WANDB_DISABLED": "false"}, "online"),
    ],
)
def test_the_least_of_config_environment_and_key_decides(wanted, environ, mode):
    assert decide_mode(wanted, environ) == mode


def test_online_without_a_key_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"tracking\.wandb = online: no W&B key found; run `wandb login`"):
        Run.create(tmp_path, stage="sft", config={}, seed=1, tracking=TrackingConfig(wandb="online"))
    assert not (tmp_path / "runs").exists()


def test_a_key_in_netrc_counts_for_its_own_host_only(tmp_path):
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password " + "a" * 40 + "\n")
    environ = {"NETRC": str(tmp_path / "netrc")}
    assert has_key(environ)
    assert not has_key({**environ, "WANDB_BASE_URL": "https://wandb.example.org"})


def test_an_unreadable_netrc_is_said_and_counts_as_none(tmp_path, caplog):
    (tmp_path / "netrc").write_text("machine api.wandb.ai nonsense")
    assert not has_key({"NETRC": str(tmp_path / "netrc")})
    assert "could not be read" in caplog.text


def test_names_on_wandb_are_those_of_the_transformers_callback():
    assert wandb_names({"objective/kl": 1.0, "eval_loss": 2.0, "loss": 3.0, "eval/win_rate": 0.9}) == {
        "eval/win_rate": 0.9,
        "train/objective/kl": 1.0,
        "eval/loss": 2.0,
        "train/loss": 3.0,
    }


def test_an_offline_run_is_made_with_stdin_closed_and_leaves_no_process(tmp_path):
    """In a process of its own: standard input is closed and there is no key, so a question would end it."""
    script = f"""
import logging, subprocess, sys
logging.basicConfig(level=logging.INFO)
from pathlib import Path
from rlhf.tracking import Run, TrackingConfig
for stage in ("sft", "ppo"):
    with Run.create(Path({str(tmp_path)!r}), stage=stage, config={{"a": 1}}, seed=1,
                    tracking=TrackingConfig(), group="support", run_id=stage) as run:
        for step in range(5):
            run.log({{"objective/kl": float(step), "note": None, "bad": float("nan")}}, step=step)
        run.log_samples([{{"prompt": "p", "text": "<b>c</b>"}}, {{"prompt": "q", "score": 1.5}}], step=4)
        run.finish({{"ppo": {{"kl": 4.0}}}})
import os
children = Path(f"/proc/self/task/{{os.getpid()}}/children")
print("children:", children.read_text().split() if children.exists() else [])
"""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 30
    assert done.stdout == "children: []\n"  # nothing else on stdout: it belongs to --json
    for stage in ("sft", "ppo"):
        folder = tmp_path / "runs" / stage
        (file,) = (folder / "wandb").glob(f"offline-run-*-{stage}/run-{stage}.wandb")
        content = file.read_bytes()
        for text in (b"support", b"train/objective/kl", b"train/global_step"):
            assert text in content
        assert f"wandb sync {file.parent}" in done.stderr
        assert list((folder / "wandb" / "data").rglob("staging/*"))  # a table's file is in the run's own folder
    assert not (tmp_path / "home" / ".local").exists()


def test_a_server_that_never_answers_costs_seconds_and_the_run_goes_on_offline(tmp_path, monkeypatch, caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setattr(wandb_sink, "INIT_TIMEOUT_SECONDS", 1.0)
        started = time.monotonic()
        with caplog.at_level(logging.WARNING):
            run = Run.create(tmp_path, stage="ppo", config={}, seed=1, tracking=TrackingConfig(), run_id="r")
        run.log({"objective/kl": 1.0}, step=1)
        run.finish({})
    assert time.monotonic() - started < 20
    assert "this run is tracked offline" in caplog.text
    assert run.url is None
    assert list((run.folder / "wandb").glob("offline-run-*-r/run-r.wandb"))
    assert not list((run.folder / "wandb").glob("run-*"))


def test_a_failure_inside_wandb_is_said_once_and_training_goes_on(tmp_path, caplog):
    class Broken:
        url = None

        def define_metric(self, *_: object, **__: object) -> None: ...

        def log(self, *_: object) -> None:
            raise ConnectionResetError("service is gone")

    run = Run.create(tmp_path, stage="ppo", config={}, seed=1, tracking=TrackingConfig(wandb="off"), run_id="r")
    run._sink = wandb_sink.WandbSink(None, Broken(), run.folder, online=True)
    run.log({"loss": 1.0}, step=1)
    run.log({"loss": 2.0}, step=2)
    run.finish({})
    assert caplog.text.count("from here on metrics go to metrics.jsonl alone") == 1
    assert [row["loss"] for row in read_metrics(run.folder)] == [1.0, 2.0]
    assert json.loads((run.folder / "summary.json").read_text())["status"] == "done"
