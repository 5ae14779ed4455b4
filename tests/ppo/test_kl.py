import pytest

from rlhf.ppo.kl import AdaptiveKLController, FixedKLController


def test_a_fixed_coefficient_stays() -> None:
    controller = FixedKLController(0.05)
    controller.update(100.0, 64)
    assert controller.value == 0.05


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.6, 0.1 * (1 + 0.1 * 100 / 1000)),  # 10% over the target, a tenth of the horizon
        (60.0, 0.1 * (1 + 0.2 * 100 / 1000)),  # the error is held to 20%
        (6.0, 0.1),
        (-3.0, 0.1 * (1 - 0.2 * 100 / 1000)),
    ],
)
def test_an_adaptive_coefficient_follows_the_error(kl: float, expected: float) -> None:
    controller = AdaptiveKLController(0.1, target=6.0, horizon=1000)
    controller.update(kl, 100)
    assert controller.value == pytest.approx(expected)


def test_a_batch_larger_than_the_horizon_leaves_the_coefficient_above_zero() -> None:
    controller = AdaptiveKLController(0.1, target=6.0, horizon=10)
    controller.update(0.0, 100_000)
    assert controller.value == pytest.approx(0.08)


def test_the_state_goes_into_a_new_controller() -> None:
    controller, other = AdaptiveKLController(0.1, 6.0, 1000), AdaptiveKLController(0.5, 6.0, 1000)
    controller.update(9.0, 100)
    other.load_state_dict(controller.state_dict())
    assert other.value == controller.value
