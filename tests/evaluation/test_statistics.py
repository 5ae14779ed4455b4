import math
from statistics import stdev

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rlhf.evaluation.statistics import (
    accuracy_with_interval,
    bootstrap_mean,
    bootstrap_sums,
    distinct_n,
    longest_wins,
    rank_correlation,
    rank_correlation_within,
    standard_error,
    wins,
)


def test_two_values_have_the_three_means_one_can_draw():
    # 0 and 1 drawn twice with replacement: mean 0, 1/2, 1 with probability 1/4, 1/2, 1/4
    outer = bootstrap_mean([0.0, 1.0], confidence=0.95)
    assert (outer.value, outer.low, outer.high) == (0.5, 0.0, 1.0)
    inner = bootstrap_mean([0.0, 1.0], confidence=0.4)
    assert inner.interval == [0.5, 0.5]


def test_a_repeated_prompt_counts_as_one_draw():
    # clusters a = {1, 1, 0} and b = {0}: drawing aa, ab, bb gives 2/3, 2/4, 0
    found = bootstrap_mean([1, 1, 0, 0], ["a", "a", "a", "b"], confidence=0.4)
    assert (found.value, found.interval, found.num_clusters) == (0.5, [0.5, 0.5], 2)
    wide = bootstrap_mean([1, 1, 0, 0], ["a", "a", "a", "b"])
    assert wide.interval == pytest.approx([0.0, 2 / 3])


def test_equal_values_have_an_interval_without_width():
    assert bootstrap_mean([1.0] * 50).interval == [1.0, 1.0]


def test_the_interval_is_scipys():
    values = np.random.default_rng(3).gamma(2.0, size=80)
    ours = bootstrap_mean(values, num_bootstrap=20000, seed=1)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.interval == pytest.approx([theirs.low, theirs.high], abs=0.01)
    assert ours.high - ours.low > 0.3


def test_the_interval_follows_from_the_seed():
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_mean(values, seed=5) == bootstrap_mean(values, seed=5)
    assert bootstrap_mean(values, seed=5).interval != bootstrap_mean(values, seed=6).interval


def test_resampling_in_portions_covers_all_resamples(monkeypatch):
    monkeypatch.setattr("rlhf.evaluation.statistics._CELLS", 100)
    values = np.random.default_rng(1).normal(size=40)
    found = bootstrap_mean(values, num_bootstrap=4001)
    assert found.low < found.value < found.high
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / math.sqrt(40), rel=0.1)


def test_the_standard_error_is_that_of_the_mean():
    assert standard_error([1.0, 2.0, 4.0]) == pytest.approx(stdev([1, 2, 4]) / math.sqrt(3))
    assert standard_error([1.0]) is None


def test_copies_of_a_value_do_not_make_its_mean_surer():
    once = standard_error([1.0, 2.0, 4.0])
    twice = standard_error([1.0, 1.0, 2.0, 2.0, 4.0, 4.0], ["a", "a", "b", "b", "c", "c"])
    assert twice == pytest.approx(once)


def test_a_tie_is_half_a_win():
    assert wins([3, 2, 1], [2, 2, 2]).tolist() == [1.0, 0.5, 0.0]


def test_accuracy_counts_the_pairs_in_the_right_order():
    found = accuracy_with_interval(torch.tensor([1.0, 0.5, 0.2, -1.0]), torch.tensor([0.0, 0.5, 0.1, 1.0]))
    assert found.value == 0.625
    assert 0.0 < found.low < 0.625 < found.high <= 1.0


def test_longest_wins_goes_by_characters():
    assert longest_wins(["aaa", "a", "bb"], ["a", "aaaa", "aa"]) == 0.5


def test_distinct_2_is_the_share_of_new_word_pairs():
    # a b | b a | a b  and  A B: four pairs, two of them distinct
    assert distinct_n(["a b a b", "A B"]) == 0.5
    assert distinct_n(["one two three"]) == 1.0
    assert distinct_n(["word", ""]) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20))
def test_rank_correlation_is_scipys_with_ties_too(rows):
    first, second = map(list, zip(*rows, strict=True))
    found = rank_correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(first, second).statistic)


def test_rank_correlation_within_clusters_is_the_mean_of_those_that_have_one():
    # the first cluster rises, the second falls, the third does not vary
    found = rank_correlation_within([1, 2, 3, 9, 8, 7, 5], [1, 2, 3, 1, 2, 2, 2], ["a", "a", "a", "b", "b", "c", "c"])
    assert found == pytest.approx(0.0)
    assert rank_correlation_within([1, 2], [1, 2], ["a", "b"]) is None


def test_bootstrap_sums_draw_as_many_clusters_as_there_are():
    sums = np.array([[1.0, 10.0], [1.0, 20.0], [1.0, 60.0]])
    drawn = bootstrap_sums(sums, num_bootstrap=2000, seed=1)
    assert drawn.shape == (2000, 2)
    assert set(drawn[:, 0]) == {3.0}
    assert drawn[:, 1].min() >= 30 and drawn[:, 1].max() <= 180
    assert drawn[:, 1].mean() == pytest.approx(90, rel=0.02)
