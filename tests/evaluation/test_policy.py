"""Two tiny models compared by a function or a reward model, from the config to the published report."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CONTEXT, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from rlhf.config import load_config
from rlhf.errors import Interrupted, UserError
from rlhf.evaluation.config import EvaluationConfig, GenerationSection
from rlhf.evaluation.judges import Answers, Comparison, compare_in_both_orders
from rlhf.evaluation.policy import evaluate_policy
from rlhf.evaluation.writing import Written, sequence_logprobs, write
from rlhf.files import sha256
from rlhf.generation import Completion
from rlhf.records import write_jsonl
from rlhf.workspace import Workspace

PROMPTS = [f"Prompt number {number}." for number in range(12)]
JUDGE = """
def num_letters(prompts, completions, **_):
    return [sum(letter.isalpha() for letter in completion) for completion in completions]

def ones(prompts, completions):
    return [1.0] * len(prompts)

def wanted(prompts, completions, target):
    return [float(t) for t in target]

def sum_of_bytes(prompts, completions, prompt_ids, completion_ids):
    return [sum(ids) + 0 * len(prompt) for ids, prompt in zip(completion_ids, prompt_ids)]

def nan_once(prompts, completions):
    return [1.0, float("nan"), *([1.0] * (len(prompts) - 2))]

def known(prompts, completions, target):
    return [t is not None for t in target]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "a": tiny_model(folder / "a", seed=1),
        "b": tiny_model(folder / "b", seed=2),
        "reward": tiny_model(folder / "reward", "reward", seed=3),
    }


@pytest.fixture
def workspace(tmp_path):
    return Workspace.open(tmp_path / "home", progress=False)


@pytest.fixture
def config(tmp_path, models):
    """Reads a config that compares a with b; `overrides` as on the command line."""
    (tmp_path / "judges_of_this_test.py").write_text(JUDGE)
    write_jsonl(tmp_path / "held_out.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    (tmp_path / "eval.yaml").write_text(
        f"""
candidate: {models["a"]}
baseline: {models["b"]}
data: {{sources: [{{path: held_out.jsonl}}]}}
judge: [{{function: "judges_of_this_test.py:num_letters"}}]
generation: {{max_new_tokens: 12, temperature: 1.0, batch_size: 5}}
num_bootstrap: 500
tracking: {{wandb: "off"}}
"""
    )
    return lambda *overrides: load_config(tmp_path / "eval.yaml", EvaluationConfig, overrides)


def test_the_summary_agrees_with_the_samples(config, workspace):
    seen = []
    summary = evaluate_policy(config("output.name=tiny/eval"), workspace, progress=lambda *told: seen.append(told))
    assert (summary["candidate"], summary["baseline"], summary["reference"]) == ("base/a@v1", "base/b@v1", "base/b@v1")
    report = workspace.registry.resolve("tiny/eval", kinds=["report"])
    folder = workspace.registry.open(report)
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]

    assert sorted(row["prompt"] for row in rows) == sorted(PROMPTS)
    assert summary["num_prompts"] == summary["wins"] + summary["ties"] + summary["losses"] == 12
    wins = [
        (row["score_after"] > row["score_before"]) + (row["score_after"] == row["score_before"]) / 2 for row in rows
    ]
    assert summary["win_rate"] == pytest.approx(np.mean(wins), abs=1e-6)
    assert summary["win_rate_ci"][0] <= summary["win_rate"] <= summary["win_rate_ci"][1]
    assert summary["score_candidate"] == pytest.approx(np.mean([row["score_after"] for row in rows]), rel=1e-5)
    assert [row["score_after"] for row in rows] == [sum(c.isalpha() for c in row["after"]) for row in rows]
    assert summary["order_disagreement"] == 0
    assert 1 <= summary["length_candidate"] <= 12
    assert summary["confidence"] == 0.95
    assert summary["kl"] > 0 and summary["kl_se"] > 0
    assert {told[2] for told in seen} == {"candidate", "baseline"} and seen[-1][:2] == (12, 12)

    assert summary["artefact"] == report.ref
    assert {parent.role for parent in report.parents} == {"candidate", "baseline"}
    assert report.metadata["metrics"]["win_rate"] == summary["win_rate"]
    run = workspace.home / "runs" / summary["run"]
    logged = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in logged] == [row["prompt"] for row in rows]


