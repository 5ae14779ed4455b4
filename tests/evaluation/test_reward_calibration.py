"""Calibration of a reward model: worked by hand, and against scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from rlhf.evaluation.calibration import (
    NUM_BINS,
    brier_score,
    calibrate,
    cross_fitted,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    reliability,
    why_not_calibrated,
)


def logit(probability):
    return math.log(probability / (1 - probability))


def drawn_margins(num, temperature, seed=0):
    """Margins of a model whose scores are `temperature` times too large for the people who judged."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1.5, num)
    return np.where(rng.random(num) < expit(true), true, -true) * temperature


def test_the_error_is_the_gap_between_confidence_and_accuracy_bin_by_bin():
    # three pairs at confidence 0.92, one of them wrong; one at 0.62, right
    margins = np.array([logit(0.92), logit(0.92), -logit(0.92), logit(0.62)])
    assert expected_calibration_error(margins) == pytest.approx((3 * (0.92 - 2 / 3) + (1 - 0.62)) / 4)
    diagram = reliability(margins)
    assert diagram.confidence == pytest.approx([0.62, 0.92])
    assert diagram.accuracy == pytest.approx([1, 2 / 3])
    assert diagram.num_pairs == [1, 3]


def test_equal_scores_are_half_right_with_confidence_a_half():
    assert expected_calibration_error(np.zeros(7)) == 0.0
    assert reliability(np.zeros(7)).accuracy == [0.5]
    assert log_loss(np.zeros(7)) == pytest.approx(math.log(2))
    assert brier_score(np.zeros(7)) == 0.25


def test_scikit_learn_draws_the_same_diagram_and_finds_the_same_losses():
    margins = drawn_margins(3000, 2.0)
    right, confidence = margins > 0, expit(np.abs(margins))
    accuracy, mean_confidence = calibration_curve(right, confidence, n_bins=2 * NUM_BINS)
    diagram = reliability(margins)
    assert diagram.accuracy == pytest.approx(accuracy)
    assert diagram.confidence == pytest.approx(mean_confidence)
    # who of two was shown first is arbitrary: turning every second pair round makes both classes
    turned = np.arange(len(margins)) % 2 == 0
    labels, probability = ~turned, expit(np.where(turned, -margins, margins))
    assert log_loss(margins) == pytest.approx(sklearn_log_loss(labels, probability))
    assert brier_score(margins) == pytest.approx(brier_score_loss(labels, probability))


def test_the_temperature_is_the_inverse_slope_of_a_logistic_regression():
    margins = drawn_margins(3000, 2.5)
    turned = np.arange(len(margins)) % 2 == 0
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10)
    model.fit(np.where(turned, -margins, margins)[:, None], ~turned)
    assert fit_temperature(margins) == pytest.approx(1 / model.coef_.item(), rel=1e-3)
    assert fit_temperature(margins) == pytest.approx(2.5, rel=0.15)


def test_scaling_mends_a_model_that_is_too_sure():
    margins = drawn_margins(2000, 5.0)
    found = calibrate(margins, range(2000), num_bootstrap=200)
    assert found.ece > 0.12 and found.ece_scaled < 0.04
    assert found.log_loss_scaled < found.log_loss and found.brier_scaled < found.brier
    assert found.ece_interval[0] < found.ece < found.ece_interval[1]
    assert found.ece_if_calibrated == pytest.approx(0.02, abs=0.01)


def test_a_prompt_is_scaled_by_what_other_prompts_say():
    """All of one prompt's pairs are wrong: were they in the fit of their own temperature, it would be larger."""
    margins = np.concatenate([drawn_margins(100, 1.0), np.full(100, -3.0)])
    prompts = [*range(100), *["the bad one"] * 100]
    scaled = cross_fitted(margins, prompts)
    ratios = margins / scaled
    (of_the_bad_one,) = set(np.round(ratios[100:], 9))
    others = [i for i in range(100) if round(ratios[i], 9) != of_the_bad_one]
    assert of_the_bad_one == pytest.approx(fit_temperature(margins[others]))
    assert of_the_bad_one < min(ratios[others])
    assert len(set(np.round(ratios, 9))) == 5


def test_what_is_never_right_or_always_right_has_a_temperature_at_the_end_of_the_range():
    assert fit_temperature(np.full(20, -2.0)) == pytest.approx(2000, rel=1e-3)
    assert fit_temperature(np.full(20, 2.0)) == pytest.approx(0.002, rel=1)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-20, 20, allow_subnormal=False).filter(lambda m: abs(m) > 1e-3), min_size=5, max_size=40),
    st.floats(0.01, 100),
)
def test_scaling_scores_scales_the_temperature_and_nothing_else(margins, factor):
    margins = np.array(margins)
    one, other = fit_temperature(margins), fit_temperature(factor * margins)
    assert log_loss(factor * margins / other) == pytest.approx(log_loss(margins / one), abs=1e-6)
    assert log_loss(margins / one) <= log_loss(margins) + 1e-6
    assert 0 <= expected_calibration_error(margins) <= 1


def test_too_little_to_measure_is_said():
    assert "30 pairs of 30 prompts are too few" in why_not_calibrated(np.ones(30), range(30))
    assert "100 pairs of 1 prompts are too few" in why_not_calibrated(np.ones(100), ["p"] * 100)
    assert "the same score" in why_not_calibrated(np.zeros(100), range(100))
    assert why_not_calibrated(np.ones(50), range(50)) is None


def test_the_order_in_which_pairs_come_changes_nothing():
    margins, prompts = drawn_margins(120, 2.0), [f"p{n % 40}" for n in range(120)]
    order = np.random.default_rng(3).permutation(120)
    np.testing.assert_allclose(
        cross_fitted(margins[order], [prompts[i] for i in order]), cross_fitted(margins, prompts)[order]
    )


def test_the_interval_of_the_error_is_without_what_chance_adds():
    # calibrated: what is found is chance, and what is found of resamples lies above that by about as much
    found = [calibrate(drawn_margins(1000, 1.0, seed), list(range(1000)), num_bootstrap=200) for seed in range(8)]
    assert min(one.ece for one in found) > 0.01
    assert sum(one.ece_interval[0] < 0.005 for one in found) >= 4  # by percentiles none would
