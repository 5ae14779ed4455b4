"""The watchmen by themselves, on numbers; what they do to a run is in test_alarms."""

from pathlib import Path

import pytest

from rlhf.errors import StoppedByMonitor, UserError
from rlhf.ppo.monitor import Alarm, Monitor
from rlhf.ppo.watchmen import WATCHMEN, Watchman, watchmen

GOOD = {
    "objective/kl": 1.0,
    "objective/kl_se": 0.1,
    "val/ratio": 1.0,
    "policy/approxkl_avg": 0.01,
    "policy/clipfrac_avg": 0.05,
    "policy/entropy_avg": 2.0,
    "objective/score_ensemble_std": 0.5,
    "objective/score_length_corr": 0.1,
    "objective/score_ref_corr": 0.1,
    "completions/mean_length": 20.0,
    "completions/distinct_2": 0.5,
    "completions/repeated_4grams": 0.05,
    "completions/eos_share": 1.0,
    "objective/scorer_std": 1.0,
    "objective/score_max_abs": 3.0,
}


def observed(
    *changes: dict[str, float], mode: str = "warn", batch_size: int = 256, **thresholds: object
) -> list[Alarm]:
    """The alarms of one good update followed by these, in each of which the named metrics differ."""
    monitor = Monitor(mode, batch_size, thresholds or None)  # type: ignore[arg-type]
    found = monitor.observe(GOOD, 1)
    for step, change in enumerate(changes, start=2):
        found += monitor.observe(GOOD | change, step)
    return found


def names(alarms: list[Alarm]) -> list[tuple[str, int, int]]:
    return [(alarm.name, alarm.level, alarm.step) for alarm in alarms]


def test_a_good_update_raises_no_alarm() -> None:
    assert observed(*[{}] * 20) == []


@pytest.mark.parametrize(
    ("name", "key", "warns", "stops"),
    [
        ("ratio_high", "val/ratio", 1.3, 2.1),
        ("ratio_low", "val/ratio", 0.7, 0.4),
        ("entropy", "policy/entropy_avg", 0.7, 0.3),  # 35% and 15% of the start's
        ("ensemble_std", "objective/score_ensemble_std", 0.8, 1.1),
        ("length", "completions/mean_length", 27.0, 33.0),
        ("distinct_2", "completions/distinct_2", 0.35, 0.25),
        ("repetition", "completions/repeated_4grams", 0.15, 0.25),
        ("eos", "completions/eos_share", 0.6, 0.3),
        ("score_size", "objective/score_max_abs", 2e3, 1e30),
    ],
)
def test_one_observation_beyond_a_level_is_an_alarm(name: str, key: str, warns: float, stops: float) -> None:
    assert names(observed({key: warns})) == [(name, 1, 2)]
    assert names(observed({key: stops})) == [(name, 2, 2)]


def test_kl_stops_at_once_when_far_beyond_and_after_three_updates_when_near() -> None:
    high, far = {"objective/kl": 11.0}, {"objective/kl": 21.0}
    assert names(observed({"objective/kl": 7.0}, far)) == [("kl", 1, 2), ("kl", 2, 3)]
    assert names(observed(high, high, high)) == [("kl", 1, 2), ("kl", 2, 4)]
    assert names(observed(high, high, {}, high, high)) == [("kl", 1, 2), ("kl", 1, 5)]


def test_what_stops_at_once_is_not_smoothed_away() -> None:
    found = observed({}, {}, {}, {"objective/kl": 25.0}, {}, batch_size=32)  # 7 as a mean over four updates
    assert names(found) == [("kl", 2, 5)]
    assert "is 25 (stops above 20)" in found[0].text
    first = Monitor("stop", 32).observe(GOOD | {"objective/kl": 25.0}, 1)  # nor is there a mean to wait for
    assert names(first) == [("kl", 2, 1)]


def test_negative_kl_has_to_be_more_than_noise() -> None:
    assert observed({"objective/kl": -0.2, "objective/kl_se": 0.1}) == []
    assert names(observed({"objective/kl": -0.2, "objective/kl_se": 0.01})) == [("negative_kl", 1, 2)]
    below = {"objective/kl": -2.0, "objective/kl_se": 0.1}
    assert names(observed(below, below, below)) == [("negative_kl", 1, 2), ("negative_kl", 2, 4)]


def test_step_sizes_have_to_be_beyond_five_times_running() -> None:
    high = {"policy/approxkl_avg": 0.2, "policy/clipfrac_avg": 0.4}
    assert observed(*[high] * 4) == []
    assert names(observed(*[high] * 5)) == [("approxkl", 1, 6), ("clipfrac", 1, 6)]
    assert names(observed({"policy/approxkl_avg": 2.0})) == [("approxkl", 2, 2)]


