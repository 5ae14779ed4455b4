"""What a run holds, what it may go on with, and what it names as its ancestors."""

import json
import struct
from dataclasses import replace
from datetime import timedelta

import pytest

from rlhf.config import ModelSection, OutputSection, Section
from rlhf.datasets import DataConfig, DataSource, load
from rlhf.datasets.rows import RawRow
from rlhf.errors import Interrupted, UserError
from rlhf.records import Prompt, write_jsonl
from rlhf.scoring_config import ScorerSection
from rlhf.tracking import TrackingConfig
from rlhf.workspace import Workspace

OFF = TrackingConfig(wandb="off")


class Config(Section):
    """Of a stage that does nothing."""

    seed: int = 0
    rate: float = 1e-5
    trainer: dict[str, object] = {}
    output: OutputSection = OutputSection(name="t/out")
    tracking: TrackingConfig = OFF


@pytest.fixture
def workspace(tmp_path):
    return Workspace.open(tmp_path / "home", progress=False)


def publish_rows(workspace, tmp_path, *texts):
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": text} for text in texts])
    return workspace.registry.publish(tmp_path / "rows.jsonl", kind="dataset", name="t/rows")


def load_rows(workspace):
    return load(DataConfig(sources=[DataSource(path="t/rows")]), (Prompt,), seed=0, open_ref=workspace.open_ref)


def test_the_parent_of_data_is_the_version_that_was_read(workspace, tmp_path):
    publish_rows(workspace, tmp_path, "a", "b")
    data = load_rows(workspace)
    assert publish_rows(workspace, tmp_path, "other").version == 2
    with workspace.run("sft", Config(), OFF) as run:
        made = workspace.publish_data(data, name="t/used", kind="dataset", run=run)
    assert [(parent.role, parent.ref) for parent in made.parents] == [("source", "t/rows@v1")]


def test_data_sets_of_the_hub_are_on_record(workspace, monkeypatch):
    monkeypatch.setattr("rlhf.datasets.sources.hub_rows", lambda _: iter([RawRow("owner/rows", 1, {"prompt": "a"})]))
    sources = [DataSource(path="hub:owner/rows"), DataSource(path="owner/rows", limit=1)]
    data = load(DataConfig(sources=sources), (Prompt,), seed=0)
    with workspace.run("sft", Config(), OFF) as run:
        made = workspace.publish_data(data, name="t/used", kind="dataset", run=run)
    assert made.metadata == {"num_train": 1, "num_dev": 0, "hub_datasets": ["owner/rows"]}


def broken(self, folder):
    raise ZeroDivisionError("in a plot")


def test_a_report_that_fails_hides_no_error_of_the_run(workspace, monkeypatch, caplog):
    monkeypatch.setattr(Workspace, "write_report", broken)
    with pytest.raises(ValueError, match="of the training"), workspace.run("sft", Config(), OFF):
        raise ValueError("of the training")
    assert "the report could not be written" in caplog.text and "in a plot" in caplog.text


def test_a_report_that_fails_leaves_a_finished_run_finished(workspace, monkeypatch, caplog):
    monkeypatch.setattr(Workspace, "write_report", broken)
    with workspace.run("sft", Config(), OFF) as run:
        run.finish({"eval_loss": 1.0})
    assert "the report could not be written" in caplog.text


def test_gc_leaves_alone_what_a_run_reads(workspace, tmp_path):
    publish_rows(workspace, tmp_path, "a", "b")
    data = load_rows(workspace)
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    for seed in range(2):
        workspace.registry.publish(tmp_path / "model.safetensors", kind="base", name="t/base", metadata={"seed": seed})
    publish_rows(workspace, tmp_path, "other")
    every = {"t/rows@v1", "t/base@v1"}

    def deleted():
        return {artefact.ref for artefact in workspace.registry.gc(grace=timedelta(0)).delete}

    assert deleted() == every
    with (
        pytest.raises(Interrupted),
        workspace.run("sft", Config(), OFF, data=data, models=["t/base@v1"]) as run,
    ):
        assert deleted() == set()
        raise Interrupted("by a signal")
    assert deleted() == set()  # to be resumed with
    with workspace.within(run_id=run.id).run("sft", Config(), OFF, data=data, models=["t/base@v1"]):
        assert deleted() == set()
    assert deleted() == every


