"""`train_reward` on tiny models: it learns what can be learned, says how sure that is, and reloads as it was."""

import io
import json
import random

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tiny import tiny_model

from reward.trainer import JudgementTrainer
from rlhf.cli.models import lineage_tree
from rlhf.errors import StoppedByMonitor, UserError
from rlhf.evaluation.rewards import all_pairs, score_pairs
from rlhf.generation import Completion, sample
from rlhf.modeling import find_model, load_causal_lm, load_reward_model, load_tokenizer
from rlhf.records import Preference, read_jsonl
from rlhf.scorers import find_scorers, load_scorers
from rlhf.scoring import RewardModelScorer
from rlhf.scoring_config import ScorerSection
from rlhf.tracking import read_metrics


def word(rng):
    return "".join(rng.choice("abcd") for _ in range(8))


def preferences(count=160):
    """Whoever writes more `a` is preferred; lengths are equal."""
    rng = random.Random(0)
    rows = []
    while len(rows) < count:
        first, second = word(rng), word(rng)
        if abs(first.count("a") - second.count("a")) >= 2:
            better, worse = sorted((first, second), key=lambda text: -text.count("a"))
            rows.append({"prompt": f"Q{len(rows)}", "chosen": better, "rejected": worse, "annotator": "ann"})
    return rows


def rankings(count=60):
    rng = random.Random(1)
    rows = []
    for number in range(count):
        texts = [word(rng) for _ in range(3)]
        order = sorted(range(3), key=lambda i: -texts[i].count("a"))
        tiers: list[list[int]] = []
        for i in order:
            if tiers and texts[tiers[-1][0]].count("a") == texts[i].count("a"):
                tiers[-1].append(i)
            else:
                tiers.append([i])
        rows.append(
            {"prompt": f"Q{number}", "completions": texts, "tiers": tiers, "annotator": "ann", "simulated": True}
        )
    return rows


@torch.no_grad()
def rescored(reward, summary, prompts, completions):
    """Scores by the published model, loaded anew."""
    source = find_model(summary["artefact"], reward.workspace.registry)
    model, offset = load_reward_model(source)
    tokenizer = load_tokenizer(source, generates=False)
    return RewardModelScorer(model, tokenizer, offset=offset).score(prompts, completions)


def test_a_preference_that_can_be_learned_is_learned(reward):
    summary = reward(rows=preferences())
    assert summary["artefact"] == "tiny/reward@v1"
    assert summary["accuracy"] > 0.9
    low, high = summary["accuracy_ci"]
    assert 0.7 < low <= summary["accuracy"] <= high <= 1
    assert 0.3 <= summary["accuracy_longest"] <= 0.7  # all are of one length
    assert summary["num_train_pairs"] == summary["num_train_rankings"] and summary["centred_on"]

    registry = reward.workspace.registry
    artefact = registry.resolve("tiny/reward@best", kinds=["reward"])
    assert [(parent.role, parent.ref) for parent in artefact.parents] == [
        ("base", "base/base@v1"),
        ("preferences", "tiny/reward-data@v1"),
    ]
    assert artefact.metadata["metrics"]["accuracy_ci"] == summary["accuracy_ci"]
    judged = registry.resolve("tiny/reward-data")
    assert judged.metadata["annotators"] == [{"name": "ann", "num_judgements": 160}]
    assert judged.metadata["simulated"] is False
    console = Console(width=100, file=io.StringIO())
    console.print(lineage_tree(registry.lineage("tiny/reward")))
    assert "annotator: ann, 160 judgements" in console.file.getvalue()

    # the published model, loaded anew, is right as often as the summary says
    dev, _ = read_jsonl(registry.open(judged) / "dev.jsonl", Preference)
    scorer = load_scorers(find_scorers([ScorerSection(ref="tiny/reward@best")], registry))
    pairs = all_pairs(dev)
    chosen, rejected = score_pairs(scorer, pairs)
    accuracy = sum(c > r for c, r in zip(chosen, rejected, strict=True)) / len(pairs)
    assert accuracy == pytest.approx(summary["accuracy"], abs=1e-6)

    run = reward.workspace.home / "runs" / summary["run"]
    losses = [row["loss"] for row in read_metrics(run) if "loss" in row]
    assert losses[-1] < 0.3 < losses[0]
    assert {"accuracy", "margin", "mean_reward"} <= {key for row in read_metrics(run) for key in row}
    assert (run / "report.html").exists()


