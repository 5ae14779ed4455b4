import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import HOSTILE, open_run
from test_html import ALLOWED_TAGS, Page

from rlhf.report import render, report_from_run, save_figures, stage_report_from_run, write_report
from rlhf.report.canvas import COLOURS
from rlhf.report.figure_words import format_number, in_words, table
from rlhf.report.figures import drawn, figures_of_run
from rlhf.tracking import Figure, FigureSeries, Mark, write_figures

RELIABILITY = Figure(
    name="reliability",
    title="How sure the model may be",
    description="Below the diagonal it is too sure.",
    kind="lines",
    x="confidence",
    y="accuracy",
    diagonal=True,
    series=(
        FigureSeries(
            name="as it is", x=(0.55, 0.75, 0.95), y=(0.52, 0.6, 0.7), labels=("9 pairs", "8 pairs", "7 pairs")
        ),
        FigureSeries(
            name="scaled", x=(0.55, 0.75, 0.95), y=(0.55, 0.74, 0.96), low=(0.5, 0.7, 0.9), high=(0.6, 0.8, 1.0)
        ),
    ),
)
WIN_RATES = Figure(
    name="win_rates",
    title="Win rates",
    description="An interval that holds 50% decides nothing.",
    kind="bars",
    x="candidate",
    y="share of prompts",
    series=(
        FigureSeries(name="rubric", x=("PPO", "best of 4"), y=(0.7, 0.66), low=(0.65, 0.6), high=(0.75, 0.72)),
        FigureSeries(name="length-controlled", x=("PPO", "best of 4"), y=(0.68, 0.6)),
    ),
    marks=(Mark(label="no difference", y=0.5), Mark(label="people among themselves", y=0.79)),
)
FRONTIER = Figure(
    name="frontier",
    title="What divergence buys",
    description="Each point is a checkpoint.",
    kind="points",
    x="KL (nats per answer)",
    y="rubric score",
    series=tuple(
        FigureSeries(name=f"arm {arm}", x=(0.0, 2.0 + arm, 9.0), y=(0.0, 1.0 + arm, 0.5), labels=("", "step 20", ""))
        for arm in range(7)
    ),
    marks=(Mark(label="peak", x=2.0), Mark(label="budget", x=8.0), Mark(label="reached", x=9.0, y=0.5)),
)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    with open_run(tmp_path, "eval") as run:
        write_figures(run.folder, [RELIABILITY, WIN_RATES, FRONTIER])
        run.finish({"accuracy": 0.7, "accuracy_ci": [0.6, 0.8]})
    return run.folder


def test_a_runs_figures_stand_in_its_report_with_how_to_read_them(run_folder):
    text = render(report_from_run(run_folder))
    page = Page(text)
    assert page.tags <= ALLOWED_TAGS | {"pattern"}
    for said in ("How sure the model may be", "Below the diagonal it is too sure.", "no difference", "PPO", "step 20"):
        assert said in text
    assert "Evaluation of the reward model" in text
    assert text.count('<svg viewBox="') == 3


def test_every_series_has_a_colour_of_the_page_and_no_colour_of_its_own(run_folder):
    stage = stage_report_from_run(run_folder)
    svg = "".join(curve.svg for curve in stage.curves)
    assert {name for name in COLOURS if name.startswith("--line")} <= set(re.findall(r"var\((--[\w-]+)\)", svg))
    assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(r'(?:href|url)[="(]*#\S+', "", svg))


def test_no_two_figures_of_a_page_share_an_id(run_folder):
    ids = [re.findall(r' id="([^"]+)"', curve.svg) for curve in stage_report_from_run(run_folder).curves]
    assert all(ids)
    assert sum(map(len, ids)) == len({each for some in ids for each in some})


def test_a_figure_is_said_in_words():
    assert in_words(WIN_RATES) == (
        "Win rates. An interval that holds 50% decides nothing. candidate against share of prompts. "
        "rubric: 2 values from 66.0% to 70.0%; length-controlled: 2 values from 60.0% to 68.0%; "
        "marked: no difference at share of prompts 50.0%; marked: people among themselves at share of prompts 79.0%."
    )


