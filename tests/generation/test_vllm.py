"""The adapter to TRL's vLLM class, with a class of its kind in its place: vLLM itself needs an accelerator."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from ppo.tiny import EOS, PAD, count_good, make_policy, make_prompts, make_tokenizer
from torch import Tensor
from trl.generation.vllm_generation import VLLMGeneration

from rlhf.errors import UserError
from rlhf.generation import NonFiniteProbabilities, sample_tokens, vllm
from rlhf.generation.vllm import VLLMSampler
from rlhf.ppo import PPOConfig, PPOTrainer

# peft reads a name of transformers that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


class Engine:
    """Has the signatures of VLLMGeneration, and samples by the weights that it was sent last."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        asked = inspect.signature(VLLMGeneration.__init__).bind(self, *args, **settings).arguments
        self.model, self.settings = asked["model"], settings
        self.sent: list[dict[str, Tensor]] = []
        self.num_prompts: list[int] = []
        self.answers: tuple[list[list[int]], list[list[list[float | None]]]] | None = None

    def sync_weights(self) -> None:
        """As TRL's: names without PEFT's parts, an adapter merged meanwhile."""
        adapted = hasattr(self.model, "merge_adapter")
        if adapted:
            self.model.merge_adapter()
        weights = {
            name.removeprefix("base_model.model.").replace(".base_layer", ""): tensor.clone()
            for name, tensor in self.model.state_dict().items()
            if "lora_" not in name
        }
        if adapted:
            self.model.unmerge_adapter()
        self.sent.append(weights)

    def generate(self, *args: Any, **settings: Any) -> tuple[Any, ...]:
        asked = inspect.signature(VLLMGeneration.generate).bind(self, *args, profiler=None, **settings).arguments
        prompts = asked["prompts"]
        assert all(isinstance(token, int) for prompt in prompts for token in prompt)
        self.num_prompts.append(len(prompts))
        if self.answers is not None:
            return prompts, *self.answers, None
        model = make_policy()
        model.load_state_dict(self.sent[-1])
        tokens = sample_tokens(
            model,
            prompts,
            max_new_tokens=self.settings["max_completion_length"],
            temperature=self.settings["temperature"],
            stop_ids=self.settings["generation_kwargs"]["stop_token_ids"],
            pad_id=PAD,
            batch_size=8,
        )
        assert tokens.logprobs is not None
        rows = [row[mask] for row, mask in zip(tokens.ids, tokens.mask, strict=True)]
        logprobs = [row[mask][:, None] for row, mask in zip(tokens.logprobs, tokens.mask, strict=True)]
        return prompts, [row.tolist() for row in rows], [row.tolist() for row in logprobs], None


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "find_spec", lambda name: name)
    monkeypatch.setattr(vllm, "_engine_class", lambda: Engine)


def make(model: Any = None, **changes: Any) -> VLLMSampler:
    settings: dict[str, Any] = {"max_prompt_tokens": 9, "max_new_tokens": 4, "temperature": 0.7, "stop_ids": [EOS]}
    settings |= {"pad_id": PAD, "stop_strings": [], "gpu_memory_utilization": 0.3}
    model = model or make_policy()
    model.name_or_path = changes.pop("name", "some/folder")
    return VLLMSampler(model, None, make_tokenizer(), **(settings | changes))


def make_trainer(folder: Path, **changes: Any) -> PPOTrainer:
    settings: dict[str, Any] = {"total_episodes": 16, "response_length": 6, "stop_token": "eos", "learning_rate": 1e-2}
    settings |= {"bf16": False, "use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    settings |= {"gradient_checkpointing": False, "num_sample_generations": 1, "per_device_train_batch_size": 8}
    policy = make_policy()
    policy.name_or_path = "some/folder"
    return PPOTrainer(
        args=PPOConfig(output_dir=str(folder), generation="vllm", **settings),
        processing_class=make_tokenizer(),
        model=policy,
        ref_model=None,
        reward_model=None,
        train_dataset=make_prompts(),
        eval_dataset=make_prompts(4),
        reward_funcs=count_good,
        **changes,
    )


def test_without_vllm_it_says_what_to_install_before_anything_is_sampled(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vllm is not installed; pip install 'rlhf-framework\[vllm\]'.*generation: hf"):
        make_trainer(tmp_path)


@pytest.mark.usefixtures("installed")
def test_a_model_that_vllm_could_not_load_is_refused() -> None:
    with pytest.raises(UserError, match="the model has no name_or_path"):
        make(name="")
    tuned = get_peft_model(make_policy(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(UserError, match=r"the adapter \(PROMPT_TUNING\) cannot be merged"):
        make(tuned)


@pytest.mark.usefixtures("installed")
def test_completions_come_padded_with_their_logprobs() -> None:
    sampler = make(stop_strings=["w8 w9"])
    sampler._engine.answers = [[8, EOS], [9, 11, 12, 5], [10, 11, 12]], [[[-1.0], [-2.0]], [[-3.0]] * 4, [[-4.0]] * 3]
    tokens = sampler.sample([torch.tensor([5, 6]), torch.tensor([7]), torch.tensor([7])])
    assert tokens.ids.tolist() == [[8, EOS, PAD, PAD], [9, 11, 12, 5], [10, 11, 12, PAD]]
    assert tokens.mask.long().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]
    assert tokens.ended.tolist() == [True, True, True]
    assert tokens.logprobs is not None
    assert tokens.logprobs.tolist() == [[-1.0, -2.0, 0.0, 0.0], [-3.0] * 4, [-4.0, -4.0, -4.0, 0.0]]
    settings = sampler._engine.settings
    assert settings["max_model_length"] == 13
    assert settings["generation_kwargs"] == {"stop_token_ids": [EOS], "ignore_eos": True, "stop": ["w8 w9"]}
    sampler._engine.answers = [[8, EOS]], [[[-1.0], [None]]]
    with pytest.raises(NonFiniteProbabilities):
        sampler.sample([torch.tensor([5, 6])])


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "LoRA"])
def test_rollouts_are_drawn_by_the_weights_of_each_update(tmp_path: Path, peft_config: Any) -> None:
    trainer = make_trainer(tmp_path, peft_config=peft_config)
    assert trainer.sampling.engine is not None
    engine = trainer.sampling.engine._engine
    base = {name: tensor.clone() for name, tensor in trainer.policy_model.state_dict().items() if "lora_" not in name}
    trainer.train()
    assert engine.num_prompts == [8, 8]  # and not the samples, which are greedy
    changed = [name for name, tensor in engine.sent[0].items() if not torch.equal(engine.sent[1][name], tensor)]
    assert changed
    row = trainer.state.log_history[0]
    assert row["sampling/sampling_logp_difference/max"] < 1e-5
    assert row["objective/kl"] == pytest.approx(0.0, abs=1e-6)
    trainer.evaluate()
    assert engine.num_prompts == [8, 8, 4]
    if peft_config is not None:
        own = trainer.policy_model.state_dict()
        assert [name for name, tensor in base.items() if not torch.equal(own[name], tensor)] == []
