"""Sampling by vLLM, through TRL's `VLLMGeneration`: for an accelerator. Not measured: none was at hand."""

import contextlib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.generation.recorder import SampledTokens, StopStrings
from rlhf.generation.sampler import NonFiniteProbabilities


class VLLMSampler:
    """A vLLM engine beside a model that is being trained, in its process and on its accelerator.

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
        pad_id: int,
        stop_strings: Sequence[str],
        gpu_memory_utilization: float,
    ) -> None:
        """Start the engine.

        Args:
            model: its `name_or_path` is a folder or Hub id that vLLM loads; weights are sent before each sampling.
            accelerator: the trainer's.
            tokenizer: the model's.
            max_prompt_tokens: longest prompt, in tokens.
            max_new_tokens: a completion's limit.
            temperature: of sampling.
            stop_ids: tokens that end a completion; without any, and without stop strings, all reach the limit.
            pad_id: fills what comes behind a completion.
            stop_strings: texts that end a completion.
            gpu_memory_utilization: share of the accelerator's memory that the engine takes.

        Raises:
            UserError: vLLM is not installed, or it could not load the model or not take its adapter.
        """
        if find_spec("vllm") is None:
            raise UserError(
                "generation = 'vllm': the package vllm is not installed; pip install 'rlhf-framework[vllm]' on a "
                "machine with an accelerator, or set generation: hf"
            )
        if not getattr(model, "name_or_path", ""):
            raise UserError(
                "generation = 'vllm': the model has no name_or_path, from which vLLM would load it; load it from a "
                "folder or the Hub, or set generation: hf"
            )
        if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
            raise UserError(
                f"generation = 'vllm': the adapter ({model.active_peft_config.peft_type.value}) cannot be merged into "
                "the weights that vLLM is sent; use a LoRA, or set generation: hf"
            )
        self.model = model
        """What it samples from."""
        self._pad_id = pad_id
        self._stop_ids = sorted(stop_ids)
        self._stop_strings = StopStrings(tokenizer, stop_strings) if stop_strings else None
        how: dict[str, Any] = {"stop_token_ids": self._stop_ids, "ignore_eos": True}
        if stop_strings:
            how["stop"] = list(stop_strings)
        self._engine = _engine_class()(
            model,
            accelerator,
            tokenizer,
            mode="colocate",
            gpu_memory_utilization=gpu_memory_utilization,
            max_model_length=max_prompt_tokens + max_new_tokens,
            temperature=temperature,
            max_completion_length=max_new_tokens,
            logprobs=0,
            generation_kwargs=how,
        )

    def sample(self, prompt_ids: Sequence[Tensor]) -> SampledTokens:
        """One completion for each of B prompts by the model's weights as they are now; on the model's device.

        Raises:
            NonFiniteProbabilities: NaN among the log-probs.
        """
        with _base_put_back(self.model):
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
            drawn = [step[0] for step in logprobs[row]]
            if None in drawn:  # TRL's word for NaN
                raise NonFiniteProbabilities
            kept[row, : len(completion)] = torch.tensor(drawn, dtype=torch.float32)
        ended = torch.tensor([bool(row) and row[-1] in self._stop_ids for row in completions], dtype=torch.bool)
        if self._stop_strings is not None:
            ended |= torch.tensor(self._stop_strings.found([row[-self._stop_strings.window :] for row in completions]))
        device = next(self.model.parameters()).device
        return SampledTokens(ids.to(device), mask.to(device), ended.to(device), kept.to(device))


@contextlib.contextmanager
def _base_put_back(model: nn.Module) -> Iterator[None]:
    """The base of an adapted model has its bits behind the block again; other models are left alone.

    TRL merges an adapter into its base, sends it, and takes it out again, which rounds. Others stand on that base.
    """
    base = [p for name, p in model.named_parameters() if ".base_layer." in name] if isinstance(model, PeftModel) else []
    kept = [p.detach().to("cpu", copy=True) for p in base]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, before in zip(base, kept, strict=True):
                parameter.copy_(before)


def _engine_class() -> Any:
    from trl.generation.vllm_generation import VLLMGeneration  # asks vLLM for much when it is imported

    return VLLMGeneration
