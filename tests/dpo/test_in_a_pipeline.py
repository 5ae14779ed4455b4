"""DPO and RLOO beside PPO, or in its place, in the file of `rlhf run`."""

import pytest
from tiny import tiny_model

from rlhf.pipeline.config import load_pipeline
from rlhf.pipeline.run import run_stages
from rlhf.records import write_jsonl
from rlhf.workspace import Workspace

FILE = """
group: tiny
tracking: {wandb: off}
stages:
  sft:
    model: {ref: base}
    data: {sources: [{path: demos.jsonl}]}
    trainer: TRAINER
  dpo: {data: {sources: [{path: pairs.jsonl}], dev_fraction: 0.3}, trainer: TRAINER}
  rloo:
    reward: [{function: "rewards.py:length"}]
    data: {sources: [{path: pairs.jsonl}], dev_fraction: 0.3}
    trainer: {max_steps: 1, per_device_train_batch_size: 8, max_completion_length: 8, activation_checkpointing: false}
  eval:
    data: {sources: [{path: pairs.jsonl}]}
    judge: [{function: "rewards.py:length"}]
    generation: {max_new_tokens: 8}
"""
TRAINER = "{max_steps: 1, per_device_train_batch_size: 4, activation_checkpointing: false}"


@pytest.fixture
def file(tmp_path):
    tiny_model(tmp_path / "base")
    write_jsonl(tmp_path / "demos.jsonl", [{"prompt": f"Q{n}", "completion": "yes"} for n in range(8)])
    write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": f"Q{n}", "chosen": "yes", "rejected": "no"} for n in range(24)])
    (tmp_path / "rewards.py").write_text(
        "def length(prompts, completions):\n    return [len(c) for c in completions]\n"
    )
    (tmp_path / "run.yaml").write_text(FILE.replace("TRAINER", TRAINER))
    return tmp_path / "run.yaml"


def test_both_run_from_the_sft_model_and_are_not_run_again(file, tmp_path, monkeypatch):
    monkeypatch.setattr(Workspace, "write_report", lambda *_: None)
    workspace = Workspace.open(tmp_path / "home", progress=False)
    summary = run_stages(load_pipeline(file), workspace)
    assert summary["artefacts"]["dpo"] == "tiny/dpo@v1" and summary["artefacts"]["rloo"] == "tiny/rloo@v1"
    for name in ("tiny/dpo", "tiny/rloo"):
        artefact = workspace.registry.resolve(name, kinds=["policy"])
        assert artefact.parents[0].ref == "tiny/sft@v1"
    assert (summary["eval"]["candidate"], summary["eval"]["baseline"]) == ("tiny/rloo@v1", "tiny/sft@v1")
    assert run_stages(load_pipeline(file), workspace)["artefacts"] == summary["artefacts"]


def test_what_they_take_from_earlier_stages_need_not_be_said(file):
    text = file.read_text().replace('    reward: [{function: "rewards.py:length"}]\n', "")
    text = text.replace("  dpo: {data: {sources: [{path: pairs.jsonl}], dev_fraction: 0.3}, trainer", "  dpo: {trainer")
    text = text.replace(
        "  dpo:",
        "  labels: {data: {sources: [{path: pairs.jsonl}]}, annotators: {function: 'a:b'}}\n  reward: {}\n  dpo:",
    )
    file.write_text(text + "  export: {format: merged, path: out}\n")
    stages = load_pipeline(file).stages
    assert stages["dpo"]["data"] == stages["reward"]["data"]
    assert stages["dpo"]["data"]["sources"] == [{"path": "tiny/preferences", "split": "train"}]
    assert stages["rloo"]["reward"] == [{"ref": "tiny/reward"}]
    assert stages["dpo"]["model"]["ref"] == stages["rloo"]["model"]["ref"] == "tiny/sft"
    assert stages["export"]["model"] == "tiny/rloo"
