"""What `python -m benchmarks.loop.selection` makes of its curves."""

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def test_a_noisy_curve_reaches_its_own_last_accuracy_before_its_end():
    from benchmarks.loop.selection import needed

    assert needed([200, 400, 600, 800], [0.5, 0.8, 0.6, 0.7], 0.7) == pytest.approx((200 + 200 * 2 / 3) / 800)
    assert needed([200, 400], [0.5, 0.6], 0.7) is None


def test_the_gain_at_the_budget_is_of_the_same_pairs_between_the_points_around_it():
    from benchmarks.loop.selection import gain_at_budget

    first, second, last = np.array([0.0, 1, 0, 1]), np.array([1.0, 1, 0, 1]), np.array([1.0, 0, 0, 1])
    curve = [first, second, np.ones(4)]  # 60% of 1000 lie in the middle between 400 and 800
    gain = gain_at_budget([400, 800, 1000], [curve, curve], [last, last], ["p", "p", "q", "r"])
    # of each pair: half right less right, right less wrong, nothing, nothing
    assert gain.mean == pytest.approx((-0.5 + 1 + 0 + 0) / 4)
    assert gain.by_seed == pytest.approx([0.125, 0.125]) and gain.over_seeds == pytest.approx([0.125, 0.125])
    low, high = gain.over_prompts
    assert (low, high) == pytest.approx((0.0, 0.25), abs=0.03)  # the two pairs of p are drawn together
    assert str(gain).startswith("+0.125 [+0.000, +0.250] over prompts, [+0.125, +0.125] over seeds; by seed +0.125")


def test_the_gain_of_one_seed_at_a_point_has_no_interval_over_seeds():
    from benchmarks.loop.selection import gain_at_budget

    right, wrong = np.ones(3), np.zeros(3)
    gain = gain_at_budget([300, 500], [[right, wrong]], [wrong], ["p", "q", "r"])
    assert (gain.mean, gain.over_prompts, gain.over_seeds, gain.by_seed) == (1.0, [1.0, 1.0], None, [1.0])
