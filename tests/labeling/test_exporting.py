"""Answers become what models learn from: rankings, pairs, ratings, demonstrations, and the artefact that holds them."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from label_tools import as_shown, new_task
from tiny import tiny_model

from labeling_app.answers import Answer, Edit
from labeling_app.converting import split_by_prompt, to_records
from labeling_app.exporting import ExportOptions, describe, export_labels, ranges
from labeling_app.store import NewResponse, NewTask, reading
from rlhf.datasets import DataConfig, DataSource, load
from rlhf.errors import UserError
from rlhf.records import Completion, Preference, Ranking, Rating
from rlhf.registry import Registry

OPTIONS = ExportOptions(queues=("q",), dev_fraction=0.0)


@pytest.fixture
def judge(local):
    """Adds a task and stores somebody's answer to it, given by the texts of the responses."""

    def say(task, tiers=(), *, by="ann", ratings=None, edit=None, flags=None, active_ms=0, simulated=False, **answer):
        local.add_tasks([task], "q")
        people = {user.name: user.id for user in local.users()}
        user_id = people.get(by) or local.add_user(by, simulated=simulated).id
        claimed = local.claim(user_id, "q")
        ids = {content: response for response, content in claimed.responses}
        said = Answer(
            tiers=[[ids[text] for text in tier] for tier in tiers],
            ratings=None if ratings is None else {ids[text]: grade for text, grade in ratings.items()},
            edit=None if edit is None else Edit(response_id=ids[edit[0]], text=edit[1]),
            flags={ids[text]: names for text, names in (flags or {}).items()},
            **answer,
        )
        local.submit(user_id, claimed.lease, f"key-{claimed.task_id}", said, active_ms)
        return claimed

    return say


@pytest.fixture
def records(local):
    """What the queue's answers become."""
    return lambda **options: to_records(local.judgements("q"), **options)


def test_a_ranking_holds_all_that_was_said(judge, local):
    origin = {"file": "f.jsonl", "line": 3, "topic": "x", "task": "t1"}
    claimed = judge(
        new_task("Why?", ("a", "b", "c"), origin=origin),
        [["c"], ["a", "b"]],
        strength=3,
        rationale="c says why",
        flags={"a": ["untrue"]},
        active_ms=4200,
    )
    [judgement] = local.judgements("q")
    [ranking] = to_records([replace(judgement, guidelines_version=1)]).rankings
    row = ranking.row()
    shown = ["abc".index(content) for _, content in claimed.responses]
    assert row.pop("task") == ranking.task and len(ranking.task) == 16
    assert row == {
        "prompt": "Why?",
        "completions": ["a", "b", "c"],
        "tiers": [[2], [0, 1]],
        "annotator": "ann",
        "flags": [["untrue"], [], []],
        "strength": 3,
        "rationale": "c says why",
        "models": ["model-a", "model-b", "model-c"],
        "topic": "x",
        "queue": "q",
        "guidelines_version": 1,
        "active_ms": 4200,
        "presented": shown,
    }


def test_pairs_weigh_one_over_the_number_of_twos_and_ties_give_none(judge, records):
    judge(new_task("Why?", ("a", "b", "c", "d")), [["c"], ["a", "b"], ["d"]])
    found = records()
    [ranking] = found.rankings
    assert [(pair.chosen, pair.rejected) for pair in found.pairs] == [
        ("c", "a"),
        ("c", "b"),
        ("c", "d"),
        ("a", "d"),
        ("b", "d"),
    ]
    assert {pair.weight for pair in found.pairs} == {1 / 6}
    assert {pair.group_id for pair in found.pairs} == {ranking.group_id}
    assert {pair.annotator for pair in found.pairs} == {"ann"}


def test_all_bad_lies_apart_unless_asked_for(judge, records):
    judge(new_task("1"), [["a"], ["b"], ["c"]], all_bad=True)
    judge(new_task("2"), [["a"], ["b"], ["c"]])
    assert records().counts() == {
        "num_rankings": 1,
        "num_pairs": 3,
        "num_ratings": 0,
        "num_demonstrations": 0,
        "num_all_bad": 1,
    }
    with_them = records(with_all_bad=True)
    assert [one.all_bad for one in with_them.rankings] == [True, False] and with_them.all_bad == []