def test_an_input_that_gc_has_deleted_is_said_and_the_run_has_failed(workspace, tmp_path):
    publish_rows(workspace, tmp_path, "a", "b")
    data = load_rows(workspace)
    publish_rows(workspace, tmp_path, "other")
    workspace.registry.gc(dry_run=False, grace=timedelta(0))
    with (
        pytest.raises(UserError, match="t/rows@v1: deleted by gc"),
        workspace.within(run_id="r1").run("sft", Config(), OFF, data=data),
    ):
        raise AssertionError
    assert summary_of(workspace, "r1")["status"] == "failed"


# Resuming


def summary_of(workspace, run_id):
    return json.loads((workspace.home / "runs" / run_id / "summary.json").read_text())


@pytest.fixture
def broken_off(workspace, tmp_path):
    """A workspace that goes on with a run that was interrupted, and the data that it had."""
    publish_rows(workspace, tmp_path, "a", "b")
    data, mine = load_rows(workspace), workspace.within(run_id="r1")
    with pytest.raises(Interrupted), mine.run("sft", Config(), OFF, data=data):
        raise Interrupted("by a signal")
    return mine, data


def refusal(mine, stage, config, data):
    before = (mine.home / "runs" / "r1" / "summary.json").read_bytes()
    with pytest.raises(UserError) as caught, mine.run(stage, config, config.tracking, data=data):
        raise AssertionError
    assert (mine.home / "runs" / "r1" / "summary.json").read_bytes() == before
    return list(caught.value.problems)


def test_a_run_goes_on_as_what_it_was(broken_off):
    mine, data = broken_off
    elsewhere = Config(
        tracking=TrackingConfig(wandb="off", project="other"), output=OutputSection(name="t/other", alias="best")
    )
    with mine.run("sft", elsewhere, elsewhere.tracking, data=data) as run:
        run.finish({})
    assert summary_of(mine, "r1")["status"] == "done"


def test_a_run_of_another_stage_is_not_gone_on_with(broken_off):
    mine, data = broken_off
    assert refusal(mine, "reward", Config(), data) == [
        "run r1: is a run of sft, not of reward; start a new one without --resume"
    ]


def test_every_value_that_is_no_longer_the_same_is_named(broken_off):
    mine, data = broken_off
    config = Config(rate=0.5, trainer={"max_steps": 3})
    assert refusal(mine, "sft", config, data) == [
        "run r1: rate = 0.5: the run was begun with 1e-05",
        "run r1: trainer = (not set): the run was begun with {}",
        "run r1: trainer.max_steps = 3: the run was begun with (not set); take that back, or start a new run without "
        "--resume",
    ]


def test_other_rows_are_refused(broken_off, tmp_path):
    mine, _ = broken_off
    publish_rows(mine, tmp_path, "a", "c")
    assert refusal(mine, "sft", Config(), load_rows(mine)) == [
        "run r1: data: the rows are not those that the run was begun with; take that back, or start a new run without "
        "--resume"
    ]


class WithModels(Config):
    """Of a stage that reads models and a function."""

    model: ModelSection
    reward: list[ScorerSection] = []


def interrupt(mine, config):
    with pytest.raises(Interrupted), mine.run("ppo", config, OFF):
        raise Interrupted("by a signal")


def go_on(mine, config):
    with mine.run("ppo", config, OFF) as run:
        run.finish({})


def publish_model(workspace, tmp_path, text):
    (tmp_path / "weights.json").write_text(text)
    return workspace.registry.publish(tmp_path / "weights.json", kind="sft", name="t/sft")


def test_a_model_that_has_a_newer_version_is_not_gone_on_with_unless_the_old_one_is_named(workspace, tmp_path):
    mine = workspace.within(run_id="r1")
    publish_model(workspace, tmp_path, "1")
    interrupt(mine, WithModels(model=ModelSection(ref="t/sft")))
    interrupt(mine, WithModels(model=ModelSection(ref="t/sft")))
    publish_model(workspace, tmp_path, "2")
    assert refusal(mine, "ppo", WithModels(model=ModelSection(ref="t/sft")), None) == [
        "run r1: model.ref = 't/sft': means t/sft@v2 now and meant t/sft@v1 when the run was begun; model.ref=t/sft@v1 "
        "still does; take that back, or start a new run without --resume"
    ]
    assert refusal(mine, "ppo", WithModels(model=ModelSection(ref="t/sft@v2")), None) == [
        "run r1: model.ref = 't/sft@v2': the run was begun with 't/sft'; take that back, or start a new run without "
        "--resume"
    ]
    go_on(mine, WithModels(model=ModelSection(ref="t/sft@v1")))


