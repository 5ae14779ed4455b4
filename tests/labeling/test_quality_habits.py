from datetime import timedelta
from math import isnan

import pytest
from judging import START, Sheet, simulated
from label_tools import as_shown, new_task, reversed_order

from labeling_app.quality import (
    careless_signals,
    drift_by_answers,
    drift_by_week,
    longest_wins,
    pace,
    position_bias,
    time_per_task,
)
from labeling_app.quality.careless import contradicting, falling
from labeling_app.quality.report import assess


def kinds(judgements, name: str) -> list[str]:
    return [signal.kind for signal in careless_signals(judgements)[name]]


# Position


def test_the_share_of_best_is_by_the_place_where_it_was_shown():
    sheet = Sheet()
    sheet.add("ana", 1, [[2], [1], [3]], presented=[2, 3, 1])  # best shown first
    sheet.add("ana", 2, [[2], [1], [3]], presented=[3, 2, 1])  # second
    sheet.add("ana", 3, [[1, 2], [3]], presented=[1, 3, 2])  # first and third by half
    places = position_bias(sheet.judgements)
    assert [place.best.value for place in places] == pytest.approx([1.5 / 3, 1 / 3, 0.5 / 3])
    assert [place.chance for place in places] == pytest.approx([1 / 3] * 3)


def test_an_answer_in_which_all_tie_says_nothing_of_places():
    sheet = Sheet()
    sheet.add("ana", 1, [[1, 2]])
    assert position_bias(sheet.judgements) == []
    assert position_bias([]) == []


def test_votes_from_files_say_nothing_of_places():
    sheet = Sheet()
    for task in range(1, 60):
        sheet.add("imported.rows.ann", task, [[1], [2], [3]])
        sheet.add("ana", task + 100, [[1], [2], [3]])
    assert position_bias(sheet.judgements, "imported.rows.ann") == []
    assert [place.best.num for place in position_bias(sheet.judgements)] == [59, 59, 59]
    assert "same-place" in kinds(sheet.judgements, "ana")
    assert "same-place" not in kinds(sheet.judgements, "imported.rows.ann")


def test_the_chance_of_a_place_is_that_of_the_tasks_that_have_it():
    sheet = Sheet()
    sheet.add("ana", 1, [[1], [2]])
    sheet.add("ana", 2, [[1], [2], [3], [4]])
    assert [place.chance for place in position_bias(sheet.judgements)] == [0.375, 0.375, 0.25, 0.25]


def test_grades_have_places_too():
    sheet = Sheet()
    sheet.add("ana", 1, ratings={1: 3, 2: 6}, presented=[2, 1])
    assert [place.best.value for place in position_bias(sheet.judgements, "ana")] == [1.0, 0.0]


# Time


def test_time_is_what_the_page_measured_but_not_more_than_passed():
    sheet = Sheet()
    sheet.add("ana", 1, [[1], [2]], seconds=20, wall_seconds=60)
    sheet.add("ana", 2, [[1], [2]], seconds=600, wall_seconds=1)  # a page that lies
    sheet.add("ana", 3, [[1], [2]], seconds=0, wall_seconds=8)
    sheet.add("ana", 4, [[1], [2]], seconds=0, wall_seconds=0)  # imported
    sheet.add("ana", 5, [[1], [2]], seconds=40, wall_seconds=30, revision=2)  # taken up again later
    sheet.add("ana", 6, [[1], [2]], seconds=50, wall_seconds=0.01, simulated=True)
    times = time_per_task(sheet.judgements)
    assert (times.median, times.num) == (20.0, 5)  # of 1, 8, 20, 40, 50
    assert (times.low, times.high) == (8.0, 40.0)
    assert time_per_task([]).median is None


# Length


def test_longest_wins_counts_equal_lengths_half_and_leaves_ties_out():
    sheet = Sheet()
    sheet.add("ana", 1, [[1], [2]], texts={1: "longer", 2: "short"})
    sheet.add("ana", 2, [[2], [1]], texts={1: "longer", 2: "short"})
    sheet.add("ana", 3, [[1], [2]], texts={1: "same", 2: "size"})
    sheet.add("ana", 4, [[1, 2]], texts={1: "longer", 2: "short"})
    sheet.add("ana", 5, [[1], [2]], texts={1: "longer", 2: "short"})
    share = longest_wins(sheet.judgements)
    assert (share.value, share.num) == (2.5 / 4, 4)
    assert longest_wins([]).value is None


