"""`rlhf label add`, `status` and `export` as they are typed."""

import io
import json
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "pipeline"))

from chat_server import ChatServer, completion
from tiny import tiny_model

from labeling_app.answers import Answer
from labeling_app.simulated import answer_queue
from labeling_app.store import Store
from labeling_app.store.claiming import take
from rlhf.registry import Registry


class Alphabetical:
    """A judge who likes what comes first in the alphabet."""

    def __init__(self, name="sim-a"):
        self.name = name

    def judge(self, mode, prompt, responses, presented):
        if mode == "rate":
            return {at: 1 + at for at in range(len(responses))}
        return [[at] for at in sorted(range(len(responses)), key=lambda at: str(responses[at]))]


@pytest.fixture
def store(tmp_path):
    """Opens the label store of the commands."""
    return lambda: Store.open(tmp_path / "home")


TASKS = [
    {"prompt": "1", "completions": ["a", "b", "c"]},
    {"prompt": "2", "completions": ["only"]},
    {"prompt": "3", "completions": ["b", "a"], "tiers": [[1], [0]], "annotator": "ann"},
]


def test_good_rows_are_added_and_bad_ones_reported(rlhf, write, store):
    path = write("tasks.jsonl", TASKS)
    ended = rlhf("label", "add", "tasks.jsonl", "--votes", "--overlap", "2", "--queue", "q")
    assert (ended.code, ended.out) == (
        0,
        "2 tasks added to the queue q (5 completions), with 1 answer; 1 left out\n",
    )
    assert ended.err == f"left out: {path}:2: has 1 different completion; rank needs 2\n"
    with store() as opened:
        [queue] = opened.status()
        assert (queue.queue, queue.num_tasks, queue.num_answers) == ("q", 2, 1)


def test_the_same_file_again_is_no_mistake(rlhf, write):
    write("tasks.jsonl", TASKS[::2])
    rlhf("label", "add", "tasks.jsonl", "--votes")
    ended = rlhf("label", "add", "tasks.jsonl", "--votes")
    assert (ended.code, ended.out, ended.err) == (0, "0 tasks added; 2 were in the queue already\n", "")
    path = write("tasks.jsonl", [*TASKS, {"prompt": "4", "completions": ["a", "b"]}])
    ended = rlhf("label", "add", "tasks.jsonl", "--votes")
    assert (ended.code, ended.out) == (
        0,
        "1 task added to the queue default (2 completions); 2 were in the queue already; 1 left out\n",
    )
    assert ended.err == f"left out: {path}:2: has 1 different completion; rank needs 2\n"
    found = json.loads(rlhf("label", "add", "tasks.jsonl", "--json").out)
    assert (found["num_tasks"], found["num_already"], len(found["problems"])) == (0, 3, 1)


def test_flags_of_votes_are_kept_or_noted(rlhf, write, store):
    row = {"prompt": "1", "completions": ["a", "b"], "tiers": [[0], [1]], "annotator": "ann", "flags": [["rude"], []]}
    path = write("votes.jsonl", [row])
    ended = rlhf("label", "add", "votes.jsonl", "--votes")
    assert ended.code == 0 and ended.err == (
        f"note: {path}:1: the flag 'rude' is not one of broken, harmful, off-topic, untrue: left out\n"
    )
    write("labeling.yaml", "flags: {rude: Rude}\nqueue: mine\n")
    ended = rlhf("label", "add", "votes.jsonl", "--votes", "--config", "labeling.yaml")
    assert (ended.err, ended.out) == ("", "1 task added to the queue mine (2 completions), with 1 answer\n")
    with store() as opened:
        assert [list(one.answer.flags.values()) for one in opened.judgements()] == [[], [["rude"]]]
    ended = rlhf("label", "add", "votes.jsonl", "--config", "labeling.yaml", "--queue", "another")
    assert "1 task added to the queue another" in ended.out
    write("labeling.yaml", "flgs: {}\n")
    ended = rlhf("label", "add", "votes.jsonl", "--config", "labeling.yaml")
    assert ended.code == 2 and "labeling.yaml: flgs" in ended.err