def test_grades_make_ratings_and_the_order_that_follows(judge, records):
    judge(new_task("1", mode="rate"), ratings={"a": 2, "b": 7, "c": 2})
    judge(new_task("2", ["a"], mode="rate"), ratings={"a": 5})
    found = records()
    assert [(one.prompt, one.completion, one.rating, one.model) for one in found.ratings] == [
        ("1", "a", 2.0, "model-a"),
        ("1", "b", 7.0, "model-b"),
        ("1", "c", 2.0, "model-c"),
        ("2", "a", 5.0, "model-a"),
    ]
    [ranking] = found.rankings
    assert (ranking.tiers, ranking.ratings) == ([[1], [0, 2]], [2, 7, 2])


def test_an_edited_response_is_a_demonstration(judge, records):
    prompt = [{"role": "user", "content": "u"}]
    judge(new_task(prompt), [["a"], ["b"], ["c"]], edit=("a", "better"))
    judge(new_task("text"), [["c"], ["b"], ["a"]], edit=("b", "best"), by="bob", all_bad=True)
    first, second = records().demonstrations
    assert [turn.content for turn in first.completion] == ["better"] and first.completion[0].role == "assistant"
    assert (second.prompt, second.completion, second.annotator) == ("text", "best", "bob")
    assert [one.annotator for one in records(weights={"ann": 0.0}).demonstrations] == ["bob"]


def test_under_a_conversation_completions_are_messages_as_trl_has_them(judge, records):
    prompt = [{"role": "user", "content": "u"}]
    judge(new_task(prompt, ("a", "b")), [["b"], ["a"]])
    [pair] = records().pairs
    assert pair.row()["prompt"] == prompt
    assert pair.row()["chosen"] == [{"role": "assistant", "content": "b"}]


def test_the_weight_of_an_annotator_multiplies_every_pair_and_zero_leaves_them_out(judge, records):
    judge(new_task("1", overlap=3), [["a"], ["b"], ["c"]], by="ann")
    judge(new_task("1", overlap=3), [["a"], ["b"], ["c"]], by="bob")
    judge(new_task("1", overlap=3), [["c"], ["b"], ["a"]], by="eve")
    found = records(weights={"ann": 1.5, "bob": 0.75, "eve": 0.0})
    assert [(one.annotator, one.weight) for one in found.rankings] == [("ann", 1.5), ("bob", 0.75)]
    assert [pair.weight for pair in found.pairs] == [0.5] * 3 + [0.25] * 3
    again = Ranking.model_validate(found.rankings[0].row())
    assert [pair.weight for pair in again.pairs()] == [0.5] * 3


def test_identical_completions_name_all_who_wrote_them(judge, records):
    same = [NewResponse("a", "m"), NewResponse("a", "n"), NewResponse("b")]
    judge(NewTask("p", same), [["a"], ["b"]])
    [ranking] = records().rankings
    assert ranking.models == ["m + n", "unknown"]


def test_the_split_is_by_prompt_and_the_stages_own(judge, records, tmp_path):
    for number in range(60):
        judge(new_task(f"prompt {number}", overlap=2), [["a"], ["b"], ["c"]], by="ann")
        judge(new_task(f"prompt {number}", overlap=2), [["b"], ["a"], ["c"]], by="bob")
    parts = split_by_prompt(records(), 0.3)
    train, dev = ({one.prompt for one in part.rankings} for part in parts.values())
    assert not train & dev and (len(train), len(dev)) == (52, 8)
    assert {one.prompt for one in parts["dev"].pairs} == dev
    assert {len(part.pairs) / len(part.rankings) for part in parts.values()} == {3.0}
    # a stage that splits for itself holds out the same prompts
    path = tmp_path / "all.jsonl"
    path.write_text("".join(json.dumps(one.row()) + "\n" for one in records().rankings))
    config = DataConfig(sources=[DataSource(path=str(path))], dev_fraction=0.3)
    assert {one.prompt for one in load(config, (Ranking,), seed=0).dev} == dev


@pytest.fixture
def registry(home):
    return Registry(home)


