"""From YAML text and dotted overrides to plain values: what each spelling means, and what is said of a bad file."""

import copy
from pathlib import Path

import pytest

from rlhf.config import Located, apply_override, read_yaml
from rlhf.errors import UserError


def read(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


def problem_of(function, *args):
    with pytest.raises(UserError) as caught:
        function(*args)
    assert len(caught.value.problems) == 1, caught.value.problems
    assert "\n" not in caught.value.problems[0]
    return caught.value.problems[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("1.", 1.0),
        (".inf", float("inf")),
        ("3", 3),
        ("-7", -7),
        ("1_000", 1000),
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("2026-01-01", "2026-01-01"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("v3", "v3"),
        ("'1e-5'", "1e-5"),
        ("[1e-5, off]", [1e-5, "off"]),
    ],
)
def test_a_value_is_what_it_looks_like(tmp_path, text, value):
    found = read(tmp_path, f"key: {text}\n")["key"]
    assert found == value
    assert isinstance(found, type(value))


def test_keys_are_text_and_merges_work(tmp_path):
    text = "1: one\nbase: &base {a: 1, b: 2}\nchild: {<<: *base, c: 3}\n"
    assert read(tmp_path, text) == {"1": "one", "base": {"a": 1, "b": 2}, "child": {"a": 1, "b": 2, "c": 3}}


def test_an_empty_file_is_an_empty_config(tmp_path):
    assert read(tmp_path, "# nothing yet\n") == {}


def test_strings_remember_the_folder_of_their_file(tmp_path):
    found = read(tmp_path, "a: {b: [data.jsonl]}\n")["a"]["b"][0]
    assert isinstance(found, Located)
    assert found.base == tmp_path.resolve()
    copied = copy.deepcopy(found)
    assert (copied, copied.base) == (found, found.base)


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", "a.yaml:3:1", "the key `a` is given twice"),
        ("x:\n  a: 1\n  a: 2\n", "a.yaml:3:3", "the key `a` is given twice"),
        ("a: [1, 2\n", "a.yaml:2:1", "is not YAML"),
        ("a: 1\n b: 2\n", "a.yaml:2:", "is not YAML"),
        ("a: !!python/object:os.system x\n", "a.yaml:1:4", "is not YAML"),
        ("a: *nowhere\n", "a.yaml:1:4", "is not YAML"),
        ("- 1\n- 2\n", "a.yaml", "holds a list"),
        ("just words\n", "a.yaml", "expected `key: value` lines"),
        (b"a: caf\xe9\n", "a.yaml", "is not UTF-8 (byte 6)"),
        (b"a: \x00\n", "a.yaml", "is not YAML"),
        ("a: 1\n---\nb: 2\n", "a.yaml", "is not YAML"),
        ("a: &a [*a]\n", "a.yaml", "is not YAML"),
    ],
)
def test_a_bad_file_is_one_line_with_its_place(tmp_path, text, place, what):
    problem = problem_of(read, tmp_path, text)
    assert place in problem and what in problem


def test_a_missing_file_says_what_was_meant(tmp_path):
    (tmp_path / "policy.yaml").write_text("a: 1\n")
    problem = problem_of(read_yaml, tmp_path / "polcy.yaml")
    assert problem == f"{tmp_path}/polcy.yaml: no such file; did you mean {tmp_path}/policy.yaml?"
    assert problem_of(read_yaml, tmp_path / "zzz.txt") == f"{tmp_path}/zzz.txt: no such file"
    assert "nor is there a folder" in problem_of(read_yaml, tmp_path / "gone" / "a.yaml")
    assert "is a folder" in problem_of(read_yaml, tmp_path)
    assert "cannot be read: Not a directory" in problem_of(read_yaml, tmp_path / "policy.yaml" / "a.yaml")


def test_overrides_reach_into_mappings_and_lists():
    data = {"trainer": {"lr": 1.0}, "reward": [{"weight": 1.0}, {"weight": 2.0}], "empty": None}
    for override in (
        "trainer.lr=1e-5",
        "trainer.new.deep=off",
        "reward.1.weight=0.5",
        "empty.key=[1, 2]",
        "text=a=b",
        "nothing=",
        "mapping={a: 1}",
    ):
        apply_override(data, override)
    assert data == {
        "trainer": {"lr": 1e-5, "new": {"deep": "off"}},
        "reward": [{"weight": 1.0}, {"weight": 0.5}],
        "empty": {"key": [1, 2]},
        "text": "a=b",
        "nothing": None,
        "mapping": {"a": 1},
    }


def test_an_override_is_relative_to_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data: dict = {}
    apply_override(data, "a=here.jsonl")
    assert data["a"].base == Path(tmp_path)


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("learning_rate", "expected key=value"),
        ("=3", "expected key=value"),
        ("a..b=3", "expected key=value"),
        ("list.7.a=3", "list is a list of 2: give a number below that"),
        ("list.first=3", "list is a list of 2: give a number below that"),
        ("number.a=3", "number is 1 and has no keys of its own"),
        ("list=[1", "the value is not YAML"),
        ("a={b: 1, b: 2}", "the key `b` is given twice"),
    ],
)
def test_a_bad_override_is_quoted(override, what):
    problem = problem_of(apply_override, {"list": [{}, {}], "number": 1}, override)
    assert problem.startswith(f"{override}: ") and what in problem
