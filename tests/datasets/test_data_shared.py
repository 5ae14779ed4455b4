"""The real data sets, where they are at hand: each is readable, and gives what its README says."""

import pytest
from data_files import load_one, shared_data

from rlhf.datasets.report import judgement_stats
from rlhf.records import Completion, Conversation, Document, Preference, Ranking, Rating

JUDGED = [Preference, Ranking, Rating]
LEARNT = [Completion, Conversation, Document]
SENTIMENT = {
    "values": {"label": {0: "negative", 1: "positive"}},
    "template": {"prompt": "Review: {text}\nSentiment:", "completion": " {label}"},
}
LEGAL = {"columns": {"prompt": "original_text", "completion": "reference_summary"}}

FILES = [
    ("preferences/hh_harmless.train.jsonl.gz", JUDGED, {}, "hh", 1599, {"preference": 1597}),
    ("preferences/hh_harmless.dev.jsonl.gz", JUDGED, {"conversational": True}, "hh", 235, {"preference": 235}),
    ("preferences/qa_feedback.train.jsonl", JUDGED, {}, "records", 1895, {"preference": 1895}),
    ("preferences/qa_feedback.dev.jsonl", JUDGED, {}, "records", 242, {"preference": 242}),
    ("preferences/pandalm.jsonl", JUDGED, {}, "records", 836, {"preference": 836}),
    ("rankings/pandalm_3_annotators.json", JUDGED, {}, "pandalm", 999, {"ranking": 2979}),
    ("rankings/oasst_en100_trees.jsonl.gz", JUDGED, {}, "openassistant", 100, {"ranking": 212}),
    ("ratings/medical_liveqa_ccby.jsonl", JUDGED, {}, "pairs", 565, {"rating": 565}),
    ("sft/dialogsum.dev.jsonl.gz", LEARNT, {}, "pairs", 500, {"completion": 500}),
    ("sft/instruction_alpaca_format.json", LEARNT, {}, "alpaca", 1100, {"completion": 1100}),
    ("sft/self_instruct_seed_tasks.jsonl", LEARNT, {}, "self_instruct", 175, {"completion": 175}),
    ("sft/rotten_tomatoes.train.jsonl.gz", LEARNT, SENTIMENT, "records", 9600, {"completion": 9600}),
    ("sft/imdb.train.jsonl.gz", LEARNT, {"limit": 2000}, "text", 2000, {"document": 2000}),
    ("domain/medquad_short.jsonl.gz", LEARNT, {}, "pairs", 3171, {"completion": 3171}),
    ("domain/legal_summarization.json", LEARNT, LEGAL, "records", 446, {"completion": 446}),
    ("text/public_domain_books.txt.gz", LEARNT, {"limit": 500}, "text", 500, {"document": 500}),
]


@pytest.mark.parametrize(("name", "kinds", "options", "form", "num_rows", "found"), FILES, ids=[f[0] for f in FILES])
def test_each_real_file_is_readable(name, kinds, options, form, num_rows, found):
    loaded = load_one(shared_data() / name, kinds, dev_fraction=0.1, **options)
    (source,) = loaded.report.sources
    assert (source.format, source.rows, source.kinds) == (form, num_rows, found)
    assert loaded.dev
    assert source.set_aside <= 6


def test_hh_is_found_by_name_and_split():
    assert load_one(shared_data() / "preferences" / "hh_harmless").report.num_rows == 1599


def test_rows_of_real_files_that_no_stage_can_use_are_named():
    votes = load_one(shared_data() / "rankings" / "pandalm_3_annotators.json", JUDGED)
    assert [problem.line for problem in votes.problems] == [158, 159, 160, 162, 163, 165]
    assert "found True" in votes.problems[0].what


def test_the_three_pandalm_annotators_agree_as_far_as_they_do():
    votes = load_one(shared_data() / "rankings" / "pandalm_3_annotators.json", JUDGED)
    stats = judgement_stats(votes.train)
    assert stats["annotators"] == 3
    assert 0.85 < stats["agreement"] < 0.95
