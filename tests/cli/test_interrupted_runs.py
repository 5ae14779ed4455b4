"""Real signals to real processes: what was begun can be gone on with."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf import checkpoint
from rlhf.cli import main
from rlhf.registry import Registry

pytestmark = pytest.mark.faults

SCRIPT = Path(sys.executable).parent / "rlhf"
STAGE = """
model: {ref: MODEL}
data: {sources: [{path: rows.jsonl}], dev_fraction: 0.2}
trainer: {num_train_epochs: 8, per_device_train_batch_size: 4, activation_checkpointing: false, logging_steps: 1,
          learning_rate: 1e-3}
output: {name: tiny/sft}
tracking: {wandb: off}
"""


@pytest.fixture
def project(tmp_path, models):
    rows = [{"prompt": f"p{n}", "completion": "c" * (n % 7 + 1)} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sft.yaml").write_text(STAGE.replace("MODEL", str(models["causal"])))
    return tmp_path


def start(folder, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RLHF_HOME": str(folder / "home")}
    return subprocess.Popen(
        [SCRIPT, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(process, condition, seconds=120):
    """Wait until `condition()` is true, as long as the process lives."""
    ends = time.monotonic() + seconds
    while not condition():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            raise AssertionError(f"ended too early with {process.returncode}: {process.communicate()[1]}")
        assert time.monotonic() < ends, "nothing happened"


def metrics_of(folder, stage):
    return next(iter((folder / "home" / "runs").glob(f"*{stage}-*/metrics.jsonl")), None)


def has_logged(folder, stage, count):
    def condition():
        path = metrics_of(folder, stage)
        return path is not None and path.read_bytes().count(b"\n") >= count

    return condition


def finish(folder, *arguments):
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_that_is_gone_on_with_as_if_there_had_been_none(project, number):
    process = start(project, "sft", "sft.yaml", "--json")
    wait_for(process, has_logged(project, "sft", 6))
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert out == "" and "Traceback" not in err
    run = metrics_of(project, "sft").parent
    assert "interrupted: stopped by a signal at step" in err
    assert f"go on with `rlhf sft sft.yaml --resume {run.name}`" in err
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert checkpoint.latest_intact(run / "checkpoints") is not None
    registry = Registry(project / "home")
    assert registry.artefacts() == []

    resumed = finish(project, "sft", "sft.yaml", "--resume", run.name, "--json")
    assert resumed["run"] == run.name and resumed["status"] == "done"
    steps = [row["step"] for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "loss" in row]
    assert steps == list(range(1, max(steps) + 1))
    whole = finish(project, "sft", "sft.yaml", "output.name=tiny/whole", "--json")
    assert registry.resolve("tiny/sft").digest == registry.resolve("tiny/whole").digest
    assert whole["eval_loss"] == resumed["eval_loss"]


def test_a_run_that_was_killed_goes_on_from_its_last_intact_checkpoint(project):
    command = ("sft", "sft.yaml", "trainer.save_strategy=steps", "trainer.save_steps=5", "--json")
    process = start(project, *command)
    run_of = lambda: metrics_of(project, "sft")  # noqa: E731
    has_two = lambda: run_of() is not None and len(checkpoint.checkpoints(run_of().parent / "checkpoints")) >= 2  # noqa: E731
    wait_for(process, has_two)
    process.kill()
    process.communicate()
    run = run_of().parent
    assert not (run / "summary.json").exists()
    broken = checkpoint.checkpoints(run / "checkpoints")[-1]
    (broken / "model.safetensors").write_bytes(b"half")
    resumed = finish(project, *command, "--resume", run.name)
    assert resumed["status"] == "done"
    finish(project, "sft", "sft.yaml", "output.name=tiny/whole", "--json")
    registry = Registry(project / "home")
    assert registry.resolve("tiny/sft").digest == registry.resolve("tiny/whole").digest


def test_a_pipeline_goes_on_within_the_stage_that_was_interrupted(tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
    try:
        from pipeline_files import write_project
    finally:
        sys.path.pop(0)
    write_project(tmp_path)
    long = "ppo.trainer.total_episodes=320"
    process = start(tmp_path, "run", "run.yaml", long, "--json")
    wait_for(process, has_logged(tmp_path, "tiny-ppo", 4))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    registry = Registry(tmp_path / "home")
    assert registry.find("tiny/reward") is not None and registry.find("tiny/policy") is None
    runs = {path.name for path in (tmp_path / "home" / "runs").iterdir()}
    (interrupted,) = [name for name in runs if name.startswith("tiny-ppo")]

    summary = finish(tmp_path, "run", "run.yaml", long, "--json")
    assert summary["status"] == "done" and summary["ppo"]["run"] == interrupted
    new = {path.name for path in (tmp_path / "home" / "runs").iterdir()} - runs
    assert sorted(name.split("-")[1] for name in new if name.startswith("tiny-")) == ["eval"]
    assert summary["ppo"]["num_episodes"] == 320
    whole = finish(tmp_path, "run", "run.yaml", long, "ppo.output={name: tiny/whole}", "--json")
    first, second = (registry.resolve(one["artefacts"]["ppo"]) for one in (summary, whole))
    assert first.digest == second.digest


def test_an_interrupt_that_an_import_turns_into_another_error_is_still_one(monkeypatch, capsys):
    def importing(**_):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ModuleNotFoundError("Could not import module 'Bloom'") from None

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(main, "app", importing)
    monkeypatch.setattr(main, "_interrupts", [])
    try:
        with pytest.raises(SystemExit) as ended:
            main.main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted: at once, without saving\n"
