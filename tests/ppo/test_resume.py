"""Stopping and going on gives the run that was never stopped, to the bit."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors import SafetensorError
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ppo.tiny import make_classifier, make_policy, make_prompts
from rlhf.checkpoint import BrokenCheckpointError
from rlhf.errors import UserError
from rlhf.ppo import PPOTrainer
from rlhf.ppo.checkpointing import save_policy
from rlhf.ppo.state import load_policy

SETTINGS: dict[str, Any] = {
    "total_episodes": 32,
    "num_mini_batches": 2,
    "save_strategy": "steps",
    "save_steps": 1,
    "kl_controller": "adaptive",
    "kl_target": 0.1,
    "kl_horizon": 64,
}
# peft reads a name of transformers that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


class StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def weights(trainer: PPOTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same_run(first: PPOTrainer, second: PPOTrainer) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert first.kl_controller.value == second.kl_controller.value
    assert first.state.episode == second.state.episode == 32
    timeless = [
        [{k: v for k, v in row.items() if "time" not in k and "second" not in k and k != "eps"} for row in log]
        for log in (first.state.log_history, second.state.log_history)
    ]
    # The last row sums up one call of train(), of which the resumed run made two.
    assert timeless[0][:-1] == timeless[1][:-1]


CRITICS: dict[str, dict[str, Any]] = {
    "separate": {},
    "separate, LoRA": {"peft_config": LORA},
    "shared": {"critic": "shared"},
    "shared, LoRA": {"critic": "shared", "peft_config": LORA, "critic_warmup_updates": 3},
    "adapter": {"critic": "adapter", "critic_warmup_updates": 1},
    "head": {"critic": "head", "reward_model": make_classifier(), "reward_weights": [0.01, 1.0]},
    "adapter, LoRA": {"critic": "adapter", "peft_config": LORA, "critic_warmup_updates": 2},
}


@pytest.mark.parametrize("changes", CRITICS.values(), ids=CRITICS)
def test_two_updates_and_two_more_are_four_updates(
    make_trainer: Callable[..., PPOTrainer], tmp_path: Path, changes: dict[str, Any]
) -> None:
    straight = make_trainer(**SETTINGS, **changes, output_dir=str(tmp_path / "straight"))
    straight.train()
    stopped = make_trainer(**SETTINGS, **changes, callbacks=[StopAfter(2)])
    stopped.train()
    assert stopped.state.global_step == 2
    torch.manual_seed(12345)  # whatever happens to the generators in between
    resumed = make_trainer(**SETTINGS, **changes)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(straight, resumed)


def test_resuming_between_two_logs_averages_over_both_parts(
    make_trainer: Callable[..., PPOTrainer], tmp_path: Path
) -> None:
    settings = SETTINGS | {"logging_steps": 2}
    straight = make_trainer(**settings, output_dir=str(tmp_path / "straight"))
    straight.train()
    make_trainer(**settings, callbacks=[StopAfter(3)]).train()
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(straight, resumed)


@pytest.mark.parametrize("tied", [False, True])
def test_a_mixture_of_experts_and_tied_weights_come_back_as_they_were(tmp_path: Path, tied: bool) -> None:
    def make(seed: int) -> MixtralForCausalLM:
        torch.manual_seed(seed)
        config = MixtralConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=2,
            tie_word_embeddings=tied,
        )
        return MixtralForCausalLM(config)

    first, second = make(0), make(1)
    save_policy(first, tmp_path, as_in_memory=True)
    load_policy(second, tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert (second.lm_head.weight is second.model.embed_tokens.weight) == tied
    with pytest.raises(UserError, match="its weights are not those of this model"):
        load_policy(make_policy(), tmp_path)


def test_a_checkpoint_can_be_named(make_trainer: Callable[..., PPOTrainer], tmp_path: Path) -> None:
    straight = make_trainer(**SETTINGS)
    straight.train()
    resumed = make_trainer(**SETTINGS, output_dir=str(tmp_path / "elsewhere"))
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert_same_run(straight, resumed)


def test_two_runs_with_one_seed_are_one(make_trainer: Callable[..., PPOTrainer], tmp_path: Path) -> None:
    first = make_trainer(**SETTINGS)
    first.train()
    torch.rand(7)
    second = make_trainer(**SETTINGS, output_dir=str(tmp_path / "second"))
    torch.rand(7)
    second.train()
    assert_same_run(first, second)


def test_a_broken_newest_checkpoint_is_passed_over_by_name(
    make_trainer: Callable[..., PPOTrainer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight = make_trainer(**SETTINGS)
    straight.train()
    newest = tmp_path / "run" / "checkpoint-4" / "optimizer.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(bytes(data))
    resumed = make_trainer(**SETTINGS)
    with caplog.at_level(logging.WARNING):
        resumed.train(resume_from_checkpoint=True)
    assert "checkpoint-4" in caplog.text
    assert "optimizer.pt has changed" in caplog.text
    assert_same_run(straight, resumed)


def test_a_named_checkpoint_that_is_broken_is_refused(make_trainer: Callable[..., PPOTrainer], tmp_path: Path) -> None:
    make_trainer(**SETTINGS).train()
    folder = tmp_path / "run" / "checkpoint-2"
    (folder / "value_model.safetensors").unlink()
    with pytest.raises(BrokenCheckpointError, match=r"value_model\.safetensors is missing"):
        make_trainer(**SETTINGS).train(resume_from_checkpoint=str(folder))


def test_settings_that_move_the_data_position_are_refused(make_trainer: Callable[..., PPOTrainer]) -> None:
    make_trainer(**SETTINGS, callbacks=[StopAfter(1)]).train()
    with pytest.raises(UserError, match="batch_size was 8 and is 4"):
        make_trainer(**(SETTINGS | {"per_device_train_batch_size": 4})).train(resume_from_checkpoint=True)
    with pytest.raises(UserError, match="num_prompts was 16 and is 20"):
        make_trainer(**SETTINGS, train_dataset=make_prompts(20)).train(resume_from_checkpoint=True)


def test_a_fixed_coefficient_can_be_changed_when_a_run_goes_on(
    make_trainer: Callable[..., PPOTrainer], caplog: pytest.LogCaptureFixture
) -> None:
    settings = SETTINGS | {"kl_controller": "fixed", "kl_coef": 0.05}
    make_trainer(**settings, callbacks=[StopAfter(2)]).train()
    resumed = make_trainer(**(settings | {"kl_coef": 0.2}))
    with caplog.at_level(logging.INFO):
        resumed.train(resume_from_checkpoint=True)
    coefficients = [row["objective/kl_coef"] for row in resumed.state.log_history if "objective/kl_coef" in row]
    assert coefficients == [0.05, 0.05, 0.2, 0.2]
    assert "kl_coef is 0.2 from here on; it was 0.05 when the checkpoint was saved" in caplog.text


def test_another_kind_of_critic_is_refused(make_trainer: Callable[..., PPOTrainer]) -> None:
    make_trainer(**SETTINGS, callbacks=[StopAfter(1)]).train()
    with pytest.raises(UserError, match="critic was separate and is shared; set it back or start anew"):
        make_trainer(**SETTINGS, critic="shared").train(resume_from_checkpoint=True)


def test_resuming_where_there_is_nothing_is_refused(make_trainer: Callable[..., PPOTrainer], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no intact checkpoint"):
        make_trainer(**SETTINGS).train(resume_from_checkpoint=True)
    with pytest.raises(UserError, match="there is no such checkpoint folder"):
        make_trainer(**SETTINGS).train(resume_from_checkpoint=str(tmp_path / "nothing"))


def test_a_setting_that_adds_a_figure_can_be_made_between_two_logs(make_trainer: Callable[..., PPOTrainer]) -> None:
    settings = SETTINGS | {"logging_steps": 4}
    make_trainer(**settings, callbacks=[StopAfter(3)]).train()
    resumed = make_trainer(**settings, score_clip=5.0)
    resumed.train(resume_from_checkpoint=True)
    row = resumed.state.log_history[0]
    assert row["step"] == 4
    assert "objective/shaped_scores" in row  # of the one update that has it


class FillDisk(TrainerCallback):
    """Saving fails from step 3 on as it does on a disk that is full, which Python, torch and Rust say each its way."""

    def __init__(self, patch: pytest.MonkeyPatch, writer: str) -> None:
        self.patch, self.writer = patch, writer

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        def refuse(*_: object) -> None:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        if state.global_step < 3:
            return
        if self.writer == "torch":
            self.patch.setattr("rlhf.ppo.state.OPTIMIZER", "/dev/full")
        elif self.writer == "python":
            self.patch.setattr("rlhf.ppo.checkpointing.TRAINING_ARGS", "/dev/full")
        else:
            self.patch.setattr("rlhf.ppo.state.save_file", refuse)


@pytest.mark.parametrize("writer", ["torch", "python", "safetensors"])
def test_a_disk_that_is_full_is_named_and_the_run_goes_on_from_what_is_there(
    make_trainer: Callable[..., PPOTrainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    straight = make_trainer(**SETTINGS, output_dir=str(tmp_path / "straight"))
    straight.train()
    said = (
        r"checkpoint-3: it could not be saved \(.+\), with [\d,]+ MiB free in .+run; the last intact .+checkpoint-2\. "
    )
    with monkeypatch.context() as patch, pytest.raises(UserError, match=said):
        make_trainer(**SETTINGS, callbacks=[FillDisk(patch, writer)]).train()
    assert sorted(path.name for path in (tmp_path / "run").glob("*checkpoint*")) == ["checkpoint-1", "checkpoint-2"]
    resumed = make_trainer(**SETTINGS)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(straight, resumed)


def test_a_checkpoint_without_optimizer_state_is_refused(make_trainer: Callable[..., PPOTrainer]) -> None:
    make_trainer(**SETTINGS, save_only_model=True).train()
    with pytest.raises(UserError, match="saved with save_only_model"):
        make_trainer(**SETTINGS).train(resume_from_checkpoint=True)


def test_a_checkpoint_holds_no_pickle_and_opens_with_from_pretrained(
    make_trainer: Callable[..., PPOTrainer], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = make_trainer(**SETTINGS, save_total_limit=2)
    trainer.train()
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    folder = tmp_path / "run" / "checkpoint-4"
    for path in folder.glob("*.pt"):
        torch.load(path, weights_only=True)
    assert not list(folder.glob("*.bin"))
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in trainer.policy_model.state_dict().items())
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<eos>"
    state = json.loads((folder / "trainer_state.json").read_text())
    assert (state["global_step"], state["episode"]) == (4, 32)
