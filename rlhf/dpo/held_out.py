"""How often a DPO policy agrees with people on pairs that it has not seen."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn

from rlhf.dpo.trainer import PairWeightedDPOTrainer
from rlhf.evaluation.publishing import rounded
from rlhf.evaluation.rewards import accuracy_figures
from rlhf.evaluation.writing import Written, sequence_logprobs
from rlhf.generation import Completion
from rlhf.records import Preference
from rlhf.training.policies import as_it_began, policy_of


def held_out(trainer: PairWeightedDPOTrainer, pairs: Sequence[Preference], seed: int) -> dict[str, Any]:
    """`eval_loss`, and the accuracy of the reward that the policy implies, beta * (log pi - log pi_ref).

    Accuracy, its interval and "the longest wins" are those of a reward model's evaluation, over the pairs that the
    trainer has not left out.

    Args:
        trainer: with held-out rows.
        pairs: what those rows were made of.
        seed: of the interval's bootstrap.
    """
    rows, policy = trainer.eval_dataset, policy_of(trainer)
    with as_it_began(policy, trainer.ref_model) as reference:
        before = _logprobs(trainer, reference, rows)
    chosen, rejected = (
        trainer.beta * (after - old) for after, old in zip(_logprobs(trainer, policy, rows), before, strict=True)
    )
    kept = [pairs[place] for place in rows["pair"]]
    return {
        "eval_loss": trainer.evaluate()["eval_loss"],
        **rounded(accuracy_figures(kept, chosen, rejected, seed)),
    }


def num_truncated(rows: Dataset | None, max_length: int | None) -> int:
    """How many distinct texts, prompt and completion together, have more tokens than are read."""
    if rows is None or max_length is None:
        return 0
    texts = {(*row["prompt_ids"], *row[side]) for row in rows for side in ("chosen_ids", "rejected_ids")}
    return sum(len(text) > max_length for text in texts)


def _logprobs(trainer: PairWeightedDPOTrainer, model: nn.Module, rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Log p(completion | prompt) [P] of the chosen and of the rejected, as much of them as is read."""
    cut = slice(None, trainer.args.max_length)
    if trainer.args.truncation_mode == "keep_end" and trainer.args.max_length:
        cut = slice(-trainer.args.max_length, None)

    def side(name: str) -> np.ndarray:
        prompts, completions = [], []
        for place, row in enumerate(rows):
            prompt, completion = row["prompt_ids"], row[name]
            real = ([0] * len(prompt) + [1] * len(completion))[cut]
            ids = [*prompt, *completion][cut]
            start = real.index(1)
            prompts.append(ids[:start])
            completions.append(Completion(place, "", ids[start:], ended=True))
        size = trainer.args.per_device_eval_batch_size
        found = sequence_logprobs(model, Written(prompts, completions), temperature=1.0, batch_size=size)
        return found.numpy()

    return side("chosen_ids"), side("rejected_ids")
