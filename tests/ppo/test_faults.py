import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults


def run(output: Path, mode: str, method: str, critic: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, Path(__file__).with_name("kill_worker.py"), output, mode, method, critic, *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def digest(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr[-3000:]
    return [line for line in done.stdout.splitlines() if line.startswith("DIGEST 5 ")]


@pytest.mark.parametrize("critic", ["separate", "shared", "adapter"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_that_was_killed_and_resumed_has_the_weights_of_one_that_was_not(
    method: str, critic: str, tmp_path: Path
) -> None:
    straight = digest(run(tmp_path / "straight", "straight", method, critic))
    assert run(tmp_path / "killed", "kill", method, critic).returncode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "killed").glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert straight
    assert digest(run(tmp_path / "killed", "resume", method, critic)) == straight


def test_a_rollback_outlives_the_process(tmp_path: Path) -> None:
    how = ("full", "separate", "rollback")
    straight = digest(run(tmp_path / "straight", "straight", *how))
    assert straight
    assert run(tmp_path / "killed", "kill", *how).returncode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "killed").glob("checkpoint-*"))[-1] == "checkpoint-2"
    # smaller steps and a dearer KL, as in the run that was not killed
    assert digest(run(tmp_path / "killed", "resume", *how)) == straight
