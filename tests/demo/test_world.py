import json
import re
from itertools import combinations, pairwise

import pytest

from rlhf.demo import lexicon, world
from rlhf.demo.rubric import rubric_breakdown
from rlhf.errors import UserError


def test_the_same_seed_writes_the_same_files_and_another_seed_does_not(tmp_path):
    first = world.write_data(tmp_path / "a", seed=3)
    again = world.write_data(tmp_path / "b", seed=3)
    other = world.write_data(tmp_path / "c", seed=4)
    assert list(first) == [
        "prompts_train", "prompts_dev", "prompts_heldout", "demonstrations", "demonstrations_dev",
    ]  # fmt: skip
    for name, path in first.items():
        assert path.read_bytes() == again[name].read_bytes()
        assert path.read_bytes() != other[name].read_bytes()


def test_no_item_and_issue_pair_is_in_two_splits(tmp_path):
    written = world.write_data(tmp_path, seed=0)
    seen: dict[str, set[tuple[str, str]]] = {}
    for name, path in written.items():
        tickets = [world.read_ticket(json.loads(line)["prompt"]) for line in path.read_text().splitlines()]
        seen[name] = {(ticket.item, ticket.issue) for ticket in tickets}
    assert {name: len(found) for name, found in seen.items()} == {
        "prompts_train": 140,
        "prompts_dev": 20,
        "prompts_heldout": 40,
        "demonstrations": 140,
        "demonstrations_dev": 20,
    }
    for one, other in combinations(("prompts_train", "prompts_dev", "prompts_heldout"), 2):
        assert not seen[one] & seen[other]
    assert seen["demonstrations"] <= seen["prompts_train"]
    assert seen["demonstrations_dev"] <= seen["prompts_dev"]


def test_every_issue_occurs_in_every_split_and_every_item_in_training():
    for split in ("train", "dev", "heldout"):
        assert {issue for _, issue in world.pairs(split)} == set(world.ISSUES)
    assert {item for item, _ in world.pairs("train")} == set(lexicon.ITEMS)


def test_the_corpus_answers_training_pairs_alone():
    for document in world.corpus(seed=1, count=500):
        if document.startswith("Post:"):
            ticket = world.read_ticket(document.splitlines()[0])
            assert world.pair_split(ticket.item, ticket.issue) == "train"
        else:
            assert "Reply:" not in document


def test_customers_in_the_corpus_are_content_when_the_right_action_was_taken():
    solved = {True: 0, False: 0}
    total = {True: 0, False: 0}
    for document in world.corpus(seed=1, count=800):
        lines = document.splitlines()
        for reply, answer in pairwise(lines):
            if reply.startswith("Reply:") and answer.startswith("Post:"):
                points = rubric_breakdown(lines[0], reply.removeprefix("Reply:"))
                right = points.action == 2.0 and points.courtesy >= 0
                total[right] += 1
                solved[right] += answer.removeprefix("Post: ") in lexicon.SOLVED
    assert solved[True] / total[True] > 0.9
    assert solved[False] / total[False] < 0.1


def test_a_prompt_is_read_back_as_the_ticket_it_was_written_for():
    for ticket in world.tickets(5, "heldout", 300):
        assert world.read_ticket(ticket.prompt) == ticket
        assert re.fullmatch(r"Customer: .+\nAgent:", ticket.prompt)


def test_every_way_to_put_a_problem_names_one_item_and_one_issue():
    for issue, templates in lexicon.PROBLEMS.items():
        for template in templates:
            for item in ("hair dryer", "washer", "fan"):
                prompt = world.as_prompt(template.format(item=item))
                assert (world.read_ticket(prompt).issue, world.read_ticket(prompt).item) == (issue, item)


def test_no_item_is_named_inside_another():
    for one, other in combinations(lexicon.ITEMS, 2):
        assert not re.search(rf"\b{one}\b", other)
        assert not re.search(rf"\b{other}\b", one)


def test_a_prompt_from_elsewhere_is_refused_in_one_line():
    with pytest.raises(UserError, match="not a ticket of the demo's world"):
        world.read_ticket("What is the capital of France?")


def test_about_a_quarter_of_the_demonstrations_take_the_right_action_alone():
    rows = world.demonstrations(0, "train", 1500)
    right = sum(rubric_breakdown(row["prompt"], row["completion"]).action == 2.0 for row in rows)
    assert 0.2 < right / len(rows) < 0.3
    assert all(row["completion"].startswith(" ") for row in rows)
