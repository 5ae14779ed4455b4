"""Files become tasks and votes: what every row asks, what is left out and why, and whose answers come with it."""

import json
from pathlib import Path

import pytest

from labeling_app.drafts import AddOptions
from labeling_app.importing import add_drafts, known_model, read_tasks
from labeling_app.store import NewResponse
from rlhf.datasets import DataSource
from rlhf.errors import UserError
from rlhf.registry import Registry

PLAIN = AddOptions()
SHARED = Path("/work/shared/data")
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")


@pytest.fixture
def drafts_of(tmp_path):
    """The tasks that rows make, under the options given."""

    def read(rows, options=PLAIN, **source):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        pinned = known_model(Registry(tmp_path / "home"))
        return read_tasks([DataSource(path=str(path), **source)], options, pinned)

    return read


def said(problems):
    return [f"{problem.line}: {problem.what}" for problem in problems]


def test_a_row_of_ours_becomes_a_task_with_all_that_it_says(drafts_of):
    row = {
        "prompt": "Why?",
        "completions": [{"content": "a", "model": "m", "generation": {"temperature": 0.5}}, "b", "c"],
        "priority": 5,
        "overlap": 3,
        "topic": "x",
    }
    [draft] = drafts_of([row]).tasks
    assert draft.task.prompt == "Why?"
    assert draft.task.responses == [NewResponse("a", "m", {"temperature": 0.5}), NewResponse("b"), NewResponse("c")]
    assert (draft.task.mode, draft.task.priority, draft.task.overlap, draft.task.gold) == ("rank", 5, 3, None)
    assert draft.task.origin == {"file": "rows.jsonl", "line": 1, "topic": "x"}


def test_bad_rows_are_reported_one_by_one_and_good_ones_are_added(drafts_of, store):
    rows = [
        {"prompt": "1", "completions": ["a", "b", "c"]},
        {"prompt": "1", "completions": ["c", "a", "b"]},
        {"prompt": "3", "completions": ["only"]},
        {"prompt": "4", "completions": ["same", "same"]},
        {"prompt": "5", "completions": ["x" * 300_000, "short"]},
        {"prompt": "6", "completions": ["bell\u0007 nul\u0000 csi\u009b", "plain"]},
        {"prompt": "7", "completions": [{"content": "a", "model": "support/sft@v9"}, "b"]},
        {"prompt": "8", "completions": "no list"},
        {"prompt": "9"},
        {"prompt": "10", "completions": [{"contents": "a"}, "b"]},
        {"prompt": "11", "completions": ["x" * 1_000_001, "b"]},
        {"prompt": "12", "completions": ["a", " "]},
        {"prompt": "13", "completions": ["a", "b"], "gold": [[0]]},
        {"prompt": "14", "completions": ["a", "b", "a"]},
    ]
    outcome = add_drafts(store, drafts_of(rows), "q")
    assert said(outcome.problems) == [
        "2: repeats line 1: added once",
        "3: has 1 different completion; rank needs 2",
        "4: has 1 different completion; rank needs 2",
        f"7: model 'support/sft@v9': there is no registry in {Path(outcome.problems[0].path).parent / 'home'}",
        "8: `completions` input should be a valid list (found 'no list')",
        "9: has a prompt and no completions: add `completions`, or have some sampled "
        "(`rlhf label add --prompts FILE --model REF`)",
        "10: `completions`[0] has the keys contents; expected content, and model and generation where they are known",
        "11: completion 0 has 1,000,001 characters; 1,000,000 are the most",
        "12: a completion is empty",
        "13: `gold` has to place each of the completions 0 to 1 once (found [[0]])",
    ]
    assert said(outcome.notes) == [
        "5: completion 0 has 300,000 characters",
        "6: completion 0 holds control characters (U+0000, U+0007, U+009B)",
        "14: of 3 completions 2 differ: each is shown once",
    ]
    assert len(outcome.task_ids) == 4 and outcome.num_identical == 1
    [queue] = store.status()
    assert (queue.queue, queue.num_tasks) == ("q", 4)


