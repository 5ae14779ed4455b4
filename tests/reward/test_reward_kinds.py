"""The stage with every loss, annotators' weights and ensembles: what it learns, what it says, what it refuses."""

import json
import random
import signal

import pytest
import torch
from safetensors.torch import load_file

from rlhf.errors import Interrupted, UserError
from rlhf.modeling import find_model
from rlhf.records import write_jsonl
from rlhf.scorers import reward_model_scorer
from rlhf.training import StopOnSignal


def word(rng):
    return "".join(rng.choice("abcd") for _ in range(8))


def rankings(count=60, *, annotators=("ana",), num_texts=4, seed=1, turned=(), **columns):
    """Everybody puts the words with more `a` first; those with as many are tied."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        texts = [word(rng) for _ in range(num_texts)]
        counts = [text.count("a") for text in texts]
        levels = sorted(set(counts), reverse=True)
        tiers = [[at for at, n in enumerate(counts) if n == level] for level in levels]
        for name in annotators:
            row = {"prompt": f"Q{number}", "completions": texts, "annotator": name, **columns}
            rows.append(row | {"tiers": tiers[::-1] if name in turned else tiers})
    return rows


def ratings(count=150, num_grades=5, annotator="ana"):
    rng = random.Random(2)
    texts = [word(rng) for _ in range(count)]
    return [
        {
            "prompt": f"Q{number // 3}",
            "completion": text,
            "rating": min(text.count("a"), num_grades - 1) + 1,
            "annotator": annotator,
        }
        for number, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("plackett_luce", rankings()),
        ("plackett_luce", ratings(240)),
        ("bradley_terry", ratings(240)),
        ("regression", ratings()),
        ("ordinal", ratings()),
        ("ordinal", [*ratings(90), *rankings(30), {"prompt": "P", "chosen": "aaaa", "rejected": "bbbb"}]),
    ],
)
def test_every_loss_learns_what_can_be_learned(reward, kind, rows):
    summary = reward(f"loss.kind={kind}", "trainer.num_train_epochs=6", "trainer.learning_rate=2e-2", rows=rows)
    assert summary["loss"] == kind
    assert summary["accuracy"] > 0.8
    of_ratings = kind in ("regression", "ordinal")
    assert bool(summary["num_train_ratings"]) == of_ratings
    assert ("rating_correlation" in summary) == any("rating" in row for row in rows)
    assert summary.get("rating_correlation", 1) > 0.6
    assert bool(summary["num_train_pairs"]) == (kind != "regression" and (not of_ratings or len(rows) != 150))


def test_what_is_learned_of_grades_beside_the_model_is_said_and_not_saved(reward):
    summary = reward("loss.kind=ordinal", "trainer.max_steps=8", rows=ratings(num_grades=3))
    assert summary["rating_levels"] == [1.0, 2.0, 3.0]
    first, second = summary["thresholds"]
    assert first < second
    folder = reward.workspace.registry.resolve("tiny/reward").path
    assert not any("threshold" in name for name in load_file(folder / "model.safetensors"))
    assert sorted(json.loads((folder / "reward.json").read_text())) == ["max_length", "score_offset"]
    summary = reward("loss.kind=regression", "trainer.max_steps=1", rows=ratings(num_grades=3))
    assert 1 < summary["rating_mean"] < 3 and summary["rating_std"] > 0.5


def test_with_an_annotator_who_turns_answers_round_reliability_learns_what_the_others_say(reward):
    rows = rankings(60, annotators=("ana", "ben", "cem", "mal"), turned=("mal",))
    summary = reward("loss.weights=reliability", "data.dev_fraction=0.2", rows=rows)
    weights = {name: one["weight"] for name, one in summary["annotators"].items()}
    assert weights["mal"] == 0 and weights["ana"] == pytest.approx(4 / 3, abs=0.01)
    assert summary["num_weightless"] == summary["num_train_rankings"] / 3
    assert summary["num_contradictions"] > 0
    assert 0.7 < summary["accuracy"] <= 0.76  # of what all four say: one of them always says the opposite


def test_an_export_that_weighs_its_annotators_already_is_not_weighed_again(reward, tmp_path):
    rows = rankings(8, annotators=("ana", "ben"))
    export = tmp_path / "export"
    write_jsonl(export / "train.jsonl", rows)
    labels = {"reliability_weights": {"ana": 1.2, "ben": 0.8}}
    reward.workspace.registry.publish(export, kind="preferences", name="tiny/labels", metadata=labels)
    (export / "labels.json").write_text(json.dumps(labels))
    once = ("trainer.max_steps=1", "data.dev_fraction=0")
    reward(*once, "data.sources=[{path: tiny/labels}]", rows=rows)  # whose rows tiny/reward-data are
    for path, shown in (
        ("tiny/labels", "tiny/labels@v1"),
        ("tiny/reward-data", "tiny/reward-data@v1"),
        (export, export),
        (export / "train.jsonl", export / "train.jsonl"),
    ):
        with pytest.raises(UserError, match=f"{shown} comes from an export that weighs its annotators already"):
            reward(*once, f"data.sources=[{{path: {path}}}]", "loss.weights=reliability", rows=rows)
    reward(*once, "loss.weights=reliability", rows=rows)


def test_what_is_of_no_use_is_counted(reward, caplog):
    ranked = rankings(20)
    rows = [
        *ranked,
        {"prompt": "one tier", "completions": ["a", "b"], "tiers": [[0, 1]]},
        {"prompt": "twice", "completions": ["a", "b", "a"], "tiers": [[0], [1], [2]]},
        {"prompt": "same pair", "chosen": "a", "rejected": "a"},
        {"prompt": "alone", "completion": "a", "rating": 1},
    ]
    summary = reward("trainer.max_steps=1", "data.dev_fraction=0", "data.max_bad_fraction=0.5", rows=rows)
    counts = {key: summary[key] for key in summary if key.startswith("num_") and "train" not in key}
    assert counts == {
        "num_truncated": 0,
        "num_set_aside": 1,
        "num_contradictions": 1,
        "num_without_order": 1 + sum(len(row["tiers"]) == 1 for row in ranked),
        "num_equal_pairs": 1,
        "num_lone_ratings": 1,
        "num_weightless": 0,
    }
    assert "rankings place no completion above another one" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "rows", "what"),
    [
        (["loss.kind=regression"], rankings(4), "the data has 4 rankings beside 0 ratings; take 'ordinal'"),
        (["loss.kind=ordinal"], rankings(4), "learns from ratings, and the data has none; take 'bradley_terry'"),
        (["loss.kind=ordinal"], ratings(num_grades=1), "all 150 ratings are 1, so there is nothing to learn from"),
        (["loss.kind=regression"], ratings(num_grades=1), "all 150 ratings are 1"),
        ([], ratings(num_grades=1), "(150 ratings, none of which an annotator gave beside another"),
        (["loss.margin=strength"], rankings(4), "none of 4 rankings says how much better its best is"),
        (["loss.weights=reliability"], rankings(4), "no two of 1 named annotators judged the same completions"),
        (["ensemble.resample=annotators"], rankings(4), "not two annotators with a name to draw from (only ana)"),
        (
            ["ensemble={num_members: 8, resample: annotators}"],
            [*rankings(4), {"prompt": "p", "completions": ["a", "b"], "tiers": [[0, 1]], "annotator": "ben"}],
            "of the members have drawn nothing to learn from; draw 'prompts'",
        ),
        (["loss.margin=tiers", "loss.kind=plackett_luce"], rankings(4), "margin = 'tiers' is for pairs"),
        (["loss.label_smoothing=0.1", "loss.kind=regression"], ratings(), "label_smoothing is for comparisons"),
        (
            ["loss.kind=ordinal"],
            [{"prompt": "p", "completion": str(n), "rating": n / 7} for n in range(30)],
            "there are 30 different ones (0 to 4.14286); take 'regression', or round them",
        ),
    ],
)
def test_judgements_that_a_loss_cannot_take_are_answered_before_training(reward, overrides, rows, what):
    with pytest.raises(UserError) as caught:
        reward("data.dev_fraction=0", *overrides, rows=rows)
    assert what in caught.value.problems[0]
    assert reward.workspace.registry.artefacts() == []


@pytest.mark.parametrize(("adapter", "members"), [("null", "heads"), ("{r: 4}", "heads"), ("{r: 4}", "adapters")])
def test_an_ensemble_is_one_artefact_whose_members_are_centred_each(reward, adapter, members):
    ensemble = f"{{num_members: 3, members: {members}, resample: annotators, combine: mean_minus_std, std_coef: 0.5}}"
    rows = rankings(40, annotators=("ana", "ben", "cem"))
    summary = reward(
        f"model.adapter={adapter}", f"ensemble={ensemble}", "trainer.learning_rate=2e-2", rows=rows, centre="base"
    )
    assert summary["accuracy"] > 0.8
    assert len(summary["score_offset"]) == 3 == len(set(summary["score_offset"]))
    source = find_model(summary["artefact"], reward.workspace.registry)
    about = json.loads((source.folder / "reward.json").read_text())
    assert (about["combine"], about["std_coef"], len(about["score_offset"])) == ("mean_minus_std", 0.5, 3)
    scorer = reward_model_scorer(source, "reward")
    members_say = scorer.score_members(["Q1", "Q2"], ["aaaaaaaa", "bbbbbbbb"])
    assert members_say.shape == (2, 3) and (members_say[0] > members_say[1]).all()
    expected = members_say.mean(1) - 0.5 * members_say.std(1, correction=0)
    torch.testing.assert_close(scorer.score(["Q1", "Q2"], ["aaaaaaaa", "bbbbbbbb"]), expected)


def test_an_ensemble_learns_grades_with_thresholds_of_each_member(reward):
    summary = reward("ensemble={num_members: 2}", "loss.kind=ordinal", "trainer.max_steps=4", rows=ratings())
    assert len(summary["thresholds"]) == 4 and len(summary["score_offset"]) == 2


def test_a_run_that_was_broken_off_goes_on_with_its_thresholds(reward, monkeypatch):
    options = ["loss.kind=ordinal", "trainer.max_steps=8", "data.dev_fraction=0"]
    whole = reward(*options, rows=ratings())
    original = StopOnSignal.on_step_end

    def at_step_5(self, args, state, control, **kwargs):
        if state.global_step == 5:
            self._note(signal.SIGTERM, None)
        return original(self, args, state, control, **kwargs)

    again = {"rows": ratings(), "run_id": "broken-off"}
    with monkeypatch.context() as patched:
        patched.setattr(StopOnSignal, "on_step_end", at_step_5)
        with pytest.raises(Interrupted, match="at step 5"):
            reward(*options, "output.name=tiny/again", **again)
    resumed = reward(*options, "output.name=tiny/again", **again)
    assert resumed["thresholds"] == whole["thresholds"]
    registry = reward.workspace.registry
    assert registry.resolve("tiny/reward").digest == registry.resolve("tiny/again").digest
