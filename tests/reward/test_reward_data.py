"""From judgements to rows, and from rows to batches."""

import pytest
from tiny import tiny_tokenizer

from reward.config import LossSection
from reward.data import JudgementCollator, to_dataset
from reward.judgements import gather, num_contradictions
from rlhf.errors import UserError
from rlhf.records import Preference, Ranking, Rating

PAIRWISE, AS_A_WHOLE = LossSection(), LossSection(kind="plackett_luce")


def pair(chosen, rejected, **values):
    return Preference(prompt="p", chosen=chosen, rejected=rejected, **values)


def ranking(*tiers, completions=("a", "b", "c", "d"), **values):
    return Ranking(prompt="p", completions=list(completions), tiers=[list(tier) for tier in tiers], **values)


def rating(completion, value, annotator="ana", prompt="p"):
    return Rating(prompt=prompt, completion=completion, rating=value, annotator=annotator)


def said(group):
    """The pairs of a group as (better text, worse text, weight, margin)."""
    return sorted(
        (group.texts[one.better][1], group.texts[one.worse][1], round(one.weight, 4), one.margin) for one in group.pairs
    )


def letters(prompt, completion):
    return [ord(letter) for letter in prompt + completion]


def test_a_ranking_is_all_its_pairs_with_weights_that_make_it_one_judgement():
    (group,) = gather([ranking([2], [0, 3], [1])], PAIRWISE).groups
    pairs = [("a", "b"), ("c", "a"), ("c", "b"), ("c", "d"), ("d", "b")]
    assert said(group) == [(*names, 0.1667, 0.0) for names in pairs]  # 1/C(4, 2), the tied pair left out
    (pairwise,) = gather([ranking([1], [0], completions="ab", weight=0.5)], PAIRWISE).groups
    assert said(pairwise) == [("b", "a", 0.5, 0.0)]
    assert group.order is None


def test_a_ranking_as_a_whole_has_its_tiers_and_its_weight():
    (group,) = gather([ranking([2], [0, 3], [1], weight=2.0, annotator="ana")], AS_A_WHOLE).groups
    assert (group.order.tiers, group.order.weight, group.order.annotator) == (((2,), (0, 3), (1,)), 2.0, "ana")


def test_ties_take_their_pairs_share_of_a_rankings_weight_and_none_of_an_orders():
    (pairwise,), (whole,) = (gather([ranking([0], [1, 2, 3])], loss).groups for loss in (PAIRWISE, AS_A_WHOLE))
    assert sum(one.weight for one in pairwise.pairs) == pytest.approx(3 / 6)
    assert whole.order.weight == 1.0


def test_pairs_of_one_group_are_together_and_others_are_not():
    pairs = [pair("a", "b", group_id="x"), pair("c", "d"), pair("a", "c", group_id="x"), pair("e", "f")]
    groups = gather(pairs, PAIRWISE).groups
    assert [[names[0] for names in said(group)] for group in groups] == [["a", "a"], ["c"], ["e"]]


def test_two_people_who_said_the_same_are_two_judgements():
    assert len(gather([ranking([0], [1])] * 2, PAIRWISE).groups) == 2


@pytest.mark.parametrize("loss", [PAIRWISE, AS_A_WHOLE])
def test_rankings_without_an_order_are_counted(loss):
    without = [ranking([0, 1]), ranking([2]), ranking(), ranking([0], [1], completions=["a", "a"])]
    found = gather([*without, ranking([0], [1])], loss)
    assert (len(found.groups), found.num_without_order, found.num_equal_pairs) == (1, 4, 1)


def test_margins_come_from_the_record_from_strength_or_from_the_tiers_in_between():
    records = [ranking([0], [1, 2], [3], strength=3), pair("x", "y", margin=0.7)]

    def margins(**loss):
        first, second = gather(records, LossSection(**loss)).groups
        return {names[:2]: names[3] for names in said(first)}, said(second)[0][3]

    assert set(margins()[0].values()) == {0.0} and margins()[1] == 0.7
    of_strength, of_pair = margins(margin="strength", margin_unit=0.5)
    assert (of_strength["a", "b"], of_strength["a", "d"], of_strength["b", "d"], of_pair) == (1.0, 1.0, 0.0, 0.7)
    of_tiers, of_pair = margins(margin="tiers", margin_unit=0.5)
    assert (of_tiers["a", "b"], of_tiers["a", "d"], of_tiers["b", "d"], of_pair) == (0.0, 0.5, 0.0, 0.7)


