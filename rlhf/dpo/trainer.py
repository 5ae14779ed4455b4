"""TRL's DPOTrainer with held-out figures that do not depend on how the held-out pairs are cut into batches."""

from typing import Any

from trl import DPOTrainer


class PairWeightedDPOTrainer(DPOTrainer):
    """DPOTrainer whose evaluations are means over pairs; TRL's are over batches, of which the last may be small."""

    _batch_pairs: list[int]

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As TRL's; keeps the number of the batch's pairs, which are one row for each side."""
        self._batch_pairs.append(len(inputs["input_ids"]) // 2)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's, with TRL's figures weighted by pairs; `eval_loss` is so anyway."""
        self._batch_pairs = []
        output = super().evaluation_loop(*args, **kwargs)
        total = sum(self._batch_pairs)
        for name, values in self._metrics["eval"].items():
            if len(values) == len(self._batch_pairs):
                weighted = sum(value * n for value, n in zip(values, self._batch_pairs, strict=True))
                self._metrics["eval"][name] = [weighted / total]
        return output
