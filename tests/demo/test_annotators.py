import random

from rlhf.demo import world
from rlhf.demo.annotators import SimulatedAnnotator, annotate, pairwise_agreement, panel, rank_by_rubric
from rlhf.records import Ranking


def _tasks(seed: int, count: int) -> tuple[list[str], list[list[str]]]:
    rng = random.Random(seed)
    tickets = world.tickets(seed, "train", count)
    kinds, shares = list(world.LOG_KINDS), list(world.LOG_KINDS.values())
    replies = [
        [world.agent_reply(rng, ticket.item, ticket.issue, kind) for kind in rng.choices(kinds, shares, k=4)]
        for ticket in tickets
    ]
    return [ticket.prompt for ticket in tickets], replies


def test_two_people_agree_on_70_to_80_percent_of_pairs():
    for seed in (0, 1, 2):
        share, num_pairs = pairwise_agreement(annotate(*_tasks(seed, 1200), seed=seed))
        assert num_pairs > 1000
        assert 0.70 < share < 0.80


def test_annotations_depend_on_the_seed_alone():
    prompts, replies = _tasks(0, 40)
    assert annotate(prompts, replies, seed=1) == annotate(prompts, replies, seed=1)
    assert annotate(prompts, replies, seed=1) != annotate(prompts, replies, seed=2)


def test_rankings_say_that_they_are_simulated_and_by_whom():
    rankings = annotate(*_tasks(0, 40), seed=0)
    assert all(ranking.simulated for ranking in rankings)
    assert {ranking.annotator for ranking in rankings} == {"sim-ana", "sim-ben", "sim-chi", "sim-dee"}
    by_task: dict[str | None, set[str | None]] = {}
    for ranking in rankings:
        by_task.setdefault(ranking.task, set()).add(ranking.annotator)
    assert len(by_task) == 40
    assert {len(people) for people in by_task.values()} == {1, 2}


def test_every_completion_is_placed_once_and_equal_texts_share_a_tier():
    prompt = world.prompts(0, "train", 1)[0]
    for person in panel(0):
        tiers = person.rank(prompt, [" Hello.", " That is not possible.", " Hello.", " Best wishes."])
        assert sorted(position for tier in tiers for position in tier) == [0, 1, 2, 3]
        assert any({0, 2} <= set(tier) for tier in tiers)


def test_an_annotator_without_noise_ranks_by_the_rubric():
    prompt = "Customer: My kettle arrived broken.\nAgent:"
    replies = [
        " That is not possible.",
        " We will replace the broken kettle at no cost.",
        " This is your own fault.",
    ]
    assert SimulatedAnnotator("sim-exact", noise=0.0).rank(prompt, replies) == [[1], [0], [2]]


def test_agreement_counts_pairs_that_both_put_in_an_order():
    def ranking(annotator: str, tiers: list[list[int]]) -> Ranking:
        return Ranking(prompt="p", completions=["a", "b", "c"], tiers=tiers, annotator=annotator, task="t")

    # a<b and b<c the same way, a<c turned round; then one tie leaves two pairs
    assert pairwise_agreement([ranking("x", [[0], [1], [2]]), ranking("y", [[2], [0], [1]])]) == (1 / 3, 3)
    assert pairwise_agreement([ranking("x", [[0], [1], [2]]), ranking("y", [[0, 1], [2]])]) == (1.0, 2)


def test_the_rubric_itself_ranks_without_errors_and_ties_equal_scores():
    prompt = "Customer: My kettle arrived broken.\nAgent:"
    replies = [
        " That is not possible.",
        " We will replace the broken kettle at no cost.",
        " Our rules do not allow that.",
    ]
    (ranking,) = rank_by_rubric([prompt], [replies], seed=0)
    assert ranking.tiers == [[1], [0, 2]]
    assert ranking.simulated