def test_comparisons_are_made_of_what_one_annotator_graded_under_one_prompt():
    records = [rating("a", 4), rating("b", 2), rating("b", 3), rating("c", 2.5), rating("z", 1, "ben"), pair("x", "y")]
    found = gather(records, PAIRWISE)
    first, second = found.groups
    assert [names[:2] for names in said(first)] == [("x", "y")] or [names[:2] for names in said(second)] == [("x", "y")]
    (graded,) = (group for group in found.groups if len(group.pairs) > 1)
    assert [names[:2] for names in said(graded)] == [("a", "b"), ("a", "c")]  # b is 2.5 on average, as c is
    assert found.num_lone_ratings == 1


def test_grades_of_one_prompt_are_one_row_whoever_gave_them():
    records = [rating("a", 4), rating("b", 2, "ben"), rating("a", 3, "ben"), rating("a", 1, prompt="q")]
    groups = gather(records, LossSection(kind="ordinal")).groups
    assert [[(one.text, one.value, one.annotator) for one in group.grades] for group in groups] == [
        [(0, 4.0, "ana"), (1, 2.0, "ben"), (0, 3.0, "ben")],
        [(0, 1.0, "ana")],
    ]
    assert groups[0].texts == (("p", "a"), ("p", "b"))


def test_a_loss_of_grades_alone_says_what_else_it_found():
    with pytest.raises(UserError, match="the data has 2 rankings and 1 pairs beside 1 ratings; take 'ordinal'"):
        gather([rating("a", 1), ranking([0], [1]), pair("a", "b"), ranking([0], [1])], LossSection(kind="regression"))
    both = gather([rating("a", 1), ranking([0], [1])], LossSection(kind="ordinal")).groups
    assert [(len(group.grades), len(group.pairs)) for group in both] == [(1, 0), (0, 1)]


def test_a_pair_that_was_judged_both_ways_is_a_contradiction_once():
    records = [ranking([0], [1], [2]), ranking([1], [0]), pair("b", "a"), ranking([1], [2], annotator="ana")]
    assert num_contradictions(gather(records, PAIRWISE).groups) == 1


def batch_of(records, loss=PAIRWISE, **values):
    return JudgementCollator(pad_token_id=0)(rows_of(records, loss, **values))


def rows_of(records, loss=PAIRWISE, **values):
    return to_dataset(gather(records, loss).groups, letters, **values).dataset.to_list()


def texts_of(batch):
    return ["".join(chr(i) for i in row if i) for row in batch["input_ids"].tolist()]


def test_every_text_stands_once_in_a_batch():
    records = [ranking([1], [0], [2], completions=["x", "yy", "z"]), pair("q", "x", weight=2.0, margin=0.5)]
    rows = rows_of(records)
    assert len(rows) == 2
    batch = JudgementCollator(pad_token_id=0)(rows)
    texts = texts_of(batch)
    assert sorted(texts) == ["pq", "px", "pyy", "pz"]
    assert batch["attention_mask"].sum(1).tolist() == [len(text) for text in texts]
    assert (batch["input_ids"] == 0).equal(batch["attention_mask"] == 0)
    named = [
        (texts[c], texts[r], round(w, 4), m)
        for c, r, (w,), m in zip(
            *(batch[name].tolist() for name in ("chosen", "rejected", "weight", "margin")), strict=True
        )
    ]
    assert sorted(named) == [
        ("pq", "px", 2.0, 0.5),
        ("px", "pz", 0.3333, 0.0),
        ("pyy", "px", 0.3333, 0.0),
        ("pyy", "pz", 0.3333, 0.0),
    ]


