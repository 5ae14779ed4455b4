"""Simulated people of known character."""

import pytest

from labeling_app.panels import SimulatedPerson, make_panel
from labeling_app.simulated import answer_queue
from labeling_app.store import NewResponse, NewTask, Store, StoreSettings


def length(prompts, completions):
    return [float(len(text)) for text in completions]


def person(character="honest", name="sim-x", **options):
    return SimulatedPerson(name, character, length, **options)


def share_of_longer(judge, gap, presented, count=2000):
    """How often the longer of two texts is put first."""
    told = [judge.judge("pair", f"prompt {n}", ["a", "b" * (1 + gap)], presented) for n in range(count)]
    return sum(tiers == [[1], [0]] for tiers in told) / count


def test_an_honest_one_errs_as_bradley_and_terry_say():
    assert share_of_longer(person(position_bias=0), 1, [0, 1]) == pytest.approx(0.731, abs=0.03)
    assert share_of_longer(person(position_bias=0, noise=2.0), 1, [0, 1]) == pytest.approx(0.622, abs=0.03)


def test_what_is_shown_first_is_favoured_a_little_by_all_and_by_far_by_a_biased_one():
    assert share_of_longer(person(), 0, [1, 0]) == pytest.approx(0.525, abs=0.03)
    assert share_of_longer(person("biased"), 0, [1, 0]) == pytest.approx(0.953, abs=0.02)
    assert share_of_longer(person("biased"), 0, [0, 1]) == pytest.approx(0.047, abs=0.02)


def test_a_careless_one_does_not_read():
    assert share_of_longer(person("careless"), 50, [0, 1]) == pytest.approx(0.5, abs=0.04)


def test_a_malicious_one_turns_round_what_an_honest_one_would_say():
    texts = ["aaa", "a", "aa", "aaaaaa", "aa"]
    for n in range(50):
        honest, malicious = (person(who, tie_within=0.3) for who in ("honest", "malicious"))
        said = honest.judge("rank", f"prompt {n}", texts, [0, 1, 2, 3, 4])
        assert malicious.judge("rank", f"prompt {n}", texts, [0, 1, 2, 3, 4]) == said[::-1]


def test_close_calls_are_ties_where_ties_are_wanted():
    texts = ["a", "ab", "abc"]
    [tier] = person(tie_within=1e6).judge("rank", "p", texts, [0, 1, 2])
    assert sorted(tier) == [0, 1, 2]
    assert all(len(tiers) == 3 for n in range(50) if (tiers := person().judge("rank", f"p{n}", texts, [0, 1, 2])))


def test_the_same_seed_says_the_same_and_another_one_something_else():
    texts = ["a", "b", "c", "d"]

    def says(**options):
        return [person(**options).judge("rank", f"p{n}", texts, [0, 1, 2, 3]) for n in range(20)]

    assert says(seed=1) == says(seed=1)
    assert says(seed=1) != says(seed=2) and says(seed=1) != says(seed=1, name="sim-y")


def test_a_panel_answers_in_the_store_and_all_of_it_is_marked(tmp_path):
    judges = make_panel({"honest": 2, "malicious": 1}, length, seed=0, noise=0.01)
    assert [judge.name for judge in judges] == ["sim-honest-1", "sim-honest-2", "sim-malicious-1"]
    with Store.open(tmp_path, settings=StoreSettings(gold_share=0)) as store:
        texts = [NewResponse("a" * n) for n in (3, 1, 2)]
        store.add_tasks([NewTask(f"prompt {n}", texts, overlap=3) for n in range(4)], "q")
        assert answer_queue(store, judges, "q") == 12
        said = {}
        for one in store.judgements("q"):
            assert one.simulated
            place = [response.id for response in one.responses]
            said.setdefault(one.user, set()).add(tuple(place.index(tier[0]) for tier in one.answer.tiers))
    assert said == {"sim-honest-1": {(0, 2, 1)}, "sim-honest-2": {(0, 2, 1)}, "sim-malicious-1": {(1, 2, 0)}}
