"""`train_rloo` on tiny models: a reward is followed, the artefact has its parents, what goes wrong is said in time."""

import json
import signal

import pytest
import torch
from tiny import CONTEXT, tiny_model

from rlhf import checkpoint
from rlhf.config import load_config
from rlhf.errors import Interrupted, StoppedByMonitor, UserError
from rlhf.modeling import find_model, load_causal_lm
from rlhf.records import write_jsonl
from rlhf.rloo.stage import train_rloo
from rlhf.rloo.stage_config import RLOOStageConfig
from rlhf.rloo.trainer import EpochSampler
from rlhf.tracking import read_metrics, read_samples
from rlhf.training import StopOnSignal
from rlhf.workspace import Workspace

REWARDS = """
calls = 0


def small_letters(prompts, completions, **columns):
    texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
    return [sum(c.islower() for c in text) / 8 for text in texts]


def known(prompts, completions, target, prompt_ids, completion_ids):
    assert len(target) == len(prompt_ids) == len(completion_ids) == len(completions)
    return [float(t == "a") for t in target]


def never(prompts, completions, nothing):
    return [0.0 for _ in completions]


def nan_later(prompts, completions):
    global calls
    calls += 1
    return [float("nan") if calls > 4 else 1.0 for _ in completions]


def fails_later(prompts, completions):
    global calls
    calls += 1
    return [1.0 / (calls != 5) for _ in completions]
"""
TEXT = """
model: {ref: MODEL}
reward: [{function: "rewards_of_this_test.py:small_letters"}]
data: {sources: [{path: prompts.jsonl}], dev_fraction: 0.2}
trainer:
  max_steps: 4
  per_device_train_batch_size: 16
  num_generations: 4
  learning_rate: 1e-2
  beta: 0.01
  max_completion_length: 8
  activation_checkpointing: false
  logging_steps: 1
output: {name: tiny/policy, alias: candidate}
tracking: {wandb: off}
"""
PROMPTS = [{"prompt": f"Prompt {n}:", "target": "a" if n % 2 else n} for n in range(40)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    made = {kind: tiny_model(folder / kind, kind, seed=3) for kind in ("causal", "reward", "encoder")}
    return made | {"chat": tiny_model(folder / "chat", chat=True)}


@pytest.fixture
def rloo(tmp_path, models, monkeypatch):
    workspace = Workspace.open(tmp_path / "home", progress=False)

    def run(*overrides, rows=PROMPTS, model="causal", run_id=None, report=False):
        if not report:
            monkeypatch.setattr(Workspace, "write_report", lambda *_: None)
        (tmp_path / "rewards_of_this_test.py").write_text(REWARDS)
        write_jsonl(tmp_path / "prompts.jsonl", rows)
        (tmp_path / "rloo.yaml").write_text(TEXT.replace("MODEL", str(models[model])))
        config = load_config(tmp_path / "rloo.yaml", RLOOStageConfig, overrides)
        return train_rloo(config, workspace.within(run_id=run_id))

    run.workspace = workspace
    run.folder = tmp_path
    return run


def function(rloo, name):
    return f'reward=[{{function: "{rloo.folder}/rewards_of_this_test.py:{name}"}}]'


def problem_of(rloo, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        rloo(*args, **kwargs)
    assert all("\n" not in problem for problem in caught.value.problems)
    assert rloo.workspace.registry.artefacts() == []
    return " | ".join(caught.value.problems)


def metrics_of(rloo, summary):
    return read_metrics(rloo.workspace.home / "runs" / summary["run"])


def test_a_reward_function_is_followed(rloo, models):
    summary = rloo(
        "trainer.max_steps=12",
        "trainer.learning_rate=2e-2",
        "trainer.normalize_advantages=true",
        "data.dev_fraction=0.5",
        report=True,
    )
    assert summary["artefact"] == "tiny/policy@v1" and summary["status"] == "done"
    assert summary["score_after"] > summary["score_before"] + 0.05
    assert summary["kl"] > 0
    assert (summary["num_updates"], summary["num_episodes"]) == (12, 12 * 16)
    assert 0 <= summary["eos_share_after"] <= 1 and 1 <= summary["length_after"] <= 8

    rows = metrics_of(rloo, summary)
    trained = [row for row in rows if "objective/scores" in row]
    assert len(trained) == 12 and abs(trained[0]["objective/kl"]) < 1e-4
    assert all(row["rewards/small_letters/mean"] == pytest.approx(row["objective/scores"]) for row in trained)
    ends = [row["eval_objective/scores"] for row in rows if "eval_objective/scores" in row]
    assert ends == [summary["score_before"], summary["score_after"]]
    run = rloo.workspace.home / "runs" / summary["run"]
    samples = read_samples(run)
    assert samples[0]["score_after"] == sum(c.islower() for c in samples[0]["after"]) / 8
    assert "tiny/policy@v1" in (run / "report.html").read_text()

    registry = rloo.workspace.registry
    artefact = registry.resolve("tiny/policy@candidate", kinds=["policy"])
    assert [parent.role for parent in artefact.parents] == ["base", "data"]
    assert artefact.metadata["method"] == "rloo"
    before, after = (
        load_causal_lm(find_model(ref, registry)).lm_head.weight for ref in (str(models["causal"]), artefact.ref)
    )
    assert not torch.equal(before, after)


def test_reward_models_are_parents_and_all_scorers_are_weighed(rloo, models):
    registry = rloo.workspace.registry
    registry.publish(models["encoder"], kind="reward", name="tiny/judge")
    reward = f'reward=[{{ref: tiny/judge}}, {{function: "{rloo.folder}/rewards_of_this_test.py:known", weight: 0.5}}]'
    summary = rloo(reward, "missing_eos_penalty=2", "trainer.max_steps=1")
    artefact = registry.resolve(summary["artefact"])
    assert [(parent.role, parent.ref) for parent in artefact.parents][2:] == [("reward", "tiny/judge@v1")]
    assert [scorer["weight"] for scorer in artefact.metadata["scorers"]] == [1.0, 0.5]
    (row,) = (row for row in metrics_of(rloo, summary) if "reward" in row)
    assert row["rewards/missing_eos/mean"] == pytest.approx(row["completions/clipped_ratio"])
    parts = row["rewards/judge/mean"] + 0.5 * row["rewards/known/mean"] - 2 * row["rewards/missing_eos/mean"]
    assert row["objective/scores"] == pytest.approx(parts, abs=1e-5)


def test_with_lora_the_reference_is_the_base_and_the_policy_an_adapter_on_it(rloo, models):
    registry = rloo.workspace.registry
    registry.publish(models["causal"], kind="sft", name="tiny/sft")
    summary = rloo("model={ref: tiny/sft, adapter: {r: 4}}", "trainer.learning_rate=3e-2")
    kls = [row["objective/kl"] for row in metrics_of(rloo, summary) if "objective/kl" in row]
    assert abs(kls[0]) < 1e-4 and abs(kls[-1]) > 1e-3
    source = find_model("tiny/policy", registry, kinds=["policy"])
    assert source.is_adapter and source.base.ref == "tiny/sft@v1"
    load_causal_lm(source)
    # gone on from as the whole model that it is: so is the reference
    again = rloo("model.ref=tiny/policy", "output.name=tiny/again", "trainer.max_steps=1")
    kls = [row["objective/kl"] for row in metrics_of(rloo, again) if "objective/kl" in row]
    assert abs(kls[0]) < 1e-4


def break_off(rloo, monkeypatch, *overrides, step):
    """A run that gets a signal at this step."""
    original = StopOnSignal.on_step_end

    def at_that_step(self, args, state, control, **kwargs):
        if state.global_step == step:
            self._note(signal.SIGTERM, None)
        return original(self, args, state, control, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(StopOnSignal, "on_step_end", at_that_step)
        with pytest.raises(Interrupted, match=f"at step {step}"):
            rloo(*overrides, run_id="broken-off")
    return rloo.workspace.home / "runs" / "broken-off"


CUTS = {
    "within the first epoch": (("trainer.max_steps=6",), 3),
    "in the second epoch": (("trainer.max_steps=12",), 10),
    "between two rollouts": (("trainer.max_steps=12", "trainer.num_iterations=2", "trainer.steps_per_generation=2"), 6),
    "with LoRA": (("trainer.max_steps=6", "model.adapter={r: 4}"), 4),
}


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "step"), CUTS.values(), ids=CUTS)
def test_a_run_that_is_resumed_is_the_run_that_was_not_interrupted(rloo, monkeypatch, settings, step):
    whole = rloo(*settings)
    again = (*settings, "output.name=tiny/again")
    run = break_off(rloo, monkeypatch, *again, step=step)
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert checkpoint.latest_intact(run / "checkpoints").name == f"checkpoint-{step}"
    resumed = rloo(*again, run_id="broken-off")
    assert resumed["score_after"] == whole["score_after"] and resumed["score_before"] == whole["score_before"]
    scores = [
        [row["objective/scores"] for row in metrics_of(rloo, one) if "objective/scores" in row]
        for one in (whole, resumed)
    ]
    assert scores[0] == scores[1]
    registry = rloo.workspace.registry
    assert registry.resolve("tiny/policy").digest == registry.resolve("tiny/again").digest


def test_the_order_of_prompts_follows_from_seed_and_epoch_alone():
    def order(epoch, seed=1):
        sampler = EpochSampler(range(8), mini_repeat_count=2, batch_size=4, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0) == order(0) and order(1) == order(1)
    assert order(0) != order(1) and order(0) != order(0, seed=2)
    assert sorted(order(3)) == [place for place in range(8) for _ in range(2)]


def test_conversations_as_prompts_and_no_penalty(rloo):
    rows = [{"prompt": [{"role": "user", "content": f"Q{n}"}]} for n in range(40)]
    summary = rloo("trainer.beta=0", "trainer.max_steps=2", rows=rows, model="chat")
    assert summary["status"] == "done" and summary["kl"] != 0


def test_without_held_out_rows_there_are_samples_and_no_figures(rloo):
    summary = rloo("data.dev_fraction=0", "trainer.max_steps=1")
    assert "score_after" not in summary and "kl" not in summary
    assert read_samples(rloo.workspace.home / "runs" / summary["run"])[0]["held_out"] is False


def test_prompts_that_are_too_long_are_set_aside_and_said(rloo):
    rows = [*PROMPTS, *({"prompt": f"{n}" + "x" * CONTEXT} for n in range(4))]
    summary = rloo("trainer.max_steps=1", rows=rows)
    assert summary["num_set_aside"] == 4
    told = (rloo.workspace.home / "runs" / summary["run"] / "set_aside.jsonl").read_text().splitlines()
    assert f"has {CONTEXT + 1} tokens, at most {CONTEXT - 8} fit; lower trainer.max_completion_length" in told[0]


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["trainer.max_completion_length=90"], "data: no prompt is short enough; the first: "),
        (["trainer.max_completion_length=96"], "trainer.max_completion_length = 96: the model reads 96 tokens"),
        (["trainer.max_completion_length=null"], "expected a number of tokens"),
        (["model.ref=tiny/gone"], "model.ref = 'tiny/gone': not in the registry"),
        (["reward=[{ref: tiny/gone}]"], "reward.0.ref = 'tiny/gone': not in the registry"),
        (["trainer.num_generations=3"], "num_generations"),
        (["trainer.num_generations=1"], "at least 2"),
        (["trainer.kl_coef=0.1"], "trainer.kl_coef = 0.1: unknown key"),
        (["trainer.log_completions=true"], "is not set here: completions before and after training are in"),
        (["trainer.reward_weights=[1.0]"], "is not set here: set `weight` beside each scorer"),
        (["trainer.per_device_train_batch_size=256"], "prompts do not fill one rollout of 64"),
        (["trainer.eval_strategy=steps", "data.dev_fraction=0"], "trainer.eval_strategy"),
        (["model.dropout=0.1"], "model.dropout = 0.1: RLOO trains without dropout"),
        (["missing_eos_penalty=-1"], "missing_eos_penalty = -1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_published(rloo, overrides, what):
    assert what in problem_of(rloo, *overrides)


def test_data_that_does_not_fit_is_named(rloo):
    mixed = [*PROMPTS[:20], *({"prompt": [{"role": "user", "content": f"Q{n}"}]} for n in range(20))]
    assert "are mixed" in problem_of(rloo, rows=mixed, model="chat")
    assert "never: needs `nothing`, and the prompts have no such column" in problem_of(rloo, function(rloo, "never"))


def test_a_score_that_is_no_number_stops_training_and_the_last_good_policy_is_published(rloo):
    with pytest.raises(StoppedByMonitor, match="nan_later: score of row 0 of the batch is nan"):
        rloo(function(rloo, "nan_later"), "trainer.save_steps=1")
    artefact = rloo.workspace.registry.resolve("tiny/policy-stopped", kinds=["policy"])
    assert "weights of checkpoint-3" in artefact.metadata["stopped"]


def test_a_function_that_fails_interrupts_a_run_that_can_be_gone_on_with(rloo):
    with pytest.raises(Interrupted, match=r"raised ZeroDivisionError.*nothing is lost: mend it and go on with"):
        rloo(function(rloo, "fails_later"), "trainer.save_steps=1", run_id="mended")
    summary = rloo(function(rloo, "fails_later"), "trainer.save_steps=1", run_id="mended")
    assert summary["status"] == "done" and summary["num_updates"] == 4
