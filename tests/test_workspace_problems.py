"""What is said of rows that could not be used."""

from rlhf.records import Problem
from rlhf.workspace import report_problems


def test_each_reason_is_told_once_with_its_count(caplog):
    problems = [Problem("a.jsonl", n, f"the prompt has {60 + n} tokens, at most 50 fit") for n in range(1, 4)]
    problems += [Problem("a.jsonl", 9, "prompt: it is empty")]
    report_problems(problems)
    assert caplog.messages == [
        "4 rows set aside, for 2 reasons:",
        "3 of them; the first: a.jsonl:1: the prompt has 61 tokens, at most 50 fit",
        "1 of them; the first: a.jsonl:9: prompt: it is empty",
    ]


def test_one_reason_takes_one_line(caplog):
    report_problems([Problem("a.jsonl", 9, "prompt: it is empty")])
    assert caplog.messages == ["1 rows set aside; the first: a.jsonl:9: prompt: it is empty"]
