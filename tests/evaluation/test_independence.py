"""Whether a judge learned from the same people as what the policy was trained for."""

import pytest
from tiny import tiny_model

from rlhf.config import load_config
from rlhf.evaluation.config import EvaluationConfig
from rlhf.evaluation.independence import judge_is_training_reward, shared_annotators, shares_judgements
from rlhf.evaluation.policy import evaluate_policy
from rlhf.modeling import find_model
from rlhf.records import write_jsonl
from rlhf.scorers import find_scorers
from rlhf.scoring_config import ScorerSection
from rlhf.workspace import Workspace


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    seeds = {"policy": 1, "sft": 2}
    rewards = {"reward": 3, "same": 4, "apart": 5, "alone": 6}
    return {name: tiny_model(folder / name, seed=seed) for name, seed in seeds.items()} | {
        name: tiny_model(folder / name, "reward", seed=seed) for name, seed in rewards.items()
    }


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setattr(Workspace, "write_report", lambda *_: None)  # has tests of its own, and takes a second
    return Workspace.open(tmp_path / "home", progress=False)


@pytest.fixture
def judged_by(tmp_path, models, workspace):
    """What lineage says of a judge and a policy whose reward learned from ann and bob."""
    registry = workspace.registry

    def rows(name, annotators, parents=()):
        folder = tmp_path / name
        write_jsonl(folder / "train.jsonl", [{"prompt": name, "chosen": "a", "rejected": "b"}])
        metadata = {"annotators": [{"name": each, "num_judgements": 1} for each in annotators]}
        return registry.publish(folder, kind="preferences", name=f"t/{name}", metadata=metadata, parents=parents)

    everybody = rows("everybody", ["ann", "bob", "cleo", "dan"])
    base = registry.publish(models["sft"], kind="sft", name="t/sft")

    def reward(name, annotators):
        data = rows(f"{name}-data", annotators, [("source", everybody)]) if annotators else None
        parents = [("base", base), *([("preferences", data)] if data else [])]
        return registry.publish(models[name], kind="reward", name=f"t/{name}", parents=parents)

    trained_on = reward("reward", ["ann", "bob"])
    reward("same", ["bob", "cleo"])
    reward("apart", ["cleo", "dan"])
    reward("alone", [])
    registry.publish(models["policy"], kind="policy", name="t/policy", parents=[("base", base), ("reward", trained_on)])
    candidate = find_model("t/policy", registry, ["policy"])

    def judge(*scorers):
        judges = find_scorers([ScorerSection(**scorer) for scorer in scorers], registry, key="judge")
        return (
            shared_annotators(candidate, judges, registry),
            shares_judgements(candidate, judges, registry),
            judge_is_training_reward(candidate, judges, registry),
        )

    return judge


def test_annotators_in_common_are_told_by_lineage(judged_by):
    # both were taken from one collection, and what counts is whose answers each has learned from
    assert judged_by({"ref": "t/apart"}) == ([], False, False)
    assert judged_by({"ref": "t/same"}) == (["bob"], False, False)
    assert judged_by({"ref": "t/reward"}) == (["ann", "bob"], True, True)


def test_nothing_is_said_where_no_lineage_tells(judged_by):
    assert judged_by({"ref": "t/alone"}) == (None, None, False)
    assert judged_by({"function": "rlhf.demo.rubric:rubric_scores"}) == (None, None, False)
    together = judged_by({"ref": "t/apart"}, {"function": "rlhf.demo.rubric:rubric_scores"})
    assert together == ([], False, False)


def test_the_summary_says_that_annotators_are_shared(judged_by, tmp_path, workspace, caplog):
    write_jsonl(tmp_path / "held_out.jsonl", [{"prompt": f"p{n}"} for n in range(3)])
    (tmp_path / "eval.yaml").write_text(
        """
candidate: t/policy
baseline: t/sft
data: {sources: [{path: held_out.jsonl}]}
judge: [{ref: t/same}]
generation: {max_new_tokens: 4}
num_bootstrap: 100
tracking: {wandb: "off"}
"""
    )
    summary = evaluate_policy(load_config(tmp_path / "eval.yaml", EvaluationConfig), workspace)
    assert (summary["judge_shares_annotators"], summary["judge_shares_judgements"]) == (True, False)
    assert "have learned from the same annotators (bob)" in caplog.text
