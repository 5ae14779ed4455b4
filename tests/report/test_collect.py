import importlib.util
import json
import math
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import open_run

from rlhf.errors import UserError
from rlhf.registry import Artefact, LineageNode
from rlhf.report import (
    headlines,
    lineage,
    render,
    report_from_run,
    samples_from_run,
    save_pngs,
    stage_report,
    stage_report_from_run,
    warnings,
)
from rlhf.report.findings import comparison, metric_rows
from rlhf.report.metrics import METRICS, describe, duration, format_value
from rlhf.report.plots import ReferenceLine, curves, drawable, series
from rlhf.tracking import read_metrics


def test_a_stage_is_read_back_from_its_folder(runs):
    stage = stage_report_from_run(runs["reward"])
    assert (stage.name, stage.status, stage.seconds, stage.ref) == (
        "reward",
        "done",
        48.2,
        "support/reward@v1",
    )
    assert stage.result == "Reward-model accuracy 87.3% [85.1, 89.4%]"
    shown = {row.label: row.value for row in stage.metrics}
    assert shown == {
        "Reward-model accuracy": "87.3% [85.1, 89.4%]",
        "Confidence of the intervals": "95.0%",
        "Accuracy of “longest wins”": "55.1%",
        "Judged pairs": "2\u202f950",
    }
    assert [curve.title for curve in stage.curves if curve.primary] == [
        "Accuracy beside its reference lines",
        "Loss",
        "Accuracy on judged pairs",
    ]


def test_the_kl_target_of_an_adaptive_controller_is_drawn(runs):
    (curve,) = [c for c in stage_report_from_run(runs["ppo"]).curves if c.title == "Divergence from the reference"]
    assert curve.description.startswith("Divergence from the reference (nats per answer). KL divergence: from ")
    assert curve.description.endswith("; target: 6.00.")
    assert "stroke-dasharray" in curve.svg


def test_the_report_of_one_run_is_made_from_its_folder_alone(runs):
    report = report_from_run(runs["ppo"])
    assert report.title == "Policy optimisation · ppo"
    assert (report.status, report.seed) == ("done", 7)
    assert [headline.value for headline in report.headlines] == ["+2.49", "4.13"]
    assert report.samples[0].score_after == 1.91
    assert "support/policy@v1" in render(report)


def test_a_killed_run_says_so_and_keeps_its_curves(runs):
    (runs["ppo"] / "summary.json").unlink()
    with open(runs["ppo"] / "metrics.jsonl", "ab") as file:
        file.write(b'{"time": 1, "stage": "ppo", "st')
    stage = stage_report_from_run(runs["ppo"])
    assert stage.status == "not finished"
    assert stage.notes == ("No summary was written: the run is still going, or it was killed.",)
    assert len(stage.curves) == 15


def test_a_failed_stage_names_its_error():
    stage = stage_report("ppo", {"status": "failed", "error": "RuntimeError: out of memory"})
    assert (stage.status, stage.notes) == ("failed", ("RuntimeError: out of memory",))
    stage = stage_report("ppo", {"status": "stopped", "stopped": "objective/kl 11.2 > 10", "kl": None})
    assert (stage.status, stage.notes) == ("stopped", ("objective/kl 11.2 > 10",))
    assert [(row.label, row.value) for row in stage.metrics] == [("KL divergence", "–")]


