"""A reward model on held-out preferences."""

import json

import pytest
import torch
from tiny import tiny_model

from rlhf.config import load_config
from rlhf.errors import UserError
from rlhf.evaluation.reward_config import RewardEvaluationConfig
from rlhf.evaluation.rewards import evaluate_reward
from rlhf.modeling import find_model, load_reward_model, load_tokenizer
from rlhf.records import write_jsonl
from rlhf.scoring import RewardModelScorer
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