def test_long_texts_and_control_characters_come_back_as_they_were(drafts_of, store):
    texts = ["x" * 300_000, "bell\u0007 nul\u0000 \u202e \U0001f600 \\u0000"]
    add_drafts(store, drafts_of([{"prompt": "p\u0000", "completions": texts}]), "q")
    claimed = store.claim(store.add_user("ann").id)
    assert claimed.prompt == "p\u0000"
    assert sorted(content for _, content in claimed.responses) == sorted(texts)


def test_the_same_file_again_adds_nothing(drafts_of, local):
    rows = [{"prompt": "p", "completions": ["a\u0007", "b"]}, {"prompt": "p", "chosen": "c", "rejected": "d"}]
    options = AddOptions(votes=True)
    assert len(add_drafts(local, drafts_of(rows, options), "q").task_ids) == 2
    again = add_drafts(local, drafts_of(rows, options), "q")
    assert (again.task_ids, again.num_votes, again.num_already) == ([], 0, 2)
    assert (again.problems, again.notes) == ([], [])
    assert len(add_drafts(local, drafts_of(rows, options), "another").task_ids) == 2


def test_answers_to_a_task_that_is_there_already_are_not_lost_without_a_word(drafts_of, local):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "annotator": name} for name in ("ann", "bob")]
    add_drafts(local, drafts_of(rows[:1], AddOptions(votes=True)), "q")
    again = add_drafts(local, drafts_of(rows, AddOptions(votes=True)), "q")
    assert (again.num_already, again.num_votes, again.problems) == (1, 0, [])
    assert said(again.notes) == [
        "1: the queue holds it already, as task 1: an answer that it does not have yet left out",
    ]


def test_what_hides_in_a_text_and_what_is_long_is_noted(drafts_of):
    rows = [
        {"prompt": "1", "completions": ["pay \u202e001\u202c", "\u2066plain\u2069\u200f"]},
        {"prompt": "\u061c2", "completions": ["x" * 20_001, "y" * 20_000]},
        {"prompt": "3", "completions": ["a\u200db", "\u05d0"]},
    ]
    assert said(drafts_of(rows).notes) == [
        "1: completion 0 holds bidirectional control characters (U+202C, U+202E)",
        "1: completion 1 holds bidirectional control characters (U+200F, U+2066, U+2069)",
        "2: the prompt holds bidirectional control characters (U+061C)",
        "2: completion 0 has 20,001 characters",
    ]


def test_every_flag_that_a_vote_loses_is_noted_with_its_row(drafts_of, local):
    row = {"prompt": "p", "completions": ["a", "b"], "tiers": [[0], [1]]}
    rows = [
        row | {"annotator": "ann", "flags": [["rude", "harmful"], ["rude"]]},
        row | {"annotator": "bob", "flags": [["vague"], ["untrue"]]},
    ]
    assert drafts_of(rows).notes == []  # what was said is not stored
    found = drafts_of(rows, AddOptions(votes=True))
    known = "broken, harmful, off-topic, untrue"
    assert said(found.notes) == [
        f"1: the flag 'rude' is not one of {known}: left out",
        f"2: the flag 'vague' is not one of {known}: left out",
    ]
    add_drafts(local, found, "q")
    assert [list(one.answer.flags.values()) for one in local.judgements("q")] == [[["harmful"]], [["untrue"]]]


def test_refs_are_pinned_and_names_from_elsewhere_stay(drafts_of, tmp_path):
    registry = Registry(tmp_path / "home")
    (tmp_path / "weights.txt").write_text("w")
    registry.publish(tmp_path / "weights.txt", kind="sft", name="support/sft", alias="best")
    names = ["support/sft", "support/sft@best", "support/sft@v1", "Qwen/Qwen2.5-0.5B", "human"]
    rows = [{"prompt": name, "completions": [{"content": "a", "model": name}, "b"]} for name in names]
    rows.append({"prompt": "x", "completions": [{"content": "a", "model": "support/sft@v2"}, "b"]})
    found = drafts_of(rows)
    assert [draft.task.responses[0].model for draft in found.tasks] == [
        *["support/sft@v1"] * 3,
        "Qwen/Qwen2.5-0.5B",
        "human",
    ]
    [problem] = found.problems
    assert problem.line == 6 and "support/sft@v2" in problem.what and "v1" in problem.what
    [note] = found.notes
    assert str(note).endswith(
        "4: model 'Qwen/Qwen2.5-0.5B' is not in the registry: kept as the name of a model from elsewhere"
    )