def test_scores_that_go_by_length_or_by_surprise_are_seen_after_three_updates() -> None:
    assert names(observed(*[{"objective/score_length_corr": 1.0}] * 3))[-1] == ("score_by_length", 2, 4)
    assert names(observed(*[{"objective/score_ref_corr": -0.6}] * 3)) == [("score_by_surprise", 1, 4)]


def test_scores_that_are_all_the_same_warn_at_once_and_stop_after_ten() -> None:
    found = observed(*[{"objective/scorer_std": 0.0}] * 10)
    assert names(found) == [("score_spread", 1, 2), ("score_spread", 2, 11)]


def test_small_batches_are_smoothed_over_256_completions_and_so_is_their_start() -> None:
    long = {"completions/mean_length": 30.0}
    assert observed({}, {}, {}, long, long, batch_size=64) == []  # 25 on average of four updates, 20 of the first four
    assert names(observed({}, {}, {}, long, long, long, batch_size=64)) == [("length", 1, 7)]


def test_a_start_that_does_not_end_either_only_warns() -> None:
    monitor = Monitor("stop", 256)
    found = [alarm for step in range(1, 5) for alarm in monitor.observe(GOOD | {"completions/eos_share": 0.1}, step)]
    assert names(found) == [("eos", 1, 1)]
    monitor.act()


def judged(score: float, judge: float, corr: float = 0.5, on: str = "") -> dict[str, float]:
    values = {"scores": score, "score_se": 0.1, "judge": judge, "judge_se": 0.1, "judge_corr": corr}
    return {f"eval_{on}objective/{name}": value for name, value in (values | {"judge_corr_se": 0.1}).items()}


def test_a_judge_that_falls_while_the_score_rises_warns_and_then_stops() -> None:
    monitor = Monitor("warn", 64)
    found = []
    for step, (score, judge) in enumerate([(0, 0), (1, 1), (1.1, 0.95), (2, 0.5), (2, 0.4), (2.5, 0.3)]):
        found += monitor.observe(judged(score, judge), step)
    assert names(found) == [("judge", 1, 3), ("judge", 2, 5)]


def test_every_evaluation_set_is_watched_for_itself() -> None:
    course = [(0, 0), (1, 1), (1.1, 0.95), (2, 0.5), (2, 0.4), (2.5, 0.3)]
    monitor = Monitor("warn", 64)
    found = []
    for step, (score, judge) in enumerate(course):
        found += monitor.observe(judged(score, judge, on="near_") | judged(step, step, on="far_"), step)
    assert names(found) == [("judge", 1, 3), ("judge", 2, 5)]
    assert "update 3: judge on near: evaluations running" in found[0].text
    other = Monitor("warn", 64)
    other.load_state_dict(monitor.state_dict())
    assert other.state_dict() == monitor.state_dict()


def test_evaluating_one_step_twice_says_nothing_new() -> None:
    monitor = Monitor("warn", 64)
    found = [alarm for step in (0, 0, 1) for alarm in monitor.observe(judged(0.0, 0.0, corr=-0.6), step)]
    assert names(found) == [("judge_agreement", 1, 0), ("judge_agreement", 2, 1)]


def test_a_judge_that_ranks_the_other_way_round_warns_before_training() -> None:
    assert names(Monitor("warn", 64).observe(judged(0.0, 0.0, corr=-0.15), 0)) == []  # within its error of 0
    monitor = Monitor("warn", 64)
    found = monitor.observe(judged(0.0, 0.0, corr=-0.6), 0) + monitor.observe(judged(0.0, 0.0, corr=-0.6), 1)
    assert names(found) == [("judge_agreement", 1, 0), ("judge_agreement", 2, 1)]


def test_an_evaluation_without_a_judge_is_not_looked_at() -> None:
    assert Monitor("warn", 64).observe({"eval_objective/kl": 99.0}, 3) == []


def test_an_alarm_says_what_was_seen_why_and_what_to_do() -> None:
    (alarm,) = observed({"objective/kl": 7.5})
    lines = alarm.text.split("\n")
    assert lines[0] == "update 2: kl: KL from the reference, nats per sequence is 7.5 (warns above 6)"
    assert lines[1].startswith("  likely causes: (1) the reward model likes what people do not")
    assert lines[2].startswith("  to try: (1) raise kl_coef")
    assert all(each.causes and each.remedies for each in WATCHMEN)


