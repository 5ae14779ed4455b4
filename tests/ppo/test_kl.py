from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ppo.tiny import make_policy, make_prompts
from rlhf.ppo import PPOTrainer, budget
from rlhf.ppo.budget import exact_kl
from rlhf.ppo.kl import (
    AdaptiveKLController,
    BudgetedKLController,
    FixedKLController,
    build_kl_controller,
    ends_update,
)
from rlhf.ppo.metrics import MINIBATCH_KEYS


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


def test_the_price_of_a_budget_rises_at_its_edge_and_falls_within() -> None:
    controller = BudgetedKLController(FixedKLController(0.1), budget=10.0)
    assert not controller.is_spent(8.9)
    assert controller.is_spent(9.1)
    controller.update(9.5, 64)
    controller.update(12.0, 64)
    assert controller.value == pytest.approx(0.1 * 1.5 * 1.5)
    controller.update(1.0, 64)
    assert controller.value == pytest.approx(0.1 * 1.5 * 1.5 * 0.95)
    for _ in range(100):
        controller.update(1.0, 64)
    assert controller.value == pytest.approx(0.1)  # never below what it began with


def test_a_budget_can_be_set_when_a_run_goes_on() -> None:
    controller = BudgetedKLController(AdaptiveKLController(0.1, 6.0, 1000), budget=10.0)
    controller.load_state_dict(AdaptiveKLController(0.2, 6.0, 1000).state_dict())
    assert controller.value == 0.2


def test_a_fixed_coefficient_is_what_the_settings_say_times_what_rollbacks_made_of_it() -> None:
    saved = FixedKLController(0.1)
    saved.scale(2.0)
    resumed = FixedKLController(0.3)
    resumed.load_state_dict(saved.state_dict())
    assert resumed.value == 0.6
    resumed.load_state_dict(resumed.state_dict())
    assert resumed.value == 0.6
    resumed.scale(2.0)
    assert resumed.value == 1.2


def test_a_budget_goes_with_an_adaptive_coefficient() -> None:
    controller = BudgetedKLController(AdaptiveKLController(0.1, 6.0, 1000), budget=10.0)
    controller.update(60.0, 100)
    assert controller.value == pytest.approx(0.1 * (1 + 0.2 * 100 / 1000) * 1.5)
    other = BudgetedKLController(AdaptiveKLController(0.5, 6.0, 1000), budget=10.0)
    other.load_state_dict(controller.state_dict())
    assert other.value == controller.value
    other.scale(2.0)
    assert other.value == pytest.approx(2 * controller.value)


def numbers(approx_kl: float, kl: float) -> torch.Tensor:
    named = {"policy/approxkl_avg": approx_kl, "policy/kl_avg": kl}
    return torch.tensor([named.get(key, 0.0) for key in MINIBATCH_KEYS])


def test_an_update_ends_beyond_max_approx_kl_or_at_the_edge_of_the_budget() -> None:
    def ends(approx_kl: float, kl: float, *, limit: float | None, budget: float | None, spent: bool = False) -> bool:
        args: Any = SimpleNamespace(
            max_approx_kl=limit, kl_budget=budget, kl_coef=0.1, kl_controller="fixed", kl_target=6.0, kl_horizon=10
        )
        return ends_update(numbers(approx_kl, kl), args, build_kl_controller(args), spent)

    assert not ends(9.0, 99.0, limit=None, budget=None)
    assert ends(0.11, 0.0, limit=0.1, budget=None)
    assert not ends(0.09, 99.0, limit=0.1, budget=None)
    assert ends(0.0, 4.6, limit=None, budget=5.0)
    assert not ends(0.0, 4.4, limit=None, budget=5.0)
    assert not ends(0.0, 4.6, limit=None, budget=5.0, spent=True)  # it is on its way back


MakeTrainer = Callable[..., PPOTrainer]
FAST = {
    "total_episodes": 640,
    "per_device_train_batch_size": 32,
    "learning_rate": 1e-2,
    "train_dataset": make_prompts(32),
}


def history(trainer: PPOTrainer, key: str) -> list[float]:
    return [row[key] for row in trainer.state.log_history if key in row]


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_a_budget_is_kept(make_trainer: MakeTrainer, kl_in: str) -> None:
    def kl_at_the_end(trainer: PPOTrainer) -> float:
        trainer.train()
        rollout = trainer.collect(trainer.prompts.batch(list(range(32)) * 4))
        return exact_kl(trainer.model, trainer.reference, rollout, trainer.sampling)

    assert kl_at_the_end(make_trainer(**FAST, kl_coef=0.0)) > 4.0
    bound = make_trainer(**FAST, kl_coef=0.01, kl_in=kl_in, kl_budget=2.0)
    assert kl_at_the_end(bound) < 2.0 * 1.05
    sampled = history(bound, "objective/kl")
    assert max(sampled) < 2.0 + 4 * (2 * 2.0 / 32) ** 0.5  # of 32 completions, with a deviation of sqrt(2 KL) each
    scores = history(bound, "objective/scores")
    assert sum(scores[-10:]) / 10 > scores[0] + 0.02  # what the budget allows is made use of


def test_the_exact_kl_does_not_need_all_tokens_of_a_batch_at_once(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(ref_model=make_policy(3))
    rollout = trainer.collect(trainer.prompts.batch(range(16)))
    at_once = exact_kl(trainer.model, trainer.reference, rollout, trainer.sampling)
    sizes: list[int] = []
    measure = budget._all_logprobs

    def counted(*given: Any) -> torch.Tensor:
        found = measure(*given)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(budget, "_all_logprobs", counted)
    monkeypatch.setattr(budget, "MAX_CELLS", 200)  # a vocabulary of 32, so 6 tokens
    assert exact_kl(trainer.model, trainer.reference, rollout, trainer.sampling) == pytest.approx(at_once, rel=1e-5)
    assert at_once > 0.1
    assert max(sizes) == 6 * 32


def test_a_reference_may_have_its_vocabulary_filled_up(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(ref_model=make_policy(3, vocab_size=40))
    rollout = trainer.collect(trainer.prompts.batch(range(8)))
    assert exact_kl(trainer.model, trainer.reference, rollout, trainer.sampling) > 0.1


def test_kl_in_the_loss_holds_the_policy_near_the_reference(make_trainer: MakeTrainer) -> None:
    def final(**changes: Any) -> float:
        trainer = make_trainer(**FAST, **changes)
        trainer.train()
        return history(trainer, "objective/kl")[-1]

    free = final(kl_coef=0.0)
    for estimator in ("k1", "k2", "k3"):
        assert final(kl_coef=1.0, kl_in="loss", kl_estimator=estimator) < 0.5 * free


def test_max_approx_kl_ends_updates_early(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(**FAST, num_ppo_epochs=8, max_approx_kl=0.02)
    trainer.train()
    steps = history(trainer, "policy/num_steps")
    assert min(steps) < 8
    assert min(steps) >= 1
    assert max(history(trainer, "policy/approxkl_avg")) <= 0.02