def test_the_stage_of_a_pipeline_is_found_under_its_name():
    summary = {"sft": {"perplexity": 2.5}, "artefacts": {"sft": "support/sft@v2"}, "status": "done", "seconds": 3}
    stage = stage_report("sft", summary)
    assert (stage.ref, stage.result, stage.seconds) == ("support/sft@v2", "Perplexity 2.50", 3.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [("{", "is not JSON"), ("[1]", "holds a JSON list, not an object")],
)
def test_a_broken_summary_is_named(tmp_path, content, says):
    (tmp_path / "config.yaml").write_text("{}\n")
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(UserError, match=rf"summary\.json: {says}"):
        stage_report_from_run(tmp_path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a run folder: it has neither"):
        report_from_run(tmp_path)


def test_unknown_keys_are_shown_by_name_and_nested_ones_under_their_parent():
    rows = metric_rows({"my_metric": 3.14159, "rubric": {"kappa": 0.5}, "list": [1, 2], "flag": True, "none": None})
    assert [(row.label, row.value, row.explanation) for row in rows] == [
        ("my_metric", "3.14", ""),
        ("rubric: kappa", "0.500", ""),
        ("list", "1, 2", ""),
        ("flag", "yes", ""),
        ("none", "–", ""),
    ]


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("win_rate", 0.9425, "94.2%"),
        ("win_rate", 1, "100.0%"),
        ("objective/kl", 4.126, "4.13 nats"),
        ("objective/scores", -0.8, "−0.80"),
        ("score_after", 2, "2.00"),
        ("num_prompts", 12000, "12\u202f000"),
        ("eval_loss", 123.4, "123"),
        ("lr", 3e-6, "3.00e−06"),
        ("eval_loss", 0.0, "0"),
        ("eval_loss", math.nan, "not a number"),
        ("kl", math.inf, "∞ nats"),
        ("path", "aligned/", "aligned/"),
        ("seconds", 4.25, "4.2 s"),
        ("whatever", 7, "7"),
    ],
)
def test_numbers_are_written_for_people(key, value, shown):
    assert format_value(key, value) == shown


def test_durations_are_written_for_people():
    assert [duration(s) for s in (0.04, 59.4, 61, 3600, 7512)] == [
        "0.0 s",
        "59 s",
        "1 min 01 s",
        "1 h 00 min",
        "2 h 05 min",
    ]


def test_every_metric_that_ppo_logs_has_a_name_for_people(runs):
    keys = {key for row in read_metrics(runs["ppo"]) for key in row} - {"time", "stage", "step"}
    assert not keys - METRICS.keys()
    assert describe("no/such/key").label == "no/such/key"


def test_headlines_need_their_figures():
    assert headlines({"status": "done"}) == ()
    assert [h.value for h in headlines({"sft": {"perplexity": 2.5}})] == ["2.50"]
    assert headlines({"ppo": {"score_before": "NaN", "score_after": 1.0}}) == ()


def test_a_run_says_whether_its_samples_were_held_out(tmp_path):
    with open_run(tmp_path, "ppo") as run:
        rows = [{"prompt": "p", "before": "a", "after": "b"} | more for more in ({"held_out": False}, {})]
        run.log_samples(rows, step=1)
    assert [sample.held_out for sample in samples_from_run(run.folder)] == [False, None]


def test_a_win_rate_without_an_interval_gives_no_bar():
    assert comparison({"eval": {"win_rate": 0.9}}) is None
    found = comparison({"eval": {"win_rate": 0.9, "win_rate_ci": [0.8, 0.95]}})
    assert (found.left, found.right, found.interval) == ("policy", "SFT", (0.8, 0.95))


def test_the_registrys_tree_keeps_roles_and_marks_simulated_annotators():
    when = datetime(2026, 11, 20, 14, 2, tzinfo=UTC)
    metadata = {"annotators": [{"name": "ada"}, {"name": "ben"}], "simulated": True}
    labels = Artefact("s/preferences", 1, "preferences", "b" * 64, when, Path("x"), metadata)
    reward = Artefact("s/reward", 2, "reward", "a" * 64, when, Path("y"))
    tree = lineage(LineageNode(reward, None, (LineageNode(labels, "data"),)))
    assert (tree.ref, tree.kind, tree.role, tree.created) == ("s/reward@v2", "reward", "", "2026-11-20 14:02")
    assert (tree.children[0].role, tree.children[0].note) == ("data", "annotators: ada, ben (simulated)")