def test_a_judgement_that_is_seen_twice_an_epoch_was_made_once(reward):
    summary = reward("trainer.max_steps=1", "data.sources.0.weight=2", "data.dev_fraction=0", rows=preferences(12))
    assert summary["num_train_rankings"] == 24
    judged = reward.workspace.registry.resolve("tiny/reward-data")
    assert judged.metadata["annotators"] == [{"name": "ann", "num_judgements": 12}]


def test_the_sft_model_scores_zero_on_average(reward, models):
    summary = reward("trainer.num_train_epochs=1", rows=preferences(40))
    registry = reward.workspace.registry
    train, _ = read_jsonl(registry.open("tiny/reward-data") / "train.jsonl", Preference)
    prompts = list(dict.fromkeys(record.prompt for record in train))[:16]
    source = find_model(str(models["base"]), registry)
    written = sample(load_causal_lm(source), load_tokenizer(source), prompts, max_new_tokens=8, temperature=1.0, seed=0)
    texts = [completion.text for completion in written]
    scores = rescored(reward, summary, prompts, texts)
    assert scores.std() > 0.01
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    found = json.loads((registry.resolve("tiny/reward").path / "reward.json").read_text())
    assert found["score_offset"] == pytest.approx(summary["score_offset"], abs=1e-6) and found["score_offset"] != 0


def test_rankings_with_lora(reward):
    summary = reward("model.adapter={r: 8}", "trainer.learning_rate=2e-2", rows=rankings())
    assert summary["accuracy"] > 0.8
    assert summary["num_train_pairs"] > summary["num_train_rankings"]
    source = find_model("tiny/reward", reward.workspace.registry)
    assert source.is_adapter and source.base.ref == "base/base@v1"
    assert reward.workspace.registry.resolve("tiny/reward-data").metadata["simulated"] is True


def test_the_artefact_scores_as_the_model_in_training_did(reward, monkeypatch):
    kept = {}
    original = RewardModelScorer.score_members

    def score_members(self, prompts, completions, columns=None):
        found = original(self, prompts, completions, columns)
        kept["last"] = (self.offset, list(prompts), list(completions), found[:, 0])
        return found

    for overrides in ([], ["model.adapter={r: 4}", "output.name=tiny/lora"]):
        monkeypatch.setattr(RewardModelScorer, "score_members", score_members)
        summary = reward("trainer.num_train_epochs=1", "data.dev_fraction=0", *overrides, rows=preferences(24))
        monkeypatch.setattr(RewardModelScorer, "score_members", original)
        offset_then, prompts, completions, then = kept["last"]
        now = rescored(reward, summary, prompts, completions)
        source = find_model(summary["artefact"], reward.workspace.registry)
        shift = load_reward_model(source)[1] - offset_then
        if source.is_adapter:  # merged now, beside the weights then
            torch.testing.assert_close(now + shift, then, atol=1e-5, rtol=0)
        else:
            assert torch.equal(now + shift, then) or torch.allclose(now + shift, then, atol=1e-6, rtol=0)


def test_an_encoder_with_a_tokenizer_of_its_own(reward):
    summary = reward(rows=preferences(), model="encoder")
    assert summary["accuracy"] > 0.8
    assert summary["centred_on"].endswith("base")
    uncentred = reward(
        "centre=null", "trainer.max_steps=1", "output.name=tiny/plain", rows=preferences(24), model="encoder"
    )
    assert uncentred["centred_on"] is None and uncentred["score_offset"] == 0


def test_left_out_the_scores_are_centred_on_the_model_itself(reward):
    summary = reward("centre=null", "trainer.max_steps=1", rows=preferences(24))
    assert summary["centred_on"].endswith("base") and summary["score_offset"] != 0


