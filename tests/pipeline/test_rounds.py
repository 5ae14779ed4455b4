"""`rounds`: the policy writes, annotators rank, the reward model and the policy are trained anew."""

import json
from pathlib import Path

import pytest
from pipeline_files import write_project

from rlhf.errors import Interrupted, UserError
from rlhf.pipeline.config import load_pipeline
from rlhf.pipeline.rounds import RoundsSection, figures, later_round, what_came_of
from rlhf.pipeline.run import run_stages
from rlhf.pipeline.supply import check_supply
from rlhf.records import write_jsonl
from rlhf.tracking import read_figures
from rlhf.workspace import Workspace

TWICE = [
    "labels.num_tasks=12",
    "reward.data.dev_fraction=0.4",
    "reward.ensemble={num_members: 2}",
    "rounds={num: 2, select: {pool: 2x, random_share: 0.5}}",
]
MADE = {"sft": "g/sft@v1", "labels": "g/preferences@v1", "reward": "g/reward@v1", "ppo": "g/policy@v1"}


def runs_of(workspace):
    return {path.name for path in (workspace.home / "runs").iterdir() if path.name.startswith("tiny-")}


def rankings_of(registry, version):
    return rows_of(registry.resolve(f"tiny/preferences@v{version}").path / "train.jsonl")


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project that has gone round twice."""
    folder = tmp_path_factory.mktemp("rounds")
    path = write_project(folder)
    workspace = Workspace.open(folder / "home", progress=False)
    return path, workspace, run_stages(load_pipeline(path, TWICE), workspace)


@pytest.mark.slow
def test_a_second_round_makes_second_versions_of_the_same_names(project):
    _, workspace, summary = project
    assert summary["artefacts"] == {
        "sft": "tiny/sft@v1",
        "labels": "tiny/preferences@v2",
        "reward": "tiny/reward@v2",
        "ppo": "tiny/policy@v2",
        "eval": "tiny/eval@v2",
    }
    assert [one["round"] for one in summary["rounds"]] == [1, 2]
    first, second = summary["rounds"]
    assert first["artefacts"]["ppo"] == "tiny/policy@v1" and second["artefacts"]["ppo"] == "tiny/policy@v2"
    assert second["artefacts"]["eval_last"] == "tiny/eval-last@v1"
    assert "round 2" in Path(summary["report"]).read_text()
    assert {"win_rate", "win_rate_ci", "accuracy", "accuracy_ci", "kl"} <= first.keys() & second.keys()
    assert "win_rate_over_last" not in first and len(second["win_rate_over_last_ci"]) == 2
    assert second["simulated"] is True
    assert summary["reward"]["accuracy"] == second["accuracy"]
    names = {
        name: figure for figure in read_figures(workspace.home / "runs" / summary["run"]) for name in [figure.name]
    }
    assert set(names) == {"rounds_win_rate", "rounds_accuracy"}
    assert "simulated" in names["rounds_win_rate"].description


@pytest.mark.slow
def test_the_policy_of_the_first_round_writes_to_other_prompts_and_all_answers_are_learned_from(project):
    _, workspace, summary = project
    registry = workspace.registry
    rows = [rankings_of(registry, number) for number in (1, 2)]
    assert {model for row in rows[0] for model in row["models"]} == {"tiny/sft@v1"}
    assert {model for row in rows[1] for model in row["models"]} == {"tiny/policy@v1"}
    prompts = [{row["prompt"] for row in part} for part in rows]
    assert not prompts[0] & prompts[1] and all(len(part) <= 12 for part in prompts)
    assert {row["selected_by"] for row in rows[1]} == {"random", "disagreement"} and "selected_by" not in rows[0][0]
    assert all(0 <= row["disagreement"] <= 0.5 for row in rows[1])
    assert summary["labels"]["disagreement_chosen"] >= summary["labels"]["disagreement_pool"] > 0
    learned = registry.resolve("tiny/reward-data@v2")
    assert {parent.ref for parent in learned.parents} == {"tiny/preferences@v1", "tiny/preferences@v2"}
    held_out = [
        {row["prompt"] for row in rows_of(registry.open(f"tiny/reward-data@v{number}") / "dev.jsonl")}
        for number in (1, 2)
    ]
    assert held_out[0] == held_out[1] < prompts[0]
    policy = registry.resolve("tiny/policy@v2")
    assert {parent.ref for parent in policy.parents} >= {"tiny/sft@v1", "tiny/reward@v2"}


@pytest.mark.slow
def test_rounds_that_are_done_are_not_done_again_and_the_first_is_that_of_a_file_without_rounds(project):
    path, workspace, first = project
    before = runs_of(workspace)
    again = run_stages(load_pipeline(path, TWICE), workspace)
    assert runs_of(workspace) == before and again["rounds"] == first["rounds"]
    alone = run_stages(load_pipeline(path, TWICE[:3]), workspace)
    assert runs_of(workspace) == before
    assert "rounds" not in alone and alone["artefacts"]["ppo"] == "tiny/policy@v1"
    assert read_figures(workspace.home / "runs" / alone["run"]) == []


@pytest.mark.slow
def test_what_the_rounds_have_gained_stands_also_where_the_next_one_does_not_end(project, monkeypatch):
    path, workspace, first = project
    seen = []

    def waiting(config, workspace):
        [folder] = {path.parent for path in (workspace.home / "runs").glob("*-run-*/figures.json")} - before
        seen.append((folder, "round 2" in (folder / "report.html").read_text(), read_figures(folder)[0].series[0].x))
        raise Interrupted("labels: people have answered nothing")

    before = {path.parent for path in (workspace.home / "runs").glob("*-run-*/figures.json")}
    monkeypatch.setattr("rlhf.pipeline.labels.collect_labels", waiting)
    with pytest.raises(Interrupted):
        run_stages(load_pipeline(path, [*TWICE, "rounds.num=3"]), workspace)
    [(folder, on_the_page, drawn)] = seen  # round 3 is under way
    assert on_the_page and drawn == (1.0, 2.0)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted" and "answered nothing" in summary["error"]
    assert summary["rounds"] == first["rounds"] and summary["artefacts"] == first["artefacts"]
    page = (folder / "report.html").read_text()
    assert "round 2" in page and "people have answered nothing" in page and "What each round has gained" in page


def test_prompts_that_do_not_last_for_all_rounds_are_found_before_the_first(tmp_path, caplog):
    path = write_project(tmp_path)  # of 40 prompts
    workspace = Workspace.open(tmp_path / "home", progress=False)
    ensemble = "reward.ensemble={num_members: 2}"
    with pytest.raises(
        UserError, match=r"rounds.num = 3: 40 different prompts are enough for 2 rounds of .* = 20, and"
    ):
        run_stages(load_pipeline(path, ["labels.num_tasks=20", ensemble, "rounds=3"]), workspace)
    assert not (workspace.home / "runs").exists() and not caplog.messages
    check_supply(load_pipeline(path, ["labels.num_tasks=8", ensemble, "rounds=2"]), workspace)
    assert not caplog.messages
    check_supply(load_pipeline(path, ["labels.num_tasks=9", ensemble, "rounds=3"]), workspace)
    assert "num_tasks = 9 x rounds.select.pool = 4 (round 2: 31, round 3: 22)" in caplog.text
    # of later prompts, those that round 1 has not asked about
    write_jsonl(tmp_path / "later.jsonl", [{"prompt": f"Prompt {n}:"} for n in range(30, 44)])
    later = [f"rounds={{num: 3, data: {{sources: [{{path: {tmp_path}/later.jsonl}}]}}}}", ensemble]
    with pytest.raises(UserError, match="enough for 2 rounds, and none is asked about twice"):
        check_supply(load_pipeline(path, later), workspace)


STAGES = {
    "sft": {"output": {"name": "g/sft"}},
    "labels": {"model": {"ref": "g/sft"}, "output": {"name": "g/preferences"}, "held_out": {}, "num_tasks": 3},
    "reward": {
        "data": {
            "sources": [{"path": "more.jsonl"}, {"path": "g/preferences", "split": "train"}],
            "dev": [{"path": "g/preferences", "split": "dev"}],
        },
        "output": {"name": "g/reward"},
    },
    "ppo": {"model": {"ref": "g/sft", "dtype": "float32"}, "output": {"name": "g/policy"}},
    "eval": {
        "data": {"sources": [{"path": "g/preferences", "split": "dev"}]},
        "baseline": "g/sft",
        "candidate": "g/policy",
        "output": {"name": "g/eval"},
        "candidates": {"x": "y/z"},
    },
    "export": {"path": "out"},
}


def test_what_a_later_round_s_stages_take_from_the_rounds_before():
    second = later_round(STAGES, RoundsSection(num=3), [MADE])
    assert list(second) == ["labels", "reward", "ppo", "eval", "eval_last"]
    assert second["labels"]["model"]["ref"] == "g/policy@v1" and "held_out" not in second["labels"]
    assert second["labels"]["select"] == {
        "by": "disagreement",
        "ref": "g/reward@v1",
        "random_share": 0.25,
        "pool": 4.0,
    }
    on_the_same = {"sources": [{"path": "g/preferences@v1", "split": "dev"}]}
    assert second["eval"] == STAGES["eval"] | {"data": on_the_same}
    assert second["eval_last"] == {
        "data": on_the_same,
        "baseline": "g/policy@v1",
        "candidate": "g/policy",
        "reference": "g/sft",
        "output": {"name": "g/eval-last", "alias": None},
    }
    assert second["ppo"] == STAGES["ppo"]
    third = later_round(STAGES, RoundsSection(num=3), [MADE, {name: ref[:-1] + "2" for name, ref in MADE.items()}])
    assert third["labels"]["without"] == ["g/preferences@v1", "g/preferences@v2"]
    assert [source["path"] for source in third["reward"]["data"]["sources"]] == [
        "more.jsonl",
        "g/preferences@v1",
        "g/preferences@v2",
        "g/preferences",
    ]
    assert third["reward"]["data"]["dev"] == [{"path": "g/preferences@v1", "split": "dev"}]
    assert STAGES["reward"]["data"]["sources"][1] == {"path": "g/preferences", "split": "train"}


def test_a_share_that_is_held_out_is_that_of_round_1():
    config = {"sources": [{"path": "g/preferences", "split": "train"}], "dev_fraction": 0.1}
    stages = {**STAGES, "reward": {**STAGES["reward"], "data": config}, "eval_reward": {"data": config}}
    found = later_round(stages, RoundsSection(num=3), [MADE, {**MADE, "labels": "g/preferences@v2"}])
    first = {"path": "g/preferences@v1", "split": "train"}
    assert found["eval_reward"]["data"] == {"sources": [first], "dev_fraction": 0.1}
    assert found["reward"]["data"]["sources"] == [
        first,
        {"path": "g/preferences@v2", "split": "train", "held_out": False},
        {"path": "g/preferences", "split": "train", "held_out": False},
    ]


def test_ppo_can_go_on_from_the_last_policy_and_is_still_held_to_the_sft_model():
    ppo = later_round(STAGES, RoundsSection(num=2, ppo_from="last"), [MADE])["ppo"]
    assert ppo["model"] == {"ref": "g/policy@v1", "dtype": "float32"} and ppo["reference"] == "g/sft"


def test_a_round_is_drawn_with_its_intervals():
    results = {
        "labels": {"num_rankings": 9, "simulated": False},
        "reward": {"accuracy": 0.7, "accuracy_ci": [0.6, 0.8]},
        "eval": {"win_rate": 0.6, "win_rate_ci": [0.5, 0.7]},
    }
    found = [what_came_of(1, results, MADE)]
    found.append(what_came_of(2, {**results, "eval_last": {"win_rate": 0.55, "win_rate_ci": [0.4, 0.7]}}, MADE))
    wins, accuracy = figures(found)
    assert [(series.name, series.x, series.y, series.low) for series in wins.series] == [
        ("against SFT", (1.0, 2.0), (0.6, 0.6), (0.5, 0.5)),
        ("against the round before", (2.0,), (0.55,), (0.4,)),
    ]
    assert accuracy.series[0].high == (0.8, 0.8) and "simulated" not in wins.description
    assert figures([what_came_of(1, {}, {})]) == []


def test_rounds_that_were_judged_by_a_reward_model_each_are_not_joined_by_a_line():
    def judged_by(*judges):
        judged = {"win_rate": 0.6, "win_rate_ci": [0.5, 0.7], "judge_is_training_reward": True}
        return figures([what_came_of(i, {"eval": {**judged, "judge": judge}}, MADE) for i, judge in enumerate(judges)])

    (apart,), (alike,) = judged_by("g/reward@v1", "g/reward@v2"), judged_by("g/judge@v1", "g/judge@v1")
    assert (apart.kind, alike.kind) == ("points", "lines")
    assert "rounds do not compare" in apart.description and "rounds do not compare" not in alike.description
    assert "favours it" in apart.description


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["rounds=2"], r"rounds: round 1 asks about every prompt there is.*set stages.labels.num_tasks"),
        (["rounds=2", "labels.num_tasks=4"], r"stages.reward trains no ensemble whose members could disagree; add"),
        (["rounds=0"], r"rounds.num = 0: input should be greater than or equal to 1"),
        (["rounds={num: 2, selct: 1}"], r"rounds.selct = 1: unknown key; did you mean rounds.select\?"),
    ],
)
def test_rounds_that_cannot_be_gone_are_refused_before_anything_runs(tmp_path, overrides, complaint):
    path = write_project(tmp_path)
    with pytest.raises(UserError, match=complaint):
        load_pipeline(path, overrides)


def test_rounds_need_their_stages(tmp_path):
    path = write_project(tmp_path)
    path.write_text(path.read_text().split("  labels:")[0] + "rounds: 2\n")
    with pytest.raises(
        UserError, match="rounds: needs the stages sft, labels, reward, ppo; missing: labels, reward, ppo"
    ):
        load_pipeline(path)