def test_first_and_last_completions_of_a_prompt_are_before_and_after(tmp_path):
    rows = [
        {"step": 1, "prompt": "p", "completion": "NaN", "score": -1.0},
        {"step": 1, "prompt": "q", "completion": "only once", "score": 0.0},
        {"step": 9, "prompt": "p", "completion": "new", "score": "NaN"},
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (sample,) = samples_from_run(tmp_path)
    assert (sample.before, sample.after) == ("NaN", "new")
    assert (sample.score_before, sample.score_after) == (-1.0, None)


def test_conversations_are_shown_turn_by_turn(tmp_path):
    prompt = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    (tmp_path / "samples.jsonl").write_text(json.dumps({"prompt": prompt, "before": "a", "after": "b"}) + "\n")
    (sample,) = samples_from_run(tmp_path)
    assert sample.prompt == "user: Hello\n\nassistant: Hi"


def test_held_out_metrics_and_single_scorers_are_named_after_what_they_measure():
    assert describe("eval_objective/kl").label == "KL divergence, held-out"
    assert format_value("eval_objective/kl", 4.0) == "4.00 nats"
    assert describe("objective/scores/helpful").label == "Score by helpful"


def test_steps_without_a_number_are_marked_and_said():
    rows = [{"step": s, "objective/kl": math.nan if s == 3 else float(s)} for s in range(1, 6)]
    line = series(rows, "objective/kl")
    assert (line.steps, line.values, line.gaps) == ((1, 2, 4, 5), (1.0, 2.0, 4.0, 5.0), (3,))
    (curve,) = curves(rows)
    assert "KL divergence was not a number at 1 steps, first at step 3" in curve.description
    assert "var(--bad)" in curve.svg


def test_long_series_are_thinned_and_keep_both_ends():
    line = series([{"step": s, "loss": s} for s in range(10_000)], "loss")
    assert len(line.steps) <= 401
    assert (line.steps[0], line.steps[-1]) == (0, 9999)


def test_one_point_is_no_curve():
    assert drawable([{"step": 1, "loss": 1.0}]) == []


def test_the_svg_is_in_the_pages_colours_and_its_ids_are_its_own():
    rows = [{"step": s, "loss": float(s), "eval_loss": 2.0 * s, "lr": 1e-3} for s in range(3)]
    first, second = curves(rows)
    for curve in (first, second):
        assert curve.svg.startswith('<svg viewBox="')
        assert "#2f5d8c" not in curve.svg
        assert "xmlns" not in curve.svg
        assert "DejaVu" not in curve.svg
    assert "var(--line-1)" in first.svg
    assert "var(--line-2)" in first.svg
    ids = [set(re.findall(r' id="([^"]+)"', curve.svg)) for curve in (first, second)]
    assert not ids[0] & ids[1]


def test_pngs_are_written_one_a_family(runs, tmp_path):
    rows = [row for row in read_metrics(runs["reward"]) if row["step"] <= 30]
    paths = save_pngs(rows, tmp_path / "curves", [ReferenceLine("accuracy", 0.5512, "longest wins")])
    assert [path.name for path in paths] == ["loss.png", "accuracy.png", "margin.png", "reward_range.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_importing_the_report_loads_neither_matplotlib_nor_jinja():
    script = "import sys, rlhf.report; print(sorted({'matplotlib', 'jinja2', 'torch'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ([0.55, 0.7], "the win rate says that training worked, not that the policy is better."),
        ([0.45, 0.7], "the win rate’s interval contains 50%, so not even by that reward is it known to have become"),
        ([0.2, 0.45], "by the very reward it was trained for, the policy has become worse."),
    ],
)
def test_a_win_rate_by_the_training_reward_is_worth_what_its_interval_says(interval, said):
    evaluation = {"judge_is_training_reward": True, "win_rate": sum(interval) / 2, "win_rate_ci": interval}
    (warning,) = warnings({"eval": evaluation})
    assert said in warning


