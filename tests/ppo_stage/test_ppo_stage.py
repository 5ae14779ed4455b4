"""`train_ppo` on tiny models: the score rises, the artefact has its parents, and what goes wrong is said in time."""

import hashlib
import json

import pytest
import torch
from tiny import CONTEXT, tiny_model

from rlhf import checkpoint
from rlhf.config import load_config
from rlhf.errors import Interrupted, StoppedByMonitor, UserError
from rlhf.modeling import find_model, load_causal_lm
from rlhf.ppo.stage import train_ppo
from rlhf.ppo.stage_config import PPOStageConfig
from rlhf.ppo.trainer import PPOTrainer
from rlhf.records import write_jsonl
from rlhf.report.collect import stage_report_from_run
from rlhf.tracking import read_figures, read_metrics, read_samples
from rlhf.workspace import Workspace

REWARDS = """
calls = 0


def small_letters(prompts, completions, **columns):
    texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
    return [sum(c.islower() for c in text) / 8 for text in texts]


def matches(prompts, completions, target, **columns):
    return [float(t in c) for t, c in zip(target, completions)]


def nan_from_the_fourth_batch_on(prompts, completions, **columns):
    global calls
    calls += 1
    return [float("nan") if calls > 6 else 1.0 for _ in completions]


def always_nan(prompts, completions):
    return [float("nan")] * len(prompts)


def num_tokens(prompts, completions, completion_ids, **kwargs):  # as TRL's documentation writes them
    return [float(len(ids)) for ids in completion_ids]


def known_target(prompts, completions, target):
    return [float(t is not None) for t in target]


def fails_at_the_fourth_call(prompts, completions):
    global calls
    calls += 1
    return [1.0 / (calls != 4) for _ in completions]


def one_too_few(prompts, completions, **columns):
    return [0.0] * (len(completions) - 1)
"""
TEXT = """
model: {ref: MODEL}
reward: [{function: "rewards_of_this_test.py:small_letters"}]
data: {sources: [{path: prompts.jsonl}], dev_fraction: 0.2}
trainer:
  total_episodes: 32
  per_device_train_batch_size: 16
  num_ppo_epochs: 1
  learning_rate: 3e-3
  response_length: 8
  temperature: 1.0
  activation_checkpointing: false
  logging_steps: 1
output: {name: tiny/policy, alias: candidate}
tracking: {wandb: off}
"""
PROMPTS = [{"prompt": f"Prompt {n}:", "target": "a"} for n in range(40)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    made = {kind: tiny_model(folder / kind, kind, seed=3) for kind in ("causal", "reward", "encoder")}
    return made | {"chat": tiny_model(folder / "chat", chat=True)}


@pytest.fixture
def ppo(tmp_path, models, monkeypatch):
    workspace = Workspace.open(tmp_path / "home", progress=False)

    def run(*overrides, rows=PROMPTS, model="causal", run_id=None, report=False):
        if not report:  # a dozen curves: drawn in the first test, and in those of the report
            monkeypatch.setattr(Workspace, "write_report", lambda *_: None)
        (tmp_path / "rewards_of_this_test.py").write_text(REWARDS)
        write_jsonl(tmp_path / "prompts.jsonl", rows)
        (tmp_path / "ppo.yaml").write_text(TEXT.replace("MODEL", str(models[model])))
        config = load_config(tmp_path / "ppo.yaml", PPOStageConfig, overrides)
        return train_ppo(config, workspace.within(run_id=run_id))

    run.workspace = workspace
    run.folder = tmp_path
    return run


def function(ppo, name):
    return f'reward=[{{function: "{ppo.folder}/rewards_of_this_test.py:{name}"}}]'


def problem_of(ppo, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        ppo(*args, **kwargs)
    assert all("\n" not in problem for problem in caught.value.problems)
    assert ppo.workspace.registry.artefacts() == []
    return " | ".join(caught.value.problems)


def test_a_reward_function_is_followed(ppo, models):
    summary = ppo(
        "seed=6",
        "trainer.total_episodes=160",
        "trainer.learning_rate=1e-2",
        "trainer.kl_coef=0.01",
        "trainer.num_ppo_epochs=3",
        "data.dev_fraction=0.5",
        report=True,
    )
    assert summary["artefact"] == "tiny/policy@v1" and summary["status"] == "done"
    assert summary["score_after"] > summary["score_before"] + 0.05
    assert summary["kl"] > 0
    assert (summary["num_updates"], summary["num_episodes"]) == (10, 160)
    assert 0 <= summary["eos_share_after"] <= 1 and 1 <= summary["length_after"] <= 8

    run = ppo.workspace.home / "runs" / summary["run"]
    rows = read_metrics(run)
    scores = [row["objective/scores"] for row in rows if "objective/scores" in row]
    assert len(scores) == 10 and sum(scores[-4:]) > sum(scores[:4])
    samples = read_samples(run)
    assert {"prompt", "before", "after", "score_before", "score_after"} <= set(samples[0])
    assert samples[0]["score_after"] == sum(c.islower() for c in samples[0]["after"]) / 8
    assert "tiny/policy@v1" in (run / "report.html").read_text()
    assert not (run / "checkpoints").exists()

    registry = ppo.workspace.registry
    artefact = registry.resolve("tiny/policy@candidate", kinds=["policy"])
    assert [parent.role for parent in artefact.parents] == ["base", "data"]
    assert "stopped" not in artefact.metadata
    before = load_causal_lm(find_model(str(models["causal"]), registry)).lm_head.weight
    after = load_causal_lm(find_model(artefact.ref, registry)).lm_head.weight
    assert not torch.equal(before, after)


def test_a_reward_model_of_the_registry_is_a_parent(ppo, models):
    ppo.workspace.registry.publish(models["reward"], kind="reward", name="tiny/reward")
    summary = ppo("reward=[{ref: tiny/reward}]")
    artefact = ppo.workspace.registry.resolve(summary["artefact"])
    assert [(parent.role, parent.ref) for parent in artefact.parents][2:] == [("reward", "tiny/reward@v1")]
    assert "score_before" in summary and "score_after" in summary


def test_a_mix_with_another_backbone_and_a_reference_of_its_own(ppo, models):
    registry = ppo.workspace.registry
    registry.publish(models["encoder"], kind="reward", name="tiny/judge")
    other = tiny_model(ppo.folder / "other", seed=9)
    registry.publish(other, kind="sft", name="tiny/other")
    summary = ppo(
        f'reward=[{{ref: tiny/judge}}, {{function: "{ppo.folder}/rewards_of_this_test.py:matches", weight: 0.5}}]',
        "reference=tiny/other",
    )
    artefact = registry.resolve(summary["artefact"])
    assert {(parent.role, parent.ref) for parent in artefact.parents} >= {
        ("reward", "tiny/judge@v1"),
        ("ref", "tiny/other@v1"),
    }
    assert artefact.metadata["scorers"] == [
        {"ref": "tiny/judge@v1", "weight": 1.0},
        {
            "function": f"{ppo.folder}/rewards_of_this_test.py:matches",
            "sha256": hashlib.sha256(REWARDS.encode()).hexdigest(),
            "weight": 0.5,
        },
    ]
    rows = read_metrics(ppo.workspace.home / "runs" / summary["run"])
    assert {"objective/scores/judge", "objective/scores/matches"} <= {key for row in rows for key in row}
    assert rows[0].get("eval_objective/kl", rows[0].get("objective/kl")) > 0.1  # from another model, at once


def test_with_lora_the_policy_is_an_adapter_on_what_it_started_from(ppo, models):
    ppo.workspace.registry.publish(models["causal"], kind="sft", name="tiny/sft")
    ppo("model={ref: tiny/sft, adapter: {r: 4}}")
    source = find_model("tiny/policy", ppo.workspace.registry, kinds=["policy"])
    assert source.is_adapter and source.base.ref == "tiny/sft@v1"
    load_causal_lm(source)


def test_fewer_episodes_than_a_batch_are_said(ppo, caplog):
    assert ppo("trainer.total_episodes=3", "data.dev_fraction=0")["num_updates"] == 1
    assert "trainer.total_episodes = 3: a batch has 16 episodes, and one batch is trained on" in caplog.text


def test_conversations_as_prompts(ppo):
    rows = [{"prompt": [{"role": "user", "content": f"Q{n}"}]} for n in range(40)]
    summary = ppo(rows=rows, model="chat")
    assert summary["status"] == "done" and summary["num_set_aside"] == 0


def test_a_function_is_given_token_ids_wherever_it_is_called(ppo):
    summary = ppo(function(ppo, "num_tokens"), "trainer.response_length=6")
    assert summary["score_after"] == pytest.approx(summary["length_after"], abs=1e-3)
    samples = read_samples(ppo.workspace.home / "runs" / summary["run"])
    assert all(1 <= sample[f"score_{when}"] <= 6 for sample in samples for when in ("before", "after"))


def test_a_column_that_some_rows_lack_is_none_there(ppo):
    summary = ppo(function(ppo, "known_target"), rows=[*({"prompt": f"Q{n}:"} for n in range(39)), PROMPTS[0]])
    run = ppo.workspace.home / "runs" / summary["run"]
    # of the 40 rows one is known; whichever side it is on, the function is called on both
    assert {row["score_before"] for row in read_samples(run)} <= {0.0, 1.0}
    assert summary["score_before"] < 1


def test_samples_that_cannot_be_scored_cost_nothing_but_themselves(ppo, caplog):
    # the samples before, two updates, the samples after
    summary = ppo(function(ppo, "fails_at_the_fourth_call"), "data.dev_fraction=0")
    assert (summary["status"], summary["artefact"]) == ("done", "tiny/policy@v1")
    assert "fails_at_the_fourth_call: raised ZeroDivisionError" in caplog.text
    assert read_samples(ppo.workspace.home / "runs" / summary["run"]) == []


def test_prompts_that_are_cut_are_shown_too(ppo):
    rows = [{"prompt": f"{n}" + "x" * CONTEXT} for n in range(40)]
    summary = ppo("trainer.truncate_prompts=true", rows=rows)
    assert len(read_samples(ppo.workspace.home / "runs" / summary["run"])) > 0


def test_texts_and_conversations_and_values_of_several_types_stand_side_by_side(ppo):
    rows = [
        {"prompt": f"Q{n}" if n % 2 else [{"role": "user", "content": f"Q{n}"}], "id": n if n % 3 else "none"}
        for n in range(40)
    ]
    assert ppo(rows=rows, model="chat")["status"] == "done"


def test_prompts_that_are_too_long_are_set_aside_and_said(ppo):
    rows = [*PROMPTS, *({"prompt": f"{n}" + "x" * CONTEXT, "target": "a"} for n in range(4))]
    summary = ppo(rows=rows)
    assert summary["num_set_aside"] == 4
    run = ppo.workspace.home / "runs" / summary["run"]
    told = [json.loads(line)["what"] for line in (run / "set_aside.jsonl").read_text().splitlines()]
    assert len(told) == 4
    assert told[0].startswith(f"the prompt has {CONTEXT + 1} tokens, at most {CONTEXT - 8} fit; lower trainer.response")


def test_the_fraction_of_the_model_s_context_that_is_a_limit(ppo):
    rows = [{"prompt": "x" * length + str(length), "target": "a"} for length in range(20, 40)]
    assert ppo("trainer.max_prompt_length=40", rows=rows)["num_set_aside"] == 1


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["trainer.response_length=90"], "data: no prompt is short enough; the first: "),
        (["model.ref=tiny/gone"], "model.ref = 'tiny/gone': not in the registry"),
        (["reward=[{ref: tiny/gone}]"], "reward.0.ref = 'tiny/gone': not in the registry"),
        (["reference=tiny/gone"], "reference = 'tiny/gone': not in the registry"),
        (['reward=[{function: "gone:f"}]'], "no module gone"),
        (["trainer.kl_coef=-1"], "kl_coef"),
        (["trainer.num_mini_batches=3"], "num_mini_batches"),
        (["trainer.total_episodes=0"], "total_episodes"),
        (["trainer.eval_strategy=steps", "data.dev_fraction=0"], "trainer.eval_strategy"),
        (["trainer.load_best_model_at_end=true"], "eval_strategy: found 'no'; the best model is found by evaluating"),
        (["trainer.eval_strategy=steps", "trainer.metric_for_best_model=score"], "'score' is not among what"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_published(ppo, overrides, what):
    assert what in problem_of(ppo, *overrides)


def test_models_that_cannot_be_what_they_are_to_be(ppo, models):
    assert "is no language model" in problem_of(ppo, model="encoder")
    assert "reward" in problem_of(ppo, f"reward=[{{ref: {models['causal']}}}]")
    assert "one_too_few: returned" in problem_of(ppo, function(ppo, "one_too_few"))


def test_a_ref_of_the_wrong_kind(ppo, models):
    registry = ppo.workspace.registry
    registry.publish(models["causal"], kind="sft", name="tiny/sft")
    registry.publish(models["reward"], kind="reward", name="tiny/reward")
    for override, key in (("model.ref=tiny/reward", "model.ref"), ("reward=[{ref: tiny/sft}]", "reward.0.ref")):
        with pytest.raises(UserError) as caught:
            ppo(override)
        assert caught.value.problems[0].startswith(f"{key} = 'tiny/")
    assert len(registry.artefacts()) == 2


SAVING = ("trainer.total_episodes=512", "trainer.save_strategy=steps", "trainer.save_steps=1")


def test_weights_that_run_off_are_not_what_is_kept(ppo, models):
    with pytest.raises(StoppedByMonitor):
        ppo("trainer.learning_rate=1e39", "trainer.save_strategy=no", run_id="off")
    assert ppo.workspace.registry.artefacts() == []
    assert json.loads((ppo.workspace.home / "runs" / "off" / "summary.json").read_text())["status"] == "stopped"


PENALTIES = ["missing_eos_penalty=5.0", "length_penalty=0.5", "length_penalty_after=3"]


def test_the_score_leaves_out_the_penalties_for_length_and_for_answers_that_do_not_end(ppo):
    plain = ppo("trainer.total_episodes=16")
    penalised = ppo("trainer.total_episodes=16", *(f"trainer.{field}" for field in PENALTIES))
    assert penalised["score_before"] == pytest.approx(plain["score_before"], abs=1e-4)
    assert penalised["eos_share_before"] < 1 and penalised["length_before"] > 3
    row = next(row for row in rows_of(ppo, penalised["run"]) if "eval_objective/scores" in row)
    assert row["eval_objective/scores"] < penalised["score_before"] - 1


def test_the_score_is_the_weighted_sum_and_an_ensemble_counts_as_the_mean_of_its_members(ppo, models):
    judges = [f"{{ref: {models[kind]}, weight: 2.0, name: {kind}}}" for kind in ("reward", "encoder")]
    reward = f'reward=[{", ".join(judges)}, {{function: "{ppo.folder}/rewards_of_this_test.py:small_letters"}}]'
    summary = ppo(reward, "trainer.reward_ensemble=worst", "trainer.total_episodes=16")
    row = next(row for row in rows_of(ppo, summary["run"]) if "eval_objective/scores" in row)
    own = {name: row[f"eval_objective/scores/{name}"] for name in ("reward", "encoder", "small_letters")}
    mixed = own["reward"] + own["encoder"] + own["small_letters"]
    assert summary["score_before"] == pytest.approx(mixed, abs=1e-4)
    assert row["eval_objective/scores"] < mixed  # the worst of the two


def test_a_score_that_is_no_number_stops_training_and_the_last_good_policy_is_kept(ppo, models):
    ppo("trainer.total_episodes=16")
    assert ppo.workspace.registry.resolve("tiny/policy@candidate").version == 1
    with pytest.raises(StoppedByMonitor, match="reward function nan_from_the_fourth_batch_on: score of row 0"):
        ppo(function(ppo, "nan_from_the_fourth_batch_on"), *SAVING, run_id="stopped-run")
    registry = ppo.workspace.registry
    assert registry.resolve("tiny/policy@latest").version == 1
    kept = registry.resolve("tiny/policy-stopped")
    assert "nan_from_the_fourth_batch_on" in kept.metadata["stopped"]
    assert "(weights of checkpoint-" in kept.metadata["stopped"]
    assert registry.resolve("tiny/policy@candidate").version == 1
    weights = load_causal_lm(find_model(kept.ref, registry)).state_dict()
    assert all(torch.isfinite(value).all() for value in weights.values())
    before = load_causal_lm(find_model(str(models["causal"]), registry)).lm_head.weight
    assert not torch.equal(weights["lm_head.weight"], before)  # two good updates were made
    summary = json.loads((ppo.workspace.home / "runs" / "stopped-run" / "summary.json").read_text())
    assert summary["status"] == "stopped" and summary["artefact"] == kept.ref and summary["num_updates"] >= 1


@pytest.mark.parametrize("dev_fraction", [0, 0.2])
def test_a_score_that_is_no_number_from_the_first_is_a_stop_like_any_other(ppo, caplog, dev_fraction):
    with pytest.raises(StoppedByMonitor, match="reward function always_nan: score of row 0"):
        ppo(function(ppo, "always_nan"), f"data.dev_fraction={dev_fraction}", run_id="nan")
    summary = json.loads((ppo.workspace.home / "runs" / "nan" / "summary.json").read_text())
    assert summary["status"] == "stopped" and "always_nan" in summary["stopped"]
    assert ppo.workspace.registry.artefacts() == []
    assert "there is nothing to publish" in caplog.text


def test_the_best_policy_of_all_evaluations_is_published(ppo):
    summary = ppo(
        "trainer.load_best_model_at_end=true",
        "trainer.metric_for_best_model=objective/kl",
        "trainer.greater_is_better=true",  # for once: the highest comes early here
        "trainer.eval_strategy=steps",
        "trainer.total_episodes=96",
    )
    rows = read_metrics(ppo.workspace.home / "runs" / summary["run"])
    found = [row["eval_objective/kl"] for row in rows if "eval_objective/kl" in row and row["step"] > 0]
    assert len(found) == 7  # after each of six updates, and of the best of them at the end
    assert found[-1] == max(found[:-1]) > found[-2]
    assert summary["kl"] == pytest.approx(max(found), abs=1e-4)


def test_no_held_out_prompts_is_no_error(ppo):
    summary = ppo("data.dev_fraction=0", "trainer.total_episodes=16")
    assert "score_after" not in summary and summary["status"] == "done" and summary["num_dev_prompts"] == 0
    samples = read_samples(ppo.workspace.home / "runs" / summary["run"])
    assert {sample["held_out"] for sample in samples} == {False}


def test_of_many_held_out_prompts_some_are_drawn_from_all_sources(ppo, monkeypatch):
    monkeypatch.setattr("rlhf.ppo.reading.NUM_DEV_PROMPTS", 6)
    for name in "ab":
        write_jsonl(ppo.folder / f"{name}.jsonl", [{"prompt": f"{name}{n}"} for n in range(20)])
    dev = ("data.dev_fraction=0", f"data.dev=[{{path: {ppo.folder}/a.jsonl}}, {{path: {ppo.folder}/b.jsonl}}]")

    def drawn(*overrides):
        summary = ppo(*dev, "trainer.total_episodes=16", *overrides)
        assert summary["num_dev_prompts"] == 6
        samples = read_samples(ppo.workspace.home / "runs" / summary["run"])
        assert {sample["held_out"] for sample in samples} == {True}
        return [sample["prompt"] for sample in samples]

    first = drawn("seed=1")
    assert {prompt[0] for prompt in first} == {"a", "b"} and len(set(first)) == 6
    assert drawn("seed=1") == first != drawn("seed=2")


def test_a_run_that_is_killed_has_lost_a_tenth_at_most(ppo, monkeypatch):
    class Killed(BaseException):
        pass

    def after_twelve_updates(self, logs, *args, **kwargs):
        if self.state.global_step == 12:
            raise Killed
        return log(self, logs, *args, **kwargs)

    log = PPOTrainer.log
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(PPOTrainer, "log", after_twelve_updates)
        ppo("trainer.total_episodes=320", "trainer.monitor=off", run_id="killed")  # 20 updates
    folder = ppo.workspace.home / "runs" / "killed" / "checkpoints"
    assert [path.name for path in checkpoint.checkpoints(folder)] == ["checkpoint-8", "checkpoint-10"]
    assert ppo("trainer.total_episodes=320", "trainer.monitor=off", run_id="killed")["num_updates"] == 20


# ---- What watches over a run ----


def rows_of(ppo, run_id):
    return read_metrics(ppo.workspace.home / "runs" / run_id)


def test_a_judge_is_asked_in_the_course_of_training(ppo):
    judge = f'judge=[{{function: "{ppo.folder}/rewards_of_this_test.py:matches"}}]'
    problem = problem_of(ppo, judge, "data.dev_fraction=0")
    assert problem.startswith("judge: it judges held-out rows, and there are none")
    summary = ppo(judge, "trainer.eval_steps=1", "trainer.num_sample_generations=1", run_id="judged")
    judged = [row["step"] for row in rows_of(ppo, "judged") if "eval_objective/judge" in row and row["step"]]
    assert judged[:2] == [1, 2]
    # how far it went and what the judge said there, from before training on
    (frontier,) = read_figures(ppo.workspace.home / "runs" / "judged")
    assert (frontier.name, frontier.series[0].labels[0]) == ("frontier", "0")
    assert summary["frontier"]["num_evaluations"] == len({0, *judged}) == len(frontier.series[0].x)
    assert summary["frontier"]["last_step"] == judged[-1]
    tables = [row for row in read_samples(ppo.workspace.home / "runs" / "judged") if row["name"] == "completions"]
    assert set(tables[0]) >= {"query", "model response", "score"}


def test_demonstrations_are_learned_beside(ppo):
    write_jsonl(ppo.folder / "demos.jsonl", [{"prompt": f"Prompt {n}:", "completion": " abc"} for n in range(8)])
    data = f'ptx={{sources: [{{path: "{ppo.folder}/demos.jsonl"}}]}}'
    assert problem_of(ppo, data) == "trainer.ptx_coef: set it too; the PTX loss takes data and a weight"
    assert problem_of(ppo, "trainer.ptx_coef=1").startswith("ptx: name the demonstrations")
    ppo(data, "trainer.ptx_coef=0.5", "trainer.total_episodes=16", run_id="ptx")
    assert [row["loss/ptx_avg"] > 0 for row in rows_of(ppo, "ptx") if "loss/ptx_avg" in row]


def test_a_function_that_fails_can_be_mended_and_the_run_goes_on(ppo, monkeypatch):
    given = (function(ppo, "small_letters"), "data.dev_fraction=0", "trainer.total_episodes=64")
    with monkeypatch.context() as patched:
        broken = "return [sum(c.islower() for c in text) / 8 / (calls < 4) for text in texts]"
        counted = REWARDS.replace("    texts = [", "    global calls\n    calls += 1\n    texts = [", 1)
        broken = counted.replace("return [sum(c.islower() for c in text) / 8 for text in texts]", broken)
        patched.setitem(globals(), "REWARDS", broken)
        with pytest.raises(Interrupted, match=r"raised ZeroDivisionError.*nothing is lost: mend it and go on with"):
            ppo(*given, run_id="mended")
    summary = ppo(*given, run_id="mended")
    assert summary["status"] == "done"
    assert [row["step"] for row in rows_of(ppo, "mended") if "objective/kl" in row and row["step"]][:3] == [1, 2, 3]


def broken_at(call, name="small_letters", outcome="1 / 0"):
    """REWARDS whose function `name` counts its calls, and at one of them does something else."""
    counting = (
        f"    global calls\n    calls += 1\n    if calls == {call}:\n        return [{outcome} for _ in completions]\n"
    )
    head, line, rest = REWARDS.partition(f"def {name}(prompts, completions, **columns):\n")
    return head + line + counting + rest


def test_a_function_that_fails_on_the_table_of_samples_can_be_mended_too(ppo, monkeypatch):
    given = ("trainer.num_sample_generations=2", "trainer.save_strategy=no")
    with monkeypatch.context() as patched:
        patched.setitem(globals(), "REWARDS", broken_at(4))  # before, samples, update 1, its table
        with pytest.raises(Interrupted, match=r"raised ZeroDivisionError.*nothing is lost: mend it and go on with"):
            ppo(*given, run_id="mended")
    folder = ppo.workspace.home / "runs" / "mended" / "checkpoints"
    assert [path.name for path in checkpoint.checkpoints(folder)] == ["checkpoint-1"]
    assert ppo(*given, run_id="mended")["status"] == "done"


def test_a_function_that_fails_after_training_can_be_mended_too(ppo, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setitem(globals(), "REWARDS", broken_at(5))  # before, samples, two updates, after
        with pytest.raises(Interrupted, match=r"raised ZeroDivisionError.*nothing is lost: mend it and go on with"):
            ppo(run_id="mended")
    summary = ppo(run_id="mended")
    assert summary["status"] == "done" and summary["num_updates"] == 2 and "score_after" in summary


def test_a_function_that_gives_no_number_can_be_mended_and_the_run_goes_on(ppo, monkeypatch, caplog):
    given = ("data.dev_fraction=0", "trainer.save_strategy=no")
    with monkeypatch.context() as patched:
        patched.setitem(globals(), "REWARDS", broken_at(3, outcome="None"))  # samples, update 1, update 2
        with pytest.raises(StoppedByMonitor, match="small_letters: score of row 0 of the batch is nan"):
            ppo(*given, run_id="mended")
    assert "mend the scorer and go on with" in caplog.text
    assert (
        ppo.workspace.registry.resolve("tiny/policy-stopped").metadata["stopped"].endswith("(weights of checkpoint-1)")
    )
    assert ppo(*given, run_id="mended")["num_updates"] == 2


def test_an_alarm_stops_a_stage_and_stands_in_its_metrics_and_report(ppo):
    thresholds = "trainer.monitor_thresholds={length: {stop: 0.1, warn: 0.1}}"
    stop = "trainer.monitor=stop"
    with pytest.raises(StoppedByMonitor, match="length: mean length, as a multiple of that at the start"):
        ppo(thresholds, stop, *SAVING, run_id="alarmed")
    alarm = next(row for row in rows_of(ppo, "alarmed") if row.get("alarm") == "length")  # random models raise others
    assert alarm["level"] == "stop"
    assert "likely causes: (1) the reward model goes by length" in alarm["text"]
    notes = stage_report_from_run(ppo.workspace.home / "runs" / "alarmed").notes
    assert any(note.startswith("Alarm (stop): update ") for note in notes)
    assert ppo.workspace.registry.resolve("tiny/policy-stopped").metadata["stopped"]
