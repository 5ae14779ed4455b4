"""The adapter to TRL's vLLM class, with a class of its kind in its place: vLLM itself needs an accelerator."""

import inspect
from typing import Any

import pytest
import torch
from ppo.tiny import EOS, PAD, make_policy, make_tokenizer
from trl.generation.vllm_generation import VLLMGeneration

from rlhf.errors import UserError
from rlhf.generation import vllm
from rlhf.generation.vllm import VLLMSampler

SETTINGS: dict[str, Any] = {"max_prompt_tokens": 9, "max_new_tokens": 4, "temperature": 0.7, "stop_ids": [EOS]}


class Engine:
    """Has the signatures of VLLMGeneration and answers from a list."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        inspect.signature(VLLMGeneration.__init__).bind(self, *args, **settings)
        self.settings = settings
        self.calls: list[str] = []

    def sync_weights(self) -> None:
        self.calls.append("sync_weights")

    def generate(self, *args: Any, **settings: Any) -> tuple[Any, ...]:
        asked = inspect.signature(VLLMGeneration.generate).bind(self, *args, profiler=None, **settings).arguments
        assert asked["prompts"] == [[5, 6], [7]]
        self.calls.append("generate")
        completions = [[8, EOS], [9, 10, 11, 12]]
        return asked["prompts"], completions, [[[-0.5 * token] for token in row] for row in completions], None


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "find_spec", lambda name: name)
    monkeypatch.setattr(vllm, "_engine_class", lambda: Engine)


def make(**changes: Any) -> VLLMSampler:
    model = make_policy()
    model.name_or_path = changes.pop("name", "some/folder")
    return VLLMSampler(model, None, make_tokenizer(), **(SETTINGS | changes))


def test_without_vllm_it_says_what_to_install() -> None:
    with pytest.raises(UserError, match=r"vllm is not installed; pip install 'rlhf-framework\[vllm\]'.*generation: hf"):
        make()


@pytest.mark.usefixtures("installed")
def test_a_model_that_vllm_could_not_load_is_refused() -> None:
    with pytest.raises(UserError, match="the model has no name_or_path"):
        make(name="")


@pytest.mark.usefixtures("installed")
def test_completions_come_padded_with_their_logprobs_after_the_weights_were_sent() -> None:
    sampler = make()
    tokens = sampler.sample([torch.tensor([5, 6]), torch.tensor([7])])
    assert tokens.ids.tolist() == [[8, EOS, PAD, PAD], [9, 10, 11, 12]]
    assert tokens.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert tokens.ended.tolist() == [True, False]
    assert tokens.logprobs is not None
    assert tokens.logprobs.tolist() == [[-4.0, -0.5, 0.0, 0.0], [-4.5, -5.0, -5.5, -6.0]]
    assert sampler._engine.calls == ["sync_weights", "generate"]
    assert sampler._engine.settings["max_model_length"] == 13
    assert sampler._engine.settings["generation_kwargs"] == {"stop_token_ids": [EOS], "ignore_eos": True}


@pytest.mark.usefixtures("installed")
def test_logprobs_of_a_part_of_the_distribution_are_not_kept_and_stop_strings_end() -> None:
    sampler = make(top_k=5, stop_strings=["w8 w9"])
    tokens = sampler.sample([torch.tensor([5, 6]), torch.tensor([7])])
    assert tokens.logprobs is None
    assert tokens.ended.tolist() == [True, True]
    assert sampler._engine.settings["generation_kwargs"]["stop"] == ["w8 w9"]