@pytest.fixture
def answered(judge, registry, tmp_path):
    """A queue with answers of every sort, on completions of a model of the registry."""
    (tmp_path / "weights.txt").write_text("w")
    sft = registry.publish(tmp_path / "weights.txt", kind="sft", name="support/sft").ref
    for number in range(30):
        written = [NewResponse(text, sft) for text in (" one", " two two", " three three three")]
        judge(NewTask(f"prompt {number}", written), [[" two two"], [" one"], [" three three three"]])
    judge(NewTask("bad", written), [[" one"], [" two two"], [" three three three"]], all_bad=True)
    judge(NewTask("rated", written, mode="rate"), ratings={one.content: 4 for one in written})
    judge(NewTask("sim", written), [[one.content for one in written]], by="sim-a", simulated=True)
    judge(
        NewTask("edited", written),
        [[one.content] for one in written],
        by="bob",
        edit=(" one", " one!"),
    )
    return sft


def test_the_artefact_names_tasks_models_and_people(answered, local, registry):
    local.set_guidelines("Be fair.")
    summary = export_labels(local, OPTIONS, registry, name="support/preferences", alias="new")
    artefact = registry.resolve("support/preferences@new")
    assert summary["artefact"] == artefact.ref == "support/preferences@v1"
    assert artefact.metadata["annotators"] == [
        {"name": "ann", "num_judgements": 32, "num_held_out": 0, "simulated": False},
        {"name": "bob", "num_judgements": 1, "num_held_out": 0, "simulated": False},
        {"name": "sim-a", "num_judgements": 1, "num_held_out": 0, "simulated": True},
    ]
    assert artefact.metadata["simulated"] is True
    assert artefact.metadata["models"] == [answered]
    assert (artefact.metadata["num_tasks"], artefact.metadata["queues"]) == (34, ["q"])
    assert artefact.metadata["tasks"] == {"q": "1-34"} == registry.lineage(artefact.ref).tasks
    assert [(parent.role, parent.ref) for parent in artefact.parents] == [("model", answered)]
    assert sorted(file["path"] for file in registry.files(artefact)) == [
        "all_bad/train.jsonl",
        "demonstrations/train.jsonl",
        "pairs/train.jsonl",
        "ratings/train.jsonl",
        "train.jsonl",
    ]


def test_numbers_are_told_in_ranges():
    assert ranges([52, 3, 1, 2, 2, 40, 41]) == "1-3,40-41,52"
    assert ranges([]) == ""


@pytest.fixture
def answer_all(local):
    """Answers all that a queue has for somebody, best first by the texts' order or the other way round."""

    def answer(queue, by, *, backwards=False):
        while (claimed := local.claim(by.id, queue)) is not None:
            ids = [response for response, _ in sorted(claimed.responses, key=lambda one: one[1], reverse=backwards)]
            grades = {response: 1 + place for place, response in enumerate(ids)}
            said = Answer(ratings=grades) if claimed.mode == "rate" else Answer(tiers=[[response] for response in ids])
            local.submit(by.id, claimed.lease, f"key-{claimed.task_id}", said, 0)

    return answer


def loaded_from(folder, kind, **source):
    """What a stage reads of an export: chosen and rejected, and the weight of every pair."""
    loaded = load(DataConfig(sources=[DataSource(path=str(folder), **source)]), (kind,), seed=0)
    pairs = [pair for one in loaded.train for pair in (one.pairs() if kind is Ranking else [one])]
    assert not loaded.problems
    return sorted((pair.annotator, pair.chosen, pair.rejected, pair.weight) for pair in pairs)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("second", ["q", "r"])
def test_a_question_that_somebody_judged_twice_counts_once_by_the_last_answer(
    local, registry, clock, answer_all, tmp_path, second, backwards
):
    ann, bob = local.add_user("ann"), local.add_user("bob")
    local.add_tasks([new_task("1", ("a", "b"), overlap=2)], "q")
    answer_all("q", ann)
    answer_all("q", bob)
    local.withdraw("q")
    clock.advance(60)
    local.add_tasks([new_task("1", ("b", "a"))], second)
    answer_all(second, ann, backwards=backwards)
    options = ExportOptions(queues=tuple({"q", second}), dev_fraction=0.0)
    summary = export_labels(local, options, registry, folder=tmp_path / "out")
    best, worst = "ba" if backwards else "ab"
    expected = [("ann", best, worst, 1.0), ("bob", "a", "b", 1.0)]
    assert loaded_from(tmp_path / "out", Ranking) == expected
    assert loaded_from(tmp_path / "out", Preference, data_dir="pairs") == expected
    assert (summary["num_repeated_left_out"], summary["num_tasks"]) == (1, 1)
    assert [(one["name"], one["num_judgements"]) for one in summary["annotators"]] == [("ann", 1), ("bob", 1)]
    assert summary["tasks"] == ({"q": "1-2"} if second == "q" else {"q": "1", "r": "2"})


