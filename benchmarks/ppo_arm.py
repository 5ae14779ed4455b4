"""One arm of the PPO benchmark: `ppo_arm.py A|B UPDATES`; prints one JSON object as its last line.

5.8M parameters, a vocabulary of 4,096, prompts of 16 to 48 tokens, 48 forced tokens, batches of 64, 4 passes.
"""

import json
import resource
import statistics
import sys
import tempfile
import time
from itertools import pairwise

import torch
from datasets import Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

VOCABULARY, PAD, EOS = 4096, 0, 1


def make_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models

    words = {"<pad>": PAD, "</s>": EOS, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", padding_side="left")


def model_config(**extra: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=5,
        num_attention_heads=8,
        max_position_embeddings=256,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
        **extra,
    )


class Clock(TrainerCallback):
    """When each update ended."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def on_step_end(self, *_: object, **__: object) -> None:
        self.times.append(time.perf_counter())


def main(arm: str, updates: int) -> None:
    if arm == "A":
        from trl.experimental.ppo import PPOConfig, PPOTrainer
    else:
        from rlhf.ppo import PPOConfig, PPOTrainer
    torch.manual_seed(0)
    policy = LlamaForCausalLM(model_config())
    reference = LlamaForCausalLM(model_config())
    reference.load_state_dict(policy.state_dict())
    reward, value = (LlamaForSequenceClassification(model_config(num_labels=1)) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(16, 49, (64 * updates,), generator=generator).tolist()
    rows = [torch.randint(2, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        args = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=4,
            num_mini_batches=1,
            num_ppo_epochs=4,
            total_episodes=64 * updates,
            response_length=48,
            num_sample_generations=0,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = PPOTrainer(
            args=args,
            processing_class=make_tokenizer(),
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=value,
            train_dataset=Dataset.from_dict({"input_ids": rows}),
            eval_dataset=Dataset.from_dict({"input_ids": rows[:8]}),
            callbacks=[clock],
        )
        trainer.train()
    durations = [end - start for start, end in pairwise(clock.times[1:])]
    print(
        json.dumps(
            {
                "episodes_per_second": 64 / statistics.median(durations),
                "spread": [64 / max(durations), 64 / min(durations)],
                "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