def test_tasks_are_withdrawn_and_their_answers_stay(rlhf, write, store, monkeypatch):
    write("tasks.jsonl", [{"prompt": str(number), "completions": ["a", "b"]} for number in range(4)])
    rlhf("label", "add", "tasks.jsonl", "--queue", "q")
    with store() as opened:
        ann = opened.add_user("ann")
        claimed = opened.claim(ann.id)
        said = Answer(tiers=[[response] for response, _ in claimed.responses])
        opened.submit(ann.id, claimed.lease, "key", said, 12_000)
    ended = rlhf("label", "withdraw", "q")
    assert ended.code == 2 and "4 tasks; 1 answer stays and counts" in ended.err and "--yes" in ended.err
    assert rlhf("label", "withdraw", "q", "--json").code == 2
    monkeypatch.setattr("sys.stdin", Typed("n\n"))
    assert rlhf("label", "withdraw", "q").code == 1
    with store() as opened:
        assert opened.status("q")[0].num_withdrawn == 0
    monkeypatch.setattr("sys.stdin", Typed("y\n"))
    ended = rlhf("label", "withdraw", "--task", "2")
    assert (ended.code, ended.out.strip()) == (0, "1 task withdrawn; 0 answers stay and count")
    assert "Withdraw 1 task, for good? 0 answers stay and count." in ended.err
    found = json.loads(rlhf("label", "withdraw", "q", "--yes", "--json").out)
    assert found == {"queue": "q", "tasks": None, "num_withdrawn": 3, "num_answers": 1}
    assert rlhf("label", "withdraw", "q").out == "0 tasks withdrawn; 0 answers stay and count\n"
    assert "4 tasks withdrawn" in rlhf("label", "status").out
    assert rlhf("label", "export", "t/labels", "--queue", "q").code == 0