def test_grades_of_a_task_in_two_queues_count_once(local, registry, answer_all):
    ann = local.add_user("ann")
    for queue in ("q", "r"):
        local.add_tasks([new_task("1"), new_task("2", mode="rate"), new_task("3", ["a"], mode="rate")], queue)
        answer_all(queue, ann)
    options = ExportOptions(queues=("q", "r"), dev_fraction=0.9)
    summary = export_labels(local, options, registry, name="support/preferences")
    assert summary["parts"]["train"]["num_rankings"] == summary["parts"]["train"]["num_ratings"] == 0
    [person] = summary["annotators"]
    assert (person["num_judgements"], person["num_held_out"]) == (3, 3)
    assert (summary["tasks"], summary["queues"]) == ({"q": "", "r": "4-6"}, ["r"])
    assert summary["num_repeated_left_out"] == 3


def test_a_queue_that_is_named_twice_is_exported_once(judge, local, registry):
    judge(new_task("1"), [["a"], ["b"], ["c"]])
    once = export_labels(local, OPTIONS, registry, name="support/preferences")
    twice = ExportOptions(queues=("q", "q"), dev_fraction=0.0)
    assert export_labels(local, twice, registry, name="support/preferences") == once


def test_an_export_of_several_queues_is_of_one_moment(local, registry, answer_all, monkeypatch):
    ann, bob = local.add_user("ann"), local.add_user("bob")
    for queue in ("q", "r"):
        local.add_tasks([new_task(queue, overlap=2)], queue)
        answer_all(queue, ann)
        answer_all(queue, bob)
    read = reading._prompts

    def and_then_ann_is_quarantined(tx, queue):
        found = read(tx, queue)
        if queue == "q":
            local.set_quarantined(ann.id, True)
        return found

    monkeypatch.setattr(reading, "_prompts", and_then_ann_is_quarantined)
    options = ExportOptions(queues=("q", "r"), dev_fraction=0.0)
    summary = export_labels(local, options, registry, name="support/preferences")
    assert [(one["name"], one["num_judgements"]) for one in summary["annotators"]] == [("ann", 2), ("bob", 2)]
    assert summary["quarantined"] == []


def test_columns_of_an_earlier_export_do_not_come_back(judge, records):
    stale = {
        "presented": [2, 1, 0],
        "ratings": [7, 1, 1],
        "guidelines_version": 9,
        "active_ms": 99999,
        "queue": "old",
        "model": "m",
        "chosen": "x",
        "rejected": "y",
        "group_id": "g",
        "margin": 2.0,
        "messages": [{"role": "user", "content": "u"}],
        "text": "t",
    }
    judge(new_task("1", origin=stale | {"topic": "x"}), [["a"], ["b"], ["c"]], edit=("a", "A"), simulated=True)
    judge(NewTask("2", [NewResponse("a")], "rate", origin=stale | {"topic": "x"}), ratings={"a": 4})
    found = records()
    extras = [one.model_extra for one in (*found.rankings, *found.demonstrations, *found.ratings)]
    name = {"task": found.demonstrations[0].task, "annotator": "ann", "simulated": True, "topic": "x"}
    assert extras[:2] == [{"topic": "x"}, name]
    assert extras[2].keys() == {"topic", "task", "simulated"}


def test_a_version_of_the_guidelines_goes_with_its_queue_and_only_with_people_who_saw_them(local, answer_all):
    people = [local.add_user("ann"), local.add_user("sim", simulated=True), local.add_user("imported.file")]
    for queue in ("q", "r"):
        local.add_tasks([new_task(queue, overlap=3)], queue)
        for person in people:
            answer_all(queue, person)
    versions = {"q": 1, "r": 2}
    said = [replace(one, guidelines_version=versions[one.queue]) for one in local.judgements()]
    made = to_records(said)
    rows = [one.row() for one in made.rankings]
    assert [(row["annotator"], row.get("queue"), row.get("guidelines_version")) for row in rows] == [
        ("ann", "q", 1),
        ("imported.file", None, None),
        ("sim", None, None),
        ("ann", "r", 2),
        ("imported.file", None, None),
        ("sim", None, None),
    ]
    assert describe(said, {"train": made})["guidelines_versions"] == {"q": [1], "r": [2]}


