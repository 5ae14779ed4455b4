"""Each format, on rows small enough to read."""

import json

import pytest
from data_files import load_one, rows_of, write_rows, write_text

from rlhf.errors import UserError
from rlhf.records import Completion, Conversation, Message, Preference, Prompt, Ranking

HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: How are you?\n\nAssistant: Fine, thanks.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: How are you?\n\nAssistant: Go away.",
}


def load_rows(tmp_path, *rows, **options):
    return load_one(write_rows(tmp_path / "rows.jsonl", rows), **options)


def formats_of(loaded):
    return [source.format for source in loaded.report.sources]


def test_our_own_rows_are_read_as_they_stand(tmp_path):
    rows = [
        {"prompt": "P", "completion": "C", "source": "x"},
        {"prompt": "P2", "chosen": "good", "rejected": "bad", "weight": 0.5},
        {"prompt": "P3", "completions": ["a", "b"], "tiers": [[1], [0]], "annotator": "ann"},
        {"prompt": "P4", "completion": "C", "rating": 3.0},
        {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
    ]
    loaded = load_rows(tmp_path, *rows)
    assert rows_of(loaded) == rows
    assert loaded.problems == []
    assert formats_of(loaded) == ["records"]


def test_hh_transcripts_share_a_prompt(tmp_path):
    loaded = load_rows(tmp_path, HH)
    assert formats_of(loaded) == ["hh"]
    assert rows_of(loaded) == [
        {
            "prompt": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: How are you?\n\nAssistant:",
            "chosen": " Fine, thanks.",
            "rejected": " Go away.",
        }
    ]


def test_hh_answers_that_begin_alike_are_parted_at_the_turn(tmp_path):
    row = {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes, do", "rejected": "\n\nHuman: Hi\n\nAssistant: Yes, don't"}
    (made,) = rows_of(load_rows(tmp_path, row))
    assert (made["prompt"], made["chosen"], made["rejected"]) == (
        "\n\nHuman: Hi\n\nAssistant:",
        " Yes, do",
        " Yes, don't",
    )


def test_hh_transcripts_that_part_early_keep_their_later_turns(tmp_path):
    row = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hey\n\nHuman: What?\n\nAssistant: This.",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Bye",
    }
    (text,) = rows_of(load_rows(tmp_path, row))
    assert text["chosen"] == " Hey\n\nHuman: What?\n\nAssistant: This."
    (messages,) = rows_of(load_rows(tmp_path, row, conversational=True))
    assert [turn["role"] for turn in messages["chosen"]] == ["assistant", "user", "assistant"]


def test_hh_as_messages_and_back_is_the_transcript(tmp_path):
    (made,) = rows_of(load_rows(tmp_path, HH, conversational=True))
    assert made["prompt"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "How are you?"},
    ]
    assert made["chosen"] == [{"role": "assistant", "content": "Fine, thanks."}]
    (text,) = rows_of(load_rows(tmp_path, made, conversational=False))
    assert text == {
        "prompt": HH["chosen"][: -len(" Fine, thanks.")],
        "chosen": " Fine, thanks.",
        "rejected": " Go away.",
    }


def test_message_lists_with_the_prompt_inside_are_split(tmp_path):
    user, good, bad = ({"role": r, "content": c} for r, c in [("user", "Q"), ("assistant", "A"), ("assistant", "B")])
    (made,) = rows_of(load_rows(tmp_path, {"prompt": "Q", "chosen": [user, good], "rejected": [user, bad]}))
    assert made == {"prompt": [user], "chosen": [good], "rejected": [bad]}


def test_alpaca_puts_the_input_below_the_instruction(tmp_path):
    rows = [
        {"instruction": "Translate.", "input": "cat", "output": "chat"},
        {"instruction": "Sing.", "input": "", "output": "La"},
    ]
    path = write_text(tmp_path / "alpaca.json", json.dumps(rows))
    loaded = load_one(path)
    assert formats_of(loaded) == ["alpaca"]
    assert rows_of(loaded) == [
        {"prompt": "Translate.\n\ncat", "completion": "chat"},
        {"prompt": "Sing.", "completion": "La"},
    ]


def test_self_instruct_seeds_give_one_record_an_instance(tmp_path):
    row = {
        "id": "s1",
        "instruction": "Add.",
        "instances": [{"input": "1+1", "output": "2"}, {"input": "", "output": "0"}],
    }
    loaded = load_rows(tmp_path, row)
    assert formats_of(loaded) == ["self_instruct"]
    assert rows_of(loaded) == [
        {"prompt": "Add.\n\n1+1", "completion": "2", "id": "s1"},
        {"prompt": "Add.", "completion": "0", "id": "s1"},
    ]


