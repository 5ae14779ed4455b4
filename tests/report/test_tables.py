"""What stands side by side in a report: candidates, pairs, judges, annotators, and what a reward model got wrong."""

from conftest import HOSTILE, open_run
from test_html import ALLOWED_TAGS, Page

from rlhf.report import LineageNode, Report, render, report_from_run, stage_report, warnings
from rlhf.report.findings import metric_rows
from rlhf.report.metrics import describe
from rlhf.report.tables import beside_reference_lines, most_wrong, tables_of

POLICY = {
    "candidate": "support/policy@v1",
    "baseline": "support/sft@v1",
    "reference": "support/sft@v1",
    "judge": "rubric",
    "confidence": 0.95,
    "win_rate": 0.93,
    "win_rate_ci": [0.88, 0.975],
    "kl": 4.04,
    "kl_se": 0.229,
    "self_bleu_candidate": 0.89,
    "self_bleu_baseline": 0.81,
    "perplexity_candidate": 1.96,
    "perplexity_baseline": 1.45,
    "perplexity_reference": 1.45,
    "candidates": {
        "ppo": {
            "win_rate": 0.93,
            "win_rate_ci": [0.88, 0.975],
            "win_rate_length_controlled": None,
            "score": 2.75,
            "kl": 4.04,
            "kl_se": 0.229,
            "tokens_sampled_per_prompt": 22.6,
            "model": "support/policy@v1",
            "self_bleu": 0.89,
            "judge_is_training_reward": True,
        },
        "best_of_4": {
            "win_rate": 0.5,
            "win_rate_ci": [0.4, 0.6],
            "win_rate_length_controlled": 0.48,
            "score": 1.8,
            "best_of": 4,
            "kl": None,
            "kl_bound": 0.636,
            "tokens_sampled_per_prompt": 108.8,
            "model": "support/sft@v1",
            "self_bleu": 0.8,
            "judge_is_training_reward": False,
        },
    },
    "pairs": {"ppo": {"best_of_4": {"win_rate": 0.775, "win_rate_ci": [0.7, 0.84]}}},
    "judges": {
        "gpt": {"ppo": {"win_rate": 0.6, "order_disagreement": 0.25, "num_unjudged": 2}, "num_questions": 80},
    },
}


def test_candidates_stand_side_by_side():
    candidates, pairs, written, judges = tables_of(POLICY)
    assert candidates.columns[2:] == ("Win rate", "At equal length", "Score", "KL (nats)", "Tokens sampled")
    assert candidates.rows == (
        ("ppo", "support/policy@v1", "93.0% [88.0, 97.5%]", "–", "2.75", "4.04 ± 0.229", "23"),
        ("best_of_4", "support/sft@v1", "50.0% [40.0, 60.0%]", "48.0%", "1.80", "at most 0.636", "109"),
    )
    assert "upper bound, no measurement" in candidates.reading
    assert "ppo learned from this very judge or was chosen by it" in candidates.reading
    assert pairs.rows == (("ppo", "best_of_4", "77.5% [70.0, 84.0%]", "ppo"),)
    assert written.columns == ("", "ppo", "best_of_4", "Baseline")  # the reference is the baseline
    assert written.rows == (("Self-BLEU", "0.890", "0.800", "0.810"), ("Perplexity", "1.96", "–", "1.45"))
    assert judges.rows == (("gpt", "ppo", "60.0%", "–", "25.0%", "2"),)


def test_what_stands_in_a_table_is_not_listed_again():
    assert [row.label for row in metric_rows(POLICY)] == [
        *("Candidate", "Baseline", "Reference", "Judge"),
        *("Confidence of the intervals", "Win rate", "KL divergence"),
    ]
    assert metric_rows(POLICY)[-1].value == "4.04 ± 0.229 nats"


def test_a_pair_whose_interval_holds_a_half_is_undecided():
    pairs = {"a": {"b": {"win_rate": 0.55, "win_rate_ci": [0.4, 0.7]}, "c": {"win_rate": 0.1, "win_rate_ci": [0, 0.2]}}}
    assert [row[-1] for row in tables_of({"pairs": pairs})[0].rows] == ["undecided", "c"]


