"""A whole tiny project: a base model, prompts, demonstrations, a function that makes annotators, and run.yaml."""

from tiny import tiny_model

from rlhf.records import write_jsonl

FUNCTIONS = '''
class Person:
    """Somebody who likes small letters."""

    def __init__(self, name):
        self.name = name

    def judge(self, mode, prompt, responses, presented):
        likes = small_letters([prompt] * len(responses), responses)
        return [[at] for at in sorted(range(len(responses)), key=lambda at: (-likes[at], responses[at]))]


def people(seed):
    return [Person("person-0"), Person("person-1")]


def small_letters(prompts, completions, **columns):
    return [sum(c.islower() for c in text) / 8 for text in completions]
'''

RUN = """
group: tiny
seed: 5
tracking: {wandb: off}
stages:
  sft:
    model: {ref: ./base}
    data: {sources: [{path: demonstrations.jsonl}], dev_fraction: 0.2}
    trainer: {num_train_epochs: 2, per_device_train_batch_size: 8, learning_rate: 5e-3, activation_checkpointing: false,
              logging_steps: 2}
  labels:
    data: {sources: [{path: prompts.jsonl}]}
    num_completions: 3
    generation: {max_new_tokens: 8, temperature: 1.0}
    annotators: {function: "judges_of_this_run.py:people"}
  reward: reward.yaml
  ppo:
    data: {sources: [{path: prompts.jsonl}], dev_fraction: 0.2}
    trainer: {total_episodes: 32, per_device_train_batch_size: 16, num_ppo_epochs: 1, learning_rate: 1e-3,
              response_length: 8, temperature: 1.0, activation_checkpointing: false, save_steps: 1}
    output: {name: tiny/policy, alias: candidate}
  eval:
    data: {sources: [{path: held_out.jsonl}]}
    judge: [{function: "judges_of_this_run.py:small_letters"}]
    generation: {max_new_tokens: 8, temperature: 1.0}
    num_bootstrap: 200
  export: {path: aligned}
"""
REWARD = """
data: {sources: [{path: tiny/preferences}], dev_fraction: 0.2}
trainer: {num_train_epochs: 1, per_device_train_batch_size: 8, learning_rate: 5e-3, activation_checkpointing: false}
centre: {ref: tiny/sft, num_prompts: 8, max_new_tokens: 8}
"""


def write_project(folder):
    """The path of run.yaml."""
    tiny_model(folder / "base")
    write_jsonl(folder / "demonstrations.jsonl", [{"prompt": f"Say {n}:", "completion": " abab"} for n in range(32)])
    write_jsonl(folder / "prompts.jsonl", [{"prompt": f"Prompt {n}:"} for n in range(40)])
    write_jsonl(folder / "held_out.jsonl", [{"prompt": f"Other {n}:"} for n in range(12)])
    (folder / "judges_of_this_run.py").write_text(FUNCTIONS)
    (folder / "reward.yaml").write_text(REWARD)
    (folder / "run.yaml").write_text(RUN)
    return folder / "run.yaml"
