"""Where rows come from: kinds of file, folders, refs, the Hub; and what is said when they cannot be read."""

import gzip
import json
import os

import pytest
from data_files import load_one, rows_of, write_rows, write_text
from pydantic import ValidationError

from rlhf.config import Located
from rlhf.datasets import DataConfig, DataSource, load
from rlhf.datasets.plain_text import cut_text
from rlhf.errors import UserError
from rlhf.records import Completion, Preference, Prompt

ROW = {"prompt": "P", "completion": "C"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"prompt": "P", "completion": "C"}\n\n'),
        ("a.jsonl.gz", '{"prompt": "P", "completion": "C"}\n'),
        ("a.json", '[{"prompt": "P", "completion": "C"}]'),
        ("b.json", '{"id1": {"prompt": "P", "completion": "C"}}'),
        ("c.json", '{"version": 1, "data": [{"prompt": "P", "completion": "C"}]}'),
        ("d.json", '{"prompt": "P", "completion": "C"}\n{"prompt": "P", "completion": "C"}\n'),
        ("a.csv", "prompt,completion\nP,C\n"),
        ("b.csv", "\ufeffprompt;completion\r\nP;C\r\n"),
        ("a.tsv", "prompt\tcompletion\nP\tC\n"),
    ],
)
def test_every_kind_of_file_gives_the_same_row(tmp_path, name, text):
    assert rows_of(load_one(write_text(tmp_path / name, text))) == [ROW]


def test_parquet_and_saved_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list([ROW | {"weight": None, "when": None}])
    table.to_parquet(str(tmp_path / "a.parquet"))
    assert load_one(tmp_path / "a.parquet").train[0].prompt == "P"
    table.save_to_disk(str(tmp_path / "saved"))
    assert load_one(tmp_path / "saved").train[0].prompt == "P"
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "split"))
    assert load_one(tmp_path / "split", split="test").train[0].completion == "C"
    with pytest.raises(UserError, match="no split 'dev'; there are train, test"):
        load_one(tmp_path / "split", split="dev")


def test_null_columns_of_a_table_are_columns_that_are_not_there(tmp_path):
    rows = [{"prompt": "P", "chosen": "a", "rejected": "b", "margin": None, "weight": None}]
    assert load_one(write_rows(tmp_path / "a.jsonl", rows)).train == [Preference(prompt="P", chosen="a", rejected="b")]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_only_line_ends_end_a_line_of_csv(tmp_path, character, quote):
    text = f"prompt,completion\nP,{quote}one{character}two{quote}\nQ,C\n"
    loaded = load_one(write_text(tmp_path / "a.csv", text))
    assert [record.completion for record in loaded.train] == [f"one{character}two", "C"]
    assert loaded.problems == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_lines_may_end_as_on_any_system(tmp_path, end):
    loaded = load_one(write_text(tmp_path / "a.csv", end.join(["prompt;completion", "P;C", 'Q;"D;"', ""])))
    assert [(record.prompt, record.completion) for record in loaded.train] == [("P", "C"), ("Q", "D;")]


def test_csv_cells_may_hold_lines_and_problems_name_the_line(tmp_path):
    text = 'prompt,completion\n"two\nlines",C\nonly one\nP,C\n'
    loaded = load_one(write_text(tmp_path / "a.csv", text))
    assert [record.prompt for record in loaded.train] == ["two\nlines", "P"]
    assert [str(problem) for problem in loaded.problems] == [f"{tmp_path}/a.csv:4: has 1 fields where the header has 2"]


def test_an_empty_cell_is_no_weight(tmp_path):
    path = write_text(tmp_path / "a.csv", "prompt,chosen,rejected,weight\nP,a,b,\nQ,a,b,0.5\n")
    assert [record.weight for record in load_one(path).train] == [1.0, 0.5]


def test_problems_name_file_and_line(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        json.dumps(ROW).encode(),
        b"{not json}",
        b'{"prompt": "caf\xe9", "completion": "C"}',
        b'["a", "list"]',
        b'{"completion": "C"}',
        b'{"prompt": "", "completion": "C"}',
        b'{"prompt": "P", "completion": 5}',
        b'{"prompt": "half \\ud83d", "completion": "C"}',
        b'{"prompt": "P", "completion": "C", "rating": NaN}',
    ]
    path.write_bytes(b"\n".join(lines))
    loaded = load_one(path, max_bad_fraction=0.95)
    assert len(loaded.train) == 1
    assert [problem.line for problem in loaded.problems] == [2, 3, 4, 5, 6, 7, 8, 9]
    what = [problem.what for problem in loaded.problems]
    assert what[0].startswith("is not JSON")
    assert what[1] == "is not UTF-8 (byte 15 of the line)"
    assert what[2] == "is a JSON list, not an object"
    assert what[3].startswith("has the columns completion; expected ")
    assert what[4] == "`prompt` is empty (found '')"
    assert what[5] == "`completion` input should be a valid string (found 5)"
    assert "lone surrogate" in what[6]
    assert what[7] == "`rating` input should be a finite number (found nan)"
    assert loaded.report.summary().splitlines()[0] == f"{path}: 8 of 9 rows set aside; first: {loaded.problems[0]}"


