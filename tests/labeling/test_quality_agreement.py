from typing import Literal

import pytest
from judging import Sheet

from labeling_app.quality import (
    agreement_by_annotator,
    agreement_of_two,
    drift_by_week,
    grade_agreement_by_annotator,
    krippendorff_alpha,
    pairwise_agreement,
)
from labeling_app.quality.intervals import share


def test_two_orders_of_three_agree_on_the_pairs_that_stand_the_same_way_round():
    sheet = Sheet()
    sheet.add("ana", 1, [[1], [2], [3]])
    sheet.add("ben", 1, [[1], [3], [2]])
    agreement = pairwise_agreement(sheet.judgements)
    assert agreement.strict.value == pytest.approx(2 / 3)
    assert agreement.with_ties.value == pytest.approx(2 / 3)
    assert (agreement.strict.num, agreement.strict.num_tasks) == (3, 1)


def test_the_interval_rests_on_each_comparison_of_two_people_once():
    sheet = Sheet()
    for task in range(20):
        sheet.add("ana", task, [[1], [2], [3]])
        sheet.add("ben", task, [[1], [2], [3]] if task == 0 else [[1], [3], [2]])
    once = share([3] + [2] * 19, [3] * 20)
    assert (once.num, once.num_tasks) == (60, 20)
    agreement = pairwise_agreement(sheet.judgements)
    assert (agreement.with_ties, agreement.strict, agreement.exact) == (once, once, once)
    [(_, week)] = drift_by_week(sheet.judgements)
    assert week.others == once


def test_a_tie_against_an_order_is_half_an_agreement_and_no_strict_comparison():
    sheet = Sheet()
    sheet.add("ana", 1, [[1], [2, 3]])
    sheet.add("ben", 1, [[1], [3], [2]])
    agreement = pairwise_agreement(sheet.judgements)
    assert agreement.with_ties.value == pytest.approx((1 + 1 + 0.5) / 3)
    assert agreement.exact.value == pytest.approx(2 / 3)
    assert agreement.strict.value == 1.0
    assert agreement.strict.num == 2


def test_two_ties_agree():
    sheet = Sheet()
    sheet.add("ana", 1, [[1, 2]])
    sheet.add("ben", 1, [[2, 1]])
    agreement = pairwise_agreement(sheet.judgements)
    assert agreement.with_ties.value == 1.0
    assert agreement.strict.value is None
    assert agreement.strict.num == 0


def test_each_annotator_is_compared_with_all_others_of_the_task():
    sheet = Sheet()
    sheet.add("ana", 1, [[1], [2]])
    sheet.add("ben", 1, [[1], [2]])
    sheet.add("cem", 1, [[2], [1]])
    by_annotator = agreement_by_annotator(sheet.judgements)
    assert [by_annotator[name][0].strict.value for name in ("ana", "ben", "cem")] == [0.5, 0.5, 0.0]
    assert pairwise_agreement(sheet.judgements).strict.value == pytest.approx(1 / 3)
    assert pairwise_agreement(sheet.judgements).strict.num == 3


def test_tasks_with_gold_count_for_agreement_with_gold_and_not_between_people():
    sheet = Sheet()
    for name, tiers in (("ana", [[1], [2], [3]]), ("ben", [[3], [2], [1]])):
        sheet.add(name, 1, tiers, gold={"tiers": [[1], [2, 3]]})
    by_annotator = agreement_by_annotator(sheet.judgements)
    assert by_annotator["ana"][1].with_ties.value == pytest.approx(2.5 / 3)
    assert by_annotator["ana"][1].strict.value == 1.0
    assert by_annotator["ben"][1].strict.value == 0.0
    assert pairwise_agreement(sheet.judgements).with_ties.value is None
    assert krippendorff_alpha(sheet.judgements, "pairs").value is None


def test_the_quarantined_are_compared_with_the_others_but_nobody_with_them():
    sheet = Sheet()
    sheet.add("ana", 1, [[1], [2]])
    sheet.add("ben", 1, [[1], [2]])
    sheet.add("mal", 1, [[2], [1]], quarantined=True)
    by_annotator = agreement_by_annotator(sheet.judgements)
    assert by_annotator["ana"][0].strict.value == 1.0
    assert by_annotator["mal"][0].strict.value == 0.0
    assert by_annotator["mal"][0].strict.num == 2
    assert pairwise_agreement(sheet.judgements).strict.value == 1.0


