"""The file of `rlhf run`: what stages take from its top and from one another, and what is said when it is wrong."""

import pytest

from rlhf.errors import UserError
from rlhf.pipeline.config import load_pipeline

FILE = """
group: g
seed: 4
tracking: {wandb: off, project: p}
data: {sources: [{path: rows.jsonl}], dev_fraction: 0.1}
stages:
  export: {path: out}
  eval: {}
  sft: {model: {ref: ./base}}
  reward: {}
  ppo: ppo.yaml
"""


@pytest.fixture
def plan(tmp_path):
    def load(*overrides, text=FILE, ppo="{}"):
        (tmp_path / "configs").mkdir(exist_ok=True)
        (tmp_path / "configs" / "run.yaml").write_text(text)
        (tmp_path / "configs" / "ppo.yaml").write_text(ppo)
        return load_pipeline(tmp_path / "configs" / "run.yaml", overrides)

    return load


def problems_of(plan, tmp_path, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        plan(*args, **kwargs)
    return [problem.replace(f"{tmp_path}/configs/", "") for problem in caught.value.problems]


def test_a_project_that_nobody_named_is_left_to_the_environment(plan):
    for tracking, named in (("", False), ("tracking: {wandb: off}\n", False), ("tracking: {project: p}\n", True)):
        loaded = plan(text=FILE.replace("tracking: {wandb: off, project: p}\n", tracking))
        config = loaded.config("sft", loaded.stages["sft"])
        assert ("project" in config.tracking.model_fields_set) is named


def test_stages_run_in_their_own_order(plan):
    assert list(plan().stages) == ["sft", "reward", "ppo", "eval", "export"]


def test_a_stage_takes_what_it_does_not_set_from_the_top_and_from_the_others(plan, tmp_path):
    found = plan()
    configs = {name: found.config(name, values) for name, values in found.stages.items()}
    assert {configs[name].seed for name in ("sft", "reward", "ppo", "eval")} == {4}
    assert {configs[name].tracking.project for name in ("sft", "reward", "ppo", "eval")} == {"p"}
    assert configs["sft"].model.ref == str(tmp_path / "configs" / "base")
    assert configs["sft"].output.name == "g/sft"
    assert configs["reward"].model.ref == "g/sft" and configs["reward"].output.name == "g/reward"
    assert configs["ppo"].model.ref == "g/sft" and configs["ppo"].reward[0].ref == "g/reward"
    assert configs["eval"].candidate == "g/policy" and configs["eval"].baseline == "g/sft"
    assert configs["eval"].judge[0].ref == "g/reward"
    assert configs["export"].model == "g/policy" and configs["export"].path == tmp_path / "configs" / "out"
    assert configs["ppo"].data.sources[0].path == str(tmp_path / "configs" / "rows.jsonl")
    assert [found.output_name(name) for name in found.stages] == ["g/sft", "g/reward", "g/policy", "g/eval", None]


def test_what_a_stage_sets_stands(plan):
    found = plan(ppo="seed: 9\nmodel: {ref: other/sft}\noutput: {name: h/p}\ntracking: {wandb: offline}\n")
    config = found.config("ppo", found.stages["ppo"])
    assert (config.seed, config.model.ref, config.output.name, config.tracking.wandb) == (
        9,
        "other/sft",
        "h/p",
        "offline",
    )
    assert found.config("eval", found.stages["eval"]).candidate == "h/p"


def test_overrides_reach_stages_by_name_and_the_top_by_key(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = plan("ppo.trainer.kl_coef=0.2", "seed=8", "sft.model.ref=./here", "reward.output.name=h/r", "group=new")
    assert found.stages["ppo"]["trainer"] == {"kl_coef": 0.2}
    assert found.config("sft", found.stages["sft"]).model.ref == str(tmp_path / "here")
    assert found.config("sft", found.stages["sft"]).seed == 8
    assert found.config("ppo", found.stages["ppo"]).reward[0].ref == "h/r"
    assert found.output_name("sft") == "new/sft"


def test_an_override_of_shared_data_reaches_every_stage(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = plan("data.sources.0.path=mine.jsonl")
    for stage in ("sft", "reward", "ppo", "eval"):
        assert found.config(stage, found.stages[stage]).data.sources[0].path == str(tmp_path / "mine.jsonl")


def test_an_override_of_one_stage_s_data_stays_there(plan):
    found = plan("ppo.data.dev_fraction=0.5")
    assert found.config("ppo", found.stages["ppo"]).data.dev_fraction == 0.5
    assert found.config("sft", found.stages["sft"]).data.dev_fraction == 0.1


def test_everything_wrong_in_any_file_is_said_at_once(plan, tmp_path):
    found = problems_of(
        plan,
        tmp_path,
        "sft.trainer.learning_rte=1",
        "ppo.trainer.kl_coef=x",
        text=FILE.replace("reward: {}", "reward: {modle: {}}").replace("eval: {}", "eval: {num_prompts: 0}"),
        ppo="trainer: {cliprnge: 0.1}\n",
    )
    assert found == [
        "command line: sft.trainer.learning_rte = 1: unknown key; did you mean sft.trainer.learning_rate?",
        "run.yaml: stages.reward: modle = {}: unknown key; did you mean model?",
        "ppo.yaml: trainer.cliprnge = 0.1: unknown key; did you mean trainer.cliprange?",
        "command line: ppo.trainer.kl_coef = 'x': expected float",
        "run.yaml: stages.eval: num_prompts = 0: input should be greater than or equal to 1",
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (FILE.replace("  reward: {}", "  rewrad: {}"), "run.yaml: stages.rewrad: no such stage"),
        (FILE.replace("group: g\n", ""), "run.yaml: group: is missing"),
        (FILE.replace("group: g", "group: a/b"), "run.yaml: group = 'a/b': "),
        ("group: g\n", "run.yaml: stages: is missing"),
        ("group: g\nstages: {}\n", "run.yaml: stages = {}: "),
        ("group: g\nstages: [sft]\n", "run.yaml: stages = ['sft']: expected a mapping"),
        (FILE.replace("ppo: ppo.yaml", "ppo: gone.yaml"), "gone.yaml: no such file"),
        (FILE.replace("ppo: ppo.yaml", "ppo: 5"), "run.yaml: stages.ppo = 5: expected the path of a YAML file"),
        (
            FILE.replace("sft: {model: {ref: ./base}}", "sft: {model: ./base}"),
            "stages.sft: model = './base': expected a mapping",
        ),
        (FILE + "sftt: {}\n", "run.yaml: sftt = {}: unknown key"),
        (FILE.replace("reward: {}", "reward: {output: text}"), "stages.reward: output = 'text': expected a mapping"),
        (FILE.replace("reward: {}", "reward: {output: {name: 5}}"), "stages.reward: output.name = 5: "),
    ],
)
def test_one_thing_wrong(plan, tmp_path, text, what):
    found = problems_of(plan, tmp_path, text=text)
    assert len(found) == 1 and what in found[0], found


def test_an_override_of_a_stage_that_is_not_there(plan, tmp_path):
    (problem,) = problems_of(plan, tmp_path, "pppo.trainer.kl_coef=1")
    assert problem == (
        "command line: pppo.trainer.kl_coef=1: the file has no stage and no key 'pppo'; did you mean ppo?"
    )


def test_with_labels_the_reward_model_learns_from_them(plan):
    text = FILE.replace("  reward: {}", "  labels: {annotators: {function: 'm:f'}}\n  reward: {}")
    found = plan(text=text)
    assert found.config("reward", found.stages["reward"]).data.sources[0].path == "g/preferences"


def test_an_overrides_suggestion_begins_with_the_stage(tmp_path):
    stage = "{data: {sources: [{path: x.jsonl}]}, model: {ref: a/b}}"
    (tmp_path / "run.yaml").write_text(f"group: tiny\nstages: {{ppo: {stage[:-1]}, reward: [{{ref: a/c}}]}}}}\n")
    with pytest.raises(UserError) as caught:
        load_pipeline(tmp_path / "run.yaml", ["ppo.trainer.kl_coeff=0.1"])
    (problem,) = caught.value.problems
    assert problem.startswith("command line: ppo.trainer.kl_coeff = 0.1: ")
    assert problem.endswith("did you mean ppo.trainer.kl_coef?")


def test_the_file_of_one_stage_is_called_that(tmp_path):
    (tmp_path / "sft.yaml").write_text("model: {ref: a/b}\noutput: {name: a/c}\n")
    with pytest.raises(UserError, match="is the config of one stage; run it with `rlhf sft` or `rlhf reward`"):
        load_pipeline(tmp_path / "sft.yaml")
