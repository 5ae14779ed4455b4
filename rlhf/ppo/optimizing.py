"""The optimizer steps of one update: which rows each is made on, and when there are no more of them."""

import contextlib
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from rlhf.ppo import ptx
from rlhf.ppo.budget import exact_kl, shortened
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.kl import BudgetedKLController, ends_update
from rlhf.ppo.rollout import Rollout
from rlhf.ppo.update import Experience, accumulate_gradients, clip_gradients, require_finite_step

if TYPE_CHECKING:
    from rlhf.ppo.trainer import PPOTrainer


def make_steps(trainer: "PPOTrainer", experience: Experience, update: int, spent: bool) -> list[Tensor]:
    """All optimizer steps of an update, at least one; the numbers of each in the order of MINIBATCH_KEYS.

    `spent`: the budget of KL was, before the update. Raises NonFiniteError before a step that would not be finite.
    """
    steps: list[Tensor] = []
    for epoch in range(trainer.args.num_ppo_epochs):
        for index, rows in enumerate(minibatches(trainer.args, update, epoch)):
            numbers = _gradients(trainer, experience, rows, (update, epoch, index))
            if steps and ends_update(numbers, trainer.args, trainer.kl_controller, spent):
                trainer.optimizer.zero_grad()
                return steps
            _step(trainer)
            steps.append(numbers)
    return steps


def minibatches(args: PPOConfig, update: int, epoch: int) -> list[list[int]]:
    """Rows of each minibatch; a function of seed, update and pass, so that resuming needs no state for it."""
    size = cast(int, args.local_mini_batch_size)
    order = np.random.default_rng([args.seed, update, epoch]).permutation(cast(int, args.local_batch_size))
    return [order[start : start + size].tolist() for start in range(0, len(order), size)]


def kl_before(trainer: "PPOTrainer", rollout: Rollout) -> float:
    """KL of the policy as it is from the reference, nats per sequence, where there is a budget of it; else 0."""
    return 0.0 if trainer.args.kl_budget is None else _exact_kl(trainer, rollout)


def within_budget(trainer: "PPOTrainer", rollout: Rollout, before: float) -> contextlib.AbstractContextManager[None]:
    """A block whose steps are shortened where they lead beyond the budget of KL, if there is one.

    `before` is the KL that the update begins with.
    """
    if trainer.args.kl_budget is None:
        return contextlib.nullcontext()
    limit = max(BudgetedKLController.edge * trainer.args.kl_budget, before)
    return shortened(trainer.model.parts()[0], lambda: _exact_kl(trainer, rollout), limit)


def _exact_kl(trainer: "PPOTrainer", rollout: Rollout) -> float:
    with trainer.autocast():
        return exact_kl(trainer.model, trainer.reference, rollout, trainer.sampling)


def _gradients(trainer: "PPOTrainer", experience: Experience, rows: list[int], at: tuple[int, int, int]) -> Tensor:
    """Clipped gradients for the step `at` (update, pass, minibatch); returns its numbers, all finite."""
    model, args, autocast, backward = trainer.model, trainer.args, trainer.autocast, trainer.accelerator.backward
    model.train()
    means = accumulate_gradients(model, experience, rows, args, trainer.sampling, autocast, backward)
    ptx_loss = []
    if trainer.ptx is not None:  # on as many demonstrations as there are rows
        demonstrations, size = trainer.ptx.batch(at, len(rows)), args.per_device_train_batch_size
        loss = ptx.accumulate_gradients(trainer.policy_model, demonstrations, args.ptx_coef, size, autocast, backward)
        ptx_loss = [loss[None]]
    numbers = torch.cat([means, clip_gradients(model, args.max_grad_norm), *ptx_loss])
    require_finite_step(numbers, f"update {at[0] + 1}, pass {at[1] + 1}")
    return numbers


def _step(trainer: "PPOTrainer") -> None:
    """One optimizer step with the gradients that are there."""
    told = (trainer.args, trainer.state)
    trainer.control = trainer.callback_handler.on_pre_optimizer_step(*told, trainer.control)
    trainer.optimizer.step()
    trainer.control = trainer.callback_handler.on_optimizer_step(*told, trainer.control)
    trainer.optimizer.zero_grad()