def test_the_same_answers_are_the_same_artefact(answered, local, registry):
    first = export_labels(local, OPTIONS, registry, name="support/preferences")
    again = export_labels(local, OPTIONS, registry, name="support/preferences")
    assert again == first
    user = local.user("ann")
    claimed = local.reopen(user.id, 1)
    local.revise(user.id, 1, "another", as_shown(claimed), 0)
    assert export_labels(local, OPTIONS, registry, name="support/preferences")["artefact"] == "support/preferences@v2"


@pytest.mark.parametrize(
    ("data_dir", "kinds"),
    [
        (None, {Ranking}),
        ("pairs", {Preference}),
        ("ratings", {Rating}),
        ("demonstrations", {Completion}),
        ("all_bad", {Ranking}),
    ],
)
def test_every_file_is_a_source_of_the_stages(answered, local, registry, data_dir, kinds):
    export_labels(local, OPTIONS, registry, name="support/preferences")
    config = DataConfig(sources=[DataSource(path="support/preferences", data_dir=data_dir)])

    def open_ref(ref):
        artefact = registry.resolve(ref)
        return registry.open(artefact), artefact.ref

    loaded = load(config, (Ranking, Preference, Rating, Completion), seed=0, open_ref=open_ref)
    assert {type(record) for record in loaded.train} == kinds and not loaded.problems


@pytest.mark.parametrize(
    "bad",
    [
        new_task("bad", ("a", "half \ud83d")),
        new_task("bad \ude00"),
        new_task([{"role": "user", "content": "\ud83d"}]),
        new_task("bad", origin={"topic": ["\ud83d"]}),
        NewTask("bad", [NewResponse("a", "m\ud83d"), NewResponse("b")]),
        NewTask("bad", [NewResponse("a", "m", {"stop": ["\ud83d"]}), NewResponse("b")]),
    ],
)
def test_half_a_character_is_refused_so_that_it_blocks_no_export(judge, local, registry, bad):
    judge(new_task("good"), [["a"], ["b"], ["c"]])
    [rejected] = local.add_tasks([bad], "q").rejected
    assert rejected.why.startswith("holds half a character")
    assert local.claim(local.user("ann").id, "q") is None
    assert export_labels(local, OPTIONS, registry, name="support/preferences")["num_tasks"] == 1


def test_gold_tasks_and_quarantined_people_are_left_out(judge, local, registry):
    judge(new_task("1", overlap=2), [["a"], ["b"], ["c"]], by="ann")
    judge(new_task("1", overlap=2), [["c"], ["b"], ["a"]], by="eve")
    judge(new_task("2", gold={"tiers": [[0], [1], [2]]}), [["a"], ["b"], ["c"]], by="ann")
    local.set_quarantined(local.user("eve").id, True)
    summary = export_labels(local, OPTIONS, registry, name="support/preferences")
    assert [one["name"] for one in summary["annotators"]] == ["ann"]
    assert (summary["quarantined"], summary["num_gold_left_out"]) == (["eve"], 1)
    assert summary["parts"]["train"]["num_rankings"] == 1
    local.set_quarantined(local.user("ann").id, True)
    with pytest.raises(UserError, match="nothing to export"):
        export_labels(local, OPTIONS, registry, name="support/preferences")


def test_reliability_weights_follow_agreement_and_average_one(judge, local, registry):
    for number in range(40):
        for person in ("ann", "bob", "cleo"):
            judge(new_task(str(number), overlap=4), [["a"], ["b"], ["c"]], by=person)
        guess = [["a"], ["b"], ["c"]] if number % 2 else [["c"], ["b"], ["a"]]
        judge(new_task(str(number), overlap=4), guess, by="dice")
    options = ExportOptions(queues=("q",), dev_fraction=0.0, reliability_weights=True)
    weights = export_labels(local, options, registry, name="support/preferences")["reliability_weights"]
    assert weights["dice"] < 0.3 < 1 < weights["ann"]
    assert sum(weights.values()) / 4 == pytest.approx(1, abs=1e-3)


