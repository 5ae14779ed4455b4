import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from conftest import HOSTILE

from rlhf.report import (
    Comparison,
    Curve,
    Headline,
    LineageNode,
    MetricRow,
    Report,
    Sample,
    StageReport,
    comparison,
    headlines,
    render,
    write_report,
)
from rlhf.report.html import comparison_bar, environment_rows, word_diff
from rlhf.report.readable import visible

VOID = {"meta", "link", "img", "br", "hr", "input"}
ALLOWED_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "article", "div", "span"),
    *("p", "h1", "h2", "h3", "h4", "b", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"),
    *("figure", "figcaption", "details", "summary", "pre", "code", "del", "ins"),
    *("svg", "g", "defs", "path", "use", "text", "clippath", "rect", "style"),
}


class Page(HTMLParser):
    """Collects tags and attributes and fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def hostile() -> Report:
    """A report in which every text is an attack."""
    row = MetricRow(HOSTILE, HOSTILE, HOSTILE)
    curve = Curve(HOSTILE, "<svg></svg>", HOSTILE)
    node = LineageNode(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, (LineageNode("a", HOSTILE),), note=HOSTILE)
    return Report(
        title=HOSTILE,
        status=HOSTILE,
        command=HOSTILE,
        environment={
            "python": HOSTILE,
            "platform": HOSTILE,
            "git": {"commit": HOSTILE, "dirty": True},
            "packages": {HOSTILE: HOSTILE},
        },
        headlines=(Headline(HOSTILE, HOSTILE, HOSTILE),),
        stages=(StageReport(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1.0, HOSTILE, (row,), (curve,), (HOSTILE,)),),
        samples=(Sample(HOSTILE, HOSTILE, HOSTILE + " more words", 1.0, 2.0),),
        comparisons=(Comparison(HOSTILE, HOSTILE, HOSTILE, 0.5, (0.4, 0.6)),),
        lineage=node,
        warnings=(HOSTILE,),
        notes=(HOSTILE,),
        created=HOSTILE,
    )


def test_the_page_is_well_formed_and_holds_only_harmless_elements(report):
    page = Page(render(report))
    assert page.tags <= ALLOWED_TAGS
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_nothing_in_the_page_can_start_a_request(report):
    text = render(report)
    assert "http:" not in text
    assert "https:" not in text
    assert "//" not in text.replace("'none'; style-src", "")
    assert "@import" not in text
    for tag, name, value in Page(text).attributes:
        assert name not in ("src", "srcset", "action", "data", "poster", "background"), (tag, name)
        if name == "href":
            assert value.startswith("#")
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("meta", "content", policy) in Page(text).attributes


def test_hostile_text_is_shown_and_never_becomes_markup(hostile):
    text = render(hostile)
    page = Page(text)
    assert page.tags <= ALLOWED_TAGS
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; ${7*7} {{7*7}} &lt;img src=x" in text
    assert "&amp;amp;" in text  # `&amp;` in a text is five characters to its reader
    assert "\x00" not in text
    assert "␀␛[31m" in text


def test_what_cannot_be_seen_is_made_visible():
    assert visible("a\r\nb\tc\nd") == "a\nb\tc\nd"
    assert visible("a\rb\x00\x1b\x7f") == "a␍b␀␛␡"
    assert visible("half \ud83d") == "half ?"


def test_the_parts_stand_in_the_order_of_interest(report):
    text = render(report)
    places = [
        text.index(part)
        for part in (
            "<h1>Customer-support replies</h1>",
            "The annotators in this run were simulated",
            ">94.2%</p>",
            "Which answers are preferred",
            "<h2>Stages</h2>",
            "<figcaption>Training reward<",
            "Before and after",
            "Where it comes from",
            "How to repeat it",
        )
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        ((True, True), "The same held-out prompts, answered"),
        ((False, False), "The same prompts of the training data (none were held out), answered"),
        ((True, False), "The same prompts, answered"),
        ((None, None), "The same prompts, answered"),
    ],
)
def test_samples_are_called_held_out_where_they_were(held_out, words):
    samples = tuple(Sample("p", "a", "b", held_out=value) for value in held_out)
    assert words in render(Report(title="t", status="done", samples=samples))


@pytest.mark.parametrize(
    ("given", "words"),
    [({"confidence": 0.9}, "90% interval"), ({"confidence": 0.995}, "99.5% interval"), ({}, "interval")],
)
def test_an_interval_is_called_what_it_is(given, words):
    summary = {"eval": {"win_rate": 0.6, "win_rate_ci": [0.5, 0.7], **given}}
    [headline] = headlines(summary)
    assert headline.note == f"{words} 50.0–70.0%"
    page = render(Report(title="t", status="done", comparisons=(comparison(summary),)))
    assert f"{words} 50.0% to 70.0%, judged" in page and f"prompts, {words} 50.0%" in page
    assert page.count("% interval") == (2 if given else 0)


def test_headline_figures_carry_their_intervals(report):
    text = render(report)
    assert "95% interval 91.2–96.8%" in text
    assert "95% interval 85.1–89.4%" in text
    assert "from −0.81 to 1.68" in text


def test_before_and_after_stand_side_by_side_with_the_difference_marked(report):
    text = render(report)
    assert "parcel is <del>late</del>" in text
    assert "parcel is <ins>missing</ins>" in text
    assert "score −0.62" in text
    assert "score 1.91" in text


def test_lineage_is_nested_down_to_the_annotators(report):
    text = render(report)
    lineage = text[text.index('<ul class="tree">') :]
    for part in ("support/policy@v1", "support/reward@v1", "support/preferences@v1", "ada, ben, cleo (simulated)"):
        assert part in lineage
    assert "its ancestors stand above" in lineage


def test_every_figure_has_a_description_and_every_table_headers(report):
    text = render(report)
    assert text.count("<figure") == text.count("aria-label=") - text.count('aria-label="Headline')
    assert text.count("<thead>") >= 4
    assert "Score: from −" in text


def test_a_whole_report_is_small(report, tmp_path):
    path = tmp_path / "deep" / "report.html"
    write_report(path, report)
    assert path.stat().st_size < 600_000
    assert path.read_text(encoding="utf-8") == render(report)


def test_a_report_of_a_run_that_failed_at_once_still_reads(tmp_path):
    text = render(Report(title="x", status="failed"))
    assert '<span class="badge bad">failed</span>' in text
    Page(text)


def test_word_diff_gives_both_texts_back_and_marks_what_differs():
    left, right = word_diff("the cat sat down", "the dog sat down")
    assert left == [("the ", False), ("cat", True), (" sat down", False)]
    assert right == [("the ", False), ("dog", True), (" sat down", False)]


def test_word_diff_marks_nothing_in_texts_that_have_little_in_common():
    assert word_diff("yes", "an entirely different answer") == (
        [("yes", False)],
        [("an entirely different answer", False)],
    )
    long = "word " * 5000
    assert word_diff(long, long) == ([(long[:4000] + " […]", False)], [(long[:4000] + " […]", False)])


def test_the_bar_of_a_comparison_stays_within_its_frame():
    wide = Comparison("a", "b", "judge", 0.9, (0.75, 1.05))
    assert comparison_bar(wide) == {"rate": "90.00", "low": "75.00", "width": "25.00"}


def test_equal_packages_have_equal_digests(report):
    rows = dict(environment_rows(report.environment))
    assert rows["Framework"] == "0.1.0 0123456789ab, with uncommitted changes"
    assert rows["Accelerators"] == "Example GPU, 80 GiB"
    shuffled = {**report.environment, "packages": {"trl": "1.16.0", "torch": "2.13.0"}}
    assert dict(environment_rows(shuffled))["Packages"] == rows["Packages"]
    assert dict(environment_rows({"packages": {"trl": "1.15.0"}}))["Packages"] != rows["Packages"]
    assert render(replace(report, environment={}))


def test_backticks_in_notes_become_code_and_nothing_else_does(report):
    text = render(replace(report, warnings=("Set `a<b` to `c`.", "one ` alone <i>"), notes=("See `x`.",)))
    assert "Set <code>a&lt;b</code> to <code>c</code>." in text
    assert "one ` alone &lt;i&gt;" in text
    assert "<li>See <code>x</code>.</li>" in text