def test_broken_json_keeps_the_rows_before_the_break(tmp_path):
    path = write_text(tmp_path / "a.json", '[{"prompt": "P"}, {"prompt": "Q"}, {"prompt": ')
    loaded = load_one(path)
    assert [record.prompt for record in loaded.train] == ["P", "Q"]
    assert str(loaded.problems[0]).startswith(f"{path}, row 3: is not JSON")


def test_a_text_that_is_not_utf8_is_set_aside_where_it_is(tmp_path):
    path = write_text(tmp_path / "a.txt", b"one\n\n\ntw\xff\n\n\nthree")
    loaded = load_one(path)
    assert [record.text for record in loaded.train] == ["one", "three"]
    assert [str(problem) for problem in loaded.problems] == [f"{path}:4: is not UTF-8"]


def test_plain_text_is_cut_into_documents_and_these_at_paragraphs(tmp_path):
    text = "First paragraph.\n\nSecond one.\n\nThird.\n\n\nAnother document.\fAfter a form feed."
    path = write_text(tmp_path / "book.txt.gz", text)
    assert [record.text for record in load_one(path, chunk_chars=30).train] == [
        "First paragraph.\n\nSecond one.",
        "Third.",
        "Another document.",
        "After a form feed.",
    ]
    assert len(load_one(path, chunk_chars=None).train) == 3


def test_a_long_paragraph_is_cut_at_sentences_and_nothing_is_lost():
    text = "One is here. Two is here. " * 10 + "x" * 50
    pieces = list(cut_text(text, 40))
    assert max(len(piece) for _, piece in pieces) <= 40
    assert "".join(piece for _, piece in pieces) == text
    assert pieces[0][1] == "One is here. Two is here. One is here. "


def test_lines_of_a_text_may_be_prompts(tmp_path):
    path = write_text(tmp_path / "prompts.md", "First?\n\nSecond?\n")
    loaded = load_one(path, kinds=[Prompt], format="lines", columns={"prompt": "text"})
    assert rows_of(loaded) == [{"prompt": "First?"}, {"prompt": "Second?"}]


def test_a_folder_is_read_by_split(tmp_path):
    write_rows(tmp_path / "set" / "train.jsonl", [{"prompt": "T"}])
    write_rows(tmp_path / "set" / "dev.jsonl", [{"prompt": "D"}])
    write_text(tmp_path / "set" / "report.json", "{}")
    assert load_one(tmp_path / "set").train[0].prompt == "T"
    assert load_one(tmp_path / "set", split="dev").train[0].prompt == "D"
    with pytest.raises(UserError, match=r"no file of the split 'test'; there are dev.jsonl, train.jsonl"):
        load_one(tmp_path / "set", split="test")


def test_a_folder_with_one_file_needs_no_split(tmp_path):
    write_rows(tmp_path / "set" / "preferences.jsonl", [{"prompt": "T"}])
    assert load_one(tmp_path / "set").train[0].prompt == "T"


def test_a_name_before_the_split_is_enough(tmp_path):
    write_rows(tmp_path / "hh.train.jsonl.gz", [{"prompt": "T"}])
    write_rows(tmp_path / "hh.dev.jsonl.gz", [{"prompt": "D"}])
    assert load_one(tmp_path / "hh").train[0].prompt == "T"
    assert load_one(tmp_path / "hh", split="dev").train[0].prompt == "D"


def test_a_missing_file_names_one_like_it(tmp_path):
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": "T"}])
    with pytest.raises(UserError, match=r"promts.jsonl: no such file; did you mean prompts.jsonl\?"):
        load_one(tmp_path / "promts.jsonl")
    with pytest.raises(UserError, match="nor is there a folder"):
        load_one(tmp_path / "nowhere" / "prompts.jsonl")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("empty.jsonl", "", "is empty: it holds no rows"),
        ("empty.csv", "", "is empty: it holds no rows"),
        ("header.csv", "prompt,completion\n", "is empty: it holds no rows"),
        ("broken.json", "{", "is not JSON"),
        ("norows.json", '{"a": 1}', "holds no list of rows"),
        ("odd.bin", "x", "cannot tell what this is by its name"),
        ("bad.jsonl.gz", None, "the compressed file is damaged"),
        ("bad.parquet", "x", "is not Parquet"),
        ("odd.jsonl", '{"foo": 1, "bar": 2}\n', "has the columns bar, foo, and no known format has those"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, text, says):
    path = tmp_path / name
    if text is None:
        path.write_bytes(b"no gzip")
    else:
        write_text(path, text)
    with pytest.raises(UserError, match=says) as caught:
        load_one(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.json.gz", "a.txt.gz"])
@pytest.mark.parametrize("damage", ["cut short", "overwritten", "wrong sum"])
def test_a_damaged_compressed_file_is_named_however_it_is_damaged(tmp_path, name, damage):
    content = gzip.compress("".join(f'{{"prompt": "{n * n}", "completion": "c"}}\n' for n in range(3000)).encode())
    half = len(content) // 2
    damaged = {
        "cut short": content[:half],
        "overwritten": content[:half] + b"\xff" * 60 + content[half + 60 :],
        "wrong sum": content[:-8] + bytes(8),
    }
    (tmp_path / name).write_bytes(damaged[damage])
    with pytest.raises(UserError, match=f"{name}: the compressed file is damaged .*: fetch it again"):
        load_one(tmp_path / name)


def test_too_many_bad_rows_are_an_error_with_the_first_few(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"prompt": "P"}] + [{"prompt": 1}] * 4)
    with pytest.raises(UserError, match=r"4 of 5 rows cannot be used .* \(max_bad_fraction = 0.5\)") as caught:
        load_one(path)
    assert f"{path}:2: `prompt`" in caught.value.problems[1]
    assert caught.value.problems[-1] == "  and 1 more"