@pytest.mark.parametrize(
    ("row", "mode"),
    [
        ({"prompt": "p", "completions": ["a", "b"]}, "pair"),
        ({"prompt": "p", "completions": ["a", "b", "c"]}, "rank"),
        ({"prompt": "p", "completions": ["a", "b"], "mode": "rank"}, "rank"),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "pair"),
        ({"prompt": "p", "completions": ["a", "b", "c"], "tiers": [[0], [1, 2]]}, "rank"),
        ({"prompt": "p", "completion": "a", "rating": 3}, "rate"),
        ({"prompt": "p", "completions": ["a", "b"], "gold": [3, 7]}, "rate"),
    ],
)
def test_the_mode_follows_from_what_the_row_holds(drafts_of, row, mode):
    [draft] = drafts_of([row]).tasks
    assert draft.task.mode == mode


def test_mode_ab_needs_two_models(drafts_of):
    rows = [
        {"prompt": "1", "completions": [{"content": "a", "model": "m"}, {"content": "b", "model": "n"}]},
        {"prompt": "2", "completions": [{"content": "a", "model": "m"}, {"content": "b", "model": "m"}]},
        {"prompt": "3", "completions": ["a", "b"]},
    ]
    found = drafts_of(rows, AddOptions(mode="ab"))
    assert [draft.task.prompt for draft in found.tasks] == ["1"]
    assert [problem.line for problem in found.problems] == [2, 3]


def test_completions_in_rows_of_their_own_are_put_beside_each_other(drafts_of):
    rows = [{"prompt": "p", "completion": text, "model": f"m-{text}"} for text in "abc"]
    [draft] = drafts_of(rows).tasks
    assert draft.task.responses == [NewResponse(text, f"m-{text}") for text in "abc"]


def test_grades_become_tasks_of_at_most_six_with_each_grader_s_votes(drafts_of, local):
    rows = [
        {"prompt": "p", "completion": text, "rating": 1 + at % 7, "annotator": who, "doc": text, "set": "s"}
        for who in ("Ann B.", "bob")
        for at, text in enumerate("abcdefgh")
        if (who, text) != ("bob", "h")
    ]
    found = drafts_of([*rows, rows[0]], AddOptions(votes=True))
    assert [len(draft.task.responses) for draft in found.tasks] == [4, 4]
    assert found.tasks[0].task.origin == {"file": "rows.jsonl", "line": 1, "set": "s"}
    assert said(found.problems) == ["16: repeats line 1: added once"]
    assert said(found.notes) == ["5: bob graded 3 of 4: these grades are left out"]
    outcome = add_drafts(local, found, "q")
    assert outcome.num_votes == 3
    judged = local.judgements("q")
    assert [(one.task_id, one.user) for one in judged] == [
        (1, "imported.rows.ann-b.-4a9b5d0c"),
        (1, "imported.rows.bob"),
        (2, "imported.rows.ann-b.-4a9b5d0c"),
    ]
    assert [judged[0].answer.ratings[response.id] for response in judged[0].responses] == [1, 2, 3, 4]


def test_grades_on_another_scale_are_no_votes(drafts_of):
    rows = [{"prompt": str(grade), "completion": "a", "rating": grade} for grade in (0, 4.5, 8, 7)]
    found = drafts_of(rows, AddOptions(votes=True))
    assert [len(draft.verdicts) for draft in found.tasks] == [0, 0, 0, 1]
    assert said(found.notes)[1] == "2: what somebody said holds the grade 4.5, and grades are whole, 1 to 7: left out"


