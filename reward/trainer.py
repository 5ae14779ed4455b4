"""TRL's RewardTrainer on rankings and grades instead of single pairs."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from trl import RewardTrainer

from reward.config import LossSection
from reward.data import COLUMNS, total_weights
from reward.grades import Thresholds
from reward.losses import bradley_terry_loss, ordinal_loss, plackett_luce_nll, squared_error
from reward.passes import scores_of
from reward.shared_prefix import SharedRows, shared_scores

THRESHOLDS_NAME = "thresholds.safetensors"
THRESHOLDS_LEARNING_RATE = 0.01
"""Of log-odds, where the model's is of weights; it falls as that does."""


@contextmanager
def _taken_for_a_single_one(model: Any) -> Iterator[None]:
    """RewardTrainer's constructor refuses a model of several outputs, with which it has nothing else to do."""
    num_outputs = model.config.num_labels
    model.config.num_labels = 1
    try:
        yield
    finally:
        model.config.num_labels = num_outputs


class JudgementTrainer(RewardTrainer):
    """RewardTrainer whose rows are what was said of one prompt's completions (`reward.data.to_dataset`).

    `per_device_train_batch_size` counts rows: rankings, mostly. Metric keys are TRL's.

    The loss of a step is the sum over its judgements divided by what the weights of a full batch add up to on average,
    so that a judgement pulls by its weight wherever it comes to stand: in another micro-batch, beside heavier ones, in
    the last batch of an epoch. On pairs of weight 1 that is TRL's mean. A model of M outputs is M reward models on one
    backbone, of which each is trained by its own weights; the loss is their mean.
    """

    _num_seen = 0
    """Held-out pairs that the figures of the evaluation now under way are the means of."""

    loss_is_scaled_for_ga = True
    """Each micro-batch is divided by the weights of the whole batch, so the Trainer divides by nothing."""

    def __init__(
        self,
        *args: Any,
        model: nn.Module,
        loss: LossSection | None = None,
        thresholds: Thresholds | None = None,
        max_tokens_per_pass: int | None = None,
        **kwargs: Any,
    ) -> None:
        """RewardTrainer's arguments, and `thresholds` for `loss.kind` ordinal."""
        self.loss_section = loss or LossSection()
        self.thresholds = thresholds
        self.max_tokens_per_pass = max_tokens_per_pass
        with _taken_for_a_single_one(model):
            super().__init__(*args, model=model, **kwargs)
        if thresholds is not None:
            thresholds.to(self.args.device)

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """The rows are tokenised already."""
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(COLUMNS)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Score every text once [N, M], compare and grade."""
        scores = self._scores(model, inputs)
        loss = self._judged(scores, inputs)
        num_rows = inputs["num_rows"]
        weight_a_row = self._weight_a_row["train" if self.model.training else "eval"].to(loss.device)
        mean = (loss / (weight_a_row * num_rows)).mean()
        if self.model.training:
            # logged in place of the Trainer's own, which would sink wherever an epoch ends with a smaller batch
            self._metrics["train"]["loss"].append(mean.item())
            mean = mean * num_rows / self._rows_a_step
        # in evaluation, the Trainer takes the mean over the batches by their rows
        self._note(scores.detach(), inputs)
        return (mean, {"logits": scores}) if return_outputs else mean

    def _scores(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """[N, M], each prompt read once for its completions where the batch has it so and memory takes it."""
        shared, limit = inputs["shared"], self.max_tokens_per_pass
        if shared is not None and (limit is None or shared["ids"].numel() <= limit):
            with self.accelerator.autocast():  # which the forward pass of the whole model has by itself
                return shared_scores(model, SharedRows(**shared))
        return scores_of(model, inputs["input_ids"], inputs["attention_mask"], limit)

    def _judged(self, scores: Tensor, inputs: dict[str, Any]) -> Tensor:
        """The sum [M] over all judgements of the batch."""
        section = self.loss_section
        chosen, rejected, weight = scores[inputs["chosen"]], scores[inputs["rejected"]], inputs["weight"]
        loss = bradley_terry_loss(chosen, rejected, weight, inputs["margin"], section.label_smoothing)
        centring = (weight * (chosen + rejected) ** 2).sum(0)
        for tiers, order_weight in zip(inputs["orders"], inputs["order_weight"], strict=True):
            # by the number of choices: a ranking counts as one judgement, however long it is
            share = order_weight / (len(tiers) - 1)
            nll = plackett_luce_nll(scores, tiers)
            if section.label_smoothing:
                turned = plackett_luce_nll(scores, tiers[::-1])
                nll = (1 - section.label_smoothing) * nll + section.label_smoothing * turned
            loss = loss + share * nll
            placed = [text for tier in tiers for text in tier]
            centring = centring + order_weight * (2 * scores[placed].mean(0)) ** 2
        rated, rating, rating_weight = scores[inputs["rated"]], inputs["rating"], inputs["rating_weight"]
        if self.thresholds is not None:
            loss = loss + ordinal_loss(rated, rating.long(), self.thresholds(), rating_weight)
        elif len(rated):
            loss = loss + squared_error(rated, rating, rating_weight)
        if self.args.center_rewards_coefficient is not None:
            loss = loss + self.args.center_rewards_coefficient * centring
        return loss

    @cached_property
    def _weight_a_row(self) -> dict[str, Tensor]:
        """What the judgements of a row weigh [M], on average over the rows to train and to evaluate on."""
        rows = {"train": self.train_dataset, "eval": self.eval_dataset}
        return {mode: total_weights(data) / len(data) for mode, data in rows.items() if data is not None}

    @property
    def _rows_a_step(self) -> int:
        return min(self._train_batch_size * self.args.gradient_accumulation_steps, len(self.train_dataset))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The thresholds learn in the same optimizer, at a rate of their own and without decay."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        thresholds = self.thresholds
        if is_new and thresholds is not None:
            own = list(thresholds.parameters())
            optimizer.add_param_group({"params": own, "lr": THRESHOLDS_LEARNING_RATE, "weight_decay": 0.0})
            # the Trainer clears the gradients of the model alone
            optimizer.register_step_post_hook(lambda *_: thresholds.zero_grad())
        return optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.thresholds is not None:
            folder = output_dir or self.args.output_dir
            assert folder is not None
            save_file(self.thresholds.state_dict(), Path(folder) / THRESHOLDS_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.thresholds is not None:
            self.thresholds.load_state_dict(load_file(Path(resume_from_checkpoint) / THRESHOLDS_NAME))

    @torch.no_grad()
    def _note(self, scores: Tensor, inputs: dict[str, Any]) -> None:
        """Keep this batch's figures until the trainer logs their means."""
        gather = self.accelerator.gather_for_metrics
        mode = "train" if self.model.training else "eval"
        if mode == "train":
            self._total_train_tokens += int(gather(inputs["attention_mask"].sum()).sum())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        if mode == "eval" and not self._metrics[mode].get("accuracy"):
            self._num_seen = 0
        scores = scores.mean(1)
        figures = {"min_reward": scores.min(), "mean_reward": scores.mean(), "max_reward": scores.max()}
        chosen, rejected = scores[inputs["chosen"]], scores[inputs["rejected"]]
        if len(chosen):
            figures |= {"accuracy": (chosen > rejected).float().mean(), "margin": (chosen - rejected).mean()}
        for name, value in figures.items():
            self._metrics[mode][name].append(gather(value).mean().item())
        if mode == "eval" and len(chosen):  # of all held-out pairs, not of batches, of which the last may be small
            seen, self._num_seen = self._num_seen, self._num_seen + len(chosen)
            for name in ("accuracy", "margin"):
                *before, value = self._metrics[mode][name]
                mean = (sum(before) * seen + value * len(chosen)) / self._num_seen
                self._metrics[mode][name] = [mean]
