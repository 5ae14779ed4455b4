"""The hard budget of KL: an update that would go beyond it is shortened until it does not."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from rlhf.generation import SampledTokens, eval_mode
from rlhf.ppo.experience import Sampling
from rlhf.ppo.forward import hidden_at, logits_of
from rlhf.ppo.models import PolicyAndValue
from rlhf.ppo.reference import Reference
from rlhf.ppo.rollout import Rollout, token_batches

logger = logging.getLogger(__name__)

MAX_HALVINGS = 6
MAX_CELLS = 2**25
"""Log-probs of one model that are in memory at a time, 128 MiB: all of a batch's under a large vocabulary take GiB."""


@contextlib.contextmanager
def shortened(parameters: Sequence[nn.Parameter], measure: Callable[[], float], limit: float) -> Iterator[None]:
    """Halve what the block does to `parameters` until `measure()` is no more than `limit`, or take it back.

    The backtracking line search of TRPO (Schulman et al. 2015, appendix C). Keeps a copy of the parameters meanwhile.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    start = [parameter.detach().clone() for parameter in trained]
    yield
    for halvings in range(MAX_HALVINGS + 1):
        kl = measure()
        if kl <= limit:
            return
        logger.info("KL would be %.3g nats per sequence, %.3g is allowed: the update is halved", kl, limit)
        weight = 1.0 if halvings == MAX_HALVINGS else 0.5
        with torch.no_grad():
            for parameter, before in zip(trained, start, strict=True):
                parameter.lerp_(before, weight)


@torch.no_grad()
def exact_kl(model: PolicyAndValue, reference: Reference, rollout: Rollout, sampling: Sampling) -> float:
    """KL of the policy as it is now from the reference, nats per sequence: over the whole vocabulary at each token.

    Free of the noise of sampled tokens; the prefixes are those that were sampled.
    """
    tokens = SampledTokens(rollout.completion_ids, rollout.mask, rollout.ended)
    total, rows, size = 0.0, range(len(rollout.mask)), sampling.batch_size
    with eval_mode(model):
        for batch in token_batches(rollout.prompts, tokens, rows, size, sampling.pad_id, "eos"):
            hidden = hidden_at(model.policy, batch)
            with reference.active() as ref_policy:
                ref_hidden = hidden_at(ref_policy, batch)
            vocab_size = int(cast(Any, model.policy).config.get_text_config().vocab_size)
            count = max(1, MAX_CELLS // vocab_size)
            for here, there in zip(hidden.split(count), ref_hidden.split(count), strict=True):
                logprobs = _all_logprobs(model.policy, here, sampling.temperature)
                with reference.active() as ref_policy:
                    ref_logprobs = _all_logprobs(ref_policy, there, sampling.temperature)
                ref_logprobs = ref_logprobs[:, : logprobs.size(1)]  # whose vocabulary may be filled up further
                total += float((logprobs.exp() * (logprobs - ref_logprobs)).sum())
    return total / len(rollout.mask)


def _all_logprobs(model: nn.Module, hidden: Tensor, temperature: float) -> Tensor:
    """Log-probs [n, V] float32 of every token, of hidden [n, d]."""
    return (logits_of(model, hidden).float() / temperature).log_softmax(-1)
