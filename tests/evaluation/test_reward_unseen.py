"""`rlhf eval` with a data file alone: what is measured, with which models."""

import pytest
from tiny import tiny_model

from rlhf.errors import UserError
from rlhf.evaluation.config import EvaluationConfig
from rlhf.evaluation.reward_config import RewardEvaluationConfig
from rlhf.evaluation.unseen import Named, choose, is_data
from rlhf.records import write_jsonl
from rlhf.registry import Registry

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        name: tiny_model(folder / name, "reward" if name.startswith("reward") else "causal", seed=seed)
        for seed, name in enumerate(("sft", "policy", "policy2", "reward", "reward2", "reward3"))
    }


@pytest.fixture
def registry(tmp_path, folders):
    """A policy, its SFT model and its reward model."""
    made = Registry(tmp_path / "home")
    sft = made.publish(folders["sft"], kind="sft", name="tiny/sft")
    data = made.publish(rows_of(tmp_path, "ana"), kind="preferences", name="tiny/labels", metadata=judged_by("ana"))
    reward = made.publish(folders["reward"], kind="reward", name="tiny/reward", parents=[("preferences", data)])
    made.publish(folders["policy"], kind="policy", name="tiny/policy", parents=[("base", sft), ("reward", reward)])
    return made


def rows_of(folder, name):
    write_jsonl(folder / name / "train.jsonl", [PAIR | {"annotator": name}])
    return folder / name


def judged_by(name):
    return {"annotators": [{"name": name, "num_judgements": 1}]}


@pytest.fixture
def file(tmp_path):
    def put(*rows, name="unseen.jsonl"):
        write_jsonl(tmp_path / name, rows)
        return tmp_path / name

    return put


def test_what_a_file_holds_decides_what_is_measured(registry, file, tmp_path):
    def measured(path):
        return type(choose(path, registry, Named()).config)

    ranking = {"prompt": "p", "completions": ["a", "b"], "tiers": [[0], [1]]}
    assert measured(file(PAIR)) is measured(file(ranking)) is RewardEvaluationConfig
    assert measured(file({"prompt": "p"})) is EvaluationConfig
    assert measured(file({"prompt": "p", "completion": "c"}, PAIR, {"prompt": "q"})) is EvaluationConfig
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected\np,a,b\n")
    assert measured(tmp_path / "pairs.csv") is RewardEvaluationConfig
    assert choose(file(PAIR), registry, Named(), what="policy").config.candidate == "tiny/policy@v1"
    with pytest.raises(UserError, match=r"unseen\.jsonl: holds documents; `rlhf eval` takes preferences or rankings"):
        measured(file({"text": "t"}))


def test_demonstrations_also_tell_what_was_forgotten(registry, file):
    demonstrations = file({"prompt": "p", "completion": "c"}, {"messages": [{"role": "user", "content": "x"}]})
    found = choose(demonstrations, registry, Named()).config
    assert found.sft_data == found.data
    assert choose(file({"prompt": "p", "completion": "c"}, {"prompt": "q"}), registry, Named()).config.sft_data is None


def test_files_of_data_are_told_from_configs_by_their_names(tmp_path):
    assert all(is_data(tmp_path / name) for name in ("a.jsonl", "a.csv", "a.parquet", "a.jsonl.gz", "."))
    assert not any(is_data(tmp_path / name) for name in ("a.yaml", "a.yml", "policy"))


def test_the_newest_reward_model_is_measured(registry, folders, file):
    registry.publish(folders["reward2"], kind="reward", name="tiny/a-stopped", metadata={"stopped": "NaN"})
    found = choose(file(PAIR), registry, Named(), ["num_bootstrap=500", "require.accuracy=0.6"])
    assert found.line == "measuring tiny/reward@v1, the newest reward model"
    assert found.config.model == "tiny/reward@v1"
    assert (found.config.num_bootstrap, found.config.require.accuracy) == (500, 0.6)
    registry.publish(folders["reward2"], kind="reward", name="another/reward")
    assert choose(file(PAIR), registry, Named()).config.model == "another/reward@v1"
    assert choose(file(PAIR), registry, Named(model="tiny/reward")).config.model == "tiny/reward"


def test_the_newest_policy_is_compared_with_the_sft_model_it_comes_from(registry, folders, file):
    found = choose(file({"prompt": "p"}), registry, Named())
    assert (found.config.candidate, found.config.baseline) == ("tiny/policy@v1", "tiny/sft@v1")
    assert found.config.judge[0].ref == "tiny/reward@v1"
    assert found.line == (
        "comparing tiny/policy@v1, the newest policy, with tiny/sft@v1, which it was trained from, judged by "
        "tiny/reward@v1, the reward model it was trained on; 200 prompts at most"
    )
    first = registry.resolve("tiny/policy")
    registry.publish(folders["policy2"], kind="policy", name="tiny/policy", parents=[("base", first)])
    found = choose(file({"prompt": "p"}), registry, Named())
    assert (found.config.candidate, found.config.baseline) == ("tiny/policy@v2", "tiny/sft@v1")


def test_the_judge_is_the_reward_model_that_is_farthest_from_the_training_reward(registry, folders, file, tmp_path):
    labels = registry.resolve("tiny/labels")
    registry.publish(folders["reward2"], kind="reward", name="tiny/reward", parents=[("preferences", labels)])
    found = choose(file({"prompt": "p"}), registry, Named())
    assert found.config.judge[0].ref == "tiny/reward@v2"
    others = registry.publish(
        rows_of(tmp_path, "ben"), kind="preferences", name="tiny/others", metadata=judged_by("ben")
    )
    registry.publish(folders["reward3"], kind="reward", name="tiny/judge", parents=[("preferences", others)])
    registry.publish(folders["reward2"], kind="reward", name="tiny/newer", parents=[("preferences", labels)])
    found = choose(file({"prompt": "p"}), registry, Named())
    assert found.config.judge[0].ref == "tiny/judge@v1"
    assert "judged by tiny/judge@v1, a reward model it was not trained on" in found.line
    named = choose(file({"prompt": "p"}), registry, Named(judge="tiny/reward@v1", baseline="tiny/policy@v1"))
    assert (named.config.judge[0].ref, named.config.baseline) == ("tiny/reward@v1", "tiny/policy@v1")


def test_what_is_not_there_is_one_clear_line(tmp_path, registry, file, folders):
    empty = Registry(tmp_path / "empty")
    with pytest.raises(UserError, match="the registry has no reward model to evaluate: train one with `rlhf reward`"):
        choose(file(PAIR), empty, Named())
    with pytest.raises(UserError, match="the registry has no policy to evaluate: train one with `rlhf ppo`"):
        choose(file({"prompt": "p"}), empty, Named())
    assert not (tmp_path / "empty").exists()
    with pytest.raises(UserError, match="does not know what it was trained from; name it with --baseline"):
        choose(file({"prompt": "p"}), registry, Named(model=str(folders["policy"])))
    with pytest.raises(UserError, match=r"--judge tiny/reward: a reward model is measured by the preferences alone"):
        choose(file(PAIR), registry, Named(judge="tiny/reward"))
