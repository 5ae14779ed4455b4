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