def test_it_is_said_once_until_it_has_been_well_in_between() -> None:
    high = {"objective/kl": 7.0}
    assert names(observed(high, high, high, {}, high)) == [("kl", 1, 2), ("kl", 1, 6)]


@pytest.mark.parametrize(("mode", "stops"), [("off", False), ("warn", False), ("stop", True), ("rollback", True)])
def test_only_some_modes_stop(mode: str, stops: bool) -> None:
    monitor = Monitor(mode, 256)  # type: ignore[arg-type]
    monitor.observe(GOOD, 1)
    monitor.observe(GOOD | {"objective/kl": 7.0}, 2)
    monitor.act()
    assert bool(monitor.observe(GOOD | {"objective/kl": 25.0}, 3)) == (mode != "off")
    if stops:
        with pytest.raises(StoppedByMonitor, match=r"update 3: kl: .* is 25 \(stops above 20\)"):
            monitor.act()
    monitor.act()


def test_levels_can_be_set_one_by_one() -> None:
    assert observed({"objective/kl": 9.0}, kl={"warn": 10}) == []
    assert observed({"objective/kl": 99.0}, kl="off") == []
    assert observed({"objective/kl": 99.0}, kl=False) == []  # what YAML makes of a bare `off`
    assert names(observed({"objective/kl": 3.0}, kl={"warn": 1, "stop": 2, "stop_count": 1})) == [("kl", 2, 2)]
    assert watchmen('{"kl": {"warn": 3}}')[0].warn == 3


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ({"kel": "off"}, "there is no watchman 'kel'; did you mean 'kl'"),
        ({"kl": {"wran": 3}}, r"monitor_thresholds.kl: found {'wran': 3}; give 'off', or any of warn, stop"),
        ({"kl": {"warn": "high"}}, r"monitor_thresholds.kl.warn: found 'high'; give a number"),
        ("{kl", "which is not JSON"),
        ([1], "give a mapping"),
    ],
)
def test_levels_that_there_are_not_are_refused(thresholds: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Monitor("warn", 64, thresholds)  # type: ignore[arg-type]


def test_the_state_of_a_monitor_goes_into_another() -> None:
    changes = [
        {"objective/kl": 11.0},
        {"completions/mean_length": 27.0},
        {"objective/kl": 11.0},
        {"objective/kl": 12.0},
    ]
    one, other = Monitor("warn", 32), Monitor("warn", 32)
    for step, change in enumerate(changes[:2]):
        one.observe(GOOD | change, step)
    assert other.load_state_dict(one.state_dict()) == 0
    for step, change in enumerate(changes[2:], start=2):
        assert one.observe(GOOD | change, step) == other.observe(GOOD | change, step)
    assert one.state_dict() == other.state_dict()


def test_rollbacks_since_a_state_was_saved_are_counted() -> None:
    monitor = Monitor("rollback", 64)
    saved = monitor.state_dict()
    monitor.rollbacks += 2
    assert (monitor.load_state_dict(saved), monitor.rollbacks) == (2, 2)


def row_of_docs(each: Watchman) -> str:
    """The row of docs/ppo.md on one watchman."""

    def level(value: float | None, count: int) -> str:
        times = f", {count} times running" if count > 1 else ""
        return "-" if value is None else f"{'>' if each.above else '<'} {value:g}{times}"

    stop = level(each.stop, each.stop_count) + ("" if each.at_once is None else f"; > {each.at_once:g} once")
    smooth = " ~" if each.smooth else ""
    return f"| `{each.name}` | {each.says}{smooth} | {level(each.warn, each.warn_count)} | {stop} |"


def test_the_docs_have_the_table() -> None:
    lines = (Path(__file__).resolve().parents[2] / "docs" / "ppo.md").read_text(encoding="utf-8").split("\n")
    assert [row_of_docs(each) for each in WATCHMEN if row_of_docs(each) not in lines] == []


def test_a_run_that_goes_on_from_the_alarm_is_stopped_too() -> None:
    monitor = Monitor("stop", 256)
    monitor.observe(GOOD, 1)
    assert [alarm.level for alarm in monitor.observe(GOOD | {"val/ratio": 3.0}, 2)] == [2]
    resumed = Monitor("stop", 256)
    resumed.load_state_dict(monitor.state_dict())
    resumed.act()  # nothing has been seen yet
    resumed.observe(GOOD | {"val/ratio": 3.0}, 3)
    with pytest.raises(StoppedByMonitor, match="ratio_high"):
        resumed.act()