def test_the_numbers_of_a_figure_are_a_table():
    assert table(WIN_RATES) == (
        ("candidate", "rubric", "length-controlled"),
        ("PPO", "70.0% [65.0%, 75.0%]", "68.0%"),
        ("best of 4", "66.0% [60.0%, 72.0%]", "60.0%"),
    )
    assert table(RELIABILITY)[1] == ("55.0%", "52.0% (9 pairs)", "55.0% [50.0%, 60.0%]")
    many = FigureSeries(name="s", x=tuple(range(100)), y=(1.0,) * 100)
    assert table(FRONTIER.model_copy(update={"series": (many,)})) == ()
    twice = FigureSeries(name="s", x=(1, 1), y=(1.0, 2.0))
    assert table(FRONTIER.model_copy(update={"series": (twice,)})) == ()


@pytest.mark.parametrize(
    ("value", "axis", "shown"),
    [
        (0.5, "share of pairs", "50.0%"),
        (0.5, "Win rate over the baseline", "50.0%"),
        (3.0, "round", "3"),
        (-2.0, "score", "−2"),
        (0.1234, "score", "0.123"),
        (math.nan, "score", "not a number"),
        (-math.inf, "score", "−∞"),
    ],
)
def test_numbers_of_figures_are_written_for_people(value, axis, shown):
    assert format_number(value, axis) == shown


def figure(kind: str, *series: FigureSeries, **more) -> Figure:
    return Figure(name="f", title="t", description="d", kind=kind, x="x", y="y", series=series, **more)


@pytest.mark.parametrize("kind", ["lines", "bars", "points"])
@pytest.mark.parametrize(
    "series",
    [
        (),
        (FigureSeries(name="empty", x=(), y=()),),
        (FigureSeries(name="one", x=(1,), y=(2,), low=(3,), high=(4,)),),  # an interval that misses its value
        (FigureSeries(name="mixed", x=("a", 1), y=(1, -2), labels=("$x^$", "")),),
        (FigureSeries(name="none", x=(math.nan, 2), y=(1, math.inf), low=(math.nan, 1), high=(2, 3)),),
        (FigureSeries(name="same", x=(1, 1, 1), y=(0, 0, 0), labels=("p", "q", "r")),),
        (FigureSeries(name="long " * 50, x=tuple(f"{'name ' * 30}{i}" for i in range(90)), y=(0.5,) * 90),),
        (FigureSeries(name="back", x=tuple(range(20, 0, -1)), y=(1e9,) * 20, low=(0,) * 20, high=(2e9,) * 20),),
        (FigureSeries(name="文字 🙂", x=("日本語", "\x00\ud83d"), y=(1, 2)),),
    ],
)
def test_odd_data_is_drawn_as_far_as_it_can_be(kind, series, tmp_path):
    marks = (Mark(label="both " * 30, x=1, y=1), Mark(label="none"), Mark(label="far", y=-5))
    odd = figure(kind, *series, marks=marks, diagonal=kind == "points")
    (curve,) = drawn([odd])
    assert curve.svg.startswith('<svg viewBox="')
    assert [path.read_bytes()[:4] for path in save_figures([odd], tmp_path)] == [b"\x89PNG"]


def test_what_is_not_drawn_is_said():
    (curve,) = drawn([figure("lines", FigureSeries(name="s", x=(1, 2), y=(1, math.nan)))])
    assert curve.reading == "d 1 value that is no number cannot be drawn."
    (curve,) = drawn([figure("points", FigureSeries(name="s", x=tuple(range(900)), y=(0,) * 900))])
    assert curve.reading == "d Of very many points, 400 at most are drawn; the data have all."
    (curve,) = drawn([figure("bars", FigureSeries(name="s", x=tuple(f"n{i}" for i in range(50)), y=(0,) * 50))])
    assert curve.reading == "d The first 40 of 50 are drawn; the data have all."
    assert "n39<" in curve.svg and "n40<" not in curve.svg


