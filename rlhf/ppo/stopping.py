"""Stop strings: texts that end a completion, whatever tokens they are made of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.generation import SampledTokens, decode_completion


@dataclass(frozen=True)
class StopStrings:
    """Cuts sampled completions at the first token with which one of the strings is complete.

    What is left is exactly what sampling that stops there would have drawn, since a token does not depend on those
    behind it; what is behind it was sampled for nothing. The last token may reach beyond the string.
    """

    strings: tuple[str, ...]
    tokenizer: PreTrainedTokenizerBase

    def cut(self, tokens: SampledTokens, prompt_ids: Sequence[Tensor], pad_id: int) -> SampledTokens:
        """The completions [B, T] with what is behind a stop string masked; those that had one have ended."""
        mask, ended = tokens.mask.clone(), tokens.ended.clone()
        for row, (ids, real) in enumerate(zip(tokens.ids.cpu(), tokens.mask.cpu(), strict=True)):
            length = self._length(prompt_ids[row].tolist(), ids[real].tolist())
            if length is not None:
                mask[row, length:] = False
                ended[row] = True
        return replace(tokens, ids=tokens.ids.masked_fill(~mask, pad_id), mask=mask, ended=ended)

    def text(self, completion: str) -> str:
        """The completion up to its first stop string, which is left out as the text of an EOS token is."""
        places = [place for string in self.strings if (place := completion.find(string)) >= 0]
        return completion[: min(places)] if places else completion

    def _length(self, prompt_ids: list[int], ids: list[int]) -> int | None:
        """How many tokens of a completion are kept; None for all of one without a stop string."""

        def found(count: int) -> bool:
            text = decode_completion(self.tokenizer, prompt_ids, ids[:count])
            return any(string in text for string in self.strings)

        if not found(len(ids)):
            return None
        low, high = 0, len(ids)  # found(high), and not found(low): a string that is complete stays so
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if found(middle) else (middle, high)
        return high


def cut(stops: StopStrings | None, tokens: SampledTokens, prompt_ids: Sequence[Tensor], pad_id: int) -> SampledTokens:
    """`tokens` cut at stop strings, where there are any to stop at."""
    with torch.no_grad():
        return tokens if stops is None else stops.cut(tokens, prompt_ids, pad_id)
