"""`collect_labels`: what the model writes passes through the label store, and comes out as an artefact."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import tiny_model

from labeling_app.answers import Answer
from labeling_app.store import Store
from rlhf.config import load_config
from rlhf.errors import Interrupted, UserError
from rlhf.generation import Completion
from rlhf.pipeline.labels import collect_labels
from rlhf.pipeline.labels_config import LabelsConfig
from rlhf.records import write_jsonl
from rlhf.workspace import Workspace

TEXT = """
model: {ref: ./base, dtype: bfloat16}
data: {sources: [{path: rows.jsonl}]}
num_completions: 3
generation: {max_new_tokens: 8}
annotators: {function: "judges.py:people"}
output: {name: tiny/preferences}
tracking: {wandb: off}
"""
HELD_OUT = """
overlap: 2
held_out: {data: {sources: [{path: others.jsonl}]}, annotators: {function: "judges.py:expert"}}
"""
JUDGES = """
class Judge:
    def __init__(self, name):
        self.name = name

    def judge(self, mode, prompt, responses, presented):
        assert mode == "rank" and sorted(presented) == list(range(len(responses)))
        return [[at] for at in sorted(range(len(responses)), key=lambda at: responses[at])]


def people(seed):
    return [Judge("sim-a"), Judge("sim-b")]


def expert(seed):
    return [Judge("sim-expert")]


def nobody(seed):
    return []


def of_old(prompts, completions, seed):
    return []
