"""What a run holds, what it may go on with, and what it names as its ancestors."""

import pytest

from rlhf.config import OutputSection, Section
from rlhf.datasets import DataConfig, DataSource, load
from rlhf.records import Prompt, write_jsonl
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
