import random
from itertools import combinations
from pathlib import Path

import pytest

from labeling_app.answers import Answer
from labeling_app.simulated import answer_queue
from labeling_app.store import NewResponse, NewTask, Store, StoreSettings
from rlhf.demo import world
from rlhf.demo.annotators import SimulatedAnnotator, panel, rubric
from rlhf.errors import UserError

PROMPT = "Customer: My kettle arrived broken.\nAgent:"
AS_ADDED = [0, 1, 2]


def tasks(seed: int, count: int, overlap: int = 1) -> list[NewTask]:
    rng = random.Random(seed)
    kinds, shares = list(world.LOG_KINDS), list(world.LOG_KINDS.values())
    return [
        NewTask(
            ticket.prompt,
            [
                NewResponse(world.agent_reply(rng, ticket.item, ticket.issue, kind))
                for kind in rng.choices(kinds, shares, k=4)
            ],
            overlap=overlap,
        )
        for ticket in world.tickets(seed, "train", count)
    ]


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path, settings=StoreSettings(gold_share=0)) as opened:
        yield opened


def places(answer: Answer) -> dict[int, int]:
    return {response: tier for tier, members in enumerate(answer.tiers) for response in members}


def test_two_people_agree_on_70_to_80_percent_of_pairs(store):
    for seed in (0, 1, 2):
        queue = f"seed-{seed}"
        store.add_tasks(tasks(seed, 300, overlap=2), queue)
        assert answer_queue(store, panel(seed), queue) == 600
        of_task: dict[int, list[dict[int, int]]] = {}
        for judgement in store.judgements(queue):
            of_task.setdefault(judgement.task_id, []).append(places(judgement.answer))
        same = total = 0
        for one, other in of_task.values():
            for a, b in combinations(sorted(one), 2):
                product = (one[a] - one[b]) * (other[a] - other[b])
                total += product != 0
                same += product > 0
        assert total > 1000
        assert 0.70 < same / total < 0.80


def test_the_work_is_shared_evenly_and_marked_as_simulated(store):
    store.add_tasks(tasks(0, 40), "q")
    answer_queue(store, panel(0), "q")
    judged = store.judgements("q")
    assert [judgement.user for judgement in judged] == ["sim-ana", "sim-ben", "sim-chi", "sim-dee"] * 10
    assert all(judgement.simulated for judgement in judged)
    assert {event.kind for event in store.events()} == {"user_added", "added", "claimed", "submitted"}


def test_answers_depend_on_the_seed_alone(tmp_path):
    def answers(home: str, seed: int) -> list[tuple[str, list[list[int]]]]:
        with Store.open(tmp_path / home) as store:
            store.add_tasks(tasks(0, 40, overlap=2), "q")
            answer_queue(store, panel(seed), "q")
            return [(judgement.user, judgement.answer.tiers) for judgement in store.judgements("q")]

    assert answers("a", seed=1) == answers("b", seed=1)
    assert answers("c", seed=1) != answers("d", seed=2)


def test_work_that_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path):
    def stopping_after(num: int) -> list[SimulatedAnnotator]:
        class Tired(SimulatedAnnotator):
            def judge(self, *task):
                nonlocal num
                num -= 1
                if num < 0:
                    raise KeyboardInterrupt
                return super().judge(*task)

        return [Tired(one.name, one.noise, one.seed) for one in panel(0)]

    results = []
    for stops in ([], [5], [1, 11, 30]):
        with Store.open(tmp_path / str(len(results))) as store:
            store.add_tasks(tasks(0, 30, overlap=2), "q")
            for num in stops:
                with pytest.raises(KeyboardInterrupt):
                    answer_queue(store, stopping_after(num), "q")
            answer_queue(store, panel(0), "q")
            results.append([(one.task_id, one.user, one.answer) for one in store.judgements("q")])
    assert len(results[0]) == 60 and results[0] == results[1] == results[2]


def test_an_annotator_without_noise_ranks_by_the_rubric():
    replies = [
        " That is not possible.",
        " We will replace the broken kettle at no cost.",
        " This is your own fault.",
    ]
    exact = SimulatedAnnotator("sim-exact", noise=0.0)
    assert exact.judge("rank", PROMPT, replies, AS_ADDED) == [[1], [0], [2]]


def test_what_is_shown_first_has_a_small_advantage():
    replies = [" That is not possible.", " Our rules do not allow that."]
    wins = 0
    for seed in range(400):
        person = SimulatedAnnotator("sim-x", noise=0.5, seed=seed)
        one, other = (person.judge("pair", PROMPT, replies, shown) for shown in ([0, 1], [1, 0]))
        wins += (one[0] == [0]) + (other[0] == [1]) - (one[0] == [1]) - (other[0] == [0])
    assert 20 < wins < 160


def test_the_rubric_itself_ranks_without_errors_and_ties_equal_scores():
    replies = [
        " That is not possible.",
        " We will replace the broken kettle at no cost.",
        " Our rules do not allow that.",
    ]
    [judge] = rubric(0)
    assert judge.judge("rank", PROMPT, replies, AS_ADDED) == [[1], [0, 2]]


class Says:
    def __init__(self, said, name="sim-x"):
        self.name = name
        self.said = said

    def judge(self, mode, prompt, responses, presented):
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ([[0], [1]], "sim-x said .* of 3 responses: tiers: every response has to be placed exactly once"),
        ([[0, 1, 2, 7]], "expected tiers of positions"),
        ("best", "expected tiers of positions"),
        (None, "expected tiers of positions"),
        ({0: 3, 1: 3, 2: 3}, "this task is ordered, not rated"),
        (ZeroDivisionError("x"), r"sim-x: raised ZeroDivisionError: x \(.*test_annotators.py:"),
    ],
)
def test_what_is_no_answer_is_the_user_s_error(store, said, complaint):
    store.add_tasks([NewTask("p", [NewResponse(text) for text in "abc"])], "q")
    with pytest.raises(UserError, match=complaint):
        answer_queue(store, [Says(said)], "q")
    assert store.judgements("q") == []


def test_grades_are_answers_where_responses_are_rated(store):
    store.add_tasks([NewTask("p", [NewResponse(text) for text in "abc"], mode="rate")], "q")
    assert answer_queue(store, [Says({0: 3, 1: 7, 2: 1})], "q") == 1
    [judgement] = store.judgements("q")
    assert list(judgement.answer.ratings.values()) == [3, 7, 1]


def test_nobody_simulated_takes_a_person_s_name(store):
    store.add_user("ann")
    with pytest.raises(UserError, match="'ann' is a person in this store"):
        answer_queue(store, [Says([[0]], name="ann")], "q")
    with pytest.raises(UserError, match="two have one name"):
        answer_queue(store, [Says([[0]]), Says([[0]])], "q")