def test_a_column_that_is_not_there_is_named_with_one_like_it(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"dialogue": "D", "summary": "S"}])
    with pytest.raises(UserError) as caught:
        load_one(path, columns={"prompt": "dialouge", "completion": "zzz"}, values={"label": {"0": "no"}})
    assert [line.removeprefix(f"{path}: ") for line in caught.value.problems] == [
        "columns.prompt = dialouge: no row has such a column; did you mean 'dialogue'?",
        "columns.completion = zzz: no row has such a column; there are dialogue, summary",
        "values.label = label: no row has such a column; there are dialogue, summary",
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"columns": {"promt": "x"}}, "did you mean 'prompt'"),
        ({"template": {"prompt": "{x"}}, "is no template"),
        ({"template": {"prompt": "{}"}}, "placeholders are"),
        ({"template": {"prompt": "{x:5}"}}, "placeholders are"),
        ({"template": {"label": "{x}"}}, "known: prompt"),
        ({"weight": 0}, "greater than 0"),
        ({"format": "csv"}, "format"),
        ({"colums": {}}, "colums"),
    ],
)
def test_a_wrong_source_is_refused_before_anything_is_read(options, says):
    with pytest.raises(ValidationError, match=says):
        DataSource(path="a.jsonl", **options)


def test_both_ways_of_holding_out_are_one_too_many():
    with pytest.raises(ValidationError, match="drop the other"):
        DataConfig(sources=[DataSource(path="a")], dev=[DataSource(path="b")], dev_fraction=0.1)


def test_a_path_is_relative_to_where_it_was_written(tmp_path):
    write_rows(tmp_path / "conf" / "a.jsonl", [{"prompt": "P"}])
    source = DataSource(path=Located("a.jsonl", tmp_path / "conf"))
    assert source.path == str(tmp_path / "conf" / "a.jsonl")
    kept = ["support/preferences@v2", "Anthropic/hh-rlhf", "hub:a/b"]
    assert [DataSource(path=Located(path, tmp_path)).path for path in kept] == kept
    (tmp_path / "Anthropic" / "hh-rlhf").mkdir(parents=True)
    assert DataSource(path=Located("Anthropic/hh-rlhf", tmp_path)).path == str(tmp_path / "Anthropic" / "hh-rlhf")


def test_a_path_that_a_split_completes_is_relative_to_where_it_was_written_too(tmp_path):
    write_rows(tmp_path / "hh.train.jsonl", [ROW])
    source = DataSource(path=Located("hh", tmp_path))
    assert source.path == str(tmp_path / "hh")
    assert rows_of(load_one(source.path, split="train")) == [ROW]
    assert DataSource(path=Located("h", tmp_path)).path == "h"


def test_a_registry_ref_is_opened_by_the_caller(tmp_path):
    write_rows(tmp_path / "objects" / "train.jsonl", [ROW])
    config = DataConfig(sources=[DataSource(path="support/data@v2")])
    found = {"support/data@v2": (tmp_path / "objects", "support/data@v2")}
    loaded = load(config, [Completion], seed=0, open_ref=found.get)
    assert rows_of(loaded) == [ROW] and loaded.refs == ("support/data@v2",)
    with pytest.raises(UserError, match=r"support/data@v2: no such artefact"):
        load(config, [Completion], seed=0, open_ref=lambda ref: None)


def test_a_hub_id_without_network_is_one_clear_line(monkeypatch):
    pytest.importorskip("datasets")
    assert os.environ["HF_HUB_OFFLINE"] == "1"  # the tests' conftest sees to that
    with pytest.raises(UserError, match=r"^nobody/nothing: is no file, .* give the path of a local copy"):
        load_one("nobody/nothing")


def test_options_for_folders_do_not_fit_a_file(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [ROW])
    with pytest.raises(UserError, match=r"`data_dir` is for folders and the Hub"):
        load_one(path, data_dir="harmless-base")


def test_a_limit_takes_the_first_records(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"prompt": f"P{number}"} for number in range(10)])
    assert [record.prompt for record in load_one(path, limit=3).train] == ["P0", "P1", "P2"]