def test_a_function_or_a_folder_that_has_changed_is_not_gone_on_with(workspace, tmp_path):
    mine = workspace.within(run_id="r1")
    (tmp_path / "rewards.py").write_text("def brief(): ...")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    function = ScorerSection(function="rewards.py:brief", folder=tmp_path)
    config = WithModels(model=ModelSection(ref=str(tmp_path / "base")), reward=[function])
    interrupt(mine, config)
    (tmp_path / "base" / "notes.bin").write_text("of no interest")
    interrupt(mine, config)
    (tmp_path / "rewards.py").write_text("def brief(): return 1")
    (tmp_path / "base" / "config.json").write_text('{"a": 1}')
    assert refusal(mine, "ppo", config, None) == [
        f"run r1: model.ref = '{tmp_path}/base': {tmp_path}/base has changed since the run was begun",
        f"run r1: reward.0.function = 'rewards.py:brief': {tmp_path}/rewards.py has changed since the run was begun; "
        "take that back, or start a new run without --resume",
    ]


def test_a_model_of_the_hub_is_known_by_its_commit(workspace, tmp_path, monkeypatch):
    cache = tmp_path / "hub" / "models--owner--base"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    mine, config = workspace.within(run_id="r1"), WithModels(model=ModelSection(ref="owner/base"))

    def fetched(commit):
        (cache / "snapshots" / commit).mkdir(parents=True)
        (cache / "snapshots" / commit / "config.json").write_text("{}")
        (cache / "refs").mkdir(exist_ok=True)
        (cache / "refs" / "main").write_text(commit)

    fetched("c1")
    interrupt(mine, config)
    interrupt(mine, config)
    fetched("c2")
    (problem,) = refusal(mine, "ppo", config, None)
    assert "'owner/base': means owner/base at commit c2 now and meant owner/base at commit c1" in problem


def test_a_run_that_is_done_is_not_taken_up_again(workspace):
    mine = workspace.within(run_id="r1")
    with mine.run("sft", Config(), OFF) as run:
        run.finish({"artefact": "t/out@v1"})
    assert refusal(mine, "sft", Config(), None) == [
        "run r1: is done and published t/out@v1; it is not taken up again: start a new one without --resume"
    ]


def test_an_interrupted_run_names_the_command_that_goes_on(workspace):
    with workspace.within(run_id="r1").run("sft", Config(), OFF) as run:
        pass
    typed = replace(workspace, command="rlhf sft sft.yaml seed=1")
    assert typed.how_to_go_on(run) == "`rlhf sft sft.yaml seed=1 --resume r1`"
    assert workspace.how_to_go_on(run) == "the same command and --resume r1"
    whole = replace(workspace, command="rlhf run run.yaml", resumes_itself=True)
    assert whole.within(run_id="r1").how_to_go_on(run) == "`rlhf run run.yaml`"


def test_ctrl_c_is_an_interruption_where_there_is_something_to_go_on_from(workspace):
    typed = replace(workspace, command="rlhf reward r.yaml").within(run_id="r1")
    with pytest.raises(KeyboardInterrupt), typed.run("reward", Config(), OFF):
        raise KeyboardInterrupt
    goes_on = r"in the middle of reward; go on with `rlhf reward r\.yaml --resume r1`"
    with pytest.raises(Interrupted, match=goes_on), typed.run("reward", Config(), OFF) as run:
        (run.checkpoints / "checkpoint-3").mkdir()
        raise KeyboardInterrupt
    whole = replace(workspace, command="rlhf run run.yaml", resumes_itself=True).within(run_id="r2")
    goes_on = r"in the middle of labels; go on with `rlhf run run\.yaml`"
    with pytest.raises(Interrupted, match=goes_on), whole.run("labels", Config(), OFF):
        raise KeyboardInterrupt
    assert [summary_of(workspace, run_id)["status"] for run_id in ("r1", "r2")] == ["interrupted"] * 2