def test_orders_of_part_of_the_responses_are_compared_on_what_both_placed():
    sheet = Sheet()
    sheet.add("ana", 1, [[1], [2], [3]], responses=[1, 2, 3])
    sheet.add("ben", 1, [[1], [3]], responses=[1, 2, 3])
    assert pairwise_agreement(sheet.judgements).strict.num == 1
    # places among two are not places among three
    assert krippendorff_alpha(sheet.judgements, "places").num_units == 0


def test_two_people_share_a_table_with_cohens_kappa():
    """20 pairs: both first 8, both second 6, first/second 4, second/first 2.

    Observed agreement is 0.7; by chance 0.6 x 0.5 + 0.4 x 0.5 = 0.5; kappa (0.7 - 0.5) / 0.5 = 0.4.
    """
    sheet = Sheet()
    task = 0
    for number, one, other in ((8, 1, 1), (6, 2, 2), (4, 1, 2), (2, 2, 1)):
        for _ in range(number):
            task += 1
            sheet.add("ana", task, [[one], [3 - one]])
            sheet.add("ben", task, [[other], [3 - other]])
    (two,) = agreement_of_two(sheet.judgements)
    assert (two.one, two.other, two.num_tasks, two.num_pairs) == ("ana", "ben", 20, 20)
    assert two.exact == pytest.approx(0.7)
    assert two.kappa == pytest.approx(0.4)


def test_kappa_is_not_told_where_both_always_say_the_same():
    sheet = Sheet()
    for task in range(3):
        sheet.add("ana", task, [[1], [2]])
        sheet.add("ben", task, [[1], [2]])
    (two,) = agreement_of_two(sheet.judgements)
    assert two.exact == 1.0
    assert two.kappa is None


def test_alpha_of_pairs_on_krippendorffs_binary_example():
    """Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", example B: two observers, ten units: 0.095."""
    sheet = Sheet()
    for task, (one, other) in enumerate(zip("0100000010", "1110010000", strict=True)):
        for name, value in (("ana", one), ("ben", other)):
            sheet.add(name, task, [[1], [2]] if value == "0" else [[2], [1]])
    alpha = krippendorff_alpha(sheet.judgements, "pairs")
    assert alpha.value == pytest.approx(0.095, abs=5e-4)
    assert (alpha.num_units, alpha.num_tasks) == (10, 10)
    assert alpha.low is not None and alpha.high is not None
    assert alpha.low < 0.095 < alpha.high


