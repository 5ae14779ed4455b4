"""Several candidates beside one baseline: best-of-n, win rates of all against all, what was forgotten."""

import json
import math

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from rlhf.config import load_config
from rlhf.errors import UserError
from rlhf.evaluation.candidates import seed_of
from rlhf.evaluation.config import EvaluationConfig
from rlhf.evaluation.perplexity import encode_demonstration
from rlhf.evaluation.policy import evaluate_policy
from rlhf.evaluation.summarising import best_of_kl_bound
from rlhf.records import Completion, write_jsonl
from rlhf.tracking import read_figures
from rlhf.workspace import Workspace

PROMPTS = [f"Prompt number {number}." for number in range(10)]
JUDGE = """
def num_letters(prompts, completions, **_):
    return [sum(letter.isalpha() for letter in completion) for completion in completions]

def few_letters(prompts, completions, **_):
    return [-sum(letter.isalpha() for letter in completion) for completion in completions]
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
def workspace(tmp_path, monkeypatch):
    monkeypatch.setattr(Workspace, "write_report", lambda *_: None)  # has tests of its own, and takes a second
    return Workspace.open(tmp_path / "home", progress=False)


@pytest.fixture
def config(tmp_path, models):
    """Reads a config in which two models and best-of-n stand beside b."""
    (tmp_path / "judges_of_candidates.py").write_text(JUDGE)
    write_jsonl(tmp_path / "held_out.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    rows = [{"prompt": prompt, "completion": " Thank you."} for prompt in PROMPTS]
    write_jsonl(tmp_path / "demonstrations.jsonl", rows)
    (tmp_path / "eval.yaml").write_text(
        f"""
candidates:
  other: {models["a"]}
  same: {models["b"]}
  best: {{ref: {models["b"]}, best_of: 4, by: [{{function: "judges_of_candidates.py:num_letters", name: letters}}]}}
  worst: {{ref: {models["b"]}, best_of: 4, by: [{{function: "judges_of_candidates.py:few_letters", name: few}}]}}
