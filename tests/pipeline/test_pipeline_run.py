"""`rlhf run` on a tiny project: all stages once, nothing twice, and what changes runs again with all that follows."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline_files import write_project

from rlhf.errors import Interrupted, StoppedByMonitor, UserError
from rlhf.pipeline.config import SCHEMAS, load_pipeline
from rlhf.pipeline.run import run_stages
from rlhf.workspace import Workspace

STAGES = ("sft", "labels", "reward", "ppo", "eval")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project that has been run once: its file, its workspace, and what the run returned."""
    folder = tmp_path_factory.mktemp("project")
    path = write_project(folder)
    workspace = Workspace.open(folder / ".rlhf", progress=False)  # beside the configs, as by default
    return path, workspace, run_stages(load_pipeline(path), workspace)


def runs_of(workspace):
    return {path.name for path in (workspace.home / "runs").iterdir() if not path.name.endswith("tmp")}


def stages_run(workspace, before):
    """Which stages made a new run folder since `before`."""
    new = {name.removeprefix("tiny-").split("-")[0] for name in runs_of(workspace) - before if name.startswith("tiny-")}
    return sorted(new, key=list(SCHEMAS).index)


def test_the_summary_has_the_shape_that_is_promised(project):
    path, workspace, summary = project
    assert summary["status"] == "done" and summary["seconds"] > 0
    assert summary["artefacts"] == {
        "sft": "tiny/sft@v1",
        "labels": "tiny/preferences@v1",
        "reward": "tiny/reward@v1",
        "ppo": "tiny/policy@v1",
        "eval": "tiny/eval@v1",
    }
    assert {"eval_loss", "perplexity"} <= set(summary["sft"])
    assert {"accuracy", "accuracy_ci", "accuracy_longest"} <= set(summary["reward"])
    assert len(summary["reward"]["accuracy_ci"]) == 2
    assert {"score_before", "score_after", "kl"} <= set(summary["ppo"])
    assert {"win_rate", "win_rate_ci"} <= set(summary["eval"])
    assert summary["export"]["path"] == str(path.parent / "aligned")
    assert summary["labels"]["simulated"] is True and summary["labels"]["num_annotators"] == 2
    written = json.loads((workspace.home / "runs" / summary["run"] / "summary.json").read_text())
    assert {key: summary[key] for key in written} == written
    page = Path(summary["report"]).read_text()
    for word in ("tiny/policy@v1", "person-0", "simulated", "win"):
        assert word in page


def test_the_lineage_leads_from_the_policy_to_the_people(project):
    _, workspace, _ = project

    def walk(node):
        yield node
        for child in node.children:
            yield from walk(child)

    nodes = list(walk(workspace.registry.lineage("tiny/policy@candidate")))
    names = {node.artefact.ref for node in nodes}
    assert names >= {
        "tiny/policy@v1",
        "tiny/sft@v1",
        "tiny/reward@v1",
        "tiny/reward-data@v1",
        "tiny/preferences@v1",
        "base/base@v1",
    }
    people = {judge["name"] for node in nodes for judge in node.annotators if node.artefact.kind == "preferences"}
    assert people == {"person-0", "person-1"}
    assert all(node.simulated for node in nodes if node.annotators)


def test_the_export_opens_in_a_fresh_process(project):
    path, _, _ = project
    code = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model, tokenizer = (c.from_pretrained(sys.argv[1]) for c in (AutoModelForCausalLM, AutoTokenizer))\n"
        "ids = tokenizer('Prompt 1:', return_tensors='pt')\n"
        "print(model.generate(**ids, max_new_tokens=4, do_sample=False).shape[1] > ids['input_ids'].shape[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path.parent / "aligned"], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"
    card = (path.parent / "aligned" / "README.md").read_text()
    assert "tiny/policy@v1" in card and "tiny/sft@v1" in card


def test_what_is_done_is_not_done_again(project):
    path, workspace, first = project
    before = runs_of(workspace)
    started = time.monotonic()
    second = run_stages(load_pipeline(path), workspace)
    assert time.monotonic() - started < 10
    assert stages_run(workspace, before) == []
    for key in ("artefacts", *STAGES):
        assert second[key] == first[key]
    assert [each.ref for each in workspace.registry.artefacts("tiny/policy", "policy")] == ["tiny/policy@v1"]
    # neither how it is tracked nor where it is started from is a reason
    run_stages(load_pipeline(path, ["tracking.project=other"]), workspace)
    assert stages_run(workspace, before) == []


