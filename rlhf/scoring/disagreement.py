"""What an ensemble of reward models is not agreed on: where a person's judgement would teach the most."""

import torch
from torch import Tensor

from rlhf.errors import UserError


def disagreement(scores: Tensor) -> float:
    """How little M reward models agree on the order of K completions of one prompt: 0 for wholly, at most 0.5.

    Each member gives each pair a probability of preference, the sigmoid of the difference of its two scores (Bradley
    and Terry 1952). The standard deviation of the M probabilities is what members disagree by on a pair, and what
    Christiano et al. (2017, section 2.2.4) choose queries for people by; here it is averaged over the K (K - 1) / 2
    pairs. What a member adds to all scores of a prompt does not count.

    Args:
        scores: [K, M], of completion k by member m, in the members' own unit (logits of a preference).

    Raises:
        UserError: there are fewer than two members, who have nothing to disagree on. Fewer than two completions give 0.
    """
    num_completions, num_members = scores.shape
    if num_members < 2:
        raise UserError(
            f"disagreement: it is between two or more reward models, and there are {num_members}; train an ensemble "
            "(ensemble: {num_members: 4}), or choose tasks at random"
        )
    if num_completions < 2:
        return 0.0
    first, second = torch.triu_indices(num_completions, num_completions, offset=1)
    values = scores.double()
    preferred = torch.sigmoid(values[first] - values[second])
    return float(preferred.std(1, correction=0).mean())