def test_a_model_against_itself_has_draws_of_its_own_and_no_divergence(config, workspace, models):
    summary = evaluate_policy(config(f"candidate={models['b']}"), workspace)
    assert summary["wins"] and summary["losses"]  # with the baseline's draws all would be ties
    assert summary["win_rate_ci"][0] < 0.5 < summary["win_rate_ci"][1]
    assert summary["kl"] == pytest.approx(0, abs=1e-5)
    assert "artefact" not in summary


def test_a_model_against_itself_ties_where_nothing_is_drawn(config, workspace, models):
    summary = evaluate_policy(config(f"candidate={models['b']}", "generation.temperature=0"), workspace)
    assert (summary["win_rate"], summary["ties"], summary["win_rate_ci"]) == (0.5, 12, [0.5, 0.5])
    assert summary["win_rate_length_controlled"] is None


def test_the_seed_decides_and_no_other_draw_is_disturbed(config, workspace):
    def figures(*overrides):
        summary = evaluate_policy(config(*overrides), workspace)
        return {key: value for key, value in summary.items() if key not in ("run", "seconds")}

    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    first = figures("seed=4")
    assert torch.equal(torch.rand(3), expected)
    assert figures("seed=4") == first
    assert figures("seed=5")["kl"] != first["kl"]


def test_a_reward_model_can_judge(config, workspace, models):
    summary = evaluate_policy(config(f"judge=[{{ref: {models['reward']}}}]", "output.name=tiny/eval"), workspace)
    assert summary["judge"] == "reward"
    assert summary["score_candidate"] != summary["score_baseline"]
    parents = workspace.registry.resolve("tiny/eval").parents
    assert [(parent.role, parent.ref) for parent in parents] == [
        ("candidate", "base/a@v1"), ("baseline", "base/b@v1"), ("judge", "base/reward@v1"),
    ]  # fmt: skip


def test_a_judge_that_the_policy_was_trained_on_is_called_one(config, workspace, models, caplog):
    registry = workspace.registry
    reward = registry.publish(models["reward"], kind="reward", name="tiny/reward")
    registry.publish(models["a"], kind="policy", name="tiny/policy", parents=[("reward", reward)])
    # the same under another name is the same
    registry.publish(models["reward"], kind="reward", name="tiny/judge")
    judged = ("judge=[{ref: tiny/judge}]", "candidate=tiny/policy", "output.name=tiny/eval")
    summary = evaluate_policy(config(*judged), workspace)
    assert summary["judge_is_training_reward"] is True
    assert "it favours the candidate" in caplog.text
    page = (workspace.home / "runs" / summary["run"] / "report.html").read_text()
    assert "The judge is a reward that the policy was trained on" in page
    assert registry.resolve("tiny/eval").metadata["metrics"]["judge_is_training_reward"] is True
    for others in (["candidate=tiny/policy"], [f"judge=[{{ref: {models['reward']}}}]"]):
        assert evaluate_policy(config(*others), workspace)["judge_is_training_reward"] is False


def test_a_function_that_the_policy_was_rewarded_by_is_known_again_as_judge(config, workspace, models, tmp_path):
    registry = workspace.registry
    digest = sha256(config().judge[0].function_file())
    for name, function, content in (
        ("same", "judges_of_this_test.py:num_letters", digest),
        ("moved", "elsewhere/rewards.py:num_letters", digest),
        ("edited", "judges_of_this_test.py:num_letters", "0" * 64),
        ("other_file", "rewards.py:num_letters", "0" * 64),
        ("other_function", "judges_of_this_test.py:ones", digest),
    ):
        scorers = [{"function": function, "sha256": content, "weight": 1.0}]
        registry.publish(models["a"], kind="policy", name=f"tiny/{name}", metadata={"scorers": scorers})
    told = {
        name: evaluate_policy(config(f"candidate=tiny/{name}", "num_prompts=2"), workspace)["judge_is_training_reward"]
        for name in ("same", "moved", "edited", "other_file", "other_function")
    }
    assert told == {"same": True, "moved": True, "edited": True, "other_file": False, "other_function": False}


def test_only_so_many_prompts_are_drawn(config, workspace):
    assert evaluate_policy(config("num_prompts=5"), workspace)["num_prompts"] == 5


