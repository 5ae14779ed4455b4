import json
import time
from datetime import date

import numpy as np
import pytest
from judging import Sheet, simulated

from labeling_app.quality import as_json, assess
from labeling_app.store import Judgement


def strict_json(judgements: list[Judgement]) -> dict:
    """Through JSON and back; NaN and infinities are refused."""
    return json.loads(json.dumps(as_json(assess(judgements)), allow_nan=False))


def test_nothing_to_say_without_judgements():
    quality = strict_json([])
    assert quality["num_judgements"] == 0
    assert quality["alpha_pairs"] == {"value": None, "low": None, "high": None, "num_units": 0, "num_tasks": 0}
    assert quality["pairwise"]["with_ties"]["value"] is None
    assert quality["annotators"] == quality["twos"] == quality["places"] == quality["drift"] == []


def all_quarantined(sheet: Sheet) -> None:
    sheet.add("mal", 1, [[1], [2]], quarantined=True)


def one_annotator(sheet: Sheet) -> None:
    for task in range(60):
        sheet.add("ana", task, [[1], [2], [3]])


def no_overlap(sheet: Sheet) -> None:
    sheet.add("ana", 1, [[1], [2]])
    sheet.add("ben", 2, [[2], [1]])


def all_ties(sheet: Sheet) -> None:
    for task in range(12):
        for name in ("ana", "ben"):
            sheet.add(name, task, [[1, 2, 3]])


def single_grades(sheet: Sheet) -> None:
    for task in range(12):
        for name in ("ana", "ben"):
            sheet.add(name, task, ratings={1: 4})


def equal_grades_with_gold(sheet: Sheet) -> None:
    for task in range(12):
        sheet.add("ana", task, ratings={1: 4, 2: 4}, gold={"ratings": {"1": 4, "2": 5}})


def partial_orders(sheet: Sheet) -> None:
    sheet.add("ana", 1, [[1], [3]], responses=[1, 2, 3])
    sheet.add("ben", 1, [[2]], responses=[1, 2, 3])
    sheet.add("cem", 1, [], responses=[1, 2, 3])


def partial_gold(sheet: Sheet) -> None:
    sheet.add("ana", 1, [[1], [2], [3]], gold={"tiers": [[2], [1]]})
    sheet.add("ben", 1, [[1], [2], [3]], gold={"tiers": [[2], [1]]})


def unknown_times(sheet: Sheet) -> None:
    sheet.add("ana", 1, [[1], [2]], seconds=0, wall_seconds=0)


CASES = [
    all_quarantined,
    one_annotator,
    no_overlap,
    all_ties,
    single_grades,
    equal_grades_with_gold,
    partial_orders,
    partial_gold,
    unknown_times,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_thin_data_gives_nulls_and_no_nan(case):
    sheet = Sheet()
    case(sheet)
    quality = strict_json(sheet.judgements)
    assert quality["alpha_places"]["value"] is None
    assert all(-1 <= each["reliability"]["reliability"] <= 1 for each in quality["annotators"] if each["reliability"])


def test_the_quarantined_are_described_and_left_out():
    sheet = Sheet()
    for task in range(4):
        sheet.add("ana", task, [[1], [2]])
        sheet.add("ben", task, [[1], [2]])
        sheet.add("mal", task, [[2], [1]], quarantined=True)
    quality = assess(sheet.judgements)
    assert (quality.num_judgements, quality.num_tasks, quality.num_tasks_of_several) == (8, 4, 4)
    mal = quality.annotators[2]
    assert (mal.name, mal.quarantined, mal.num_answers, mal.others.strict.value) == ("mal", True, 4, 0.0)
    assert mal.reliability is None
    assert quality.annotators[0].others.strict.value == 1.0


def test_json_holds_dates_and_no_numbers_that_are_none():
    assert as_json([date(2026, 11, 2), np.float64("nan"), float("inf"), 1.5, True, None]) == [
        "2026-11-02",
        None,
        None,
        1.5,
        True,
        None,
    ]


def test_figures_do_not_depend_on_the_order_in_which_judgements_come():
    judgements = simulated(0, {"ana": 0.5, "ben": 1.0, "cem": 2.0}, num_tasks=50)
    assert assess(judgements) == assess(judgements[::-1])


@pytest.mark.slow
def test_ten_thousand_judgements_take_less_than_three_seconds():
    people = {f"p{number}": 0.5 + number / 50 for number in range(50)}
    judgements = simulated(0, people, num_tasks=3300, overlap=3, gold_share=0.003)
    assert len(judgements) > 10_000
    assess(judgements[:100])  # imports
    start = time.perf_counter()
    assess(judgements)
    assert time.perf_counter() - start < 3