baseline: {models["b"]}
data: {{sources: [{{path: held_out.jsonl}}]}}
judge: [{{function: "judges_of_candidates.py:num_letters"}}]
generation: {{max_new_tokens: 12, temperature: 1.0, batch_size: 64}}
num_bootstrap: 300
tracking: {{wandb: "off"}}
"""
    )
    return lambda *overrides: load_config(tmp_path / "eval.yaml", EvaluationConfig, overrides)


def test_candidates_stand_beside_one_baseline_on_the_same_prompts(config, workspace):
    summary = evaluate_policy(config("output.name=tiny/eval"), workspace)
    found = summary["candidates"]
    assert list(found) == ["other", "same", "best", "worst"]
    # what the summary of a single candidate holds is that of the first
    for key in ("win_rate", "win_rate_ci", "wins", "ties", "losses", "kl", "kl_se"):
        assert summary[key] == found["other"][key]
    assert summary["candidate"] == "base/a@v1" and summary["score_candidate"] == found["other"]["score"]
    assert found["same"]["ties"] < 10  # the same model, and draws of its own
    assert found["same"]["kl"] == pytest.approx(0, abs=1e-5)
    # the most letters of four are seldom fewer than those of one, and the fewest seldom more
    assert found["best"]["score"] > found["same"]["score"] > found["worst"]["score"]
    assert found["best"]["win_rate"] > 0.7 and found["worst"]["win_rate"] < 0.3
    assert (found["best"]["kl"], found["best"]["best_of"]) == (None, 4)
    assert found["best"]["kl_bound"] == pytest.approx(math.log(4) - 0.75, rel=1e-5)
    # four times as much is sampled as is kept
    assert found["same"]["tokens_sampled_per_prompt"] == found["same"]["length"]
    assert 2 * found["best"]["length"] < found["best"]["tokens_sampled_per_prompt"] <= 48
    assert [found[name]["judge_is_training_reward"] for name in found] == [False, False, True, False]

    assert summary["pairs"]["best"]["worst"]["win_rate"] > 0.9
    assert list(summary["pairs"]) == ["other", "same", "best"]

    refs = [found[name]["model"] for name in found]
    assert refs == ["base/a@v1", "base/b@v1", "base/b@v1", "base/b@v1"]
    report = workspace.registry.resolve("tiny/eval", kinds=["report"])
    assert [(parent.role, parent.ref) for parent in report.parents] == [
        ("candidate", "base/a@v1"), ("baseline", "base/b@v1"), ("compared", "base/b@v1"),
    ]  # fmt: skip
    rows = [json.loads(line) for line in (report.path / "samples.jsonl").read_text().splitlines()]
    assert set(rows[0]["others"]) == {"same", "best", "worst"}
    assert all(row["others"]["same"] != row["before"] for row in rows)
    other, same = (
        [sum(letter.isalpha() for letter in text) for text in texts]
        for texts in ([row["after"] for row in rows], [row["others"]["same"] for row in rows])
    )
    wins = [(one > two) + (one == two) / 2 for one, two in zip(other, same, strict=True)]
    assert summary["pairs"]["other"]["same"]["win_rate"] == pytest.approx(np.mean(wins))
    rates, lengths = read_figures(workspace.home / "runs" / summary["run"])
    assert rates.name == "win_rates" and rates.series[0].x == ("other", "same", "best", "worst")
    assert rates.series[0].y[1] == found["same"]["win_rate"] and rates.marks[0].y == 0.5
    assert [series.name for series in lengths.series] == ["other", "same", "best", "worst", "baseline"]


def test_a_writer_s_draws_are_its_own_and_the_same_in_every_evaluation(config, workspace):
    assert (seed_of(0, "ppo"), seed_of(0, "baseline"), seed_of(1, "ppo")) == (2819065364, 2891789467, 1768305047)
    texts = []
    for _ in range(2):
        run = workspace.home / "runs" / evaluate_policy(config(), workspace)["run"]
        rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
        texts.append([(row["before"], row["after"], row["others"]["best"]) for row in rows])
    assert texts[0] == texts[1]


def test_a_single_candidate_has_no_table_of_candidates(config, workspace, models):
    summary = evaluate_policy(config("candidates={}", f"candidate={models['a']}"), workspace)
    assert "candidates" not in summary and "pairs" not in summary


def test_a_candidate_that_is_listed_too_writes_once(config, workspace, models):
    told = set()
    listed = config("candidates={ppo: %s}" % models["a"], f"candidate={models['a']}")  # noqa: UP031
    evaluate_policy(listed, workspace, progress=lambda done, total, who: told.add(who))
    assert (listed.main, told) == ("ppo", {"candidate", "baseline"})


def test_a_reward_model_can_choose_among_n(config, workspace, models):
    wanted = "candidates={m: %s, best: {ref: %s, best_of: 3, by: %s}}" % (  # noqa: UP031
        models["a"], models["b"], models["reward"],
    )  # fmt: skip
    judged = (f"judge=[{{ref: {models['reward']}}}]", "output.name=tiny/eval")
    summary = evaluate_policy(config(wanted, *judged), workspace)
    best = summary["candidates"]["best"]
    assert best["score"] > summary["score_baseline"] and best["win_rate"] > 0.5
    roles = [parent.role for parent in workspace.registry.resolve("tiny/eval").parents]
    assert roles == ["candidate", "baseline", "compared", "judge", "chooser"]


def test_all_models_write_to_the_prompts_that_fit_all_of_them(config, workspace, models, tmp_path):
    short = tiny_model(tmp_path / "short", context=30)
    write_jsonl(tmp_path / "held_out.jsonl", [{"prompt": "p" * n} for n in (5, 10, 25, 60, 200)])
    wanted = "candidates={m: %s, short: %s}" % (models["a"], short)  # noqa: UP031
    summary = evaluate_policy(config(wanted), workspace)
    assert (summary["num_prompts"], summary["num_overlong"]) == (2, 3)
    summary = evaluate_policy(config(wanted, "num_prompts=1"), workspace)
    assert summary["num_prompts"] + summary["num_overlong"] <= 5 and summary["num_prompts"] <= 1


def test_what_was_forgotten_is_measured_on_demonstrations(config, workspace, models, tmp_path):
    data = f"sft_data.sources=[{{path: {tmp_path / 'demonstrations.jsonl'}}}]"
    summary = evaluate_policy(config(data, "num_prompts=3"), workspace)
    assert summary["num_demonstrations"] == 10
    assert summary["perplexity_baseline"] == summary["perplexity_reference"] != summary["perplexity_candidate"]
    # every completion has as many tokens, so the mean over demonstrations is that over tokens
    lost = math.log(summary["perplexity_candidate"] / summary["perplexity_reference"])
    assert summary["forgotten"] == pytest.approx(lost, abs=1e-4)
    assert summary["forgotten_ci"][0] <= summary["forgotten"] <= summary["forgotten_ci"][1]
    model = AutoModelForCausalLM.from_pretrained(models["b"]).eval()
    nll = []
    for prompt in PROMPTS:
        ids = tiny_tokenizer()(prompt + " Thank you.")["input_ids"] + [tiny_tokenizer().eos_token_id]
        start = len(tiny_tokenizer()(prompt)["input_ids"])
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        nll += [-logprobs[at - 1, ids[at]].item() for at in range(start, len(ids))]
    assert summary["perplexity_baseline"] == pytest.approx(math.exp(np.mean(nll)), rel=1e-4)


def test_perplexity_is_that_of_the_completion_with_its_end():
    tokenizer = tiny_tokenizer()
    prompt, ids = encode_demonstration(tokenizer, Completion(prompt="Hi", completion=" there"))
    assert tokenizer.decode(prompt + ids) == "Hi there" + tokenizer.eos_token
    assert ids[-1] == tokenizer.eos_token_id and ids.count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["candidates={}"], "name a `candidate`, or several"),
        (["candidates={best: {ref: x/y, best_of: 4, by: x/z}}"], "best-of-n stands beside a model"),
        (["candidates.baseline=x/y"], "is what the baseline is called"),
        (["candidates.best.best_of=1"], "candidates.best.best_of = 1: "),
        (["generation.temperature=0"], "best-of-n chooses among completions that differ"),
        (["candidates.a b=x/y"], "candidates.a b"),
    ],
)
def test_candidates_that_make_no_sense_are_refused_at_once(config, overrides, said):
    with pytest.raises(UserError) as caught:
        config(*overrides)
    assert said in str(caught.value)


def test_models_and_scorers_that_are_not_there_are_named_by_their_keys(config, workspace):
    wrong = config("candidates={m: ./gone, best: {ref: ./away, best_of: 2, by: x/none}}")
    with pytest.raises(UserError) as caught:
        evaluate_policy(wrong, workspace)
    heads = [problem.partition(" = ")[0] for problem in caught.value.problems]
    assert heads == ["candidates.m", "candidates.best.ref", "candidates.best.by.0.ref"]


def test_the_bound_of_best_of_n_is_exact_where_no_two_samples_are_equal():
    """A million equally likely outcomes: the chosen one's divergence, summed by its exact distribution."""
    num, n = 1_000_000, 5
    ranks = np.arange(1, num + 1) / num
    chosen = ranks**n - (ranks - 1 / num) ** n
    assert (chosen * np.log(chosen * num)).sum() == pytest.approx(best_of_kl_bound(5), abs=1e-4)
    assert best_of_kl_bound(2) == pytest.approx(0.1931, abs=1e-4)


