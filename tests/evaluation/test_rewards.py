"""A reward model on held-out preferences."""

import json
import re

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny import tiny_model
from transformers import AutoConfig, LlamaForSequenceClassification

from rlhf.config import load_config
from rlhf.errors import UserError
from rlhf.evaluation.calibration import cross_fitted, expected_calibration_error, fit_temperature
from rlhf.evaluation.ending import RequirementsNotMet
from rlhf.evaluation.reward_config import RewardEvaluationConfig
from rlhf.evaluation.rewards import evaluate_reward
from rlhf.modeling import find_model, load_reward_model, load_tokenizer
from rlhf.records import prompt_key, write_jsonl
from rlhf.scorers import reward_model_scorer
from rlhf.scoring import RewardModelScorer
from rlhf.tracking import read_figures, read_samples
from rlhf.workspace import Workspace

TEXTS = ["yes", "no, never", "perhaps so", "I do not know", "ask somebody else", "of course it is"]
PROMPTS = [f"Is number {number} odd?" for number in range(8)]


@pytest.fixture(scope="module", params=["reward", "encoder"])
def model(request, tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("models") / request.param, request.param, seed=5)


@pytest.fixture
def workspace(tmp_path):
    return Workspace.open(tmp_path / "home", progress=False)


def config(folder, model, *overrides):
    (folder / "eval.yaml").write_text(
        f"""
model: {model}
data: {{sources: [{{path: held_out.jsonl}}]}}
num_bootstrap: 500
tracking: {{wandb: "off"}}
"""
    )
    return load_config(folder / "eval.yaml", RewardEvaluationConfig, overrides)


def scores_of(model, workspace, pairs):
    source = find_model(str(model), workspace.registry)
    scorer = RewardModelScorer(load_reward_model(source)[0], load_tokenizer(source, generates=False))
    return scorer.score([prompt for prompt, _ in pairs], [text for _, text in pairs]).tolist()


