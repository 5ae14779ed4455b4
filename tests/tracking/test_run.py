import json
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlhf.errors import Interrupted, StoppedByMonitor, UserError
from rlhf.tracking import Run, TrackingConfig, read_metrics, read_samples

OFF = TrackingConfig(wandb="off")


def start(home: Path, run_id: str | None = "r1", *, config: dict | None = None, stage: str = "ppo") -> Run:
    return Run.create(
        home,
        stage=stage,
        config=config or {"trainer": {"kl_coef": 0.05}},
        seed=7,
        tracking=OFF,
        run_id=run_id,
    )


def rows_without_time(run: Run) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "time"} for row in read_metrics(run.folder)]


def test_a_run_leaves_config_environment_metrics_and_summary(tmp_path):
    with start(tmp_path) as run:
        run.log({"objective/kl": 1.5, "objective/scores": -0.25}, step=1)
        written = run.finish({"ppo": {"kl": 1.5}, "seconds": 12.0})
    assert run.folder == tmp_path / "runs" / "r1"
    assert yaml.safe_load((run.folder / "config.yaml").read_text()) == {"trainer": {"kl_coef": 0.05}}
    environment = json.loads((run.folder / "environment.json").read_text())
    assert (environment["seed"], environment["stage"], environment["run"]) == (7, "ppo", "r1")
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert rows_without_time(run) == [{"stage": "ppo", "step": 1, "objective/kl": 1.5, "objective/scores": -0.25}]
    assert list(read_metrics(run.folder)[0])[:3] == ["time", "stage", "step"]
    assert written == {"run": "r1", "seconds": 12.0, "ppo": {"kl": 1.5}, "status": "done"}
    assert json.loads((run.folder / "summary.json").read_text()) == written


def test_ids_made_up_for_runs_differ_and_name_the_stage(tmp_path):
    ids = set()
    for _ in range(5):
        with start(tmp_path, run_id=None, stage="sft") as run:
            ids.add(run.id)
    assert len(ids) == 5
    assert all("-sft-" in run_id for run_id in ids)


def test_non_finite_numbers_survive_the_file_and_every_line_stays_json(tmp_path):
    with start(tmp_path) as run:
        run.log({"a": math.nan, "b": math.inf, "c": -math.inf, "d": None, "e": "text"}, step=1)
        line = (run.folder / "metrics.jsonl").read_text()
    strict = json.loads(line, parse_constant=pytest.fail)
    assert (strict["a"], strict["b"], strict["c"]) == ("NaN", "Infinity", "-Infinity")
    (row,) = read_metrics(run.folder / "metrics.jsonl")
    assert math.isnan(row["a"])
    assert (row["b"], row["c"], row["d"], row["e"]) == (math.inf, -math.inf, None, "text")


def test_array_scalars_are_logged_as_numbers_and_arrays_are_refused(tmp_path):
    numpy = pytest.importorskip("numpy")
    with start(tmp_path) as run:
        run.log({"f32": numpy.float32(0.5), "i64": numpy.int64(3), "nan": numpy.float64("nan")}, step=1)
        with pytest.raises(TypeError, match=r"a metric is one number or text, not \[1, 2\]"):
            run.log({"bad": numpy.array([1, 2])}, step=2)
    (row,) = read_metrics(run.folder)
    assert (row["f32"], row["i64"]) == (0.5, 3)
    assert math.isnan(row["nan"])


def test_half_a_character_from_a_model_does_not_stop_a_run(tmp_path):
    with start(tmp_path) as run:
        run.log({"text": "\ud83d"}, step=1)
        run.log_samples([{"completion": "\ud83d é"}], step=1)
        run.finish({"sample": "\ud83d"})
    assert read_metrics(run.folder)[0]["text"] == "\ud83d"
    assert read_samples(run.folder)[0]["completion"] == "\ud83d é"
    assert json.loads((run.folder / "summary.json").read_text())["sample"] == "\ud83d"


