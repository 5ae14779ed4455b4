"""Where a run became over-optimised: a fall of the judge that is more than noise."""

from dataclasses import replace

import numpy as np
import pytest

from rlhf.errors import UserError
from rlhf.evaluation.frontier import (
    Point,
    fit_frontier,
    frontier_of,
    largest_fall,
    read_points,
    report_frontier,
    smooth,
)
from rlhf.tracking import read_figures


def curve(judge, score=None, se=0.1):
    scores = score if score is not None else range(len(judge))
    return [
        Point(step, step / 2, float(s), float(j), se, se) for step, (j, s) in enumerate(zip(judge, scores, strict=True))
    ]


def rows(points, prefix="eval_objective/"):
    return [
        {
            "stage": "ppo", "step": p.step, prefix + "kl": p.kl, prefix + "scores": p.score, prefix + "judge": p.judge,
            prefix + "judge_se": p.judge_se, prefix + "score_se": p.score_se,
        }
        for p in points
    ]  # fmt: skip


def test_neighbours_are_averaged_and_the_ends_have_fewer():
    assert smooth([0, 3, 6, 0]).tolist() == [1.5, 3, 3, 3]
    assert largest_fall(np.array([[1.0, 3, 2, 4, 1.5], [1, 2, 3, 4, 5]])).tolist() == [2.5, 0]


def test_up_and_then_down_while_the_training_score_rises_is_over_optimised():
    found = fit_frontier(curve([0, 1, 2, 3, 3, 2, 1, 0]))
    assert found.overoptimised and found.p_value < 0.001
    summary = found.summary()
    assert (summary["peak_step"], summary["peak_kl"]) == (3, 1.5)
    assert summary["peak_judge"] == pytest.approx(8 / 3) and summary["last_judge"] == 0.5
    figure = found.figure()
    assert figure.marks[0].label == "over-optimised after update 3" and figure.marks[0].x == 1.5
    assert "exploits the reward" in figure.description
    assert figure.series[0].labels == tuple("01234567")


def test_a_fall_with_the_training_score_is_no_exploit():
    found = fit_frontier(curve([0, 1, 2, 3, 3, 2, 1, 0], [0, 1, 2, 3, 3, 2, 1, 0]))
    assert found.falls and not found.overoptimised
    assert found.figure().marks[0].label == "the judge falls after update 3"


def test_a_training_score_that_rises_within_its_error_shows_no_exploit():
    judge, scores = [0, 1, 2, 3, 3, 2, 1, 0], [0, 1, 2, 3, 3, 3, 3.1, 3.1]
    found = fit_frontier(curve(judge, scores))
    # from the mean of 2, 3, 3 to that of the last two, of which the errors are 0.1 each
    assert found.score_rise == pytest.approx(3.1 - 8 / 3)
    assert found.score_rise_se == pytest.approx(0.1 * (3 / 9 + 2 / 4) ** 0.5)
    assert found.overoptimised
    assert not fit_frontier([replace(point, score_se=0.4) for point in curve(judge, scores)]).overoptimised


def test_the_line_follows_training_where_the_divergence_falls_back():
    points = [replace(point, kl=kl) for point, kl in zip(curve([0, 1, 2, 1, 0]), [0, 2, 4, 3, 1], strict=True)]
    figure = fit_frontier(points).figure()
    assert [series.x for series in figure.series] == [(0, 2, 4, 3, 1)] * 3


def test_a_curve_that_rises_has_no_fall():
    found = fit_frontier(curve(range(8)))
    assert not found.falls and found.p_value > 0.5 and found.figure().marks == ()


def test_not_every_wiggle_is_a_peak():
    """Of curves that level off and are measured with noise, one in twenty at most is said to fall."""
    rng = np.random.default_rng(0)
    level = np.minimum(np.arange(20) / 5, 2)
    said = [fit_frontier(curve(level + rng.normal(size=20) * 0.3, se=0.3)).falls for _ in range(60)]
    assert sum(said) <= 6
    # and a fall of the size of the rise is found nearly always
    falling = np.minimum(level, (25 - np.arange(20)) / 6)
    found = [fit_frontier(curve(falling + rng.normal(size=20) * 0.3, se=0.3)) for _ in range(20)]
    assert sum(one.falls for one in found) >= 18
    assert abs(np.mean([one.peak for one in found]) - 11.5) < 3


def test_points_are_read_from_a_run_s_metrics():
    points = curve([0, 1, 2])
    lines = [{"stage": "ppo", "step": 0, "objective/kl": 1.0}, *rows(points)]
    again = {**lines[-1], "eval_objective/judge": 5.0}  # evaluated again after a resumption
    unfinished = {**lines[-1], "step": 9, "eval_objective/judge": float("nan")}
    read = read_points([*lines, again, unfinished])
    assert [point.judge for point in read] == [0, 1, 5]
    # of several sets of prompts, one
    assert read_points([*rows(points, "eval_easy_objective/"), *rows(points, "eval_hard_objective/")]) == tuple(points)
    assert read_points([{"step": 1, "eval_objective/kl": 1.0}]) == ()


def write_run(folder, points):
    folder.mkdir(parents=True)
    from rlhf.tracking.metrics import keep_lines

    keep_lines(folder / "metrics.jsonl", rows(points))


def test_a_run_is_given_by_its_id_or_its_folder(tmp_path):
    write_run(tmp_path / "runs" / "r1", curve([0, 2, 3, 1, 0, -1]))
    found = report_frontier("r1", tmp_path)
    assert found["run"] == "r1" and found["overoptimised"] and found["num_evaluations"] == 6
    assert found["points"][2] == {"step": 2, "kl": 1.0, "score": 2.0, "judge": 3.0, "judge_se": 0.1, "score_se": 0.1}
    report_frontier(tmp_path / "runs" / "r1", tmp_path)
    assert [figure.name for figure in read_figures(tmp_path / "runs" / "r1")] == ["frontier"]
    assert frontier_of(str(tmp_path / "runs" / "r1"), tmp_path).summary()["peak_step"] == found["peak_step"]


def test_a_run_without_a_judge_says_what_is_missing(tmp_path):
    write_run(tmp_path / "runs" / "few", curve([0, 1]))
    (tmp_path / "runs" / "none").mkdir()
    for run, said in (
        ("gone", "there is none of that id"),
        ("none", "none of its evaluations had a judge"),
        ("few", "2 evaluations with a judge, and a frontier needs 3"),
    ):
        with pytest.raises(UserError, match=said):
            frontier_of(run, tmp_path)
