"""The reward model's loss as a pure function."""

import torch
from torch import Tensor


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, weight: Tensor, margin: Tensor) -> Tensor:
    """Negative log-likelihood of the judgements under Bradley-Terry, each times its weight, added up.

    loss = sum_p w_p * -log sigmoid(chosen_p - rejected_p - margin_p)
    (Ouyang et al. 2022, eq. 1, with w = 1/C(K, 2); margins as in Touvron et al. 2023, eq. 2.)

    A sum and no mean: what a judgement adds must not depend on what else is in its batch.

    Args:
        chosen: scores of the better completions, [P].
        rejected: scores of the worse completions, [P].
        weight: positive, [P].
        margin: how much higher the better one should score, [P].

    Returns:
        A scalar, in nats.
    """
    nll = -torch.nn.functional.logsigmoid(chosen - rejected - margin)
    return (weight * nll).sum()