def test_an_order_is_in_the_batch_as_tiers_and_its_pairs_weigh_nothing():
    batch = batch_of([ranking([2], [0, 3], [1], weight=2.0), pair("a", "b")], AS_A_WHOLE)
    (tiers,) = batch["orders"]
    texts = texts_of(batch)
    assert [sorted(texts[at] for at in tier) for tier in tiers] == [["pc"], ["pa", "pd"], ["pb"]]
    assert batch["order_weight"].tolist() == [[2.0]]
    assert batch["weight"].flatten().tolist() == [0.0] * 5 + [1.0]


def test_a_ranking_that_places_one_text_twice_is_compared_pair_by_pair():
    (row,) = rows_of([ranking([0], [1], [2], completions=["a", "b", "a"])], AS_A_WHOLE)
    assert (len(row["chosen"]), row["tiers"], row["order_weight"]) == (2, [], [])
    assert len(row["input_ids"]) == 2


def test_a_text_that_equals_all_it_stands_beside_leaves_the_pairs_of_the_others():
    (row,) = rows_of([ranking([0], [1, 2], completions=["a", "a", "b"])], AS_A_WHOLE)
    (text,), (other,) = row["chosen"], row["rejected"]
    assert ([chr(ids[1]) for ids in row["input_ids"]], text, other) == (["a", "b"], 0, 1)
    assert (row["tiers"], row["order_weight"]) == ([], [])


def test_pairs_that_the_model_reads_as_one_text_are_left_out_and_counted():
    groups = gather([pair("yes", "no"), pair("a", "b")], PAIRWISE).groups
    rows = to_dataset(groups, lambda _, completion: [{"yes": 1, "no": 1, "a": 2, "b": 3}[completion], 7])
    assert (len(rows.dataset), rows.num_pairs, rows.num_equal_pairs, rows.num_weightless) == (1, 1, 1, 0)


def test_weights_are_multiplied_for_each_member_and_rows_without_any_are_left_out():
    factors = {"ana": [2.0, 0.0], "ben": [0.0, 0.0]}
    groups = gather([ranking([0], [1], annotator="ana"), pair("c", "d", annotator="ben")], AS_A_WHOLE).groups
    rows = to_dataset(groups, letters, lambda _, annotator: factors[annotator])
    (row,) = rows.dataset.to_list()
    assert (row["weight"], row["order_weight"], rows.num_weightless) == ([[2.0, 0.0]], [2.0, 0.0], 1)


def test_grades_are_in_the_batch_with_their_weights():
    records = [rating("a", 4), rating("b", 2, "ben"), rating("a", 3, "ben")]
    batch = batch_of(records, LossSection(kind="ordinal"), grade=lambda value: value - 1, weigh=lambda *_: [0.5])
    assert [texts_of(batch)[at] for at in batch["rated"]] == ["pa", "pb", "pa"]
    assert batch["rating"].tolist() == [3.0, 1.0, 2.0]
    assert batch["rating_weight"].tolist() == [[0.5]] * 3
    assert batch["weight"].shape == (0, 1)


def test_a_ranking_of_two_hundred_holds_each_text_once():
    names = [f"text {number}" for number in range(200)]
    (row,) = rows_of([ranking(*([number] for number in range(200)), completions=names)])
    assert (len(row["input_ids"]), len(row["chosen"])) == (200, 19900)
    assert sum(weight for (weight,) in row["weight"]) == pytest.approx(1)


def test_a_text_that_begins_with_the_padding_token_keeps_it():
    groups = gather([pair("a", "b")], PAIRWISE).groups
    rows = to_dataset(groups, lambda _, completion: [0, 5] if completion == "a" else [7]).dataset.to_list()
    batch = JudgementCollator(pad_token_id=0)(rows)
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_a_chosen_answer_in_messages_needs_a_conversation():
    bad = Preference(prompt="p", chosen=[{"role": "user", "content": "a"}], rejected="b")
    with pytest.raises(UserError, match="must end with the assistant's"):
        to_dataset(gather([bad], PAIRWISE).groups, letters)


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
    (row,) = to_dataset(gather([long], PAIRWISE).groups, scorer.token_ids).dataset.to_list()
    assert tokenizer.decode(row["input_ids"][row["chosen"][0]]) == "sistant>yes</s>"
    assert tokenizer.decode(row["input_ids"][row["rejected"][0]]) == "n" * 11 + "</s>"
