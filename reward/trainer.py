"""TRL's RewardTrainer on rankings instead of single pairs."""

from functools import cached_property
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from trl import RewardTrainer

from reward.losses import bradley_terry_loss


class RankingRewardTrainer(RewardTrainer):
    """RewardTrainer whose rows are rankings (`reward.data.to_dataset`), with weighted pairs.

    `per_device_train_batch_size` counts rankings. Metric keys are TRL's.

    The loss of a step is the sum over its pairs divided by what the weights of a full batch add up to on average, so
    that a judgement pulls by its weight wherever it comes to stand: in another micro-batch, beside heavier ones, in
    the last batch of an epoch. On pairs of weight 1 that is TRL's mean.
    """

    _num_seen = 0
    """Held-out pairs that the figures of the evaluation now under way are the means of."""

    loss_is_scaled_for_ga = True
    """Each micro-batch is divided by the weights of the whole batch, so the Trainer divides by nothing."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """The rows are tokenised already."""
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["chosen_ids", "rejected_ids", "weight", "margin"]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Score every text once [N], compare the pairs [P]."""
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        scores = outputs.logits.squeeze(-1).float()
        chosen, rejected = scores[inputs["chosen"]], scores[inputs["rejected"]]
        weight = inputs["weight"]
        loss = bradley_terry_loss(chosen, rejected, weight, inputs["margin"])
        if self.args.center_rewards_coefficient is not None:
            loss = loss + self.args.center_rewards_coefficient * (weight * (chosen + rejected) ** 2).sum()
        num_rows = inputs["num_rows"]
        if self.model.training:
            mean = loss / (self._weight_a_row["train"] * num_rows)
            # logged in place of the Trainer's own, which would sink wherever an epoch ends with a smaller batch
            self._metrics["train"]["loss"].append(mean.item())
            loss = mean * num_rows / self._rows_a_step
        else:  # the Trainer takes the mean over the batches by their rows
            loss = loss / (self._weight_a_row["eval"] * num_rows)
        self._note(scores.detach(), chosen.detach(), rejected.detach(), inputs["attention_mask"])
        return (loss, outputs) if return_outputs else loss

    @cached_property
    def _weight_a_row(self) -> dict[str, float]:
        """What the weights of a row's pairs add up to, on average over the rows to train and to evaluate on."""
        rows = {"train": self.train_dataset, "eval": self.eval_dataset}
        return {mode: sum(map(sum, data["weight"])) / len(data) for mode, data in rows.items() if data is not None}

    @property
    def _rows_a_step(self) -> int:
        return min(self._train_batch_size * self.args.gradient_accumulation_steps, len(self.train_dataset))

    @torch.no_grad()
    def _note(self, scores: Tensor, chosen: Tensor, rejected: Tensor, mask: Tensor) -> None:
        """Keep this batch's figures until the trainer logs their means."""
        gather = self.accelerator.gather_for_metrics
        mode = "train" if self.model.training else "eval"
        if mode == "train":
            self._total_train_tokens += int(gather(mask.sum()).sum())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        if mode == "eval" and not self._metrics[mode]["accuracy"]:
            self._num_seen = 0
        figures = {
            "min_reward": scores.min(),
            "mean_reward": scores.mean(),
            "max_reward": scores.max(),
            "accuracy": (chosen > rejected).float().mean(),
            "margin": (chosen - rejected).mean(),
        }
        for name, value in figures.items():
            self._metrics[mode][name].append(gather(value).mean().item())
        if mode == "eval":  # of all held-out pairs, not of batches, of which the last may be small
            seen, self._num_seen = self._num_seen, self._num_seen + len(chosen)
            for name in ("accuracy", "margin"):
                *before, value = self._metrics[mode][name]
                mean = (sum(before) * seen + value * len(chosen)) / self._num_seen
                self._metrics[mode][name] = [mean]
