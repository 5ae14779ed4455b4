"""What makes a stage another one: its config, its data, the functions it calls, the models it starts from."""

import os
import sys
from types import ModuleType

import pytest

from rlhf.config import Located, validate
from rlhf.errors import StoppedByMonitor, UserError
from rlhf.inputs import function_file
from rlhf.pipeline import run as pipeline_run
from rlhf.pipeline.config import load_pipeline
from rlhf.pipeline.fingerprint import fingerprint
from rlhf.pipeline.run import run_stages
from rlhf.ppo.stage_config import PPOStageConfig
from rlhf.records import write_jsonl
from rlhf.scoring_config import ScorerSection
from rlhf.tracking import TrackingConfig
from rlhf.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    return Workspace.open(tmp_path / ".rlhf", progress=False)


@pytest.fixture
def known_as(tmp_path, workspace):
    """The fingerprint of a PPO stage whose file lies in `tmp_path`."""
    (tmp_path / "my_rewards.py").write_text("def brevity(prompts, completions, **columns): ...\n")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    write_jsonl(tmp_path / "hh.train.jsonl", [{"prompt": "a"}])
    write_jsonl(tmp_path / "hh.test.jsonl", [{"prompt": "b"}])

    def of(function="my_rewards:brevity", split="train", **given):
        data = {"path": str(tmp_path / "hh"), "split": split}
        config = {
            "model": {"ref": str(tmp_path / "base")},
            "reward": [{"function": Located(function, tmp_path)}],
            "data": {"sources": [data]},
            "output": {"name": "t/policy"},
            **given,
        }
        return fingerprint("ppo", validate(config, PPOStageConfig, origin="ppo.yaml"), workspace.registry)

    return of


def test_what_else_lies_beside_the_config_changes_nothing(known_as, tmp_path, workspace):
    before = known_as()
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "my_rewards.pyc").write_bytes(b"x")
    (tmp_path / "notes.json").write_text("{}")
    workspace.registry.publish(tmp_path / "hh.test.jsonl", kind="dataset", name="t/other")
    (tmp_path / "base" / "optimizer.pt").write_bytes(b"x")
    assert known_as() == before
    assert known_as(tracking=TrackingConfig(project="other")) == before


@pytest.mark.parametrize("function", ["my_rewards:brevity", "my_rewards.py:brevity"])
def test_another_text_of_the_function_s_file_is_another_function(known_as, tmp_path, function):
    before = known_as(function)
    os.utime(tmp_path / "my_rewards.py", (0, 0))
    assert known_as(function) == before
    (tmp_path / "my_rewards.py").write_text("def brevity(prompts, completions, **columns): return [0.0]\n")
    assert known_as(function) != before


def test_rows_found_by_the_name_of_their_split_count(known_as, tmp_path):
    before = known_as()
    write_jsonl(tmp_path / "hh.test.jsonl", [{"prompt": "another"}])
    assert known_as() == before  # the other split
    write_jsonl(tmp_path / "hh.train.jsonl", [{"prompt": "another"}])
    assert known_as() != before
    (tmp_path / "hh.train.jsonl").unlink()
    with pytest.raises(UserError, match="hh: no such file"):
        known_as()


def test_a_model_s_files_count(known_as, tmp_path):
    before = known_as()
    (tmp_path / "base" / "config.json").write_text('{"pad_token_id": 0}')
    assert known_as() != before


def test_a_function_of_a_module_is_found_without_importing_it(tmp_path):
    package = tmp_path / "never_imported"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError\n")
    (package / "judges.py").write_text("raise RuntimeError\n")
    assert function_file(ScorerSection(function="never_imported.judges:f", folder=tmp_path)) == package / "judges.py"
    assert function_file(ScorerSection(function="never_imported:f", folder=tmp_path)) == package / "__init__.py"
    assert function_file(ScorerSection(function="never_imported.gone:f", folder=tmp_path)) is None
    assert function_file(ScorerSection(function="gone.py:f", folder=tmp_path)) is None
    assert function_file(ScorerSection(function="rlhf.records:Ranking")).name == "records.py"
    assert "never_imported" not in sys.modules


@pytest.fixture
def one_stage(tmp_path, workspace, monkeypatch):
    """Runs a pipeline of one stage, which is `stage(run)`; returns the names of the run folders so far."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    (tmp_path / "run.yaml").write_text(
        "group: t\ntracking: {wandb: off}\n"
        "stages: {sft: {model: {ref: ./base}, data: {sources: [{path: rows.jsonl}]}}}\n"
    )
    monkeypatch.setattr(Workspace, "write_report", lambda *_: None)
    monkeypatch.setitem(sys.modules, "a_stage", ModuleType("a_stage"))
    monkeypatch.setitem(pipeline_run.STAGES, "sft", "a_stage:train")

    def run(stage, **options):
        def train(config, workspace):
            with workspace.run("sft", config, config.tracking) as opened:
                stage(opened)
                return opened.finish({})

        sys.modules["a_stage"].train = train
        run_stages(load_pipeline(tmp_path / "run.yaml"), workspace, **options)

    run.folders = lambda: sorted(path.name[-1] for path in (workspace.home / "runs").glob("t-sft-*"))
    return run


class Killed(BaseException):
    pass


def kill(run):
    raise Killed


def test_fresh_begins_anew_where_a_run_was_killed(one_stage, workspace):
    with pytest.raises(Killed):
        one_stage(kill)
    (summary,) = (workspace.home / "runs").glob("t-sft-*/summary.json")
    summary.unlink()  # as after kill -9
    one_stage(lambda run: None, fresh=True)
    assert one_stage.folders() == ["1", "2"]


def test_without_fresh_the_killed_run_goes_on(one_stage):
    with pytest.raises(Killed):
        one_stage(kill)
    one_stage(lambda run: None)
    one_stage(lambda run: pytest.fail("was done before"))
    assert one_stage.folders() == ["1"]


def test_a_stage_that_a_monitor_stopped_says_again_why(one_stage):
    def stop(run):
        raise StoppedByMonitor("the gradient is nan")

    for _ in range(2):
        with pytest.raises(StoppedByMonitor, match="the gradient is nan"):
            one_stage(stop)
    one_stage(lambda run: None, fresh=True)


def test_a_stage_whose_artefact_is_gone_runs_in_a_folder_of_its_own(one_stage, monkeypatch):
    one_stage(lambda run: None)
    monkeypatch.setattr(pipeline_run, "_still_there", lambda *_: False)
    one_stage(lambda run: None)
    assert one_stage.folders() == ["1", "2"]