def test_votes_are_answers_of_users_who_cannot_log_in(drafts_of, store):
    rows = [
        {"prompt": "p", "completions": ["a", "b", "c"], "tiers": [[2], [0, 1]], "annotator": "ann", "strength": 3},
        {"prompt": "p", "completions": ["c", "b", "a"], "tiers": [[0], [1], [2]], "annotator": "bob", "all_bad": True},
        {"prompt": "p", "completions": ["c", "b", "a"], "tiers": [[0], [1], [2]], "annotator": "bob"},
    ]
    outcome = add_drafts(store, drafts_of(rows, AddOptions(votes=True, overlap=3)), "q")
    assert (len(outcome.task_ids), outcome.num_votes) == (1, 2)
    assert said(outcome.problems) == ["3: repeats line 1: added once"]
    ann, bob = store.judgements("q")
    content = {response.id: response.content for response in ann.responses}
    assert [[content[one] for one in tier] for tier in ann.answer.tiers] == [["c"], ["a", "b"]]
    assert [[content[one] for one in tier] for tier in bob.answer.tiers] == [["c"], ["b"], ["a"]]
    assert (ann.answer.strength, bob.answer.all_bad) == (3, True)
    assert {user.name: user.has_password for user in store.users()} == {
        "imported.rows.ann": False,
        "imported.rows.bob": False,
    }
    # one more person is wanted, and gets it
    assert store.claim(store.add_user("cleo").id, "q").task_id == outcome.task_ids[0]
    assert store.claim(store.add_user("dan").id, "q") is None


def test_annotators_whose_names_look_alike_stay_apart(drafts_of, store):
    same = "x" * 80
    names = ["Ann", "ann", "a b", "a-b", same + "1", same + "2"]
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "annotator": name} for name in names]
    outcome = add_drafts(store, drafts_of(rows, AddOptions(votes=True)), "q")
    assert (outcome.num_votes, outcome.problems, outcome.notes) == (6, [], [])
    users = {user.name for user in store.users()}
    assert len(users) == 6 and {"imported.rows.ann", "imported.rows.a-b"} < users
    assert max(map(len, users)) == 64
    assert store.audit() == []


def test_a_second_vote_of_one_annotator_is_noted_and_left_out(drafts_of, store):
    drafts = drafts_of([{"prompt": "p", "chosen": "a", "rejected": "b", "annotator": "ann"}], AddOptions(votes=True))
    [draft] = drafts.tasks
    draft.verdicts.append(draft.verdicts[0])
    outcome = add_drafts(store, drafts, "q")
    assert (len(outcome.task_ids), outcome.num_votes) == (1, 1)
    assert said(outcome.notes) == ["1: imported.rows.ann has judged it already: this answer is left out"]
    assert store.audit() == []


def test_without_votes_judged_rows_are_open_to_people(drafts_of, local):
    rows = [{"prompt": "p", "completions": ["a", "b"], "tiers": [[1], [0]], "annotator": "ann"}]
    outcome = add_drafts(local, drafts_of(rows), "q")
    assert outcome.num_votes == 0 and [user.name for user in local.users()] == []
    assert local.claim(local.add_user("cleo").id, "q") is not None


def test_votes_of_a_quarantined_user_are_left_out(drafts_of, local):
    options = AddOptions(votes=True)
    add_drafts(local, drafts_of([{"prompt": "1", "chosen": "a", "rejected": "b"}], options), "q")
    local.set_quarantined(local.user("imported.rows").id, True)
    outcome = add_drafts(local, drafts_of([{"prompt": "2", "chosen": "a", "rejected": "b"}], options), "q")
    assert (len(outcome.task_ids), outcome.num_votes) == (1, 0)
    assert said(outcome.notes) == ["1: imported.rows is quarantined or closed: the answer is left out"]


def test_completions_that_nobody_placed_are_not_part_of_a_judged_task(drafts_of):
    row = {"prompt": "p", "completions": ["a", "b", "c"], "tiers": [[2], [0]], "models": ["m", "n", "o"]}
    assert len(drafts_of([row]).tasks[0].task.responses) == 3
    found = drafts_of([row], AddOptions(votes=True))
    assert found.tasks[0].task.responses == [NewResponse("a", "m"), NewResponse("c", "o")]
    assert found.tasks[0].verdicts[0].tiers == [[1], [0]]
    assert said(found.notes) == ["1: 1 of 3 completions not judged: left out"]


