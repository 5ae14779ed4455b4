"""`rlhf data` and the numbers it prints."""

import json

import pytest
from data_files import write_rows, write_text
from typer.testing import CliRunner

from rlhf.cli.data import app
from rlhf.datasets import DataSource
from rlhf.datasets.report import judgement_stats
from rlhf.errors import UserError
from rlhf.records import Preference, Ranking


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(autouse=True)
def no_registry(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HOME", str(tmp_path / "nowhere"))


def test_judgements_are_counted_by_hand():
    pairs = [
        Preference(prompt="p", chosen="long answer", rejected="short"),
        Preference(prompt="p", chosen="short", rejected="long answer"),
        Preference(prompt="q", chosen="same", rejected="size"),
        Ranking(prompt="r", completions=["aaa", "bb", "c"], tiers=[[0], [1, 2]]),
    ]
    # Strict pairs: right, wrong, half, right, right; one tie.
    assert judgement_stats(pairs) == {
        "pairs": 6,
        "longest_wins": 0.7,
        "tie_share": round(1 / 6, 4),
        "judged_both_ways": 1,
        "annotators": 0,
        "agreement": None,
        "agreement_pairs": 0,
    }
    assert judgement_stats([]) == {}


def test_agreement_is_between_annotators_of_the_same_two_texts():
    def vote(annotator, tiers, completions=("a", "b")):
        return Ranking(prompt="p", completions=list(completions), tiers=tiers, annotator=annotator)

    votes = [vote("x", [[0], [1]]), vote("y", [[0], [1]], ("b", "a")), vote("z", [[1], [0]]), vote("w", [[0, 1]])]
    # x: a. y: b (shown the other way round). z: b. w: tie. Only y and z agree, one of six pairs of people.
    stats = judgement_stats(votes)
    assert (stats["annotators"], stats["agreement_pairs"], stats["agreement"]) == (4, 6, round(1 / 6, 4))


def test_inspect_prints_the_facts_as_json(tmp_path):
    rows = [{"question": "Q?", "answer": "A."}, {"question": "Q?", "answer": "A. "}, {"question": 3, "answer": "A."}]
    path = write_rows(tmp_path / "a.jsonl", rows)
    (facts,) = json.loads(run("inspect", path, "--json", "--examples", 1, "--near").stdout)
    assert facts["format"] == "pairs"
    assert (facts["rows"], facts["set_aside"], facts["records"], facts["prompts"]) == (3, 1, 2, 1)
    assert (facts["duplicates"], facts["near_duplicates"]) == (1, 0)
    assert facts["problems"] == [f"{path}:3: `prompt` input should be a valid string (found 3)"]
    assert facts["examples"] == [{"prompt": "Q?", "completion": "A."}]
    assert facts["lengths"]["prompt"]["p50"] == 2


def test_inspect_takes_names_for_columns(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"frage": "Q?", "antwort": "A."}])
    arguments = ["inspect", path, "--column", "prompt=frage", "--column", "completion=antwort"]
    assert json.loads(run(*arguments, "--json").stdout)[0]["kinds"] == {"completion": 1}
    with pytest.raises(UserError, match="expected OURS=THEIRS"):
        run("inspect", path, "--column", "prompt")
    with pytest.raises(UserError, match=r"command line: format = 'csv'"):
        run("inspect", path, "--format", "csv")


def test_inspect_prints_a_table_for_people(tmp_path):
    pair = {"prompt": "P [bold]", "chosen": "good one", "rejected": "bad", "annotator": "ann"}
    path = write_rows(tmp_path / "a.jsonl", [pair, pair | {"annotator": "bob"}])
    shown = run("inspect", path).stdout
    assert "longest wins" in shown
    assert "100.0%" in shown
    assert "prompt: P [bold]" in shown


def test_prepare_writes_what_a_stage_would_see(tmp_path):
    rows = [{"prompt": f"P{number}", "chosen": "a", "rejected": "b"} for number in range(40)]
    write_rows(tmp_path / "conf" / "a.jsonl", [*rows, {"prompt": 1}])
    config = write_text(
        tmp_path / "conf" / "c.yaml", "data: {sources: [{path: a.jsonl}], dev_fraction: 0.25}\nmodel: {}\n"
    )
    out = tmp_path / "out"
    told = json.loads(run("prepare", config, "data.dev_fraction=0.5", "--out", out, "--as", "prompt", "--json").stdout)
    assert sorted(file.name for file in out.iterdir()) == ["dev.jsonl", "report.json", "set_aside.jsonl", "train.jsonl"]
    assert json.loads((out / "report.json").read_text())["num_train"] == told["num_train"]
    assert told["num_train"] + told["num_dev"] == 40
    assert json.loads((out / "train.jsonl").read_text().splitlines()[0]).keys() == {"prompt"}
    assert json.loads((out / "set_aside.jsonl").read_text())["line"] == 41
    # The folder is a source again.
    again = json.loads(run("inspect", out, "--split", "dev", "--json").stdout)
    assert again[0]["records"] == told["num_dev"]


def test_prepare_overwrites_nothing(tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"prompt": "P"}])
    config = write_text(tmp_path / "c.yaml", "sources: [{path: a.jsonl}]\n")
    assert "1 training and 0 held-out records" in run("prepare", config, "--out", tmp_path / "out").stdout
    with pytest.raises(UserError, match="is there already"):
        run("prepare", config, "--out", tmp_path / "out")


def test_prepare_names_the_key_that_is_wrong(tmp_path):
    config = write_text(tmp_path / "c.yaml", "data: {sources: [{path: a.jsonl, wieght: 2}]}\n")
    with pytest.raises(UserError, match=r"data.sources.0.wieght = 2: unknown key; did you mean data.sources.0.weight"):
        run("prepare", config, "--out", tmp_path / "out")
    with pytest.raises(UserError, match="--as promt: no such kind"):
        run(
            "prepare", write_text(tmp_path / "d.yaml", "sources: [{path: a}]"), "--out", tmp_path / "o", "--as", "promt"
        )
    assert not (tmp_path / "out").exists()


def test_every_option_of_a_source_is_documented():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert [name for name in DataSource.model_fields if f"`{name}`" not in page] == []
