"""Sampling by vLLM, through TRL's `VLLMGeneration`: for an accelerator. Not measured: none was at hand."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.generation.recorder import SampledTokens, StopStrings


class VLLMSampler:
    """A vLLM engine beside a model that is being trained, or a server of TRL's (`trl vllm-serve`).

    Draws are vLLM's own: they follow no seed of ours, and a run with them cannot be repeated to the bit.
    """

    def __init__(
        self,
        model: nn.Module,
        accelerator: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_prompt_tokens: int,
        max_new_tokens: int,
        temperature: float,
        stop_ids: Sequence[int],
        top_k: int = 0,
        top_p: float = 1.0,
        stop_strings: Sequence[str] = (),
        mode: Literal["colocate", "server"] = "colocate",
        gpu_memory_utilization: float = 0.3,
        server_base_url: str | None = None,
    ) -> None:
        """Start the engine, or connect to `server_base_url` in mode "server".

        Args:
            model: its `name_or_path` is a folder or Hub id that vLLM loads; weights are sent before each sampling.
            accelerator: the trainer's.
            tokenizer: the model's.
            max_prompt_tokens: longest prompt, in tokens.
            max_new_tokens: a completion's limit.
            temperature: of sampling.
            stop_ids: tokens that end a completion; without any, and without stop strings, all reach the limit.
            top_k: the most likely tokens that are drawn from; 0 for all.
            top_p: the share of probability that is drawn from; 1 for all.
            stop_strings: texts that end a completion.
            mode: the engine in this process, or a server.
            gpu_memory_utilization: share of the accelerator's memory that the engine takes, in mode "colocate".
            server_base_url: the server's address.

        Raises:
            UserError: vLLM is not installed, or the model has no name that vLLM could load it by.
        """
        if find_spec("vllm") is None:
            raise UserError(
                "generation = 'vllm': the package vllm is not installed; pip install 'rlhf-framework[vllm]' on a "
                "machine with an accelerator, or set generation: hf"
            )
        if mode == "colocate" and not getattr(model, "name_or_path", ""):
            raise UserError(
                "generation = 'vllm': the model has no name_or_path, from which vLLM would load it; load it from a "
                "folder or the Hub, or set generation: hf"
            )
        self._pad_id = tokenizer.pad_token_id or 0
        self._stop_ids = sorted(stop_ids)
        self._stop_strings = StopStrings(tokenizer, stop_strings) if stop_strings else None
        # vLLM's log-probs are those of what it drew from
        self._keeps_logprobs = temperature > 0 and top_k == 0 and top_p == 1.0
        how: dict[str, Any] = {"stop_token_ids": self._stop_ids, "ignore_eos": True}
        if stop_strings:
            how["stop"] = list(stop_strings)
        self._engine = _engine_class()(
            model,
            accelerator,
            tokenizer,
            mode=mode,
            server_base_url=server_base_url,
            gpu_memory_utilization=gpu_memory_utilization,
            max_model_length=max_prompt_tokens + max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            max_completion_length=max_new_tokens,
            logprobs=0,
            generation_kwargs=how,
        )

    def sample(self, prompt_ids: Sequence[Tensor]) -> SampledTokens:
        """One completion for each of B prompts by the model's weights as they are now; on the CPU."""
        self._engine.sync_weights()
        prompts = [ids.tolist() for ids in prompt_ids]
        _, completions, logprobs, _ = self._engine.generate(prompts, None, num_generations=1)
        width = max(map(len, completions), default=0)
        ids = torch.full((len(prompts), width), self._pad_id, dtype=torch.long)
        mask = torch.zeros((len(prompts), width), dtype=torch.bool)
        kept = torch.zeros((len(prompts), width), dtype=torch.float32)
        for row, completion in enumerate(completions):
            ids[row, : len(completion)] = torch.tensor(completion, dtype=torch.long)
            mask[row, : len(completion)] = True
            if self._keeps_logprobs:
                kept[row, : len(completion)] = torch.tensor([step[0] for step in logprobs[row]], dtype=torch.float32)
        ended = torch.tensor([bool(row) and row[-1] in self._stop_ids for row in completions], dtype=torch.bool)
        if self._stop_strings is not None:
            ended |= torch.tensor(self._stop_strings.found([row[-self._stop_strings.window :] for row in completions]))
        return SampledTokens(ids, mask, ended, kept if self._keeps_logprobs else None)


def _engine_class() -> Any:
    from trl.generation.vllm_generation import VLLMGeneration  # asks vLLM for much when it is imported

    return VLLMGeneration