def test_the_frontier_of_a_run_goes_into_the_summary_and_the_figures(config, workspace):
    folder = workspace.home / "runs" / "ppo-1"
    folder.mkdir(parents=True)
    rows = [
        {"step": step, **{f"eval_objective/{key}": value for key, value in values.items()}}
        for step, judge in enumerate([0.0, 1.0, 2.0, 1.0, 0.0])
        for values in [{"kl": step, "scores": step, "judge": judge, "judge_se": 0.1}]
    ]
    write_jsonl(folder / "metrics.jsonl", rows)
    alone = [f"candidates={{m: {config().candidates['other']}}}", "num_prompts=2"]
    summary = evaluate_policy(config(*alone, "checkpoints=ppo-1"), workspace)
    assert summary["frontier"]["overoptimised"] and summary["frontier"]["peak_step"] == 2
    names = [figure.name for figure in read_figures(workspace.home / "runs" / summary["run"])]
    assert names == ["win_rates", "score_by_length", "frontier"]
    with pytest.raises(UserError, match="run ppo-2: there is none of that id"):
        evaluate_policy(config(*alone, "checkpoints=ppo-2"), workspace)


def test_a_pair_of_candidates_is_compared_by_their_own_scores(config, workspace, models):
    greedy = "generation.temperature=0"
    summary = evaluate_policy(config(f"candidates={{x: {models['a']}, y: {models['b']}}}", greedy), workspace)
    assert summary["pairs"] == {
        "x": {"y": {"win_rate": summary["win_rate"], "win_rate_ci": summary["win_rate_ci"]}}
    }  # y is the baseline under another name, and without draws writes the same