def test_columns_of_the_data_reach_the_judge(config, workspace, tmp_path):
    write_jsonl(tmp_path / "held_out.jsonl", [{"prompt": p, "target": i} for i, p in enumerate(PROMPTS)])
    summary = evaluate_policy(
        config("judge.0.function=judges_of_this_test.py:wanted", f"judge.0.folder={tmp_path}"), workspace
    )
    assert summary["score_candidate"] == 5.5


def test_token_ids_reach_the_judge_each_side_its_own(config, workspace, tmp_path):
    summary = evaluate_policy(
        config("judge.0.function=judges_of_this_test.py:sum_of_bytes", f"judge.0.folder={tmp_path}"), workspace
    )
    assert summary["score_candidate"] != summary["score_baseline"]


def test_a_column_that_some_rows_lack_is_none_there(config, workspace, tmp_path):
    rows = [{"prompt": p} | ({"target": "x"} if i < 3 else {}) for i, p in enumerate(PROMPTS)]
    write_jsonl(tmp_path / "held_out.jsonl", rows)
    judge = ("judge.0.function=judges_of_this_test.py:known", f"judge.0.folder={tmp_path}")
    assert evaluate_policy(config(*judge), workspace)["score_candidate"] == 0.25


def test_an_overlong_prompt_is_set_aside_and_counted(config, workspace, tmp_path):
    rows = [{"prompt": "long " * CONTEXT}, *({"prompt": prompt} for prompt in PROMPTS)]
    write_jsonl(tmp_path / "held_out.jsonl", rows)
    summary = evaluate_policy(config(), workspace)
    assert (summary["num_prompts"], summary["num_overlong"]) == (12, 1)
    with pytest.raises(UserError, match=r"no prompt leaves room for generation\.max_new_tokens = 95"):
        evaluate_policy(config("generation.max_new_tokens=95"), workspace)


def test_prompts_are_taken_from_preferences_too(config, workspace, tmp_path):
    write_jsonl(tmp_path / "held_out.jsonl", [{"prompt": p, "chosen": "a", "rejected": "b"} for p in PROMPTS])
    assert evaluate_policy(config(), workspace)["num_prompts"] == 12


def test_greedy_completions_have_no_divergence(config, workspace):
    assert evaluate_policy(config("generation.temperature=0"), workspace)["kl"] is None


def test_all_that_is_wrong_is_named_before_anything_is_loaded(config, workspace, tmp_path, models):
    workspace.registry.publish(models["reward"], kind="reward", name="tiny/reward")
    wrong = config(
        "candidate=tiny/reward",
        "baseline=./gone",
        "judge.0.function=judges_of_this_test.py:num_leters",
        f"judge.0.folder={tmp_path}",
    )
    with pytest.raises(UserError) as error:
        evaluate_policy(wrong, workspace)
    candidate, baseline, judge = error.value.problems
    assert candidate.startswith("candidate = 'tiny/reward': ") and "is of kind reward" in candidate
    assert baseline.startswith("baseline = ") and "no such folder" in baseline
    assert "did you mean num_letters?" in judge
    assert not (workspace.home / "runs").exists()


def test_a_name_that_the_report_cannot_have_is_said_before_anything_is_loaded(config, workspace, models):
    workspace.registry.publish(models["a"], kind="sft", name="tiny/taken")
    with pytest.raises(UserError, match="tiny/taken"):
        evaluate_policy(config("output.name=tiny/taken"), workspace)
    assert not (workspace.home / "runs").exists()


def test_a_reference_with_other_tokens_is_refused(config, workspace, tmp_path):
    folder = tiny_model(tmp_path / "other")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="has other tokens than the candidate"):
        evaluate_policy(config(f"reference={folder}"), workspace)


def test_a_reference_that_cannot_read_as_much_is_refused(config, workspace, tmp_path):
    folder = tiny_model(tmp_path / "short", context=24)
    with pytest.raises(UserError, match="reads at most 24 tokens, and a prompt with its completion has"):
        evaluate_policy(config(f"reference={folder}"), workspace)


def summary_of(workspace, run_id):
    return json.loads((workspace.home / "runs" / run_id / "summary.json").read_text())


def test_a_judge_that_gives_no_number_is_the_users_to_mend(config, workspace, tmp_path):
    judge = ("judge.0.function=judges_of_this_test.py:nan_once", f"judge.0.folder={tmp_path}")
    with pytest.raises(UserError, match=r"reward function nan_once: score of row 1 of the batch is nan .* nothing can"):
        evaluate_policy(config(*judge), workspace.within(run_id="nan"))
    assert summary_of(workspace, "nan")["status"] == "failed"


