"""TRL's RewardTrainer on rankings instead of single pairs."""

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from trl import RewardTrainer

from reward.losses import bradley_terry_loss


class RankingRewardTrainer(RewardTrainer):
    """RewardTrainer whose rows are rankings (`reward.data.to_dataset`), with weighted pairs.

    `per_device_train_batch_size` counts rankings. Metric keys are TRL's.
    """

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
        loss = bradley_terry_loss(chosen, rejected, inputs["weight"], inputs["margin"])
        if self.args.center_rewards_coefficient is not None:
            loss = loss + self.args.center_rewards_coefficient * torch.mean((chosen + rejected) ** 2)
        self._note(scores.detach(), chosen.detach(), rejected.detach(), inputs["attention_mask"])
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def _note(self, scores: Tensor, chosen: Tensor, rejected: Tensor, mask: Tensor) -> None:
        """Keep this batch's figures until the trainer logs their means."""
        gather = self.accelerator.gather_for_metrics
        mode = "train" if self.model.training else "eval"
        if mode == "train":
            self._total_train_tokens += int(gather(mask.sum()).sum())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        figures = {
            "min_reward": scores.min(),
            "mean_reward": scores.mean(),
            "max_reward": scores.max(),
            "accuracy": (chosen > rejected).float().mean(),
            "margin": (chosen - rejected).mean(),
        }
        for name, value in figures.items():
            self._metrics[mode][name].append(gather(value).mean().item())
