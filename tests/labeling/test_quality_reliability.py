from dataclasses import replace

import pytest
from judging import Sheet, simulated

from labeling_app.quality import reliability_weights

HONEST = {"ana": 0.5, "ben": 0.6, "cem": 0.7, "dee": 0.8}


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_reliabilities_is_the_order_of_noise(seed: int):
    judgements = simulated(seed, {"ana": 0.2, "ben": 0.8, "cem": 1.6, "dee": 4.0}, num_tasks=300, overlap=3)
    found = reliability_weights(judgements)
    assert sorted(found, key=lambda name: -found[name].reliability) == ["ana", "ben", "cem", "dee"]


@pytest.mark.parametrize("seed", range(5))
def test_a_malicious_annotator_weighs_nothing_and_a_careless_one_little(seed: int):
    judgements = simulated(seed, {**HONEST, "mal": "malicious", "zoe": "careless"}, num_tasks=200, overlap=2)
    found = reliability_weights(judgements)
    assert found["mal"].weight == 0.0
    assert found["mal"].reliability < -0.2
    honest = min(found[name].weight for name in HONEST)
    assert found["zoe"].weight < honest / 2
    assert honest > 1.0


@pytest.mark.parametrize("kind", ["first", "ties"])
def test_who_does_not_look_weighs_little(kind: str):
    found = reliability_weights(simulated(3, {**HONEST, "zoe": kind}, num_tasks=200, overlap=2))
    assert found["zoe"].weight < 0.3


def test_gold_unmasks_a_malicious_majority():
    people = {"ana": 0.5, "mal": "malicious", "mel": "malicious", "moe": "malicious"}
    found = reliability_weights(simulated(0, people, num_tasks=200, gold_share=0.2))
    assert found["ana"].weight > 3.5
    assert [found[name].weight for name in ("mal", "mel", "moe")] == [0.0, 0.0, 0.0]


def test_few_judgements_are_worth_the_mean():
    judgements = simulated(1, {**HONEST, "zoe": "careless"}, num_tasks=200)
    own = [judgement for judgement in judgements if judgement.user == "zoe"]
    rest = [judgement for judgement in judgements if judgement.user != "zoe"]
    none, one, all_of_them = (reliability_weights([*rest, *own[:number]]) for number in (0, 1, len(own)))
    assert "zoe" not in none
    assert 0.7 < one["zoe"].weight < 1.3
    assert all_of_them["zoe"].weight < 0.35


def test_without_overlap_everybody_weighs_the_same():
    sheet = Sheet()
    sheet.add("ana", 1, [[1], [2]])
    sheet.add("ben", 2, [[1], [2]])
    found = reliability_weights(sheet.judgements)
    assert [(each.weight, each.num_comparisons) for each in found.values()] == [(1.0, 0.0), (1.0, 0.0)]


def test_one_annotator_and_none():
    sheet = Sheet()
    sheet.add("ana", 1, [[1], [2]])
    assert reliability_weights(sheet.judgements)["ana"].weight == 1.0
    assert reliability_weights([]) == {}


def test_the_mean_over_judgements_is_one():
    judgements = simulated(2, {**HONEST, "mal": "malicious", "zoe": "careless"})
    found = reliability_weights(judgements)
    assert sum(found[judgement.user].weight for judgement in judgements) / len(judgements) == pytest.approx(1)


def test_neither_order_nor_names_nor_ids_matter():
    judgements = simulated(4, {**HONEST, "mal": "malicious"}, num_tasks=100)
    renamed = {"ana": "zoe", "ben": "yan", "cem": "mia", "dee": "abe", "mal": "bob"}
    other = [replace(each, user=renamed[each.user], task_id=1000 - each.task_id) for each in reversed(judgements)]
    found, again = reliability_weights(judgements), reliability_weights(other)
    assert reliability_weights(judgements) == found
    for name in found:
        assert again[renamed[name]].weight == pytest.approx(found[name].weight, abs=1e-6)


def test_the_quarantined_have_no_weight_and_no_say():
    judgements = simulated(5, {**HONEST, "mal": "malicious"}, num_tasks=100)
    honest = [each for each in judgements if each.user != "mal"]
    quarantined = [replace(each, quarantined=each.user == "mal") for each in judgements]
    assert reliability_weights(quarantined) == reliability_weights(honest)


def test_a_ranking_of_four_is_three_comparisons():
    sheet = Sheet()
    sheet.add("ana", 1, [[1], [2], [3], [4]])
    sheet.add("ben", 1, [[1], [2], [3], [4]])
    assert reliability_weights(sheet.judgements)["ana"].num_comparisons == 3.0


def test_two_who_contradict_each_other_are_trusted_alike_and_less_than_those_who_agree():
    sheet = Sheet()
    for task in range(30):
        sheet.add("ana", task, [[1], [2]])
        sheet.add("ben", task, [[2], [1]])
        sheet.add("cem", 100 + task, [[1], [2]])
        sheet.add("dee", 100 + task, [[1], [2]])
    found = reliability_weights(sheet.judgements)
    assert found["ana"].weight == pytest.approx(found["ben"].weight)
    assert found["cem"].weight > 2 * found["ana"].weight


def test_grades_of_one_response_show_who_can_be_trusted_whatever_their_leniency():
    sheet = Sheet()
    for task in range(60):
        worth = 1 + task % 5
        sheet.add("ana", task, ratings={1: worth})
        sheet.add("ben", task, ratings={1: worth + 2})  # lenient, and right
        sheet.add("cem", task, ratings={1: 1 + (task * 7) % 6})  # unrelated
        sheet.add("zoe", task, ratings={1: 4})  # always the same
    found = reliability_weights(sheet.judgements)
    assert found["ana"].weight == pytest.approx(found["ben"].weight)
    assert found["ana"].weight > 1.5
    assert found["cem"].weight < 0.3
    assert found["zoe"].weight < 0.3


def test_grades_are_measured_against_gold():
    sheet = Sheet()
    for task in range(40):
        worth = 1 + task % 7
        gold = {"ratings": {"1": worth}}
        sheet.add("ana", task, ratings={1: worth}, gold=gold)
        sheet.add("mal", task, ratings={1: 8 - worth}, gold=gold)
    found = reliability_weights(sheet.judgements)
    assert found["ana"].reliability > 0.7
    assert found["mal"].weight == 0.0