@pytest.mark.parametrize("key", ["candidate", "reference"])
def test_a_model_with_broken_weights_is_named(config, workspace, models, tmp_path, key):
    model = AutoModelForCausalLM.from_pretrained(models["a"])
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    tiny_tokenizer().save_pretrained(tmp_path / "broken")
    with pytest.raises(UserError, match=r"broken: .* are not finite; nothing can be measured") as caught:
        evaluate_policy(config(f"{key}={tmp_path / 'broken'}"), workspace)
    assert len(caught.value.problems) == 1


def test_an_interruption_can_be_gone_on_from_where_the_same_command_does_so(config, workspace, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlhf.evaluation.judging.load_scorers", interrupt)
    pipeline = replace(workspace, resumes_itself=True, command="rlhf run run.yaml")
    with pytest.raises(Interrupted, match=r"go on with `rlhf run run\.yaml`"):
        evaluate_policy(config(), pipeline.within(run_id="run-eval-1"))
    assert summary_of(workspace, "run-eval-1")["status"] == "interrupted"
    with pytest.raises(KeyboardInterrupt):  # there is nothing to go on from
        evaluate_policy(config(), workspace)


def test_an_attempt_that_is_repeated_logs_its_figures_once(config, workspace, monkeypatch):
    again = workspace.within(run_id="tiny-eval-1")
    with monkeypatch.context() as patch:
        patch.setattr("rlhf.tracking.Run.log_samples", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluate_policy(config(), again)
    evaluate_policy(config(), again)
    lines = (workspace.home / "runs" / "tiny-eval-1" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1


class LongerOrElseFirst:
    """Sees a difference of three letters; otherwise it likes whoever stands first."""

    name = "longer or else first"
    order_matters = True

    def compare(self, prompts, first, second):
        pairs = zip(first.texts, second.texts, strict=True)
        return Comparison(np.array([1.0 if len(a) + 3 > len(b) else 0.0 for a, b in pairs]))


def test_a_judge_is_asked_in_both_orders():
    first, second = ["long answer", "ab", "x"], ["short", "a", "a long answer"]
    compared, disagreement = compare_in_both_orders(LongerOrElseFirst(), ["p"] * 3, Answers(first), Answers(second))
    assert compared.verdicts.tolist() == [1.0, 0.5, 0.0]
    assert disagreement == pytest.approx(1 / 3)


def test_log_probabilities_are_those_of_one_row_at_a_time(models):
    model = AutoModelForCausalLM.from_pretrained(models["a"]).eval()
    rows = [([5, 6, 7], [8, 9]), ([1], [2, 3, 4, 5]), ([4, 4, 4, 4, 4], [9])]
    written = Written(
        [prompt for prompt, _ in rows], [Completion(i, "", ids, False) for i, (_, ids) in enumerate(rows)]
    )
    expected = []
    for prompt, completion in rows:
        with torch.no_grad():
            logprobs = (model(torch.tensor([prompt + completion])).logits[0] / 0.7).log_softmax(-1)
        expected.append(sum(logprobs[len(prompt) + i - 1, token].item() for i, token in enumerate(completion)))
    for batch_size in (1, 3):
        found = sequence_logprobs(model, written, temperature=0.7, batch_size=batch_size)
        assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_divergence_is_that_of_the_two_distributions(models):
    """One new token: the sampled estimate against the sum over the whole vocabulary."""
    a, b = (AutoModelForCausalLM.from_pretrained(models[name]).eval() for name in "ab")
    tokenizer = tiny_tokenizer()
    section = GenerationSection(max_new_tokens=1, temperature=0.7, batch_size=1000)
    written = write(a, tokenizer, ["Hello"] * 4000, section, seed=0)
    ratios = sequence_logprobs(a, written, temperature=0.7, batch_size=1000) - sequence_logprobs(
        b, written, temperature=0.7, batch_size=1000
    )
    with torch.no_grad():
        ids = torch.tensor([written.prompt_ids[0]])
        log_a, log_b = ((model(ids).logits[0, -1] / 0.7).log_softmax(-1) for model in (a, b))
    exact = (log_a.exp() * (log_a - log_b)).sum().item()
    assert abs(ratios.mean().item() - exact) < 4 * ratios.std().item() / math.sqrt(len(ratios))
    assert exact > 0.1