def test_the_length_of_a_conversation_is_that_of_its_messages():
    sheet = Sheet()
    long = [{"role": "assistant", "content": "a long answer"}]
    sheet.add("ana", 1, [[2], [1]], texts={1: "short", 2: long})
    assert longest_wins(sheet.judgements).value == 1.0


# Drift


def test_drift_is_in_blocks_and_what_is_left_over_goes_to_the_last():
    sheet = Sheet()
    for task in range(25):
        sheet.add("ana", task, [[1], [2]])
        sheet.add("ben", task, [[1], [2]] if task < 10 else [[2], [1]])
    blocks = drift_by_answers(sheet.judgements, "ben", size=10)
    assert [block.num_answers for block in blocks] == [10, 15]
    assert [block.others.value for block in blocks] == [1.0, 0.0]
    assert blocks[0].start < blocks[0].end < blocks[1].start
    assert len(drift_by_answers(sheet.judgements, "ben")) == 1


def test_drift_by_week_starts_on_mondays():
    sheet = Sheet()
    for day, name in ((0, "ana"), (6, "ana"), (7, "ana"), (7, "ben")):
        sheet.add(name, 10 * day, [[1], [2]], at=START + timedelta(days=day))
    weeks = drift_by_week(sheet.judgements)
    assert [(monday.isoformat(), block.num_answers) for monday, block in weeks] == [
        ("2026-11-02", 2),
        ("2026-11-09", 2),
    ]


def test_a_revision_moves_no_answer_to_another_time():
    sheet = Sheet()
    now = START + timedelta(days=8)
    for task in range(20):
        answered = START + timedelta(minutes=task)
        sheet.add("ana", task, [[1], [2]], at=answered, revision=2, revised_at=now - timedelta(minutes=task))
    assert pace(sheet.judgements, 10, now).num_last_day == 0
    assert [monday.isoformat() for monday, _ in drift_by_week(sheet.judgements)] == ["2026-11-02"]
    [block] = drift_by_answers(sheet.judgements, "ana")
    assert (block.start, block.end) == (START, START + timedelta(minutes=19))


def test_the_store_tells_when_a_task_was_first_answered(store, clock):
    ann = store.add_user("ann")
    store.add_tasks([new_task()])
    claimed = store.claim(ann.id)
    for number in range(3):
        clock.advance(60)
        if number == 0:
            store.submit(ann.id, claimed.lease, "key", as_shown(claimed), 0)
        else:
            store.revise(ann.id, claimed.task_id, f"key-{number}", reversed_order(claimed), 0)
    [judgement] = store.judgements()
    assert clock() - judgement.first_at == timedelta(seconds=120)
    assert (judgement.revision, judgement.created_at) == (3, clock())


def test_agreement_that_falls_is_a_sign():
    sheet = Sheet()
    for task in range(100):
        for steady in ("ana", "cem", "dee", "eve"):
            sheet.add(steady, task, [[1], [2]] if task % 9 else [[2], [1]])
        right = task % 8 if task < 50 else task % 3 == 0
        sheet.add("ben", task, [[1], [2]] if right else [[2], [1]])
    signal = falling(drift_by_answers(sheet.judgements, "ben"))
    assert signal is not None
    assert signal.share < signal.expected - 0.2
    assert falling(drift_by_answers(sheet.judgements, "cem")) is None
    assert "falling" in [each.kind for each in assess(sheet.judgements).annotators[1].signals]


# Carelessness


def test_always_the_first_is_a_sign():
    judgements = simulated(0, {"ana": 0.5, "ben": 0.8, "zoe": "first"}, num_tasks=30)
    assert "same-place" in kinds(judgements, "zoe")
    assert kinds(judgements, "ana") == kinds(judgements, "ben") == []


def test_always_the_second_of_two_is_a_sign():
    sheet = Sheet()
    for task in range(20):
        sheet.add("zoe", task, [[1], [2]] if task % 2 else [[2], [1]], presented=[2, 1] if task % 2 else [1, 2])
        sheet.add("ana", task, [[1], [2]] if task % 2 else [[2], [1]], presented=[1, 2] if task % 3 else [2, 1])
    (signal,) = careless_signals(sheet.judgements)["zoe"]
    assert (signal.kind, signal.share, signal.num) == ("same-place", 1.0, 20)
    assert signal.text == "the best was shown in place 2 in 100% of the answers"
    assert kinds(sheet.judgements, "ana") == []


