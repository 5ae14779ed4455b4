"""Thresholds of a reward model's evaluation."""

from rlhf.evaluation.requirements import check_requirements
from rlhf.evaluation.reward_config import RequireSection

FIGURES = {
    "accuracy": 0.64,
    "accuracy_ci": [0.58, 0.7],
    "gain_over_longest": 0.02,
    "gain_over_longest_ci": [-0.01, 0.05],
    "ece": 0.04,
    "ece_ci": [0.03, 0.09],
    "ece_scaled": None,
    "ece_scaled_ci": None,
    "calibration_why": "20 pairs are too few",
}


def test_what_is_not_asked_is_not_checked():
    assert check_requirements(RequireSection(), FIGURES) == []
    assert check_requirements(RequireSection(beats_longest=False), FIGURES) == []


def test_values_are_held_against_the_thresholds():
    found = check_requirements(RequireSection(accuracy=0.64, beats_longest=True, ece=0.05), FIGURES)
    assert [(each.name, each.found, each.met) for each in found] == [
        ("accuracy", 0.64, True),
        ("beats_longest", 0.02, True),
        ("ece", 0.04, True),
    ]


def test_the_worse_end_of_the_interval_can_be_what_counts():
    found = check_requirements(RequireSection(accuracy=0.6, beats_longest=True, ece=0.05, by="interval"), FIGURES)
    assert [each.line for each in found if not each.met] == [
        "require.accuracy: accuracy is 0.58 at the lower end; asked for at least 0.6",
        "require.beats_longest: gain_over_longest is -0.01 at the lower end; asked for more than 0",
        "require.ece: ece is 0.09 at the upper end; asked for at most 0.05",
    ]


def test_to_equal_the_longest_is_not_to_beat_it():
    (found,) = check_requirements(RequireSection(beats_longest=True), FIGURES | {"gain_over_longest": 0.0})
    assert not found.met


def test_what_could_not_be_measured_is_not_met():
    (found,) = check_requirements(RequireSection(ece_scaled=0.05), FIGURES)
    assert not found.met and found.found is None
    assert found.line == (
        "require.ece_scaled: ece_scaled could not be measured: 20 pairs are too few; asked for at most 0.05"
    )
    one_prompt = FIGURES | {"accuracy_ci": None}
    (found,) = check_requirements(RequireSection(accuracy=0.5, by="interval"), one_prompt)
    assert "could not be measured: pairs of one prompt have no interval" in found.line