def test_every_candidate_that_learned_from_the_judge_is_warned_of():
    own, other = {"judge_is_training_reward": True}, {"judge_is_training_reward": False}
    candidates = {"ppo": own | {"model": "p@v1"}, "best_of_4": own | {"model": "s@v1"}, "dpo": other, "rloo": own}
    evaluation = {"candidate": "p@v1", "judge_is_training_reward": True, "candidates": candidates}
    main, beside = warnings({"eval": evaluation})
    assert main.startswith("The judge is a reward that the policy was trained on")
    assert beside.startswith("The judge is a reward that best_of_4 and rloo were trained on or chosen by: a high")
    (chosen,) = warnings({"eval": evaluation | other | {"candidates": {"dpo": other, "best": own}}})
    assert chosen.startswith("The judge is a reward that best was trained on or chosen by")
    assert warnings({"eval": evaluation | other | {"candidates": {"dpo": other}}}) == ()


def test_the_bar_says_that_its_judge_is_the_training_reward():
    evaluation = {"win_rate": 0.9, "win_rate_ci": [0.8, 0.95], "judge": "t/reward@v1"}
    assert comparison({"eval": evaluation | {"judge_is_training_reward": False}}).judge == "t/reward@v1"
    own = comparison({"eval": evaluation | {"judge_is_training_reward": True}})
    assert own.judge == "t/reward@v1, a reward that it was trained on"


def test_a_divergence_below_zero_is_explained_by_its_standard_error():
    (noise,) = warnings({"eval": {"kl": -0.02, "kl_se": 0.03}})
    assert noise == "The KL divergence of −0.0200 nats (standard error 0.0300 nats) is within noise of 0."
    (more,) = warnings({"eval": {"kl": -0.2, "kl_se": 0.03}})
    assert "further below 0 than noise explains" in more
    assert warnings({"eval": {"kl": 0.2, "kl_se": 0.03}}) == ()


def test_what_ppo_gained_is_called_the_training_reward():
    shown = {
        headline.label: headline for headline in headlines({"ppo": {"score_before": 0, "score_after": 1, "kl": 2.0}})
    }
    assert list(shown) == ["Training reward gained", "Distance from reference"]


def test_a_digest_is_shown_by_its_beginning():
    (row,) = metric_rows({"sha256": {"model.safetensors": "ab" * 32}})
    assert (row.label, row.value, row.whole) == ("SHA-256: model.safetensors", "abababababab", "ab" * 32)


DEMO_KEYS = """
accuracy accuracy_ci accuracy_longest agreement artefact artefacts baseline bytes candidate centred_on confidence
distinct_2_baseline distinct_2_candidate dtype ece ends_with_eos_baseline ends_with_eos_candidate eos_share_after
eos_share_before eval_loss eval_loss_before format judge judge_is_training_reward kind kl kl_se length_after
length_baseline length_before length_candidate losses num_annotators num_dev num_dev_prompts num_episodes num_overlong
num_pairs num_parameters num_prompts num_rankings num_set_aside num_train num_train_pairs num_train_rankings
num_truncated num_updates num_without_choice order_disagreement path perplexity perplexity_before ref reference report
run score_after score_baseline score_baseline_ci score_before score_candidate score_candidate_ci score_offset seconds
sha256 simulated status ties token_accuracy win_rate win_rate_ci wins
"""


@pytest.mark.parametrize("key", DEMO_KEYS.split())
def test_every_key_of_the_demos_summary_has_a_label(key):
    assert describe(key).label != key


TRL_OWN = {"DPO": "dpo_trainer.py", "RLOO": "rloo_trainer.py"}


@pytest.mark.parametrize("method", TRL_OWN)
def test_every_key_that_trls_trainers_log_has_a_name_for_people(method):
    (root,) = importlib.util.find_spec("trl").submodule_search_locations
    source = (Path(root) / "trainer" / TRL_OWN[method]).read_text(encoding="utf-8")
    keys = set(re.findall(r'self\._metrics\[(?:mode|"train")\]\["([^"]+)"\]', source))
    assert len(keys) > 10
    for key in keys | {f"eval_{key}" for key in keys} | {"rewards/helpful/mean", "rewards/helpful/std"}:
        assert describe(key).label != key


