"""From judgements to batches, and the loss on numbers worked by hand."""

import math

import pytest
import torch
from tiny import tiny_tokenizer

from reward.data import PairCollator, to_dataset, to_groups
from reward.losses import bradley_terry_loss
from rlhf.errors import UserError
from rlhf.records import Preference, Ranking


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def pair(chosen, rejected, **values):
    return Preference(prompt="p", chosen=chosen, rejected=rejected, **values)


def letters(prompt, completion):
    return [ord(letter) for letter in prompt + completion]


def test_the_loss_of_an_undecided_model_is_log_two():
    assert bradley_terry_loss(t(3, -1), t(3, -1), t(1, 1), t(0, 0)).item() == pytest.approx(2 * math.log(2))


def test_the_loss_on_numbers_worked_by_hand():
    # -log sigmoid(2) = 0.126928, -log sigmoid(-1) = 1.313262; weights 1/3 and 1: 0.042309 + 1.313262
    loss = bradley_terry_loss(t(2.5, 0), t(0.5, 1), t(1 / 3, 1), t(0, 0))
    assert loss.item() == pytest.approx(1.355571, abs=1e-6)


def test_a_margin_is_taken_from_the_difference():
    # -log sigmoid(2 - 1) = 0.313262
    assert bradley_terry_loss(t(2), t(0), t(1), t(1)).item() == pytest.approx(0.313262, abs=1e-6)


def test_the_loss_is_finite_and_pushes_however_wrong_the_model_is():
    chosen = t(-1000).requires_grad_()
    loss = bradley_terry_loss(chosen, t(1000), t(1), t(0))
    loss.backward()
    assert loss.item() == pytest.approx(2000) and chosen.grad.item() == pytest.approx(-1)


def test_a_ranking_is_all_its_pairs_with_weights_that_make_it_one_judgement():
    ranking = Ranking(prompt="p", completions=["a", "b", "c", "d"], tiers=[[2], [0, 3], [1]])
    (group,) = to_groups([ranking])
    assert {(one.chosen, one.rejected) for one in group} == {("c", "a"), ("c", "d"), ("c", "b"), ("a", "b"), ("d", "b")}
    assert {one.weight for one in group} == {1 / 6}  # 1/C(4, 2), the tied pair left out
    (pairwise,) = to_groups([Ranking(prompt="p", completions=["a", "b"], tiers=[[1], [0]])])
    assert [(one.chosen, one.weight) for one in pairwise] == [("b", 1.0)]


def test_pairs_of_one_group_are_together_and_others_are_not():
    pairs = [pair("a", "b", group_id="x"), pair("c", "d"), pair("a", "c", group_id="x"), pair("e", "f")]
    assert [[one.chosen for one in group] for group in to_groups(pairs)] == [["a", "a"], ["c"], ["e"]]


def test_two_people_who_said_the_same_are_two_judgements():
    ranking = Ranking(prompt="p", completions=["a", "b"], tiers=[[0], [1]])
    assert len(to_groups([ranking, ranking])) == 2


def test_a_ranking_of_ties_teaches_nothing():
    assert to_groups([Ranking(prompt="p", completions=["a", "b"], tiers=[[0, 1]])]) == []


def test_every_text_stands_once_in_a_batch():
    groups = to_groups(
        [
            Ranking(prompt="p", completions=["x", "yy", "z"], tiers=[[1], [0], [2]]),
            pair("q", "x", weight=2.0, margin=0.5),
        ]
    )
    rows = to_dataset(groups, letters).to_list()
    assert len(rows) == 2
    batch = PairCollator(pad_token_id=0)(rows)
    texts = ["".join(chr(i) for i in row if i) for row in batch["input_ids"].tolist()]
    assert sorted(texts) == ["pq", "px", "pyy", "pz"]
    assert batch["attention_mask"].sum(1).tolist() == [len(text) for text in texts]
    assert (batch["input_ids"] == 0).equal(batch["attention_mask"] == 0)
    named = [
        (texts[c], texts[r], round(w, 4), m)
        for c, r, w, m in zip(
            *(batch[name].tolist() for name in ("chosen", "rejected", "weight", "margin")), strict=True
        )
    ]
    assert sorted(named) == [
        ("pq", "px", 2.0, 0.5),
        ("px", "pz", 0.3333, 0.0),
        ("pyy", "px", 0.3333, 0.0),
        ("pyy", "pz", 0.3333, 0.0),
    ]


def test_a_text_that_begins_with_the_padding_token_keeps_it():
    batch = PairCollator(pad_token_id=0)(
        [{"chosen_ids": [[0, 5]], "rejected_ids": [[7]], "weight": [1.0], "margin": [0.0]}]
    )
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_a_chosen_answer_in_messages_needs_a_conversation():
    bad = Preference(prompt="p", chosen=[{"role": "user", "content": "a"}], rejected="b")
    with pytest.raises(UserError, match="must end with the assistant's"):
        to_dataset([[bad]], letters)


def test_what_the_reward_model_is_trained_on_is_what_it_scores():
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from rlhf.scoring import RewardModelScorer

    tokenizer = tiny_tokenizer(chat=True)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForSequenceClassification(LlamaConfig(vocab_size=258, num_labels=1, pad_token_id=257, **sizes))
    scorer = RewardModelScorer(model, tokenizer, max_length=12)
    messages = [{"role": "user", "content": "Q"}]
    long = Preference(
        prompt=messages, chosen=[{"role": "assistant", "content": "yes"}], rejected="n" * 30, group_id="g"
    )
    (row,) = to_dataset([[long]], scorer.token_ids).to_list()
    assert tokenizer.decode(row["chosen_ids"][0]) == "sistant>yes</s>"
    assert tokenizer.decode(row["rejected_ids"][0]) == "n" * 11 + "</s>"
