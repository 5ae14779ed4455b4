"""Length, diversity and repetition, on numbers worked by hand."""

import math

import numpy as np
import pytest

from rlhf.evaluation.length import fit_logistic, length_controlled_win_rate
from rlhf.evaluation.texts import diversity, repeated_ngrams, self_bleu


def logit(share):
    return math.log(share / (1 - share))


def test_the_win_rate_at_equal_lengths_is_read_off_between_longer_and_shorter():
    """The candidate wins 8 of 10 where it is 4 longer and 4 of 10 where it is 4 shorter: its mean is 0.6.

    Two groups on either side of zero, equally far: log-odds of equal lengths are the mean of the two groups' log-odds.
    """
    verdicts = [1.0] * 8 + [0.0] * 2 + [1.0] * 4 + [0.0] * 6
    found = length_controlled_win_rate(verdicts, [9] * 10 + [1] * 10, [5] * 20)
    between = (logit(0.8) + logit(0.4)) / 2
    assert found.value == pytest.approx(1 / (1 + math.exp(-between)), abs=1e-3)
    assert found.low < found.value < found.high and found.num_clusters == 20


def test_a_candidate_that_is_only_longer_wins_nothing_at_equal_lengths():
    rng = np.random.default_rng(0)
    difference = rng.normal(40, 40, size=2000)
    won = rng.random(2000) < 1 / (1 + np.exp(-1.5 * np.tanh(difference / difference.std())))
    found = length_controlled_win_rate(won.astype(float), 100 + difference, np.full(2000, 100))
    assert won.mean() > 0.65
    assert found.low < 0.5 < found.high and found.high - found.low < 0.12


def test_without_a_difference_in_length_there_is_nothing_to_control_for():
    assert length_controlled_win_rate([1, 0, 1], [5, 6, 7], [5, 6, 7]) is None
    assert length_controlled_win_rate([1, 0, 1], [8, 9, 9], [5, 6, 6]) is None


def test_verdicts_that_length_tells_wholly_have_an_answer_all_the_same():
    all_won = length_controlled_win_rate([1, 1, 1, 1], [1, 2, 3, 4], [2, 2, 2, 2])
    assert all_won.value > 0.999
    by_length = length_controlled_win_rate([1, 1, 0, 0], [3, 3, 1, 1], [2, 2, 2, 2])
    assert by_length.value == pytest.approx(0.5, abs=1e-6) and 0 <= by_length.low <= by_length.high <= 1


def test_rows_of_one_prompt_are_drawn_together():
    verdicts, lengths = [1.0, 0.0, 0.0, 1.0] * 10, [9, 1, 1, 9] * 10
    apart = length_controlled_win_rate(verdicts, lengths, [5] * 40)
    together = length_controlled_win_rate(verdicts, lengths, [5] * 40, [n // 4 for n in range(40)])
    assert (apart.num_clusters, together.num_clusters) == (40, 10)
    assert apart.high - apart.low > together.high - together.low == pytest.approx(0, abs=1e-6)


def test_the_regression_is_that_of_an_independent_implementation():
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(1)
    x = rng.normal(size=200)
    y = (rng.random(200) < 1 / (1 + np.exp(-0.4 - 1.2 * x))).astype(float)
    theirs = linear_model.LogisticRegression(C=1e3, tol=1e-10).fit(x[:, None], y)
    [[intercept, slope]] = fit_logistic(x, y, np.ones((1, 200)))
    assert (intercept, slope) == pytest.approx((theirs.intercept_[0], theirs.coef_[0, 0]), abs=1e-4)


def test_self_bleu_is_one_for_one_text_said_again_and_small_for_strangers():
    assert self_bleu(["a b c d e"] * 3) == pytest.approx(1)
    # no word in common: every order counts a tenth of a match in 2 words and 1 pair
    assert self_bleu(["a b", "c d"]) == pytest.approx(math.sqrt(0.1 / 2 * 0.1 / 1))
    assert self_bleu(["a b"]) is None and self_bleu(["", "a b"]) is None


def test_self_bleu_by_hand():
    """Two of three words and one of two pairs are found again, none of one triple: (2/3 * 1/2 * 0.1) ** (1/3)."""
    assert self_bleu(["the cat sat", "the cat ran"]) == pytest.approx((2 / 3 * 1 / 2 * 0.1) ** (1 / 3))
    # of two words of four, once each, with a reference twice as long: exp(1 - 4 / 2) of it
    short = math.exp(1 - 4 / 2) * 1.0
    long = (2 / 4 * 1 / 3 * 0.1 / 2 * 0.1 / 1) ** (1 / 4)
    assert self_bleu(["a b", "a b c d"]) == pytest.approx((short + long) / 2)


def test_a_text_is_not_its_own_reference():
    assert self_bleu(["a a a a", "b b b b"]) < 0.1
    # clipped by the most that any other has
    assert self_bleu(["x x", "x y"]) == pytest.approx(math.sqrt(1 / 2 * 0.1))


def test_repetition_is_what_stood_in_the_same_text_before():
    assert repeated_ngrams(["a b a b a b a b"], 2) == pytest.approx(5 / 7)
    assert repeated_ngrams(["a b c", "a b c"], 2) == 0
    assert repeated_ngrams(["a"], 2) is None


def test_texts_too_short_for_a_measure_have_none():
    found = diversity(["A", "b"])
    assert found["distinct_1"] == 1 and found["distinct_2"] is None and found["repeated_4grams"] is None
    assert list(found) == ["distinct_1", "distinct_2", "distinct_3", "self_bleu", "repeated_4grams"]


def test_resamples_are_fitted_in_parts_that_change_nothing(monkeypatch):
    verdicts, lengths = [number % 3 / 2 for number in range(40)], [number % 7 for number in range(40)]
    whole = length_controlled_win_rate(verdicts, lengths, [5] * 40, num_bootstrap=100)
    sizes = []

    def fitted(x, y, weights):
        sizes.append(weights.size)
        return fit_logistic(x, y, weights)

    monkeypatch.setattr("rlhf.evaluation.length._CELLS", 400)
    monkeypatch.setattr("rlhf.evaluation.length.fit_logistic", fitted)
    parts = length_controlled_win_rate(verdicts, lengths, [5] * 40, num_bootstrap=100)
    assert parts.interval == pytest.approx(whole.interval)
    assert max(sizes) == 400 and sum(sizes) == 101 * 40
