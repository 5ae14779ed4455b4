"""What surrounds the demo: where it cannot be laid out, and the commands that it shows at its end."""

import pytest

from rlhf.demo.run import next_steps, run_demo
from rlhf.errors import UserError
from rlhf.workspace import Workspace

SUMMARY = {"artefacts": {"sft": "support/sft@v1", "ppo": "support/policy@v1"}, "report": "report.html"}


def test_a_home_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/home: cannot be made a folder"):
        run_demo(Workspace.open(tmp_path / "file" / "home", progress=False))


def test_the_next_commands_call_the_program_as_it_was_called(tmp_path, monkeypatch):
    workspace = Workspace.open(tmp_path / "demo")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "rlhf"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(script), "demo"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert f"    {script} --home {tmp_path}/demo label serve\n" in next_steps(workspace, SUMMARY)
    monkeypatch.setenv("PATH", str(script.parent))
    assert f"    rlhf --home {tmp_path}/demo label serve\n" in next_steps(workspace, SUMMARY)
