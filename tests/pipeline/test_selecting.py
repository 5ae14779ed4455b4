"""Which tasks are chosen, and that it is said why."""

from rlhf.pipeline.selecting import choose


def test_a_share_is_drawn_from_all_and_the_rest_is_what_is_disagreed_on_most():
    measured = [0.1, 0.5, 0.2, 0.4, 0.3, 0.0, 0.05, 0.15]
    chosen = choose(measured, 4, random_share=0.25, seed=0)
    assert [one.index for one in chosen] == sorted(one.index for one in chosen) and len(chosen) == 4
    [drawn] = [one.index for one in chosen if one.selected_by == "random"]
    by_it = [one.index for one in chosen if one.selected_by == "disagreement"]
    assert sorted(by_it) == sorted([at for at in (1, 3, 4, 2) if at != drawn][:3])


def test_without_a_random_share_it_is_disagreement_alone_and_the_other_way_round():
    assert [one.index for one in choose([0.1, 0.3, 0.2], 2, random_share=0.0, seed=0)] == [1, 2]
    assert {one.selected_by for one in choose([0.1, 0.3, 0.2], 2, random_share=1.0, seed=0)} == {"random"}


def test_every_task_has_the_same_chance_to_be_drawn():
    counts = [0] * 5
    for seed in range(1000):
        for one in choose([0.0, 0.1, 0.2, 0.3, 0.4], 2, random_share=0.5, seed=seed):
            counts[one.index] += one.selected_by == "random"
    assert all(150 < count < 250 for count in counts)


def test_where_there_are_fewer_than_are_wanted_all_are_chosen():
    assert [one.index for one in choose([0.1, 0.2], 5, random_share=0.25, seed=0)] == [0, 1]
    assert choose(3, 2, random_share=1.0, seed=1) == choose(3, 2, random_share=1.0, seed=1)