EVALUATION_KEYS = """
accuracy_judged_twice_ci agreement_people agreement_people_ci agreement_people_why beats_longest brier brier_scaled
calibration_why distinct_1_candidate distinct_3_baseline ece ece_ci ece_if_calibrated ece_scaled ece_scaled_ci forgotten
forgotten_ci gain_over_longest length_correlation length_correlation_within log_loss log_loss_scaled num_by_disagreement
num_demonstrations num_pool perplexity_candidate perplexity_baseline perplexity_reference repeated_4grams_candidate
repetition_baseline reward_std round self_bleu_candidate temperature win_rate_length_controlled
win_rate_length_controlled_ci win_rate_over_last sampling/sampling_logp_difference/mean
eval_sampling/sampling_logp_difference/max held_out/accuracy objective/judge_corr_se objective/kl_upper
"""


@pytest.mark.parametrize("key", EVALUATION_KEYS.split())
def test_every_key_of_evaluations_and_rounds_has_a_label(key):
    assert describe(key).label != key


@pytest.mark.parametrize(
    ("stage", "summary", "title", "result"),
    [
        ("dpo", {"accuracy": 0.7}, "Direct preference optimisation", "Accuracy of the implied reward 70.0%"),
        ("dpo", {"eval_loss": 0.6}, "Direct preference optimisation", "Held-out loss 0.600"),
        ("rloo", {"score_after": 1.25}, "Policy optimisation by RLOO", "Score after 1.25"),
        ("eval", {"accuracy": 0.7}, "Evaluation of the reward model", "Reward-model accuracy 70.0%"),
        ("eval", {"win_rate": 0.7, "accuracy": 0.5}, "Evaluation", "Win rate 70.0%"),
        ("eval_last", {"win_rate": 0.5}, "Evaluation against the round before", "Win rate 50.0%"),
    ],
)
def test_stages_are_called_what_they_are_and_known_by_one_result(stage, summary, title, result):
    found = stage_report(stage, {**summary, "status": "done"})
    assert (found.title, found.result) == (title, result)


def test_requirements_are_rows_that_say_whether_they_are_met():
    required = {
        "accuracy": {"asked": 0.8, "found": 0.74, "met": False},
        "beats_longest": {"asked": True, "found": 0.19, "met": True},
        "ece": {"asked": 0.05, "found": None, "met": False},
    }
    assert [(row.label, row.value) for row in metric_rows({"requirements": required})] == [
        ("Required: Reward-model accuracy", "not met: 74.0%, asked for 80.0%"),
        ("Required: Gain over “longest wins”", "met: 19.0%"),
        ("Required: Calibration error", "not met: –, asked for 5.0%"),
    ]


def test_what_figures_show_is_no_table():
    assert (
        metric_rows({"groups": {"annotator": {"ada": {"accuracy": 1}}}, "scores": {"edges": [1]}, "rounds": [{}]}) == ()
    )


def test_stages_of_rounds_say_which_round_is_theirs(runs):
    stage = stage_report_from_run(runs["reward"], "reward", 2)
    assert (stage.name, stage.title) == ("reward", "Reward model, round 2")
    assert len(stage.curves) == 5


def test_headlines_of_an_evaluated_reward_model_are_accuracy_and_calibration():
    found = headlines({"eval": {"accuracy": 0.74, "accuracy_ci": [0.7, 0.78], "ece": 0.09, "ece_scaled": 0.03}})
    assert [(each.label, each.value, each.note) for each in found] == [
        ("Reward-model accuracy", "74.0%", "interval 70.0–78.0%"),
        ("Calibration error", "3.0%", "after temperature scaling; 9.0% before"),
    ]


def test_headlines_of_dpo_and_rloo_are_told_from_those_of_others():
    summary = {"dpo": {"accuracy": 0.7}, "rloo": {"score_before": 1.0, "score_after": 2.5, "kl": 3.0}}
    found = {each.label: each.value for each in headlines(summary)}
    assert found == {
        "DPO’s accuracy on pairs": "70.0%",
        "Training reward gained by RLOO": "+1.50",
        "RLOO’s distance from reference": "3.00",
    }
