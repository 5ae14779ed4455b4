"""TRL's RLOOTrainer with runs that are resumed exactly, figures under PPO's keys, and bad probabilities named."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from trl import RLOOTrainer

from rlhf.scoring import NonFiniteError
from rlhf.trl_compat import RepeatSampler

ROLLOUT_FILE = "rollout.safetensors"
"""In a checkpoint between two rollouts: the completions in hand, and the number of micro-batches that were taken."""


class EpochSampler(RepeatSampler):
    """TRL's order of prompts, drawn anew from seed and epoch: it is the same where a run begins in a later epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        if self.shuffle:
            state = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)
            self.generator.manual_seed(int(state[0]) % 2**63)


class ResumableRLOOTrainer(RLOOTrainer):
    """RLOOTrainer as the stage runs it.

    Beside TRL's figures it logs `objective/scores`, TRL's `reward`, and `objective/kl` in nats per sequence, which
    takes the place of TRL's `kl` per token.
    """

    def _get_train_sampler(self, dataset: Any = None) -> EpochSampler:
        """As TRL's."""
        return EpochSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """As TRL's.

        Raises:
            NonFiniteError: there was no distribution to draw from.
        """
        try:
            return super()._generate_single_turn(*args, **kwargs)
        except RuntimeError as error:
            if "probability tensor contains" not in str(error):  # torch.multinomial's words for NaN and infinity
                raise
            raise NonFiniteError("rollout: the policy's next-token probabilities are not finite") from error

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As TRL's, with PPO's keys."""
        figures = self._metrics["train" if self.model.training else "eval"]
        if "kl" in figures:  # summed over a rollout's tokens and divided by their number
            lengths = figures["completions/mean_length"]
            figures["objective/kl"] = [kl * length for kl, length in zip(figures.pop("kl"), lengths, strict=True)]
        if "reward" in figures:
            figures["objective/scores"] = list(figures["reward"])
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As the Trainer's; between two rollouts with the completions that are still to be learned from."""
        super()._save_checkpoint(model, trial)
        if self._step % (self.args.steps_per_generation * self.num_iterations) == 0 or self._buffered_inputs is None:
            return
        tensors: dict[str, Tensor] = {
            f"{place}/{name}": value.contiguous()
            for place, batch in enumerate(self._buffered_inputs)
            for name, value in batch.items()
        }
        path = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / ROLLOUT_FILE
        save_file(tensors, path, metadata={"step": str(self._step)})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """As the Trainer's, with the rollout that was in hand."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        path = Path(resume_from_checkpoint) / ROLLOUT_FILE
        self._step, self._buffered_inputs = 0, None
        if path.is_file():
            batches: dict[int, dict[str, Tensor]] = {}
            with safe_open(path, "pt", device=str(self.args.device)) as file:
                self._step = int(file.metadata()["step"])
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    place, _, name = key.partition("/")
                    batches.setdefault(int(place), {})[name] = file.get_tensor(key)
            self._buffered_inputs = [batches[place] for place in sorted(batches)]


@torch.no_grad()
def largest_weight(trainer: RLOOTrainer) -> dict[str, float]:
    """In size, of what is trained; a `Check` of weights that draws no completions."""
    found = [weight.abs().max() for weight in trainer.model.parameters() if weight.requires_grad]
    return {"the largest weight": float(torch.stack([value.float().cpu() for value in found]).max())}
