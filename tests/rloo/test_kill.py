"""kill -9 in the middle of `rlhf dpo` and `rlhf rloo`: what is resumed is what had not been killed."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import tiny_model

from rlhf import checkpoint
from rlhf.records import write_jsonl
from rlhf.registry import Registry

pytestmark = pytest.mark.faults

SCRIPT = Path(sys.executable).parent / "rlhf"
SHARED = """
model: {ref: model}
data: {sources: [{path: rows.jsonl}], dev_fraction: 0.2}
output: {name: tiny/policy}
tracking: {wandb: off}
trainer: {max_steps: 16, save_steps: 2, per_device_train_batch_size: 8, activation_checkpointing: false"""
CONFIGS = {
    "dpo": SHARED + "}\n",
    "rloo": SHARED + ', max_completion_length: 8}\nreward: [{function: "rewards.py:length"}]\n',
}


@pytest.fixture
def project(tmp_path):
    tiny_model(tmp_path / "model")
    rows = [{"prompt": f"Q{n}", "chosen": "yes" * (n % 3 + 1), "rejected": "no"} for n in range(40)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rewards.py").write_text(
        "def length(prompts, completions):\n    return [len(c) for c in completions]\n"
    )
    for name, text in CONFIGS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def start(folder, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RLHF_HOME": str(folder / "home")}
    return subprocess.Popen(
        [SCRIPT, *arguments, "--json"], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()
    return json.loads(out)


@pytest.mark.parametrize("command", ["dpo", "rloo"])
def test_a_run_that_was_killed_goes_on_from_its_last_intact_checkpoint(project, command):
    process = start(project, command, f"{command}.yaml")
    ends = time.monotonic() + 200
    while len(found := [*(project / "home" / "runs").glob("*/checkpoints/checkpoint-*/manifest.json")]) < 2:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            raise AssertionError(f"ended too early: {process.communicate()[1].decode()}")
        assert time.monotonic() < ends, "nothing happened"
    process.kill()
    process.communicate()
    run = found[0].parents[2]
    assert not (run / "summary.json").exists()
    broken = checkpoint.checkpoints(run / "checkpoints")[-1]
    (broken / "model.safetensors").write_bytes(b"half")
    resumed = finish(start(project, command, f"{command}.yaml", "--resume", run.name))
    assert resumed["status"] == "done" and resumed["run"] == run.name
    finish(start(project, command, f"{command}.yaml", "output.name=tiny/whole"))
    registry = Registry(project / "home")
    assert registry.resolve("tiny/policy").digest == registry.resolve("tiny/whole").digest
