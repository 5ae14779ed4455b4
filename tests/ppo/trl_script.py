"""A script as people wrote them for TRL 1.12's PPO, after the example in its documentation; test_trl_scripts runs it
with TRL 1.12.0 and, one line changed, with ours.

    python trl_script.py (arguments of ScriptArguments, PPOConfig and ModelConfig)
"""

import json
import sys
from pathlib import Path

from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    HfArgumentParser,
    TrainerCallback,
)
from trl import ModelConfig, ScriptArguments, get_peft_config
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Seen(TrainerCallback):
    """What a user's callback gets to see."""

    def __init__(self):
        self.events = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.events.append(sorted(logs))

    def on_step_end(self, args, state, control, **kwargs):
        self.events.append("step")


if __name__ == "__main__":
    parser = HfArgumentParser((ScriptArguments, PPOConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_into_dataclasses()

    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path, padding_side="left")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    value_model = AutoModelForSequenceClassification.from_pretrained(training_args.reward_model_path, num_labels=1)
    reward_model = AutoModelForSequenceClassification.from_pretrained(training_args.reward_model_path, num_labels=1)
    policy = AutoModelForCausalLM.from_pretrained(training_args.sft_model_path)
    peft_config = get_peft_config(model_args)
    ref_policy = AutoModelForCausalLM.from_pretrained(training_args.sft_model_path) if peft_config is None else None

    dataset = Dataset.from_json(script_args.dataset_name)
    eval_samples = 8
    train_dataset = dataset.select(range(len(dataset) - eval_samples))
    eval_dataset = dataset.select(range(len(dataset) - eval_samples, len(dataset)))

    def prepare_dataset(dataset, tokenizer):
        """Pre-tokenize the dataset before training; only collate during training."""

        def tokenize(element):
            outputs = tokenizer(element["prompt"], padding=False)
            return {"input_ids": outputs["input_ids"]}

        return dataset.map(tokenize, batched=True, remove_columns=dataset.column_names)

    seen = Seen()
    trainer = PPOTrainer(
        args=training_args,
        processing_class=tokenizer,
        model=policy,
        ref_model=ref_policy,
        reward_model=reward_model,
        value_model=value_model,
        train_dataset=prepare_dataset(train_dataset, tokenizer),
        eval_dataset=prepare_dataset(eval_dataset, tokenizer),
        peft_config=peft_config,
        callbacks=[seen],
    )
    trainer.train()  # resumes here
    trainer.save_model(training_args.output_dir)
    trainer.generate_completions()

    folder = Path(training_args.output_dir)
    result = {
        "events": seen.events,
        "log": [sorted(row) for row in trainer.state.log_history],
        "steps": [trainer.state.global_step, trainer.state.episode, training_args.num_total_batches],
        "files": sorted(path.name for path in folder.iterdir() if path.is_file()),
        "checkpoints": sorted(path.name for path in folder.glob("checkpoint-*")),
        "trained": sum(p.numel() for p in trainer.model.policy.parameters() if p.requires_grad),
    }
    sys.stdout.write("RESULT " + json.dumps(result) + "\n")