def test_sharegpt_turns_become_messages(tmp_path):
    row = {"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    loaded = load_rows(tmp_path, row)
    assert formats_of(loaded) == ["sharegpt"]
    assert loaded.train == [
        Conversation(
            messages=[
                Message(role="system", content="Be kind."),
                Message(role="user", content="Hi"),
                Message(role="assistant", content="Hello"),
            ]
        )
    ]


def test_sharegpt_preferences(tmp_path):
    row = {
        "conversations": [{"from": "human", "value": "Hi"}],
        "chosen": {"from": "gpt", "value": "Hello"},
        "rejected": {"from": "gpt", "value": "No"},
    }
    (record,) = load_rows(tmp_path, row).train
    assert isinstance(record, Preference)
    assert record.row()["prompt"] == [{"role": "user", "content": "Hi"}]


def test_an_unknown_speaker_is_a_problem(tmp_path):
    good = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
    bad = {"conversations": [{"from": "alien", "value": "Hi"}]}
    (problem,) = load_rows(tmp_path, good, bad).problems
    assert problem.line == 2
    assert "'alien'" in problem.what


def tree():
    def reply(text, rank, replies=(), **more):
        return {"message_id": text, "text": text, "role": "assistant", "rank": rank, "replies": list(replies), **more}

    follow_up = {
        "message_id": "q2",
        "text": "And then?",
        "role": "prompter",
        "replies": [reply("x", 1), reply("y", 0), reply("z", None)],
    }
    answers = [
        reply("good", 0, [follow_up]),
        reply("gone", 1, deleted=True),
        reply("bad", 2, synthetic=True, model_name="m"),
    ]
    return {"message_id": "q1", "text": "Why?", "role": "prompter", "lang": "en", "replies": answers}


def check_tree_rankings(loaded):
    first, second = loaded.train
    assert isinstance(first, Ranking)
    assert first.prompt == [Message(role="user", content="Why?")]
    assert [completion[0].content for completion in first.completions] == ["good", "bad"]
    assert (first.tiers, first.models) == ([[0], [1]], ["human", "m"])
    assert [turn.content for turn in second.prompt] == ["Why?", "good", "And then?"]
    # z was not ranked: it is there, but in no tier.
    assert [completion[0].content for completion in second.completions] == ["x", "y", "z"]
    assert second.tiers == [[1], [0]]


def test_openassistant_trees_give_a_ranking_for_every_ranked_prompt(tmp_path):
    loaded = load_rows(tmp_path, {"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": tree()})
    assert formats_of(loaded) == ["openassistant"]
    check_tree_rankings(loaded)


def test_openassistant_messages_in_the_flat_form_give_the_same(tmp_path):
    flat = []

    def walk(node, parent):
        flat.append({name: value for name, value in node.items() if name != "replies"} | {"parent_id": parent})
        for child in node["replies"]:
            walk(child, node["message_id"])

    walk(tree(), None)
    check_tree_rankings(load_rows(tmp_path, *flat))


def test_a_tree_without_ranks_is_a_problem(tmp_path):
    bare = {"prompt": {"message_id": "q", "text": "Why?", "role": "prompter", "replies": []}}
    loaded = load_rows(tmp_path, {"prompt": tree()}, bare)
    assert [problem.line for problem in loaded.problems] == [2]


def test_pandalm_votes_give_one_ranking_an_annotator(tmp_path):
    row = {
        "idx": 7,
        "cmp_key": "bloom-7b_llama-7b",
        "instruction": "Shorten.",
        "input": "long text",
        "response1": "long",
        "response2": "l",
        "annotator1": 2,
        "annotator2": 0,
        "annotator3": 1,
    }
    loaded = load_rows(tmp_path, row)
    assert formats_of(loaded) == ["pandalm"]
    assert [(one.annotator, one.tiers) for one in loaded.train] == [
        ("annotator1", [[1], [0]]),
        ("annotator2", [[0, 1]]),
        ("annotator3", [[0], [1]]),
    ]
    assert loaded.train[0].models == ["bloom-7b", "llama-7b"]
    assert loaded.train[0].prompt == "Shorten.\n\nlong text"
    (problem,) = load_rows(tmp_path, row, row | {"idx": 8, "annotator2": 5}).problems
    assert problem.what == "`annotator2` is 5; a vote is 1, 2 or 0 for a tie"


def test_question_and_answer_columns_are_known(tmp_path):
    loaded = load_rows(tmp_path, {"question": "Q?", "answer": "A.", "url": "u"})
    assert formats_of(loaded) == ["pairs"]
    assert rows_of(loaded) == [{"prompt": "Q?", "completion": "A.", "url": "u"}]


def test_a_score_beside_an_answer_makes_it_a_rating(tmp_path):
    assert rows_of(load_rows(tmp_path, {"question": "Q?", "answer": "A.", "score": 2})) == [
        {"prompt": "Q?", "completion": "A.", "rating": 2.0}
    ]


def test_columns_name_what_is_what(tmp_path):
    row = {"clause": {"text": "long"}, "plain": "short", "id": 1}
    loaded = load_rows(tmp_path, row, columns={"prompt": "clause.text", "completion": "plain"})
    assert rows_of(loaded) == [{"prompt": "long", "completion": "short", "clause": {"text": "long"}, "id": 1}]


def test_templates_and_values_make_texts(tmp_path):
    loaded = load_rows(
        tmp_path,
        {"text": "Great {film}", "label": 1},
        values={"label": {0: "negative", 1: "positive"}},
        template={"prompt": "Review: {text}\n{{Mood}}:", "completion": " {label}"},
    )
    assert loaded.train[0].prompt == "Review: Great {film}\n{Mood}:"
    assert loaded.train[0].completion == " positive"


def test_a_template_may_name_what_the_format_made(tmp_path):
    row = {"instruction": "Sing.", "input": "", "output": "La"}
    (made,) = rows_of(load_rows(tmp_path, row, template={"prompt": "### {instruction}\n{prompt}\n\n"}))
    assert made == {"prompt": "### Sing.\nSing.\n\n", "completion": "La"}


def test_a_value_without_a_word_is_a_problem(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": float("nan")}, {"text": "c", "label": None}]
    values, template = {"label": {"1": "good"}}, {"prompt": "{text}", "completion": "{label}"}
    loaded = load_rows(tmp_path, *rows, values=values, template=template, max_bad_fraction=0.9)
    assert [problem.line for problem in loaded.problems] == [2, 3]
    assert loaded.problems[0].what == "`label` is nan, and `values` knows 1"


def test_a_nan_label_in_a_template_is_a_problem(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": float("nan")}]
    loaded = load_rows(tmp_path, *rows, template={"prompt": "{text}", "completion": "{label}"})
    assert [str(problem).split(":", 1)[1] for problem in loaded.problems] == [
        "2: `label` is nan, which no template can say"
    ]


def test_texts_become_messages_and_messages_texts(tmp_path):
    row = {"prompt": "Q", "completion": "A"}
    messages = {"prompt": [{"role": "user", "content": "Q"}], "completion": [{"role": "assistant", "content": "A"}]}
    assert rows_of(load_rows(tmp_path, row, conversational=True)) == [messages]
    text = {"prompt": "\n\nHuman: Q\n\nAssistant:", "completion": " A"}
    assert rows_of(load_rows(tmp_path, messages, conversational=False)) == [text]
    conversation = {"messages": messages["prompt"] + messages["completion"]}
    assert rows_of(load_rows(tmp_path, conversation, conversational=False)) == [text]


def test_a_text_prompt_beside_message_completions_becomes_messages(tmp_path):
    row = {"prompt": "Q", "completion": [{"role": "assistant", "content": "A"}]}
    (made,) = rows_of(load_rows(tmp_path, row))
    assert made["prompt"] == [{"role": "user", "content": "Q"}]


def test_a_named_format_is_not_guessed(tmp_path):
    row = {"instruction": "Sing.", "output": "La", "prompt": "ignored", "completion": "ignored"}
    assert rows_of(load_rows(tmp_path, row, format="alpaca"))[0]["prompt"] == "Sing."
    with pytest.raises(UserError, match="has no column `response1`"):
        load_rows(tmp_path, row, format="pandalm")


@pytest.mark.parametrize(
    ("row", "kinds", "expected"),
    [
        ({"prompt": "P", "chosen": "C", "rejected": "R"}, [Completion], {"prompt": "P", "completion": "C"}),
        ({"prompt": "P", "chosen": "C", "rejected": "R", "id": 3}, [Prompt], {"prompt": "P", "id": 3}),
        ({"prompt": "P", "completion": "C"}, [Prompt], {"prompt": "P", "reference": "C"}),
        (
            {"prompt": "P", "completions": ["a", "b"], "tiers": [[1], [0]]},
            [Completion],
            {"prompt": "P", "completion": "b"},
        ),
        ({"prompt": "P", "completion": "C", "rating": 1}, [Prompt], {"prompt": "P"}),
        (
            {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
            [Prompt],
            {"prompt": [{"role": "user", "content": "u"}]},
        ),
    ],
)
def test_records_become_the_kind_a_stage_wants(tmp_path, row, kinds, expected):
    assert rows_of(load_rows(tmp_path, row, kinds=kinds)) == [expected]


def test_a_graded_answer_is_no_demonstration(tmp_path):
    with pytest.raises(UserError, match=r"1 of 1 rows cannot be used as completion"):
        load_rows(tmp_path, {"prompt": "P", "completion": "C", "rating": 1}, kinds=[Completion])


def test_a_ranking_in_which_all_are_bad_teaches_no_completion(tmp_path):
    good = {"prompt": "P", "completions": ["a", "b"], "tiers": [[1], [0]]}
    loaded = load_rows(tmp_path, good, good | {"prompt": "P2", "all_bad": True}, kinds=[Completion])
    assert (len(loaded.train), len(loaded.problems)) == (1, 1)