def test_alpha_of_grades_on_krippendorffs_example_with_gaps():
    """Krippendorff (2011), example C: four observers, twelve units, gaps; ordinal alpha is 0.815."""
    observers = {
        "ana": [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        "ben": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        "cem": [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        "dee": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    }
    sheet = Sheet()
    for name, grades in observers.items():
        for task, grade in enumerate(grades):
            if grade is not None:
                sheet.add(name, task, ratings={1: grade})
    alpha = krippendorff_alpha(sheet.judgements, "grades")
    assert alpha.value == pytest.approx(0.815, abs=5e-4)
    assert alpha.num_units == 11  # the twelfth was graded once
    assert krippendorff_alpha(sheet.judgements, "places").value is None


def test_alpha_is_not_told_where_all_say_the_same():
    sheet = Sheet()
    for task in range(5):
        for name in ("ana", "ben"):
            sheet.add(name, task, [[1, 2, 3]])
    alpha = krippendorff_alpha(sheet.judgements, "places")
    assert (alpha.value, alpha.low, alpha.high, alpha.num_units) == (None, None, None, 15)


def test_alpha_of_places_is_one_for_equal_orders_and_negative_for_opposite_ones():
    same, opposite = Sheet(), Sheet()
    for task in range(4):
        same.add("ana", task, [[1], [2], [3]])
        same.add("ben", task, [[1], [2], [3]])
        opposite.add("ana", task, [[1], [2], [3]])
        opposite.add("ben", task, [[3], [2], [1]])
    assert krippendorff_alpha(same.judgements, "places").value == 1.0
    value = krippendorff_alpha(opposite.judgements, "places").value
    assert value is not None and value < -0.4


def test_sizes_of_tasks_are_no_agreement():
    """Opposite orders of two and of five: pooled naively, the larger places of the larger tasks look like agreement."""
    sheet = Sheet()
    for task in range(6):
        sheet.add("ana", task, [[1], [2]] if task % 2 else [[2], [1]])
        sheet.add("ben", task, [[2], [1]] if task % 2 else [[1], [2]])
    for task in range(6, 12):
        sheet.add("ana", task, [[1], [2], [3], [4], [5]])
        sheet.add("ben", task, [[5], [4], [3], [2], [1]])
    value = krippendorff_alpha(sheet.judgements, "places").value
    assert value is not None and value < -0.5


def of_tasks(num: int, num_opposite: int) -> Sheet:
    """Two people order two responses: either way in turn, in some tasks the other way round."""
    sheet = Sheet()
    for task in range(num):
        order = [[1], [2]] if task % 2 else [[2], [1]]
        sheet.add("ana", task, order)
        sheet.add("ben", task, order[::-1] if task < num_opposite else order)
    return sheet


def test_a_bootstrap_needs_ten_tasks():
    few = krippendorff_alpha(of_tasks(9, 2).judgements, "places")
    assert few.value is not None
    assert (few.low, few.high) == (None, None)
    assert few.why_no_interval == "no interval: only 9 tasks with two people, 10 are needed"
    enough = krippendorff_alpha(of_tasks(10, 2).judgements, "places")
    assert enough.low is not None and enough.high is not None
    assert enough.low < enough.high
    assert enough.why_no_interval is None


@pytest.mark.parametrize("level", ["places", "pairs"])
def test_full_agreement_has_no_interval_for_nothing_tells_how_far_it_may_be_off(level: Literal["places", "pairs"]):
    alpha = krippendorff_alpha(of_tasks(40, 0).judgements, level)
    assert (alpha.value, alpha.low, alpha.high) == (1.0, None, None)
    assert alpha.why_no_interval == "no interval: full agreement in all 40 tasks"


def test_alpha_says_what_it_lacks_where_it_has_no_value():
    alone, alike = Sheet(), Sheet()
    alone.add("ana", 1, [[1], [2]])
    for name in ("ana", "ben"):
        alike.add(name, 1, [[1, 2]])
    assert krippendorff_alpha(alone.judgements, "pairs").why_no_interval == "no task that two people answered"
    why = krippendorff_alpha(alike.judgements, "pairs").why_no_interval
    assert why == "in 1 task with two people all said one and the same"


def test_grades_are_compared_with_those_of_others_and_with_gold():
    sheet = Sheet()
    sheet.add("ana", 1, ratings={1: 5})
    sheet.add("ben", 1, ratings={1: 5})
    sheet.add("cem", 1, ratings={1: 7})
    sheet.add("ana", 2, ratings={1: 2}, gold={"ratings": {1: 3}})
    others, gold = grade_agreement_by_annotator(sheet.judgements)["ana"]
    assert (others.exact.value, others.within_one.value, others.difference) == (0.5, 0.5, -1.0)
    assert (gold.exact.value, gold.within_one.value, gold.difference) == (0.0, 1.0, -1.0)
    assert grade_agreement_by_annotator(sheet.judgements)["cem"][1].difference is None


def test_three_of_three_is_not_certainty():
    each = share([1, 1, 1], [1, 1, 1])
    assert each.value == 1.0
    assert each.low == pytest.approx(3 / (3 + 1.959964**2))  # Wilson's: n / (n + z^2)
    assert each.high == 1.0


def test_comparisons_of_one_task_count_as_one_where_they_go_together():
    clustered, single = share([6, 0, 6, 6], [6, 6, 6, 6]), share([1, 0, 1, 1], [1, 1, 1, 1])
    assert (clustered.low, clustered.high) == pytest.approx((single.low, single.high))
    assert (clustered.num, clustered.num_tasks) == (24, 4)


def test_a_share_of_nothing_is_none():
    assert share([], []).value is None
    assert share([0.0], [0]).low is None