def test_whoever_weighs_nothing_is_not_in_the_lineage(judge, local, registry):
    for number in range(40):
        for person in ("ann", "bob", "cleo"):
            judge(new_task(str(number), overlap=4), [["a"], ["b"], ["c"]], by=person)
        judge(new_task(str(number), overlap=4), [["c"], ["b"], ["a"]], by="troll")
    judge(NewTask("only", [NewResponse("a", "m"), NewResponse("b", "n")]), [["b"], ["a"]], by="troll")
    options = ExportOptions(queues=("q",), dev_fraction=0.0, reliability_weights=True)
    summary = export_labels(local, options, registry, name="support/preferences")
    assert summary["reliability_weights"]["troll"] == 0.0
    assert [(one["name"], one["num_judgements"]) for one in summary["annotators"]] == [
        ("ann", 40),
        ("bob", 40),
        ("cleo", 40),
    ]
    assert (summary["num_tasks"], summary["tasks"]) == (40, {"q": "1-40"})
    assert summary["models"] == ["model-a", "model-b", "model-c"]


def test_a_blind_comparison_says_which_model_people_prefer(judge, local, registry):
    def compared(number, best, by="ann", overlap=1):
        texts = {"m@v1": f"m {number}", "n@v1": f"n {number}"}
        task = NewTask(str(number), [NewResponse(text, model) for model, text in texts.items()], "ab", overlap=overlap)
        order = (
            [[*texts.values()]]
            if best is None
            else [[texts[best]], [text for model, text in texts.items() if model != best]]
        )
        judge(task, order, by=by)

    for number in range(30):
        compared(number, "n@v1" if number < 20 else "m@v1")
    compared(30, None, overlap=2)
    compared(30, "n@v1", by="bob", overlap=2)
    judge(
        NewTask("same", [NewResponse("x", "m@v1"), NewResponse("x", "n@v1"), NewResponse("y", "m@v1")], "ab"),
        [["x"], ["y"]],
    )
    [found] = export_labels(local, OPTIONS, registry, name="support/ab")["comparisons"]
    low, high = found.pop("win_rate_ci")
    assert found == {
        "preferred": "n@v1",
        "to": "m@v1",
        "win_rate": round(21.5 / 32, 4),
        "num_judgements": 32,
        "num_prompts": 31,
        "num_ties": 1,
    }
    assert 0.45 < low < 0.53 and 0.79 < high < 0.85


def test_a_folder_is_written_once(answered, local, registry, tmp_path):
    summary = export_labels(local, OPTIONS, registry, folder=tmp_path / "out")
    assert summary["path"] == str(tmp_path / "out")
    described = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert described["num_tasks"] == 34
    with pytest.raises(UserError, match="not an empty folder"):
        export_labels(local, OPTIONS, registry, folder=tmp_path / "out")
    with pytest.raises(UserError, match="queue 'other': there is none; there are q"):
        export_labels(local, ExportOptions(queues=("other",)), registry, folder=tmp_path / "new")


def test_a_reward_model_trains_from_the_artefact(answered, local, registry, home, tmp_path):
    from reward.config import RewardStageConfig
    from reward.train import train_reward
    from rlhf.config import load_config
    from rlhf.workspace import Workspace

    options = ExportOptions(queues=("q",), dev_fraction=0.3, reliability_weights=True)
    export_labels(local, options, registry, name="support/preferences")
    tiny_model(tmp_path / "base")
    (tmp_path / "reward.yaml").write_text(
        "model: {ref: ./base}\n"
        "data: {sources: [{path: support/preferences}], dev: [{path: support/preferences, split: dev}]}\n"
        "trainer: {max_steps: 2, per_device_train_batch_size: 4, activation_checkpointing: false}\n"
        "centre: {ref: ./base, num_prompts: 4, max_new_tokens: 4}\n"
        "output: {name: support/reward}\ntracking: {wandb: off}\n"
    )
    [judge] = [one for one in registry.resolve("support/preferences").metadata["annotators"] if one["name"] == "ann"]
    assert 0 < judge["num_held_out"] < judge["num_judgements"] == 32
    summary = train_reward(
        load_config(tmp_path / "reward.yaml", RewardStageConfig), Workspace.open(home, progress=False)
    )
    parts = registry.resolve("support/preferences").metadata["parts"]
    with_pairs = Counter(pair["group_id"] for pair in read(registry, "pairs/train.jsonl"))
    assert summary["num_train_rankings"] == len(with_pairs)
    assert summary["num_train_pairs"] == parts["train"]["num_pairs"]
    names = {node.artefact.name for node in registry.lineage("support/reward").walk()}
    assert {"support/preferences", "support/sft"} <= names


def read(registry, file):
    path = Path(registry.resolve("support/preferences").path) / file
    return [json.loads(line) for line in path.read_text().splitlines()]