def test_a_changed_value_runs_its_stage_and_what_follows(project, caplog):
    path, workspace, first = project
    before = runs_of(workspace)
    changed = run_stages(load_pipeline(path, ["ppo.trainer.kl_coef=0.7"]), workspace)
    assert stages_run(workspace, before) == ["ppo", "eval"]
    assert changed["artefacts"] == first["artefacts"] | {"ppo": "tiny/policy@v2", "eval": "tiny/eval@v2"}
    assert workspace.registry.resolve("tiny/policy@candidate").version == 2
    card = (path.parent / "aligned" / "README.md").read_text()
    assert "tiny/policy@v2" in card
    # and back: what was made with the first config is still there
    before = runs_of(workspace)
    caplog.clear()
    again = run_stages(load_pipeline(path), workspace)
    assert stages_run(workspace, before) == [] and again["artefacts"] == first["artefacts"]
    line = "tiny/policy: latest is v2; this run’s is v1"
    assert line in caplog.messages and line in Path(again["report"]).read_text()


def test_a_changed_function_runs_again_where_it_is_used(project):
    path, workspace, _ = project
    source = path.parent / "judges_of_this_run.py"
    text = source.read_text()
    before = runs_of(workspace)
    try:
        source.write_text(text + "\n# another version\n")
        run_stages(load_pipeline(path), workspace)
    finally:
        source.write_text(text)
    # the rankings came out the same, so the reward model and the policy stand
    assert stages_run(workspace, before) == ["labels", "eval"]


def test_changed_data_run_again_where_they_are_used(project):
    path, workspace, first = project
    held_out = path.parent / "held_out.jsonl"
    text = held_out.read_text()
    before = runs_of(workspace)
    try:
        held_out.write_text(text + '{"prompt": "one more"}\n')
        summary = run_stages(load_pipeline(path), workspace)
    finally:
        held_out.write_text(text)
    assert stages_run(workspace, before) == ["eval"]
    assert summary["eval"]["num_prompts"] == first["eval"]["num_prompts"] + 1


@pytest.mark.slow
def test_fresh_runs_everything_again(project):
    path, workspace, first = project
    before = runs_of(workspace)
    summary = run_stages(load_pipeline(path), workspace, fresh=True)
    assert stages_run(workspace, before) == list(STAGES)
    registry = workspace.registry
    # the same seed: the same weights
    assert registry.resolve(summary["artefacts"]["ppo"]).digest == registry.resolve(first["artefacts"]["ppo"]).digest


def test_a_reward_model_that_falls_short_stops_the_run_before_ppo(project):
    path, workspace, first = project
    text = path.read_text()
    before = runs_of(workspace)
    try:
        path.write_text(
            text.replace("  ppo:\n", "  eval_reward: {require: {accuracy: 1.0}, num_bootstrap: 100}\n  ppo:\n")
        )
        with pytest.raises(StoppedByMonitor, match="accuracy"):
            run_stages(load_pipeline(path, ["ppo.trainer.kl_coef=0.6"]), workspace)
        assert stages_run(workspace, before) == ["eval_reward"]
        with pytest.raises(StoppedByMonitor, match="change its config, or run with --fresh"):
            run_stages(load_pipeline(path), workspace)
        met = run_stages(load_pipeline(path, ["eval_reward.require.accuracy=0"]), workspace)
    finally:
        path.write_text(text)
    assert met["eval_reward"]["accuracy"] == first["reward"]["accuracy"]
    assert met["artefacts"]["eval_reward"].startswith("tiny/reward-eval@v") and met["eval"] == first["eval"]


def test_a_run_that_waits_for_people_ends_as_interrupted_and_goes_on_by_the_same_command(project):
    path, workspace, _ = project
    before = runs_of(workspace)
    with pytest.raises(Interrupted, match=r"0 of \d+ tasks in queue tiny-labels-\w+-1.*`rlhf run run.yaml` goes on"):
        run_stages(load_pipeline(path, ["labels.annotators=people"]), replace(workspace, command="rlhf run run.yaml"))
    assert stages_run(workspace, before) == ["labels"]
    [whole] = [name for name in runs_of(workspace) - before if not name.startswith("tiny-")]
    assert json.loads((workspace.home / "runs" / whole / "summary.json").read_text())["status"] == "interrupted"


def test_a_stage_that_fails_leaves_the_finished_ones_and_is_taken_up_once_it_is_mended(tmp_path):
    path = write_project(tmp_path)
    workspace = Workspace.open(tmp_path / "home", progress=False)
    prompts = (tmp_path / "prompts.jsonl").read_text()
    (tmp_path / "prompts.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"prompts\.jsonl"):
        run_stages(load_pipeline(path), workspace)
    assert {each.ref for each in workspace.registry.artefacts("tiny/sft")} == {"tiny/sft-data@v1", "tiny/sft@v1"}
    assert workspace.registry.artefacts("tiny/preferences") == []
    (tmp_path / "prompts.jsonl").write_text(prompts)
    before = runs_of(workspace)
    summary = run_stages(load_pipeline(path), workspace)
    assert summary["status"] == "done" and "sft" not in stages_run(workspace, before)