"""


@pytest.fixture
def labels(tmp_path, monkeypatch):
    """Runs the stage; what is added to its file is given."""
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "base")
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": f"say {n}", "topic": n} for n in range(12)])
    write_jsonl(tmp_path / "others.jsonl", [{"prompt": f"tell {n}"} for n in range(4)])
    (tmp_path / "judges.py").write_text(JUDGES)

    def run(more="", *overrides, home="home"):
        (tmp_path / "labels.yaml").write_text(TEXT + more)
        config = load_config(tmp_path / "labels.yaml", LabelsConfig, overrides)
        workspace = Workspace.open(tmp_path / home, progress=False)
        return collect_labels(config, workspace), workspace

    return run


def rows_of(workspace, file, ref="tiny/preferences"):
    artefact = workspace.registry.resolve(ref)
    return [json.loads(line) for line in (artefact.path / file).read_text().splitlines()]


def test_what_is_published_went_through_the_store(labels):
    summary, workspace = labels(HELD_OUT)
    artefact = workspace.registry.resolve("tiny/preferences")
    with Store.open(workspace.home) as store:
        queues = {one.queue: one for one in store.status()}
        assert set(queues) == {artefact.run_id, f"{artefact.run_id}/dev"}
        judged = queues[artefact.run_id]
        assert judged.num_done == judged.num_tasks == 12 - summary["num_without_choice"]
        assert {one.name: one.simulated for one in judged.by_annotator} == {"sim-a": True, "sim-b": True}
    rows = rows_of(workspace, "train.jsonl")
    assert len(rows) == summary["num_rankings"] == 2 * judged.num_tasks
    assert {row["annotator"] for row in rows} == {"sim-a", "sim-b"}
    assert all(row["simulated"] and row["prompt"] == f"say {row['topic']}" for row in rows)
    assert {model for row in rows for model in row["models"]} == {"base/base@v1"}
    assert all(row["completions"][row["tiers"][0][0]] == min(row["completions"]) for row in rows)
    dev = rows_of(workspace, "dev.jsonl")
    assert {row["annotator"] for row in dev} == {"sim-expert"} and len(dev) <= 4
    assert summary["simulated"] is True and summary["agreement"] == 1.0 and summary["num_annotators"] == 2
    assert [parent.ref for parent in artefact.parents] == ["base/base@v1"]
    assert artefact.metadata["num_rankings"] == len(rows) and artefact.metadata["simulated"] is True


def test_the_same_seed_makes_the_same_artefact_here_and_elsewhere(labels):
    _, workspace = labels(HELD_OUT)
    first = workspace.registry.resolve("tiny/preferences")
    labels(HELD_OUT)  # again, in a store that holds the first run's tasks
    assert workspace.registry.resolve("tiny/preferences") == first
    _, elsewhere = labels(HELD_OUT, home="another")
    assert elsewhere.registry.resolve("tiny/preferences").digest == first.digest
    labels(HELD_OUT, "seed=1")
    assert workspace.registry.resolve("tiny/preferences").digest != first.digest


def test_a_run_that_was_killed_goes_on_with_the_answers_it_has(labels, monkeypatch, tmp_path):
    monkeypatch.setattr("rlhf.pipeline.labels.publish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        labels(HELD_OUT)
    monkeypatch.undo()
    [folder] = (tmp_path / "home" / "runs").iterdir()
    with Store.open(tmp_path / "home") as store:
        before = [one.submission_id for one in store.judgements()]
    workspace = Workspace.open(tmp_path / "home", progress=False).within(run_id=folder.name)
    collect_labels(load_config(tmp_path / "labels.yaml", LabelsConfig), workspace)
    with Store.open(tmp_path / "home") as store:
        assert [one.submission_id for one in store.judgements()] == before != []


def test_completions_are_written_on_the_accelerator_and_blank_ones_are_not_shown(labels, monkeypatch):
    seen = {}

    def sample(model, tokenizer, prompts, **_):
        seen.update(device=model.device.type, dtype=model.dtype)
        texts = [("a", "b", " ")] * 11 + [("a", " ", "a")]
        return [Completion(i, text, [65], True) for i in range(len(prompts)) for text in texts[i]]

    monkeypatch.setattr("rlhf.pipeline.sampling.sample", sample)
    monkeypatch.setattr("rlhf.pipeline.sampling.device", lambda: torch.device("meta"))
    summary, workspace = labels()
    assert (summary["num_rankings"], summary["num_without_choice"]) == (11, 1)
    assert {tuple(row["completions"]) for row in rows_of(workspace, "train.jsonl")} == {("a", "b")}
    assert seen == {"device": "meta", "dtype": torch.bfloat16}


def test_tasks_that_the_store_refuses_are_counted_and_said(labels, monkeypatch, caplog):
    kept = Store.add_tasks

    def without_the_first(store, tasks, queue):
        return kept(store, [replace(tasks[0], overlap=0), *tasks[1:]], queue)

    monkeypatch.setattr(Store, "add_tasks", without_the_first)
    summary, workspace = labels()
    assert summary["num_without_choice"] == 12 - len({row["prompt"] for row in rows_of(workspace, "train.jsonl")})
    assert "1 x overlap: 0 is less than 1" in caplog.text and "prompts are without a choice" in caplog.text


def test_where_people_answer_the_run_pauses_and_goes_on_with_what_they_have_said(labels, tmp_path, monkeypatch):
    with pytest.raises(Interrupted, match=r"0 of \d+ tasks in queue .*-labels-.*`rlhf --home .*home label serve`"):
        labels("", "annotators=people")
    [folder] = (tmp_path / "home" / "runs").iterdir()
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    again = Workspace.open(tmp_path / "home", progress=False).within(run_id=folder.name)
    config = load_config(tmp_path / "labels.yaml", LabelsConfig, ["annotators=people"])
    monkeypatch.setattr("rlhf.pipeline.labels.ModelWriter", None)  # nothing is written twice
    with Store.open(tmp_path / "home") as store:
        ann = store.add_user("ann").id
        given = store.claim(ann, folder.name)
        while given is not None:
            answer = Answer(tiers=[[response] for response, _ in given.responses])
            store.submit(ann, given.lease, f"key-{given.task_id}", answer, 1000)
            if given.task_id == 1:
                with pytest.raises(Interrupted, match=r"have answered 1 of \d+ tasks"):
                    collect_labels(config, again)
            given = store.claim(ann, folder.name)
    summary = collect_labels(config, again)
    assert summary["simulated"] is False and summary["num_annotators"] == 1
    assert {(row["annotator"], row.get("simulated")) for row in rows_of(again, "train.jsonl")} == {("ann", None)}


def test_a_panel_of_characters_judges_by_a_rubric(labels, tmp_path):
    (tmp_path / "rubric.py").write_text(
        "def worth(prompts, completions, **_):\n    return [len(t) for t in completions]\n"
    )
    panel = "annotators={panel: {honest: 2, malicious: 1}, rubric: {function: 'rubric.py:worth'}, noise: 0.01}"
    summary, workspace = labels("", panel, "overlap=3")
    rows = rows_of(workspace, "train.jsonl")
    assert summary["simulated"] is True and all(row["simulated"] for row in rows)
    assert {row["annotator"] for row in rows} == {"sim-honest-1", "sim-honest-2", "sim-malicious-1"}
    for row in rows:
        lengths = [len(row["completions"][tier[0]]) for tier in row["tiers"]]
        assert lengths == sorted(lengths, reverse="honest" in row["annotator"])


def test_so_many_tasks_as_are_wanted_and_none_that_was_asked_about_before(labels):
    first, workspace = labels("", "num_tasks=4")
    assert first["num_rankings"] + first["num_without_choice"] == 4
    labels("", "without=[tiny/preferences@v1]")
    prompts = [{row["prompt"] for row in rows_of(workspace, "train.jsonl", f"tiny/preferences@v{n}")} for n in (1, 2)]
    assert not prompts[0] & prompts[1] and len(prompts[1]) > 4
    with pytest.raises(UserError, match=r"all 12 prompts have been asked about in tiny/preferences@v1, tiny/pref.*@v2"):
        labels("", "without=[tiny/preferences@v1, tiny/preferences@v2]", "num_tasks=1")


def test_tasks_chosen_at_random_say_so(labels):
    summary, workspace = labels("", "select={by: random, pool: 3x}")
    rows = rows_of(workspace, "train.jsonl")
    assert summary["num_pool"] == 12 - summary["num_without_choice"]
    assert len(rows) == round(summary["num_pool"] / 3) and {row["selected_by"] for row in rows} == {"random"}


def test_choosing_by_disagreement_needs_somebody_to_disagree(labels):
    with pytest.raises(UserError, match=r"select\.ref is missing: name the reward model by whose members"):
        labels("", "select={by: disagreement}")


def test_a_reward_model_without_members_has_nothing_to_disagree_with(labels, tmp_path):
    registry = Workspace.open(tmp_path / "home").registry
    registry.publish(tiny_model(tmp_path / "alone", context=64), kind="reward", name="tiny/reward")
    with pytest.raises(UserError, match=r"select\.ref = 'tiny/reward': has no members that could disagree; train it"):
        labels("", "select={ref: tiny/reward}")


def test_no_more_completions_than_a_page_can_show(labels):
    with pytest.raises(UserError, match=r"num_completions = 10: .* less than or equal to 9"):
        labels("", "num_completions=10")


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("annotators={function: 'judges.py:nobody'}", r"judges.py:nobody': returned \[\]; expected a list of objects"),
        ("annotators={function: 'judges.py:of_old'}", "raised TypeError: of_old"),
        ("overlap=3", "overlap = 3: more than the 2 annotators there are"),
    ],
)
def test_annotators_that_are_none_are_refused_before_anything_is_written(labels, tmp_path, override, complaint):
    with pytest.raises(UserError, match=complaint):
        labels("", override)
    assert not (tmp_path / "home" / "labels.db").exists()