def test_conversations(reward):
    rows = [
        {
            "chosen": f"\n\nHuman: Q{n}\n\nAssistant: {row['chosen']}",
            "rejected": f"\n\nHuman: Q{n}\n\nAssistant: {row['rejected']}",
        }
        for n, row in enumerate(preferences(120))
    ]
    summary = reward(
        "data.sources.0.conversational=true", "data.sources.0.format=hh", rows=rows, model="chat", centre="chat"
    )
    assert summary["accuracy"] > 0.75
    dev, _ = read_jsonl(reward.workspace.registry.open("tiny/reward-data") / "dev.jsonl", Preference)
    assert dev[0].prompt[0].role == "user" and dev[0].chosen[-1].role == "assistant"
    plain = reward("data.sources.0.format=hh", "trainer.max_steps=1", "output.name=tiny/plain", rows=rows, model="base")
    assert plain["status"] == "done"


@pytest.mark.parametrize(
    ("overrides", "model", "adapter"),
    [
        ([], [0.0], []),
        (["model.dropout=0.5"], [0.5], []),
        (["model.adapter={r: 4}"], [0.0], []),
        (["model.adapter={r: 4, dropout: 0.5}"], [0.0], [0.5]),
        (["model.adapter={r: 4, dropout: 0.5}", "model.dropout=0.25"], [0.25], [0.5]),
        (["trainer.disable_dropout=false"], [0.1], []),
    ],
)
def test_dropout_acts_where_it_is_asked_for_and_nowhere_else(reward, monkeypatch, overrides, model, adapter):
    seen = {}

    def train(trainer, *_, **__):
        for name, module in trainer.model.named_modules():
            if isinstance(module, torch.nn.Dropout):
                seen.setdefault("adapter" if "lora" in name else "model", set()).add(module.p)
        raise UserError("enough")

    monkeypatch.setattr("reward.train.train", train)
    with pytest.raises(UserError, match="enough"):
        reward(*overrides, rows=preferences(24), model="encoder", centre="base")  # Bert's own is 0.1
    assert (sorted(seen["model"]), sorted(seen.get("adapter", ()))) == (model, adapter)


def test_nothing_held_out_is_no_error(reward):
    summary = reward("data.dev_fraction=1e-9", "trainer.max_steps=1", rows=preferences(24))
    assert "accuracy" not in summary


@pytest.mark.parametrize(
    ("overrides", "rows", "what"),
    [
        ([], [{"prompt": "p", "completions": ["a", "b"], "tiers": [[0, 1]]}], "so there is nothing to learn from"),
        ([], [{"prompt": "p", "completion": "a"}], "cannot be used as"),
        ([], [{"prompt": "p", "chosen": "a", "rejected": "a"}], "cannot be used as"),
        (["model.ref=tiny/gone"], None, "model.ref = 'tiny/gone': "),
        (["centre.ref=tiny/gone"], None, "centre.ref = 'tiny/gone': "),
        (["centre.max_new_tokens=96"], None, "centre.max_new_tokens = 96: "),
        (["early_stopping={}", "data.dev_fraction=0"], None, "early_stopping: there are no held-out rows"),
        (["data.sources.0.conversational=true"], None, "no chat template"),
        (["trainer.max_length=500"], None, "trainer.max_length = 500: "),
        (["trainer.disable_dropout=true", "model.dropout=0.1"], None, "takes away model.dropout = 0.1; drop one"),
    ],
)
def test_wrong_input_is_answered_before_training(reward, overrides, rows, what, monkeypatch):
    def train(*_, **__):
        raise AssertionError("training has started")

    monkeypatch.setattr("reward.train.train", train)
    with pytest.raises(UserError) as caught:
        reward("data.dev_fraction=0", *overrides, rows=rows or preferences(24))
    assert what in caught.value.problems[0]
    assert reward.workspace.registry.artefacts() == []


def test_an_encoder_cannot_be_what_the_scores_are_centred_on(reward, monkeypatch):
    monkeypatch.setattr("reward.train.train", None)
    with pytest.raises(UserError, match=r"centre\.ref = .*: is no language model"):
        reward("trainer.max_steps=1", rows=preferences(24), centre="encoder")
    assert reward.workspace.registry.artefacts() == []