def test_each_line_is_on_disk_before_log_returns_and_kill_9_tears_nothing_before_it(tmp_path):
    script = (
        "import os, signal; from pathlib import Path; from rlhf.tracking import Run, TrackingConfig\n"
        f"run = Run.create(Path({str(tmp_path)!r}), stage='ppo', config={{}}, seed=1,"
        " tracking=TrackingConfig(wandb='off'), run_id='killed')\n"
        "for step in range(100): run.log({'loss': step / 2}, step=step)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stdin=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    rows = read_metrics(tmp_path / "runs" / "killed")
    assert [row["loss"] for row in rows] == [step / 2 for step in range(100)]
    assert not (tmp_path / "runs" / "killed" / "summary.json").exists()


def test_a_torn_last_line_is_left_out_and_cut_before_the_next_one(tmp_path):
    with start(tmp_path) as run:
        run.log({"loss": 1.0}, step=1)
    with open(run.folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"time": 1, "stage": "ppo", "step": 2, "lo\xc3')
    assert [row["step"] for row in read_metrics(run.folder)] == [1]
    with start(tmp_path) as again:
        again.log({"loss": 2.0}, step=2)
    assert [(row["step"], row["loss"]) for row in read_metrics(run.folder)] == [(1, 1.0), (2, 2.0)]


def test_no_file_reads_as_no_metrics(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_rewind_drops_what_the_stage_logged_beyond_the_checkpoint_and_nothing_else(tmp_path):
    with start(tmp_path) as run:
        for step in (1, 2, 3):
            run.log({"loss": step}, step=step, stage="sft")
            run.log({"objective/kl": step}, step=step)
            run.log_samples([{"completion": f"text {step}"}], step=step)
    with start(tmp_path) as again:
        again.rewind("ppo", 2)
        again.log({"objective/kl": 33}, step=3)
        again.log_samples([{"completion": "text 3 again"}], step=3)
    kl = [(row["step"], row["objective/kl"]) for row in read_metrics(run.folder) if row["stage"] == "ppo"]
    assert kl == [(1, 1), (2, 2), (3, 33)]
    assert [row["step"] for row in read_metrics(run.folder) if row["stage"] == "sft"] == [1, 2, 3]
    samples = read_samples(run.folder)
    assert [row["completion"] for row in samples] == ["text 1", "text 2", "text 3 again"]


def test_reopening_removes_the_summary_and_keeps_a_changed_config_and_each_environment(tmp_path):
    with start(tmp_path) as run:
        run.finish({}, status="interrupted")
    with start(tmp_path, config={"trainer": {"kl_coef": 0.1}}) as again:
        assert not (again.folder / "summary.json").exists()
    assert yaml.safe_load((run.folder / "config.yaml").read_text()) == {"trainer": {"kl_coef": 0.1}}
    assert yaml.safe_load((run.folder / "config-1.yaml").read_text()) == {"trainer": {"kl_coef": 0.05}}
    assert len(json.loads((run.folder / "environment.json").read_text())["resumed"]) == 1


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (RuntimeError("boom"), "failed", {"error": "RuntimeError: boom"}),
        (StoppedByMonitor("objective/kl"), "stopped", {"stopped": "objective/kl"}),
        (Interrupted("resume with ..."), "interrupted", {"error": "Interrupted: resume with ..."}),
        (KeyboardInterrupt(), "interrupted", {"error": "KeyboardInterrupt"}),
    ],
)
def test_an_exception_says_how_the_run_ended(tmp_path, error, status, said):
    with pytest.raises(type(error)), start(tmp_path) as run:
        raise error
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["status"] == status and summary.items() >= said.items()


def test_the_summary_is_wholly_there_or_not_at_all(tmp_path, monkeypatch):
    run = start(tmp_path)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        run.finish({"ppo": {"kl": 1.0}})
    assert not (run.folder / "summary.json").exists()
    assert not list(run.folder.glob(".summary*"))
    monkeypatch.undo()
    run.finish({"score": math.nan})
    assert json.loads((run.folder / "summary.json").read_text())["score"] == "NaN"


def test_two_processes_cannot_have_one_run_open(tmp_path):
    with (
        start(tmp_path) as run,
        pytest.raises(UserError, match=r"runs/r1: another process has this run open"),
    ):
        start(tmp_path)
    assert run.finished
    with start(tmp_path):
        pass


@pytest.mark.parametrize("run_id", ["", "../up", "a/b", ".hidden", "a b", "x" * 129])
def test_a_run_id_that_is_no_folder_name_is_refused(tmp_path, run_id):
    with pytest.raises(UserError, match="run id = "):
        start(tmp_path, run_id=run_id)
    assert not (tmp_path / "up").exists()


def test_secrets_in_the_config_are_not_written(tmp_path):
    config = {
        "trainer": {"hub_token": "hf_abcdefghijklmnopqrst", "eos_token": "</s>", "max_prompt_tokens": 64},
        "database": "postgresql://rlhf:geheim@db/rlhf",
    }
    with start(tmp_path, config=config) as run:
        pass
    assert yaml.safe_load((run.folder / "config.yaml").read_text()) == {
        "trainer": {"hub_token": "***", "eos_token": "</s>", "max_prompt_tokens": 64},
        "database": "postgresql://rlhf:***@db/rlhf",
    }


def test_the_package_imports_neither_torch_nor_wandb():
    script = "import sys, rlhf.tracking; print(sorted({'torch', 'trl', 'wandb'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert done.stdout == "[]\n"


def test_rewinding_says_what_it_dropped(tmp_path, caplog):
    with start(tmp_path) as run:
        run.log({"loss": 1.0}, step=5)
        with caplog.at_level(logging.INFO):
            run.rewind("ppo", 4)
    assert "dropped 1 metric lines of ppo beyond step 4" in caplog.text