def test_accuracy_is_the_share_of_pairs_in_the_right_order(tmp_path, workspace, model):
    pairs = [(prompt, TEXTS[i % 6], TEXTS[(i + 1 + i // 6) % 6]) for i, prompt in enumerate(PROMPTS)]
    rows = [dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in pairs]
    write_jsonl(tmp_path / "held_out.jsonl", rows)
    summary = evaluate_reward(config(tmp_path, model, "output.name=tiny/reward-eval", "confidence=0.8"), workspace)

    chosen = scores_of(model, workspace, [(prompt, better) for prompt, better, _ in pairs])
    rejected = scores_of(model, workspace, [(prompt, worse) for prompt, _, worse in pairs])
    assert summary["accuracy"] == sum(b > w for b, w in zip(chosen, rejected, strict=True)) / 8
    assert summary["accuracy_ci"][0] < summary["accuracy_ci"][1]
    assert summary["confidence"] == 0.8
    assert "80.0%" in (workspace.home / "runs" / summary["run"] / "report.html").read_text()
    assert summary["accuracy_longest"] == sum(len(b) > len(w) for _, b, w in pairs) / 8
    assert (summary["num_pairs"], summary["num_prompts"], summary["num_truncated"]) == (8, 8, 0)
    report = workspace.registry.resolve("tiny/reward-eval")
    lines = (workspace.registry.open(report) / "samples.jsonl").read_text().splitlines()
    found = {row["prompt"]: row["score_chosen"] for row in map(json.loads, lines)}
    assert [found[prompt] for prompt in PROMPTS] == pytest.approx(chosen, abs=1e-5)


def test_a_ranking_counts_with_all_its_pairs(tmp_path, workspace, model):
    scores = scores_of(model, workspace, [(PROMPTS[0], text) for text in TEXTS])
    order = sorted(range(6), key=lambda i: -scores[i])
    ranking = {"prompt": PROMPTS[0], "completions": TEXTS, "tiers": [[i] for i in order]}
    upside_down = {"prompt": PROMPTS[0], "completions": TEXTS, "tiers": [[i] for i in reversed(order)]}
    write_jsonl(tmp_path / "held_out.jsonl", [ranking])
    right = evaluate_reward(config(tmp_path, model), workspace)
    assert (right["accuracy"], right["num_pairs"], right["num_prompts"]) == (1.0, 15, 1)
    write_jsonl(tmp_path / "held_out.jsonl", [upside_down])
    assert evaluate_reward(config(tmp_path, model), workspace)["accuracy"] == 0.0


def test_data_without_a_preference_is_refused(tmp_path, workspace, model):
    ties = {"prompt": "p", "completions": ["a", "b"], "tiers": [[0, 1]]}
    write_jsonl(tmp_path / "held_out.jsonl", [ties])
    with pytest.raises(UserError, match="no ranking places one completion above another"):
        evaluate_reward(config(tmp_path, model), workspace)
    assert not (workspace.home / "runs").exists()


def test_a_model_that_gives_no_number_is_the_users_to_mend(tmp_path, workspace, model):
    loaded = load_reward_model(find_model(str(model), workspace.registry))[0]
    torch.nn.init.constant_(next(loaded.parameters()), float("nan"))
    loaded.save_pretrained(tmp_path / "broken")
    load_tokenizer(find_model(str(model), workspace.registry), generates=False).save_pretrained(tmp_path / "broken")
    write_jsonl(tmp_path / "held_out.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    with pytest.raises(UserError, match=r"broken: score of row 0 .* nothing can be measured with that"):
        evaluate_reward(config(tmp_path, tmp_path / "broken"), workspace)


def test_a_model_that_writes_is_no_reward_model(tmp_path, workspace):
    writer = tiny_model(tmp_path / "writer")
    workspace.registry.publish(writer, kind="sft", name="tiny/sft")
    with pytest.raises(UserError, match="is of kind sft; expected base or reward"):
        evaluate_reward(config(tmp_path, "tiny/sft"), workspace)


def many_pairs(num=60, **columns):
    """Pairs of 20 prompts, each judged by one of two people."""
    return [
        {
            "prompt": f"Is number {i % 20} odd?",
            "chosen": TEXTS[i % 6] + "!" * (i % 4),
            "rejected": TEXTS[(i + 1 + i // 6 % 5) % 6],
            "annotator": ("ana", "ben")[i % 2],
            **columns,
        }
        for i in range(num)
    ]


def scored(model, workspace, rows):
    """The margins of the rows."""
    chosen = scores_of(model, workspace, [(row["prompt"], row["chosen"]) for row in rows])
    rejected = scores_of(model, workspace, [(row["prompt"], row["rejected"]) for row in rows])
    return np.array(chosen) - np.array(rejected)


def test_a_summary_says_how_far_the_model_can_be_trusted(tmp_path, workspace, model):
    rows = many_pairs(source="web")
    write_jsonl(tmp_path / "held_out.jsonl", rows)
    summary = evaluate_reward(config(tmp_path, model, "groups=[source]", "num_worst=3"), workspace)
    margins = scored(model, workspace, rows)
    assert summary["accuracy"] == pytest.approx((margins > 0).mean(), abs=1e-6)
    assert summary["gain_over_longest"] == pytest.approx(summary["accuracy"] - summary["accuracy_longest"], abs=1e-5)
    assert list(summary["groups"]) == ["source", "annotator"]
    assert summary["groups"]["source"]["web"]["accuracy"] == summary["accuracy"]
    assert summary["groups"]["annotator"]["ana"]["accuracy"] == pytest.approx((margins[::2] > 0).mean(), abs=1e-6)
    assert summary["temperature"] == pytest.approx(fit_temperature(margins), rel=1e-4)
    assert summary["ece"] == pytest.approx(expected_calibration_error(margins), abs=1e-5)
    assert summary["ece_scaled"] == pytest.approx(
        expected_calibration_error(cross_fitted(margins, [prompt_key(row["prompt"]) for row in rows])), abs=1e-4
    )
    assert sum(summary["reliability"]["num_pairs"]) == sum(summary["scores"]["chosen"]) == 60
    assert summary["agreement_people"] is None and summary["agreement_people_why"] == (
        "no pair was judged by two annotators"
    )
    assert summary["requirements"] == {}

    folder = workspace.home / "runs" / summary["run"]
    worst = read_samples(folder)
    assert [row["name"] for row in worst] == ["most_wrong"] * 3
    assert worst[0]["score_chosen"] - worst[0]["score_rejected"] == pytest.approx(margins.min(), abs=1e-5)
    assert worst[0]["annotator"] == rows[margins.argmin()]["annotator"]
    assert [figure.name for figure in read_figures(folder)] == [
        "accuracy_by_annotator",
        "reliability",
        "score_distribution",
        "score_by_length",
    ]


def test_length_correlations_are_over_distinct_completions(tmp_path, workspace, model):
    rows = many_pairs()
    write_jsonl(tmp_path / "held_out.jsonl", rows)
    summary = evaluate_reward(config(tmp_path, model), workspace)
    pairs = sorted({(row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected")})
    scores = scores_of(model, workspace, pairs)
    assert summary["length_correlation"] == pytest.approx(
        spearmanr([len(text) for _, text in pairs], scores).statistic, abs=1e-4
    )
    within = []
    for prompt in {prompt for prompt, _ in pairs}:
        mine = [(len(text), score) for (of, text), score in zip(pairs, scores, strict=True) if of == prompt]
        within.append(spearmanr(*zip(*mine, strict=True)).statistic)
    assert summary["length_correlation_within"] == pytest.approx(np.mean(within), abs=1e-4)


def test_people_who_judged_the_same_are_the_line_to_be_read_against(tmp_path, workspace, model):
    rows = many_pairs(num=12)
    agreeing = [row | {"annotator": "cem"} for row in rows[:6]]
    contradicting = [
        row | {"annotator": "cem", "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows[6:9]
    ]
    write_jsonl(tmp_path / "held_out.jsonl", [*rows, *agreeing, *contradicting])
    summary = evaluate_reward(config(tmp_path, model), workspace)
    assert summary["agreement_people"] == pytest.approx(6 / 9, abs=1e-5)
    assert summary["agreement_people_ci"][0] < 6 / 9 < summary["agreement_people_ci"][1]
    assert (summary["num_judged_twice"], summary["num_judged_both_ways"]) == (18, 3)
    margins = scored(model, workspace, rows)
    right = [*(margins[:6] > 0), *(margins[:6] > 0), *(margins[6:9] > 0), *(margins[6:9] < 0)]
    assert summary["accuracy_judged_twice"] == pytest.approx(np.mean(right), abs=1e-5)
    assert summary["groups"]["annotator"]["cem"]["agreement_people"] == pytest.approx(6 / 9, abs=1e-5)


def test_ties_are_counted_apart(tmp_path, workspace, model):
    ranking = {"prompt": PROMPTS[0], "completions": [*TEXTS[:4], "yes"], "tiers": [[1, 2], [0, 3, 4]]}
    write_jsonl(tmp_path / "held_out.jsonl", [ranking])
    summary = evaluate_reward(config(tmp_path, model), workspace)
    scores = scores_of(model, workspace, [(PROMPTS[0], text) for text in TEXTS[:4]])
    distances = [abs(scores[1] - scores[2]), abs(scores[0] - scores[3]), abs(scores[3] - scores[0])]
    assert (summary["num_pairs"], summary["num_ties"]) == (6, 3)
    assert summary["tie_distance"] == pytest.approx(np.mean(distances), abs=1e-4)


def test_one_prompt_has_no_interval_and_too_few_pairs_no_calibration(tmp_path, workspace, model):
    write_jsonl(tmp_path / "held_out.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    summary = evaluate_reward(config(tmp_path, model, "output.name=tiny/eval"), workspace)
    assert summary["accuracy_ci"] is None and summary["temperature"] is None and summary["ece"] is None
    assert summary["calibration_why"] == (
        "1 pairs of 1 prompts are too few to tell calibration from chance: it takes 50 pairs of 10 prompts at least"
    )
    assert workspace.registry.find("tiny/eval@v1") is not None


def test_a_model_that_scores_all_alike_is_right_by_half(tmp_path, workspace, model):
    loaded = load_reward_model(find_model(str(model), workspace.registry))[0]
    head = loaded.score if hasattr(loaded, "score") else loaded.classifier
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    loaded.save_pretrained(tmp_path / "flat")
    load_tokenizer(find_model(str(model), workspace.registry), generates=False).save_pretrained(tmp_path / "flat")
    write_jsonl(tmp_path / "held_out.jsonl", many_pairs())
    summary = evaluate_reward(config(tmp_path, tmp_path / "flat"), workspace)
    assert (summary["accuracy"], summary["num_equal_scores"]) == (0.5, 60)
    assert summary["length_correlation"] is None and summary["length_correlation_within"] is None
    assert summary["calibration_why"] == "both completions of every pair have the same score"
    assert sum(summary["scores"]["rejected"]) == 60


def test_pairs_of_equal_texts_are_set_aside_by_name(tmp_path, workspace, model, caplog):
    same = {"prompt": "p", "chosen": "a", "rejected": "a"}
    write_jsonl(tmp_path / "held_out.jsonl", [same, *many_pairs()])
    summary = evaluate_reward(config(tmp_path, model), workspace)
    assert (summary["num_set_aside"], summary["num_pairs"]) == (1, 60)
    assert "held_out.jsonl:1: " in caplog.text and "are the same text" in caplog.text


def test_what_falls_short_is_published_and_then_stops(tmp_path, workspace, model):
    write_jsonl(tmp_path / "held_out.jsonl", many_pairs())
    short = config(tmp_path, model, "output.name=tiny/eval", "require={accuracy: 0.99, ece: 0.0001, ece_scaled: 1.0}")
    with pytest.raises(RequirementsNotMet) as ended:
        evaluate_reward(short, workspace)
    first, second = str(ended.value).splitlines()
    assert re.fullmatch(r"require\.accuracy: accuracy is 0\.\d+; asked for at least 0\.99", first)
    assert re.fullmatch(r"require\.ece: ece is 0\.\d+; asked for at most 0\.0001", second)
    summary = ended.value.summary
    assert (summary["status"], summary["artefact"]) == ("stopped", "tiny/eval@v1")
    assert [name for name, held in summary["requirements"].items() if held["met"]] == ["ece_scaled"]
    folder = workspace.home / "runs" / summary["run"]
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert (folder / "report.html").is_file()
    report = workspace.registry.open("tiny/eval")
    assert json.loads((report / "evaluation.json").read_text())["requirements"] == summary["requirements"]
    assert (report / "most_wrong.jsonl").is_file()


def published(workspace, model, tmp_path, prompts):
    """The model in the registry, trained on these prompts."""
    write_jsonl(tmp_path / "data" / "train.jsonl", [{"prompt": p, "chosen": "a", "rejected": "b"} for p in prompts])
    data = workspace.registry.publish(tmp_path / "data", kind="preferences", name="tiny/reward-data")
    parents = [("preferences", data)]
    return workspace.registry.publish(model, kind="reward", name="tiny/reward", parents=parents).ref


def test_prompts_that_the_model_was_trained_on_are_counted(tmp_path, workspace, model, caplog):
    write_jsonl(tmp_path / "held_out.jsonl", many_pairs())
    assert evaluate_reward(config(tmp_path, model), workspace)["num_prompts_trained_on"] is None
    ref = published(workspace, model, tmp_path, ["Is  number 0 odd?", "Is number 1 odd?", "something else"])
    assert evaluate_reward(config(tmp_path, ref), workspace)["num_prompts_trained_on"] == 2
    assert "tiny/reward@v1 was trained on 2 of these 20 prompts: what it shows here is too good" in caplog.text


def test_the_temperature_of_one_report_can_be_tried_on_other_data(tmp_path, workspace, model):
    ref = published(workspace, model, tmp_path, ["p"])
    write_jsonl(tmp_path / "held_out.jsonl", many_pairs())
    first = evaluate_reward(config(tmp_path, ref, "output.name=tiny/report"), workspace)
    other = many_pairs(72)[12:]
    write_jsonl(tmp_path / "held_out.jsonl", other)
    again = evaluate_reward(config(tmp_path, ref, "temperature=tiny/report@v1"), workspace)
    margins = scored(model, workspace, other)
    assert again["ece_scaled"] == pytest.approx(expected_calibration_error(margins / first["temperature"]), abs=1e-4)
    by_number = evaluate_reward(config(tmp_path, ref, f"temperature={first['temperature']}"), workspace)
    assert by_number["ece_scaled"] == again["ece_scaled"]

    with pytest.raises(
        UserError, match=r"temperature = 'tiny/report': tiny/report@v1 is about tiny/reward@v1, and thi"
    ):
        evaluate_reward(config(tmp_path, model, "temperature=tiny/report"), workspace)
    with pytest.raises(UserError, match=r"temperature = 'tiny/nothing': .*no artefact is called tiny/nothing"):
        evaluate_reward(config(tmp_path, ref, "temperature=tiny/nothing"), workspace)
    write_jsonl(tmp_path / "held_out.jsonl", other[:5])
    evaluate_reward(config(tmp_path, ref, "output.name=tiny/small"), workspace)
    with pytest.raises(UserError, match=r"tiny/small@v1 could not measure a temperature; its data was too small"):
        evaluate_reward(config(tmp_path, ref, "temperature=tiny/small"), workspace)


def test_an_ensemble_is_measured_by_the_one_score_of_its_members(tmp_path, workspace):
    single = tiny_model(tmp_path / "single", "reward")
    about = AutoConfig.from_pretrained(single)
    about.num_labels = 3
    with torch.random.fork_rng():
        torch.manual_seed(1)
        LlamaForSequenceClassification(about).save_pretrained(single)
    (single / "reward.json").write_text(json.dumps({"combine": "worst", "score_offset": [0.0, 0.1, -0.1]}))
    rows = many_pairs()
    write_jsonl(tmp_path / "held_out.jsonl", rows)
    summary = evaluate_reward(config(tmp_path, single), workspace)
    scorer = reward_model_scorer(find_model(str(single), workspace.registry), "ensemble")
    members = [
        scorer.score_members([row["prompt"] for row in rows], [row[side] for row in rows]).numpy().min(axis=1)
        for side in ("chosen", "rejected")
    ]
    assert summary["accuracy"] == pytest.approx((members[0] > members[1]).mean(), abs=1e-6)