def test_in_mixed_precision_the_head_stays_in_float32(reward):
    summary = reward(
        *("model.dtype=bfloat16", "model.adapter={r: 8}", "trainer.bf16=true", "trainer.use_cpu=true"),
        "trainer.learning_rate=2e-2",
        rows=rankings(),
    )
    assert summary["accuracy"] > 0.75
    source = find_model("tiny/reward", reward.workspace.registry)
    weights = load_file(source.folder / "adapter_model.safetensors")
    assert {value.dtype for name, value in weights.items() if "score" in name} == {torch.float32}
    scores = rescored(reward, summary, ["Q1", "Q2"], ["aaaa", "bbbb"])
    assert scores.dtype == torch.float32 and not torch.equal(scores, scores.bfloat16().float())


def test_the_model_that_is_centred_on_writes_on_the_accelerator_in_the_dtype_of_the_config(reward, monkeypatch):
    seen = {}

    def sample(model, tokenizer, prompts, **_):
        seen.update(device=model.device.type, dtype=model.dtype)
        return [Completion(i, "abc", [65, 66, 67, 256], True) for i in range(len(prompts))]

    monkeypatch.setattr("reward.centring.sample", sample)
    monkeypatch.setattr("reward.centring.device", lambda: torch.device("meta"))
    reward("trainer.max_steps=1", "model.dtype=bfloat16", rows=preferences(24))
    assert seen == {"device": "meta", "dtype": torch.bfloat16}


def test_left_out_the_longest_text_is_what_trl_takes_or_the_context(reward, models, tmp_path):
    models = models | {"long": tiny_model(tmp_path / "long", context=4096)}
    for model, overrides, expected in (
        ("base", [], 96),
        ("long", [], 1024),
        ("long", ["trainer.max_length=2000"], 2000),
        ("long", ["trainer.max_length=null"], 4096),
    ):
        overrides = [*overrides, f"model.ref={models[model]}", "trainer.max_steps=1", "data.dev_fraction=0"]
        summary = reward(*overrides, rows=preferences(8))
        sidecar = reward.workspace.registry.resolve(summary["artefact"]).path / "reward.json"
        assert json.loads(sidecar.read_text())["max_length"] == expected


def test_texts_that_were_cut_are_counted_once_each(reward):
    rows = rankings(12)
    rows[0]["prompt"] = "a long prompt, " * 3
    rows[0]["tiers"] = [[0], [1], [2]]
    summary = reward("trainer.max_length=24", "trainer.max_steps=1", "data.dev_fraction=0.3", rows=rows)
    assert summary["num_truncated"] == 3


@pytest.mark.parametrize("adapter", ["null", "{r: 4}"])
def test_the_last_good_weights_are_published_under_a_name_of_their_own(reward, monkeypatch, adapter):
    original = JudgementTrainer.compute_loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = original(self, model, inputs, *args, **kwargs)
        return loss * float("nan") if self.state.global_step >= 5 and torch.is_grad_enabled() else loss

    monkeypatch.setattr(JudgementTrainer, "compute_loss", compute_loss)
    with pytest.raises(StoppedByMonitor, match="step 6: the largest gradient is nan"):
        reward(f"model.adapter={adapter}", "trainer.save_steps=2", "data.dev_fraction=0", rows=preferences(80))
    registry = reward.workspace.registry
    assert registry.find("tiny/reward") is None
    artefact = registry.resolve("tiny/reward-stopped")
    assert artefact.metadata["stopped"].endswith("(weights of checkpoint-4)")
    scores = rescored(reward, {"artefact": artefact.ref}, ["Q1", "Q2"], ["aaaa", "bbbb"])
    assert scores.isfinite().all() and scores[0] > scores[1]


def test_scores_that_are_no_numbers_after_training_stop_it_too(reward, monkeypatch):
    monkeypatch.setattr("reward.train.mean_scores", lambda *_, **__: [float("nan")])
    with pytest.raises(StoppedByMonitor, match="score"):
        reward("trainer.max_steps=4", rows=preferences(40))
    assert reward.workspace.registry.find("tiny/reward") is None
    assert reward.workspace.registry.find("tiny/reward-stopped") is not None