def test_judged_rows_of_a_gold_file_become_gold(drafts_of, local):
    rows = [
        {"prompt": "1", "completions": ["a", "b", "a"], "tiers": [[1], [0], [2]]},
        {"prompt": "2", "chosen": "a", "rejected": "b"},
        {"prompt": "3", "completion": "a", "rating": 6},
        {"prompt": "4", "completions": ["a", "b"]},
        {"prompt": "5", "completions": ["a", "b"], "tiers": [[0], [1]], "annotator": "x"},
        {"prompt": "5", "completions": ["a", "b"], "tiers": [[1], [0]], "annotator": "y"},
    ]
    found = drafts_of(rows, AddOptions(gold=True))
    assert [draft.task.gold for draft in found.tasks] == [
        {"tiers": [[1], [0]]},
        {"tiers": [[0], [1]]},
        {"ratings": {0: 6}},
    ]
    assert said(found.problems) == [
        "4: says not what is right: a gold task needs `gold`, or a judgement",
        "5: 2 different judgements: a gold task needs one that holds",
    ]
    add_drafts(local, found, "q")
    assert local.status("q")[0].num_gold == 3


def test_a_share_of_the_tasks_is_for_several_people(drafts_of):
    rows = [{"prompt": str(number), "completions": ["a", "b"]} for number in range(1000)]
    overlaps = [draft.task.overlap for draft in drafts_of(rows, AddOptions(overlap=3, overlap_share=0.2)).tasks]
    assert set(overlaps) == {1, 3} and 160 < overlaps.count(3) < 240
    other = [draft.task.overlap for draft in drafts_of(rows, AddOptions(overlap=3, overlap_share=0.2, seed=1)).tasks]
    assert other != overlaps


def test_conversations_keep_their_messages_and_replies_become_text(drafts_of):
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    row = {"prompt": prompt, "completions": [[{"role": "assistant", "content": "a"}], "b"]}
    [draft] = drafts_of([row]).tasks
    assert draft.task.prompt == prompt
    assert [response.content for response in draft.task.responses] == ["a", "b"]
    [draft] = drafts_of([{"prompt": "u", "completions": ["a", "b"]}], conversational=True).tasks
    assert draft.task.prompt == [{"role": "user", "content": "u"}]


def test_a_file_that_is_not_there_or_holds_nothing(drafts_of, tmp_path):
    with pytest.raises(UserError, match=r"gone\.jsonl: no such file"):
        read_tasks([DataSource(path=str(tmp_path / "gone.jsonl"))], AddOptions())
    with pytest.raises(UserError, match=r"rows\.jsonl: is empty"):
        drafts_of([])


@needs_data
@pytest.mark.parametrize(
    ("file", "num_tasks", "num_votes", "modes"),
    [
        ("rankings/oasst_en100_trees.jsonl.gz", 212, 212, {"rank", "pair"}),
        ("ratings/medical_liveqa_ccby.jsonl", 119, 119, {"rate"}),
        ("preferences/hh_harmless.dev.jsonl.gz", 235, 235, {"pair"}),
        ("rankings/pandalm_3_annotators.json", 837, 2511, {"pair"}),
    ],
)
def test_what_people_have_judged_elsewhere_comes_with_their_votes(local, file, num_tasks, num_votes, modes):
    found = read_tasks([DataSource(path=str(SHARED / file))], AddOptions(votes=True))
    outcome = add_drafts(local, found, "q")
    assert (len(outcome.task_ids), outcome.num_votes) == (num_tasks, num_votes)
    judged = local.judgements("q")
    assert {one.mode for one in judged} == modes
    [queue] = local.status("q")
    assert queue.num_done == num_tasks


@needs_data
def test_pandalm_votes_are_those_of_the_file(local):
    rows = json.loads((SHARED / "rankings/pandalm_3_annotators.json").read_text())
    path = str(SHARED / "rankings/pandalm_3_annotators.json")
    add_drafts(local, read_tasks([DataSource(path=path)], AddOptions(votes=True)), "q")
    checked = 0
    for one in local.judgements("q"):
        row = rows[one.origin["row"] - 1]
        places = {content: number for number, content in enumerate((row["response1"], row["response2"]), start=1)}
        content = {response.id: response.content for response in one.responses}
        best = [places[content[response]] for response in one.answer.tiers[0]]
        vote = 0 if len(best) == 2 else best[0]
        assert vote == row[one.user.rpartition(".")[2]]
        checked += 1
    assert checked == 2511