def test_annotators_stand_by_their_weight():
    annotators = {
        "careless": {"weight": 0.1, "reliability": 0.05, "num_comparisons": 80.0, "num_judgements": 40},
        "careful": {"weight": 1.9, "reliability": 0.9, "num_comparisons": 80.0, "num_judgements": 40},
    }
    (table,) = tables_of({"annotators": annotators})
    assert [row[0] for row in table.rows] == ["careful", "careless"]
    assert table.rows[0][1:] == ("1.90", "0.900", "40", "80")


def test_the_accuracy_stands_beside_its_reference_lines():
    results = {"accuracy": 0.74, "accuracy_ci": [0.7, 0.78], "accuracy_longest": 0.6}
    (figure,) = beside_reference_lines(results)
    assert figure.series[0].x == ("the reward model", "“longest wins”")
    assert (figure.series[0].low, figure.series[0].high) == ((0.7, 0.6), (0.78, 0.6))
    assert "upper bound" not in figure.description
    (figure,) = beside_reference_lines(results | {"agreement_people": 0.7, "accuracy_judged_twice": 0.72})
    assert figure.series[0].y == (0.74, 0.6, 0.72, 0.7) and "no upper bound" in figure.description
    assert beside_reference_lines({"accuracy": 0.74}) == []


def test_what_was_not_measured_says_why_in_one_row():
    (row,) = metric_rows({"agreement_people": None, "agreement_people_ci": None, "agreement_people_why": "only one"})
    assert (row.value, row.explanation) == ("–", "Not measured: only one.")
    (row,) = metric_rows({"calibration_why": "20 pairs are too few"})
    assert (row.label, row.value, row.explanation) == ("Calibration", "–", "Not measured: 20 pairs are too few.")


def test_the_most_wrong_pairs_are_folded_away_and_hostile_texts_stay_texts(tmp_path):
    with open_run(tmp_path, "eval") as run:
        row = {"prompt": HOSTILE, "chosen": HOSTILE, "rejected": "no", "score_chosen": -1.0, "score_rejected": 2.5}
        run.log_samples([row | {"annotator": None}], step=0, name="most_wrong")
        run.finish({"accuracy": 0.5, "accuracy_longest": 0.5, "num_prompts_trained_on": 3, "num_prompts": 10})
    report = report_from_run(run.folder)
    (table,) = report.stages[0].tables
    assert table.folded and table.title == "The pair that it gets most wrong"
    assert table.rows[0][2:] == ("[2.50]\nno", "–")
    page = Page(render(report))
    assert page.tags <= ALLOWED_TAGS and "[2.50]\nno" in page.text
    assert report.warnings == (
        "The reward model was trained on 3 of the 10 prompts that it is measured on here: its figures are too good.",
    )
    assert most_wrong([{"name": "samples", "prompt": "a", "chosen": "b", "rejected": "c"}]) == ()


def test_what_flatters_is_said_in_plain_words():
    (said,) = warnings({"eval": {"judge_shares_annotators": True, "judge_shares_judgements": True}})
    assert said.startswith("The judge learned from people whom the policy’s reward learned from too")
    (said,) = warnings({"eval": {"judge_shares_annotators": False, "judge_shares_judgements": True}})
    assert said.startswith("The judge learned from judgements")
    frontier = {"overoptimised": True, "peak_step": 12, "peak_kl": 3.4}
    (said,) = warnings({"ppo": {"frontier": frontier}})
    assert said.startswith("The policy is over-optimised: by the held-out judge it was best after update 12 (3.40 nats")
    assert warnings({"ppo": {"frontier": frontier | {"overoptimised": False}}}) == ()


def test_annotators_that_lineage_knows_to_be_simulated_are_warned_of():
    lineage = LineageNode("a", "report", children=(LineageNode("b", "preferences", simulated=True),))
    said = "The annotators were simulated: no person judged anything here."
    assert Report("t", "done", lineage=lineage).all_warnings == (said,)
    assert Report("t", "done", lineage=lineage, warnings=(said,)).all_warnings == (said,)
    assert Report("t", "done", lineage=LineageNode("a", "report")).all_warnings == ()


def test_a_reward_model_s_loss_is_no_number_and_dpo_s_accuracy_is_the_implied_reward_s():
    (row,) = stage_report("reward", {"loss": "bradley_terry"}).metrics
    assert (row.label, row.value) == ("Loss", "bradley_terry")
    rows = stage_report("dpo", {"accuracy": 0.7, "margin": 0.1}).metrics
    assert [row.label for row in rows] == [describe("rewards/accuracies").label, describe("rewards/margins").label]
