"""Records and their JSONL: what is accepted, what is said of the rest."""

import gzip
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rlhf.errors import UserError
from rlhf.records import (
    Completion,
    Conversation,
    Document,
    Message,
    Preference,
    Problem,
    Prompt,
    Ranking,
    Rating,
    has_lone_surrogate,
    parse_record,
    plain,
    prompt_key,
    read_jsonl,
    write_jsonl,
)


def ranking(tiers, num_completions=4, **more):
    return Ranking(prompt="P", completions=[f"c{place}" for place in range(num_completions)], tiers=tiers, **more)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "P"}, Prompt),
        ({"prompt": "P", "completion": "C"}, Completion),
        ({"prompt": "P", "completion": "C", "rating": 2}, Rating),
        ({"prompt": "P", "chosen": "C", "rejected": "R"}, Preference),
        ({"prompt": "P", "completions": ["a", "b"], "tiers": [[0], [1]]}, Ranking),
        ({"messages": [{"role": "user", "content": "u"}]}, Conversation),
        ({"text": "T"}, Document),
    ],
)
def test_a_row_is_known_by_its_columns(row, kind):
    record = parse_record(row)
    assert type(record) is kind
    assert record.row() == row


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({}, "has the columns (none); expected completions+prompt+tiers or "),
        ({"prompt": "  "}, "`prompt` is empty (found '  ')"),
        ({"prompt": None}, "`prompt` input should be a valid string (found None)"),
        ({"prompt": [{"role": "robot", "content": "x"}]}, "`prompt`[0][role] input should be "),
        ({"prompt": "P", "completion": ""}, "`completion` is empty (found '')"),
        ({"prompt": "P", "completion": "C", "rating": float("nan")}, "`rating` input should be a finite number"),
        ({"prompt": "P", "chosen": "a", "rejected": "a"}, "`chosen` and `rejected` are the same text"),
        ({"prompt": "P", "chosen": "a", "rejected": "b", "weight": 0}, "`weight` input should be greater than 0"),
        ({"prompt": "P", "completions": ["a"], "tiers": []}, "`completions` list should have at least 2 items"),
        (
            {"prompt": "P", "completions": ["a", "b"], "tiers": [[2]]},
            "`tiers` names completion 2, but there are only 0 to 1",
        ),
        ({"prompt": "P", "completions": ["a", "b"], "tiers": [[0], [0]]}, "`tiers` places completion 0 twice"),
        ({"prompt": "P", "completions": ["a", "b"], "tiers": [], "models": ["m"]}, "`models` has 1 entries for 2"),
        ({"messages": []}, "`messages` is empty"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_in_one_line(row, says):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        parse_record(row)
    assert "\n" not in str(caught.value)


def test_unknown_columns_travel_along():
    assert parse_record({"prompt": "P", "category": "refund"}).model_extra == {"category": "refund"}


def test_records_do_not_change():
    with pytest.raises(ValidationError):
        Prompt(prompt="P").prompt = "Q"  # type: ignore[misc]


def test_a_ranking_gives_all_pairs_of_which_one_stands_above():
    pairs = ranking([[2], [0, 3], [1]]).pairs()
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [
        ("c2", "c0"),
        ("c2", "c3"),
        ("c2", "c1"),
        ("c0", "c1"),
        ("c3", "c1"),
    ]
    # 1/C(4, 2): the tie of c0 and c3 has its share of the judgement too, and no pair.
    assert {pair.weight for pair in pairs} == {1 / 6}
    assert len({pair.group_id for pair in pairs}) == 1


def test_completions_that_were_not_judged_give_no_pair_and_have_no_share():
    (pair,) = ranking([[0], [3]]).pairs()
    assert (pair.chosen, pair.rejected, pair.weight) == ("c0", "c3", 1.0)
    assert ranking([[1]]).pairs() == []
    assert ranking([]).pairs() == []


def test_equal_and_empty_completions_give_no_pair():
    one = Ranking(prompt="P", completions=["a", "a", "", []], tiers=[[0], [1], [2], [3]])
    assert one.pairs() == []


def test_the_same_judgement_has_the_same_group_wherever_it_is_read():
    first, second = ranking([[0], [1]], annotator="ann"), ranking([[0], [1]], annotator="ann", rationale="because")
    assert first.group_id == second.group_id
    assert first.group_id != ranking([[0], [1]], annotator="bob").group_id
    assert first.group_id != ranking([[1], [0]], annotator="ann").group_id


def test_prompt_keys_ignore_spacing_and_nothing_else():
    assert prompt_key("a  b\n") == prompt_key(" a b")
    assert prompt_key("a b") != prompt_key("ab")
    assert prompt_key("a b") != prompt_key("A b")
    user, system = [Message(role="user", content="a")], [Message(role="system", content="a")]
    assert len({prompt_key(user), prompt_key(system), prompt_key("a"), prompt_key([*user, *user])}) == 4


def test_plain_shows_who_speaks():
    assert (
        plain([Message(role="user", content="Hi"), Message(role="assistant", content="Yes")])
        == "user: Hi\n\nassistant: Yes"
    )


def test_reading_sets_bad_lines_aside(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "P"}\n\n[1]\n{"prompt": \n{"prompt": "\xff"}\n'
        b'{"n": '
        + b"1" * 5000
        + b"}\n"
        + b"[" * 100_000
        + b'\n{"prompt": "\\udc00"}\n{"prompt": "\\ud83d\\ude00"}\n{"x": 1}'
    )
    records, problems = read_jsonl(path, Prompt)
    assert [record.prompt for record in records] == ["P", "\N{GRINNING FACE}"]
    assert [problem.line for problem in problems] == [3, 4, 5, 6, 7, 8, 10]
    assert problems[0] == Problem(str(path), 3, "is a JSON list, not an object")
    assert str(problems[-1]) == f"{path}:10: has the columns x; expected prompt"


def test_problems_of_files_without_lines_count_rows():
    assert str(Problem("a.parquet", 3, "is bad", "row")) == "a.parquet, row 3: is bad"


def test_reading_a_file_that_is_not_there():
    with pytest.raises(UserError, match=r"nowhere.jsonl: no such file"):
        read_jsonl("nowhere.jsonl")


def test_compressed_files_are_read_as_they_lie(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "P"}\n'))
    assert read_jsonl(path, Prompt) == ([Prompt(prompt="P")], [])


@given(st.lists(st.builds(Completion, prompt=st.text(min_size=1).filter(str.strip), completion=st.text(min_size=1))))
def test_what_is_written_is_read_again(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    assert write_jsonl(path, records) == len(records)
    assert read_jsonl(path, Completion) == (records, [])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [Prompt(prompt="old")])
    with pytest.raises(ValueError, match="JSON"):
        write_jsonl(path, [{"prompt": "new"}, {"score": float("nan")}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"prompt": "old"}]
    assert list(tmp_path.iterdir()) == [path]


def test_lone_surrogates_are_found_wherever_they_stand():
    assert has_lone_surrogate({"a": [{"b": "x\ud800"}]})
    assert not has_lone_surrogate({"a": ["\N{GRINNING FACE}", 1, None]})