class Typed(io.StringIO):
    """What somebody types."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a queue or --task ID"),
        (["q", "--task", "1"], "one of the two"),
        (["nope", "--yes"], "nope: there is no such queue"),
        (["--task", "1", "--task", "7", "--yes"], "7: there is no such task"),
    ],
)
def test_what_cannot_be_withdrawn_is_said(rlhf, write, store, arguments, said):
    write("tasks.jsonl", TASKS[:1])
    rlhf("label", "add", "tasks.jsonl", "--queue", "q")
    ended = rlhf("label", "withdraw", *arguments)
    assert ended.code == 2 and said in ended.err and ended.out == ""
    with store() as opened:
        assert opened.status("q")[0].num_withdrawn == 0


def test_without_a_good_row_nothing_is_added_and_that_is_an_error(rlhf, write):
    path = write("tasks.jsonl", TASKS[1:2])
    ended = rlhf("label", "add", "tasks.jsonl")
    assert (ended.code, ended.out) == (2, "")
    assert ended.errors == [
        f"error: {path}:2: has 1 different completion; rank needs 2".replace(":2:", ":1:"),
        "error: no task was added",
    ]


def test_json_is_one_object(rlhf, write):
    write("tasks.jsonl", TASKS)
    ended = rlhf("label", "add", "tasks.jsonl", "--json")
    assert ended.err == ""
    found = json.loads(ended.out)
    assert (found["queue"], found["num_tasks"], found["num_responses"], len(found["problems"])) == ("default", 2, 5, 1)


def test_a_file_may_say_what_is_gold(rlhf, write, store):
    write("gold.jsonl", TASKS[2:])
    write("tasks.jsonl", TASKS[:1])
    ended = rlhf("label", "add", "tasks.jsonl", "--gold", "gold.jsonl", "--votes")
    assert ended.code == 0, ended.err
    with store() as opened:
        [queue] = opened.status()
        assert (queue.num_tasks, queue.num_gold, queue.num_answers) == (1, 1, 0)


def test_registry_models_write_completions(rlhf, write, models, store, tmp_path):
    registry = Registry(tmp_path / "home")
    registry.publish(models["causal"], kind="sft", name="t/sft")
    registry.publish(models["chat"], kind="policy", name="t/policy", alias="candidate")
    write("prompts.jsonl", [{"prompt": f"Say {n}", "topic": n} for n in range(6)] + [{"text": 3}])
    sampling = ["--prompts", "prompts.jsonl", "--max-new-tokens", "6"]
    ended = rlhf("label", "add", *sampling, "--model", "t/sft", "--model", "t/policy@candidate", "--num", "3")
    assert ended.code == 0, ended.err
    drawn = re.search(
        r"6 tasks added to the queue default \((\d+) completions(?:, (\d+) identical ones? merged)?\); 1 left out",
        ended.out,
    )
    assert drawn is not None and sum(int(number or 0) for number in drawn.groups()) == 18
    assert "prompts.jsonl:7: `text` input should be a valid string" in ended.err
    assert "t/policy@v1 is a chat model and the prompts are plain text" in ended.err
    again = rlhf("label", "add", *sampling, "--model", "t/policy", "--model", "t/sft", "--num", "3")
    assert (again.code, again.out) == (0, "0 tasks added; 6 were in the queue already; 1 left out\n")
    with store() as opened:
        answer_queue(opened, [Alphabetical()], "default")
        judged = opened.judgements()
        assert [one.mode for one in judged] == ["rank"] * 6
        written = [source for response in judged[0].responses for source in response.sources]
        assert sorted(source["model"] for source in written) == ["t/policy@v1", "t/sft@v1", "t/sft@v1"]
        assert written[0]["generation"] == {
            "max_new_tokens": 6,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "seed": 0,
        }
        assert judged[0].origin == {"topic": 0, "sampled_from": ["t/policy@v1", "t/sft@v1"]}
    ended = rlhf("label", "export", "t/labels", "--json")
    summary = json.loads(ended.out)
    assert summary["artefact"] == "t/labels@v1" and summary["models"] == ["t/policy@v1", "t/sft@v1"]
    assert {(parent.role, parent.ref) for parent in registry.resolve("t/labels").parents} == {
        ("model", "t/sft@v1"),
        ("model", "t/policy@v1"),
    }
    lineage = rlhf("models", "lineage", "t/labels").out
    assert "tasks of the queue default: 1-6" in lineage
    assert "annotator: sim-a (simulated), 6 judgements" in lineage and "model: t/sft@v1" in lineage


def test_two_models_are_compared_blind_in_a_chat(rlhf, write, models, store, tmp_path):
    other = tiny_model(tmp_path / "other", seed=1, chat=True)
    write("prompts.jsonl", [{"prompt": "Say it"}])
    ended = rlhf(
        *("label", "add", "--prompts", "prompts.jsonl", "--compare", models["chat"], other),
        *("--max-new-tokens", "6", "--chat"),
    )
    assert ended.code == 0 and "plain text" not in ended.err, ended.err
    with store() as opened:
        claimed = opened.claim(opened.add_user("ann").id)
    assert (claimed.mode, len(claimed.responses)) == ("ab", 2)
    assert claimed.prompt == [{"role": "user", "content": "Say it"}]


def test_an_endpoint_that_goes_away_leaves_what_was_written(rlhf, write, store, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    write("prompts.jsonl", [{"prompt": f"Say {n}"} for n in range(3)])
    server = ChatServer(lambda number, body: completion("a", "b") if number == 1 or "Say 2" not in str(body) else None)
    arguments = ["label", "add", "--prompts", "prompts.jsonl", "--endpoint", server.url, "--model-name", "m"]
    try:
        ended = rlhf(*arguments, "--num", "2", "--parallel", "1")
    finally:
        server.stop()
    assert ended.code == 75, ended.err
    assert "2 tasks added to the queue default (4 completions)" in ended.out
    assert "the tasks so far are in the queue, and the same command goes on" in ended.err
    with store() as opened:
        claimed = opened.claim(opened.add_user("ann").id)
        assert claimed.prompt == [{"role": "user", "content": "Say 0"}]
        assert "secret" not in str(opened.events())
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name files with completions, or --prompts FILE and who is to write to them"),
        (["--prompts", "p.jsonl"], "who is to write?"),
        (["--model", "t/sft", "tasks.jsonl"], "--prompts FILE is missing"),
        (["--prompts", "p.jsonl", "--endpoint", "http://x"], "belong together"),
        (["--prompts", "p.jsonl", "--model-name", "m"], "belong together"),
        (["--prompts", "p.jsonl", "--compare", "a/b", "c/d", "--model", "e/f"], "leave --model out"),
        (["--prompts", "p.jsonl", "--model", "a/b", "--mode", "pair", "--num", "3"], "--num 3: mode pair compares two"),
        (["--prompts", "p.jsonl", "--model", "a/b", "--mode", "ab"], "compares two models"),
        (["tasks.jsonl", "--mode", "rnk"], "--mode rnk: no such mode; known: rank, pair, rate, ab"),
        (
            ["--prompts", "tasks.jsonl", "--endpoint", "http://x", "--model-name", "m", "--temperature", "nan"],
            "temperature",
        ),
        (["gone.jsonl"], "gone.jsonl: no such file"),
        (["--prompts", "tasks.jsonl", "--model", "t/none@v1"], "t/none@v1"),
        (["tasks.jsonl", "--queue", "no spaces"], "queue 'no spaces': a name has"),
    ],
)
def test_what_was_typed_wrong_is_said(rlhf, write, arguments, said):
    write("tasks.jsonl", TASKS)
    ended = rlhf("label", "add", *arguments)
    assert ended.code == 2 and said in ended.err and ended.out == ""


def test_status_shows_queues_and_people(rlhf, write, store):
    assert "holds no labels yet" in rlhf("label", "status").err
    assert "holds no labels yet" in rlhf("label", "export", "t/labels").err
    write("tasks.jsonl", TASKS)
    rlhf("label", "add", "tasks.jsonl", "--votes", "--queue", "q/1")
    with store() as opened:
        answer_queue(opened, [Alphabetical()], "q/1")
    shown = rlhf("label", "status").out
    assert "q/1" in shown and "2 tasks: 2 done; 2 answers" in shown
    assert "imported.tasks.ann" in shown and "sim-a" in shown and "simulated" in shown
    [found] = json.loads(rlhf("label", "status", "q/1", "--json").out)
    assert {one["name"]: one["num_answers"] for one in found["by_annotator"]} == {"imported.tasks.ann": 1, "sim-a": 1}
    ended = rlhf("label", "status", "q/2")
    assert ended.code == 2 and "queue 'q/2': there is none" in ended.err


def test_status_has_one_word_for_a_state_and_counts_gold_apart(rlhf, write, store):
    rows = [{"prompt": str(number), "completions": ["a", "b"], "overlap": 2} for number in range(4)]
    write("tasks.jsonl", [*rows, {"prompt": "g", "completions": ["a", "b"], "gold": [[0], [1]]}])
    rlhf("label", "add", "tasks.jsonl")
    with store() as opened:
        ann, bob = opened.add_user("ann"), opened.add_user("b" * 64)
        for person, milliseconds in ((ann, 35_000), (bob, 3_900_000)):
            claimed = opened.claim(person.id, "default")
            said = Answer(tiers=[[response] for response, _ in claimed.responses])
            opened.submit(person.id, claimed.lease, "key", said, milliseconds)
        opened.write(take, ann.id, 2)
        opened.withdraw([4])
    lines = rlhf("label", "status").out.splitlines()
    assert lines[:4] == [
        "default",
        "  3 tasks: 1 done, 1 in progress, 1 open; 2 answers",
        "  besides 1 gold task, whose answers are counted above",
        "  1 task withdrawn",
    ]
    assert lines[4].split() == ["annotator", "answers", "skipped", "time", "last"]
    assert lines[5].split()[:5] == ["ann", "1", "0", "35", "s"]
    assert lines[6].split()[:6] == ["b" * 64, "1", "0", "1", "h", "05"]


def test_export_says_which_answers_it_leaves_out(rlhf, write, store):
    write("tasks.jsonl", TASKS)
    for queue in ("q", "r"):
        rlhf("label", "add", "tasks.jsonl", "--queue", queue)
        with store() as opened:
            answer_queue(opened, [Alphabetical()], queue)
    ended = rlhf("label", "export", "--output", "out", "--queue", "q", "--queue", "r", "--dev-fraction", "0")
    assert ended.out.splitlines() == [
        "train: 2 rankings, 4 pairs",
        "annotators: sim-a (2)",
        "left out, the same question answered again by the same annotator: 2 answers; the last one counts",
        "written to out",
    ]


def test_export_writes_a_folder_or_publishes(rlhf, write, store, tmp_path):
    write("tasks.jsonl", TASKS)
    rlhf("label", "add", "tasks.jsonl", "--queue", "q")
    ended = rlhf("label", "export", "t/labels", "--queue", "q")
    assert ended.code == 2 and "queue q: nothing to export" in ended.err
    with store() as opened:
        answer_queue(opened, [Alphabetical()], "q")
    assert rlhf("label", "export").errors[0].endswith("one of the two")
    ended = rlhf("label", "export", "--output", "one", "--queue", "q", "--dev-fraction", "0.5")
    assert ended.out.startswith("train: 1 ranking, 1 pair\ndev: 1 ranking, 3 pairs\n")
    ended = rlhf("label", "export", "--output", "out", "--queue", "q", "--dev-fraction", "0")
    assert ended.code == 0 and ended.out.splitlines() == [
        "train: 2 rankings, 4 pairs",
        "annotators: sim-a (2)",
        "written to out",
    ]
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.json*")) == [
        "labels.json",
        "pairs/train.jsonl",
        "train.jsonl",
    ]
    assert not (tmp_path / "home" / "registry.db").exists()
    ended = rlhf("label", "export", "t/labels", "--queue", "q", "--reliability-weights")
    assert ended.code == 0 and "published as t/labels@v1" in ended.out
    ended = rlhf("label", "export", "t/labels")
    assert ended.code == 2 and "queue 'default': there is none; there are q" in ended.err
