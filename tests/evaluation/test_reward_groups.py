"""Accuracy by group, and what people agree on among themselves."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.errors import UserError
from rlhf.evaluation.grouping import accuracy_by_group, columns_of
from rlhf.evaluation.judged_pairs import Tie, judged_pairs
from rlhf.records import Preference, Ranking

MEASURE = {"num_bootstrap": 200, "confidence": 0.95, "seed": 0}


def pair(prompt="p", chosen="a", rejected="b", annotator=None, **columns):
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, annotator=annotator, **columns)


def test_others_who_judged_the_same_pair_agree_or_do_not():
    found = judged_pairs(
        [
            pair(annotator="ana"),
            pair(annotator="ben"),
            pair(chosen="b", rejected="a", annotator="cem"),
            pair(prompt="q", annotator="ana"),
            pair(prompt="r"),
            pair(prompt="r", chosen="b", rejected="a"),
        ]
    )
    # ana: ben agrees, cem does not; cem: nobody does; what is judged once or by nobody known has no others
    np.testing.assert_array_equal(found.agreement_with_others, [0.5, 0.5, 0.0, np.nan, np.nan, np.nan])
    assert found.num_judged_both_ways == 2


def test_who_judges_a_pair_both_ways_agrees_by_half_and_never_with_oneself():
    found = judged_pairs(
        [pair(annotator="ana"), pair(chosen="b", rejected="a", annotator="ana"), pair(annotator="ben")]
    )
    np.testing.assert_array_equal(found.agreement_with_others, [1.0, 0.0, 0.5])
    alone = judged_pairs([pair(annotator="ana"), pair(chosen="b", rejected="a", annotator="ana", group_id="second")])
    assert np.isnan(alone.agreement_with_others).all()


def test_a_ranking_gives_its_pairs_its_ties_and_what_cannot_be_told_apart():
    ranking = Ranking(prompt="p", completions=["a", "b", "a", "c", " "], tiers=[[0], [1, 3], [2, 4]], annotator="ana")
    found = judged_pairs([ranking])
    assert [(one.chosen, one.rejected) for one in found.pairs] == [("a", "b"), ("a", "c"), ("b", "a"), ("c", "a")]
    assert found.ties == [Tie("p", "b", "c")]
    # the two texts `a`, and the three pairs with the empty one
    assert found.num_equal_texts == 4
    assert found.records == [ranking] * 4


def test_one_tier_alone_is_refused():
    with pytest.raises(UserError, match="no ranking places one completion above another"):
        judged_pairs([Ranking(prompt="p", completions=["a", "b"], tiers=[[0, 1]])])


def test_columns_are_those_named_and_those_that_say_how_it_was_judged():
    found = judged_pairs(
        [
            pair(annotator="ana", source="web", about={"length": 2}),
            pair(prompt="q", margin=1.0, source="mail"),
        ]
    )
    assert columns_of(found, ["source", "about.length"]) == {
        "source": ["web", "mail"],
        "about.length": ["2", "(none)"],
        "annotator": ["ana", "(none)"],
        "margin": ["(none)", "1.0"],
    }
    with pytest.raises(
        UserError, match="groups: no row has a column 'sauce'; there are about, annotator, margin, sour"
    ):
        columns_of(found, ["sauce"])


def test_numbers_of_many_values_are_cut_at_their_quartiles():
    found = judged_pairs([pair(prompt=f"p{n}", margin=float(n)) for n in range(101)])
    groups = columns_of(found, [])["margin"]
    assert (groups[0], groups[25], groups[26], groups[100]) == ("0 to 25", "0 to 25", "25 to 50", "75 to 100")
    assert list(accuracy_by_group(found, np.ones(101), groups, **MEASURE)) == [
        "0 to 25",
        "25 to 50",
        "50 to 75",
        "75 to 100",
    ]


def test_what_is_beyond_twenty_groups_is_one_group_more():
    found = judged_pairs([pair(prompt=f"p{n}", source=f"s{n % 30}") for n in range(95)])
    groups = columns_of(found, ["source"])["source"]
    counted = accuracy_by_group(found, np.ones(95), groups, **MEASURE)
    assert len(counted) == 21
    assert list(counted)[-1] == "(others)" and counted["(others)"]["num_pairs"] == 30
    assert sum(of["num_pairs"] for of in counted.values()) == 95


def test_each_group_has_its_accuracy_its_reference_lines_and_an_interval_by_prompt():
    found = judged_pairs(
        [
            pair(prompt="p", chosen="long", rejected="s", annotator="ana"),
            pair(prompt="q", chosen="s", rejected="long", annotator="ana"),
            pair(prompt="p", chosen="long", rejected="s", annotator="ben"),
            pair(prompt="p", chosen="even", rejected="odds", annotator="ben"),
        ]
    )
    outcomes = np.array([1.0, 0.0, 1.0, 1.0])
    groups = accuracy_by_group(found, outcomes, columns_of(found, [])["annotator"], **MEASURE)
    assert groups["ana"] == {
        "accuracy": 0.5,
        "accuracy_ci": [0.0, 1.0],
        "accuracy_longest": 0.5,
        "agreement_people": 1.0,
        "num_pairs": 2,
        "num_prompts": 2,
    }
    # both of ben's pairs are of one prompt: nothing is known of others
    assert groups["ben"]["accuracy_ci"] is None
    assert groups["ben"]["accuracy_longest"] == 0.75


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.permutations(["a", "b", "c"]), st.sampled_from(["ana", "ben", "cem", None])),
        min_size=1,
        max_size=12,
    )
)
def test_agreement_does_not_depend_on_which_of_two_is_called_the_better_one(rows):
    there = [pair(f"p{prompt}", order[0], order[1], who) for prompt, order, who in rows]
    back = [pair(one.prompt, one.rejected, one.chosen, one.annotator) for one in there]
    np.testing.assert_array_equal(judged_pairs(there).agreement_with_others, judged_pairs(back).agreement_with_others)
    np.testing.assert_allclose(judged_pairs(there).longest_outcomes, 1 - judged_pairs(back).longest_outcomes)


@given(st.permutations(range(5)), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_every_two_completions_of_a_ranking_are_a_pair_or_a_tie(order, cuts):
    edges = [0, *sorted(set(cuts)), 5]
    tiers = [list(order[low:high]) for low, high in pairwise(edges)]
    found = judged_pairs([Ranking(prompt="p", completions=list("abcde"), tiers=tiers)])
    assert len(found.pairs) + len(found.ties) == 10 and found.num_equal_texts == 0
