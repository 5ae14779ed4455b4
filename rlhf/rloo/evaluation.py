"""What a policy scores on held-out prompts, drawn as training draws, and how far it has moved."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlhf.evaluation.writing import Written, sequence_logprobs
from rlhf.generation import NonFiniteProbabilities, sample
from rlhf.rloo.rewards import columns_of, prompts_of
from rlhf.rloo.trainer import ResumableRLOOTrainer
from rlhf.scoring import NonFiniteError, WeightedScorer
from rlhf.training.policies import as_it_began, policy_of
from rlhf.training.prompts import PromptRows


@dataclass(frozen=True)
class Measured:
    """Completions of N prompts by the policy, and the scorers' weighted sum [N], without penalties.

    As in PPO's summary an ensemble counts as the mean of its members, whatever training makes of them.
    """

    written: Written
    scores: Tensor

    def figures(self, when: str) -> dict[str, float]:
        """Under the names that PPO's summary has: `score_*`, `length_*` (tokens), `eos_share_*`."""
        lengths = [len(ids) for ids in self.written.token_ids]
        ended = [completion.ended for completion in self.written.completions]
        found = {
            f"score_{when}": float(self.scores.double().mean()),
            f"length_{when}": sum(lengths) / len(lengths),
            f"eos_share_{when}": sum(ended) / len(ended),
        }
        return {name: round(value, 4) for name, value in found.items()}


def measure(trainer: ResumableRLOOTrainer, rows: PromptRows, scorer: WeightedScorer) -> Measured:
    """Complete `rows` with training's temperature, top_k and top_p, from a generator of its own, and score.

    Raises:
        NonFiniteError: there was no distribution to draw from, or a score is none.
    """
    args, picked = trainer.args, range(len(rows))
    try:
        completions = sample(
            policy_of(trainer),
            trainer.processing_class,
            prompts_of(rows, picked),
            max_new_tokens=args.max_completion_length,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            batch_size=args.per_device_eval_batch_size,
            seed=args.seed,
        )
    except NonFiniteProbabilities as error:
        raise NonFiniteError("evaluation: the policy's next-token probabilities are not finite") from error
    written = Written(rows.ids, completions)
    columns = columns_of(rows, picked, written.token_ids)
    each = scorer.score_each(prompts_of(rows, picked), written.texts, columns)
    own = torch.stack([share * each[name] for name, share in scorer.shares.items()]).sum(0)
    return Measured(written, own)


def divergence(trainer: ResumableRLOOTrainer, measured: Measured, reference: nn.Module | None) -> float:
    """KL of the policy from what it began as, nats per sequence, estimated on its own completions (k1).

    Args:
        trainer: holds the policy.
        measured: what that has written.
        reference: a whole model as it began; an adapter is switched off instead.
    """
    policy, size = policy_of(trainer), trainer.args.per_device_eval_batch_size

    def logprobs(model: nn.Module) -> Tensor:
        return sequence_logprobs(model, measured.written, temperature=trainer.args.temperature, batch_size=size)

    with as_it_began(policy, reference) as began:
        before = logprobs(began)
    return round(float((logprobs(policy) - before).mean()), 4)