def test_hostile_texts_in_figures_never_become_markup(tmp_path):
    nasty = HOSTILE + ' id="x" url(#y) #2f5d8c <!-- --> ]]>'
    series = FigureSeries(name=nasty, x=(nasty, "b"), y=(1, 2), labels=(nasty, nasty))
    attacks = [
        Figure(
            name=nasty,
            title=nasty,
            description=nasty,
            kind=kind,
            x=nasty,
            y=nasty,
            series=(series, series),
            marks=(Mark(label=nasty, x=0), Mark(label=nasty, y=1)),
        )
        for kind in ("lines", "bars", "points")
    ]
    with open_run(tmp_path, "eval") as run:
        write_figures(run.folder, attacks)
        run.finish({})
    text = render(report_from_run(run.folder))
    page = Page(text)
    assert page.tags <= ALLOWED_TAGS | {"pattern"}
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script" not in text and "<img" not in text and "\x00" not in text
    assert "id=&quot;x" in text or 'id="x' in "".join(page.text)
    paths = save_figures(attacks, tmp_path / "curves")
    assert len(set(paths)) == 3
    assert all(path.parent == tmp_path / "curves" for path in paths)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "Expecting property name enclosed in double quotes"),
        ("7", "not a list of figures"),
        ('[{"name": "f"}]', "title: Field required"),
        ('[{"kind": "pie"}]', "name: Field required"),
        ("\ufeff[", "BOM"),
    ],
)
def test_bad_figures_are_one_line_of_a_report_that_is_written(run_folder, content, says):
    (run_folder / "figures.json").write_text(content, encoding="utf-8")
    found, (problem,) = figures_of_run(run_folder)
    assert found == []
    assert problem.startswith("`figures.json` cannot be read, so its figures are missing here: ")
    assert says in problem
    assert "\n" not in problem
    text = render(report_from_run(run_folder))
    assert "<code>figures.json</code> cannot be read" in text
    assert "Reward-model accuracy 70.0%" in text


def test_a_run_without_figures_has_none(tmp_path):
    assert figures_of_run(tmp_path) == ([], [])


def test_the_same_figures_stand_in_json_beside_the_page(run_folder):
    write_report(run_folder / "report.html", report_from_run(run_folder))
    found = json.loads((run_folder / "report.json").read_text(), parse_constant=pytest.fail)
    assert (found["title"], found["status"], found["figures"]) == ("Evaluation of the reward model · eval", "done", [])
    (stage,) = found["stages"]
    assert (stage["name"], stage["result"]) == ("eval", "Reward-model accuracy 70.0% [60.0, 80.0%]")
    assert [Figure.model_validate(each) for each in stage["figures"]] == [RELIABILITY, WIN_RATES, FRONTIER]


def test_curves_stand_in_json_too_with_bands_and_reference_lines(runs):
    write_report(runs["ppo"] / "report.html", report_from_run(runs["ppo"]))
    figures = json.loads((runs["ppo"] / "report.json").read_text())["stages"][0]["figures"]
    score, kl = (next(each for each in figures if each["name"] == name) for name in ("score", "kl"))
    assert (score["kind"], score["x"], score["y"]) == ("lines", "step", "reward")
    (line,) = score["series"]
    assert len(line["x"]) == len(line["low"]) == 64
    assert line["low"][0] < line["y"][0] < line["high"][0]
    assert kl["marks"] == [{"label": "target", "y": 6.0}]


def test_what_is_not_finite_is_null_in_json(run_folder):
    broken = figure("lines", FigureSeries(name="s", x=(1.0, 2.0), y=(1.0, math.nan)))
    page = report_from_run(run_folder)
    page = replace(page, stages=(replace(page.stages[0], curves=drawn([broken])),))
    write_report(run_folder / "report.html", page)
    (found,) = json.loads((run_folder / "report.json").read_text(), parse_constant=pytest.fail)["stages"][0]["figures"]
    assert found["series"][0]["y"] == [1.0, None]


def test_figures_of_a_whole_run_stand_before_its_stages(tmp_path):
    with open_run(tmp_path, "run") as run:
        write_figures(run.folder, [WIN_RATES])
        run.finish({"sft": {"perplexity": 2.0}})
    page = report_from_run(run.folder)
    assert [curve.title for curve in page.figures] == ["Win rates"]
    text = render(page)
    assert text.index("Win rates</figcaption>" if "Win rates</figcaption>" in text else "Win rates") < text.index(
        "<h2>Stages"
    )
