"""Trains a tiny policy in a process of its own, for test_faults.

    python kill_worker.py OUTPUT straight|kill|resume full|lora separate|shared|adapter [rollback]

Prints the digest of all weights at the end. In "kill" it dies by SIGKILL in the middle of the third update. With
"rollback" the third update's scores raise an alarm, after which it is made again; it dies in its second try.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppo.tiny import count_good, make_classifier, make_policy, make_prompts, make_tokenizer
from rlhf.ppo import PPOConfig, PPOTrainer


class Kill(TrainerCallback):
    def __init__(self, after: int) -> None:
        self.calls, self.after = 0, after

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.calls += 1

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.calls == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


class HugeOnce:
    """count_good, but in the third call."""

    __name__ = "huge_once"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, prompts: Any, completions: list[str], **_: Any) -> list[float]:
        self.calls += 1
        return [1e7 if self.calls == 3 else score for score in count_good(prompts, completions)]


def main(output: str, mode: str, method: str, critic: str, alarm: str = "") -> None:
    rolls_back = alarm == "rollback"
    args = PPOConfig(
        output_dir=output,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        total_episodes=40,
        response_length=6,
        stop_token="eos",
        learning_rate=1e-3,
        kl_controller="adaptive",
        kl_target=0.1,
        kl_horizon=64,
        critic=critic,
        critic_warmup_updates=1,
        save_strategy="steps",
        save_steps=1,
        num_sample_generations=0,
        report_to="none",
        use_cpu=True,
        bf16=False,
        monitor="rollback" if rolls_back else "warn",
    )
    trainer = PPOTrainer(
        args=args,
        processing_class=make_tokenizer(),
        model=make_policy(),
        ref_model=None,
        reward_model=make_classifier(),
        train_dataset=make_prompts(),
        reward_funcs=HugeOnce() if rolls_back and mode != "resume" else count_good,
        callbacks=[Kill(after=4 if rolls_back else 3)] if mode == "kill" else None,
        peft_config=LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM") if method == "lora" else None,
    )
    trainer.train(resume_from_checkpoint=mode == "resume")
    digest = hashlib.sha256()
    for _, tensor in sorted(trainer.model.state_dict().items()):
        digest.update(tensor.numpy().tobytes())
    print(f"DIGEST {trainer.state.global_step} {digest.hexdigest()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
