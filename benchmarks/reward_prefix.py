"""What reading a prompt once for its K completions saves a training step of the reward model, as a ratio.

    python -m benchmarks.reward_prefix --model MODEL --prompt-tokens 128 --completion-tokens 64

Forward and backward pass of rankings of random tokens, K completions a prompt, with texts in rows of their own and
behind their prompt; processor time on a CPU, so that what else runs counts for little.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from reward.passes import scores_of
from reward.shared_prefix import can_share, shared_rows, shared_scores


def main(
    model: Annotated[Path, typer.Option(help="The folder of a decoder.")],
    prompt_tokens: Annotated[int, typer.Option(help="Of each prompt.")] = 128,
    completion_tokens: Annotated[int, typer.Option(help="Of the longest completion; the shortest has half.")] = 64,
    rankings: Annotated[int, typer.Option(help="In a batch.")] = 8,
    repeats: Annotated[int, typer.Option(help="Of each; the median counts.")] = 5,
) -> None:
    """Print a line for each K."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(model, num_labels=1)
    config.pad_token_id = config.pad_token_id or 0
    decoder = AutoModelForSequenceClassification.from_pretrained(model, config=config)
    if not can_share(decoder):
        raise typer.BadParameter(f"{model}: reads one text a row")
    for num_completions in (2, 4, 8, 16):
        texts, groups = _texts(config.vocab_size, rankings, num_completions, prompt_tokens, completion_tokens)
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], True, config.pad_token_id)
        mask = (torch.arange(ids.size(1)) < torch.tensor([[len(text)] for text in texts])).long()

        def of_rows(ids: Tensor = ids, mask: Tensor = mask) -> Tensor:
            return scores_of(decoder, ids, mask)

        def shared(texts: list[list[int]] = texts, groups: list[int] = groups) -> Tensor:
            rows = shared_rows(texts, groups, config.pad_token_id)
            assert rows is not None
            return shared_scores(decoder, rows)

        difference = float((of_rows() - shared()).detach().abs().max())
        seconds = [_seconds(decoder, each, repeats) for each in (of_rows, shared)]
        ratio = seconds[0] / seconds[1]
        sys.stdout.write(
            f"K = {num_completions:2}: {seconds[0]:.2f} s in rows, {seconds[1]:.2f} s shared, {ratio:.2f} times; "
            f"scores differ by {difference:.0e} at most\n"
        )


def _texts(vocabulary: int, rankings: int, each: int, prompt: int, longest: int) -> tuple[list[list[int]], list[int]]:
    texts, groups = [], []
    for group in range(rankings):
        beginning = torch.randint(1, vocabulary, (prompt,)).tolist()
        for length in torch.randint(longest // 2, longest + 1, (each,)).tolist():
            texts.append(beginning + torch.randint(1, vocabulary, (length,)).tolist())
            groups.append(group)
    return texts, groups


def _seconds(decoder: torch.nn.Module, scores: Callable[[], Tensor], repeats: int) -> float:
    found = []
    for _ in range(repeats):
        decoder.zero_grad()
        began = time.process_time()
        scores().square().sum().backward()
        found.append(time.process_time() - began)
    return statistics.median(found)


if __name__ == "__main__":
    typer.run(main)