def test_the_first_place_of_a_single_good_response_is_no_sign_with_few_answers():
    sheet = Sheet()
    for task in range(9):
        sheet.add("ana", task, [[1], [2], [3]])
    assert kinds(sheet.judgements, "ana") == []


def test_always_a_tie_is_straight_lining():
    judgements = simulated(1, {"ana": 0.5, "ben": 0.8, "zoe": "ties"}, num_tasks=30)
    assert [(s.kind, s.text) for s in careless_signals(judgements)["zoe"]] == [
        ("straight-lining", "the same answer (all alike) in 100%")
    ]


def test_always_the_same_grade_is_straight_lining_unless_all_give_it():
    sheet = Sheet()
    for task in range(30):
        sheet.add("ana", task, ratings={1: 1 + task % 6})
        sheet.add("zoe", task, ratings={1: 4})
        sheet.add("ben", 100 + task, ratings={1: 7, 2: 7})
        sheet.add("cem", 100 + task, ratings={1: 7, 2: 7})
    assert kinds(sheet.judgements, "zoe") == ["straight-lining"]
    assert kinds(sheet.judgements, "ana") == kinds(sheet.judgements, "ben") == []


def test_too_quick_is_a_fifth_of_what_it_takes_the_others():
    sheet = Sheet()
    for task in range(20):
        tiers = [[1], [2]] if task % 2 else [[2], [1]]
        sheet.add("ana", task, tiers, seconds=30)
        sheet.add("ben", task, tiers, seconds=20)
        sheet.add("zoe", task, tiers, seconds=2 if task < 6 else 15)
    (signal,) = careless_signals(sheet.judgements)["zoe"]
    assert (signal.kind, signal.share) == ("too-quick", 0.3)
    assert signal.text == "too quick to have read in 30% (under 4.0 s)"  # the median of 30, 20 and 15 is 20
    assert kinds(sheet.judgements, "ana") == []


def test_too_quick_is_also_what_nobody_could_read():
    sheet = Sheet()
    for task in range(20):
        tiers = [[1], [2]] if task % 2 else [[2], [1]]
        sheet.add("zoe", task, tiers, seconds=3, texts={1: "x" * 900, 2: "y" * 900})
    (signal,) = careless_signals(sheet.judgements)["zoe"]
    assert signal.text == "too quick to have read in 100% (under 6.0 s)"


def test_times_that_nobody_knows_are_no_sign():
    sheet = Sheet()
    for task in range(20):
        sheet.add("ana", task, [[1], [2]] if task % 2 else [[2], [1]], seconds=0, wall_seconds=0)
    assert kinds(sheet.judgements, "ana") == []


def test_contradicting_the_others_is_a_sign():
    judgements = simulated(2, {"ana": 0.5, "ben": 0.6, "mal": "malicious"}, num_tasks=60)
    found = {each.name: each for each in assess(judgements).annotators}
    assert [signal.kind for signal in found["mal"].signals] == ["contradicts"]
    assert contradicting(found["ana"].others, found["ana"].gold) is None


def test_guessing_is_a_sign_that_only_agreement_shows():
    judgements = simulated(0, {"ana": 0.5, "ben": 0.6, "cem": 0.7, "zoe": "careless"}, num_tasks=150)
    found = {each.name: [signal.kind for signal in each.signals] for each in assess(judgements).annotators}
    assert found == {"ana": [], "ben": [], "cem": [], "zoe": ["guesses"]}


def test_honest_annotators_show_no_signs():
    for seed in range(5):
        judgements = simulated(seed, dict.fromkeys("abcdefgh", 0.7), num_tasks=150, num_responses=2)
        assert [each.signals for each in assess(judgements).annotators] == [[]] * 8


def test_unknown_seconds_stay_unknown():
    from labeling_app.quality.panel import panel_of

    sheet = Sheet()
    sheet.add("ana", 1, [[1], [2]], seconds=0, wall_seconds=0)
    assert isnan(panel_of(sheet.judgements).seconds[0])
