"""TRL's SFTTrainer with held-out figures that do not depend on how the held-out rows are cut into batches."""

from typing import Any

from trl import SFTTrainer

from sft.held_out import IGNORED


class TokenWeightedSFTTrainer(SFTTrainer):
    """SFTTrainer whose evaluations are means over tokens; the Trainer's are means over batches of such means."""

    _batch_tokens: list[int]
    _batch_losses: list[float]

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; keeps the batch's loss and the number of tokens that it is the mean of."""
        tokens = int((inputs["labels"][:, 1:] != IGNORED).sum())
        found = super().prediction_step(model, inputs, *args, **kwargs)
        self._batch_tokens.append(tokens)
        self._batch_losses.append(float(found[0]))
        return found

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's, with `eval_loss`, `eval_mean_token_accuracy` and `eval_entropy` weighted by tokens."""
        self._batch_tokens, self._batch_losses = [], []
        output = super().evaluation_loop(*args, **kwargs)
        for key in [key for key in output.metrics if key.endswith("_loss")]:
            output.metrics[key] = self._by_tokens(self._batch_losses)
        for name in ("mean_token_accuracy", "entropy"):
            values = self._metrics["eval"].get(name, [])
            if len(values) == len(self._batch_tokens):
                self._metrics["eval"][name] = [self._by_tokens(values)]
        return output

    def _by_tokens(self, values: list[float]) -> float:
        pairs = [(value, n) for value, n in zip(values, self._batch_tokens, strict=True) if n]
        total = sum(n for _, n in pairs)
        return sum(value * n for value, n in pairs) / total if total else float("nan")
