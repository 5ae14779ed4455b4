"""`train_ppo` with adapters: one frozen base in memory, the round trip through the registry, what cannot share it."""

import json

import pytest
import torch
from tiny import tiny_model
from transformers import AutoModelForCausalLM

from reward.config import RewardStageConfig
from reward.train import train_reward
from rlhf.config import load_config
from rlhf.errors import UserError
from rlhf.modeling import find_model, load_causal_lm, load_reward_model, weight_bytes
from rlhf.ppo import stage
from rlhf.ppo.stage import train_ppo
from rlhf.ppo.stage_config import PPOStageConfig
from rlhf.ppo.trainer import PPOTrainer
from rlhf.records import write_jsonl
from rlhf.scorers import reward_model_scorer
from rlhf.workspace import Workspace
from sft.config import SFTStageConfig
from sft.train import train_sft

COMMON = """
model: {ref: BASE, adapter: {r: 4}}
tracking: {wandb: off}
"""
SFT = """
data: {sources: [{path: sft.jsonl}], dev_fraction: 0}
trainer: {num_train_epochs: 1, per_device_train_batch_size: 8, learning_rate: 1e-2, activation_checkpointing: false}
output: {name: tiny/sft}
"""
REWARD = """
data: {sources: [{path: pairs.jsonl}], dev_fraction: 0}
trainer: {num_train_epochs: 1, per_device_train_batch_size: 8, learning_rate: 1e-2, activation_checkpointing: false}
centre: {ref: BASE, num_prompts: 4, max_new_tokens: 4}
output: {name: tiny/reward}
"""
PPO = """
reward: [{ref: tiny/reward}]
data: {sources: [{path: prompts.jsonl}], dev_fraction: 0}
trainer:
  total_episodes: 32
  per_device_train_batch_size: 16
  num_ppo_epochs: 1
  learning_rate: 1e-2
  response_length: 6
  temperature: 1.0
  activation_checkpointing: false
output: {name: tiny/policy}
"""
IDS = torch.tensor([[65, 66, 67, 68, 69, 70], [70, 71, 72, 73, 74, 75]])


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """Runs a stage by its name with overrides; `trainer` is the last PPO trainer."""
    monkeypatch.setattr(Workspace, "write_report", lambda *_: None)
    tiny_model(tmp_path / "base", seed=3)
    write_jsonl(tmp_path / "sft.jsonl", [{"prompt": f"P{n}:", "completion": "abc"} for n in range(16)])
    pairs = [{"prompt": f"P{n}:", "chosen": "aaa", "rejected": "ZZZ"} for n in range(16)]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"P{n}:"} for n in range(32)])
    parts = {
        "sft": (SFT, SFTStageConfig, train_sft),
        "reward": (REWARD, RewardStageConfig, train_reward),
        "ppo": (PPO, PPOStageConfig, train_ppo),
    }

    class Stages:
        workspace = Workspace.open(tmp_path / "home", progress=False)
        folder = tmp_path
        base = str(tmp_path / "base")
        trainer: PPOTrainer

        def __call__(self, name, *overrides, base=None, run_id=None):
            text, config, run = parts[name]
            (tmp_path / f"{name}.yaml").write_text((COMMON + text).replace("BASE", base or self.base))
            return run(load_config(tmp_path / f"{name}.yaml", config, overrides), self.workspace.within(run_id=run_id))

        def find(self, ref):
            return find_model(ref, self.workspace.registry)

    made = Stages()

    class Kept(PPOTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.trainer = self

    monkeypatch.setattr(stage, "PPOTrainer", Kept)
    return made


def test_the_round_trip_of_adapters_on_one_base(stages, caplog):
    caplog.set_level("INFO")
    stages("sft")
    stages("reward", base="tiny/sft")
    stages("ppo", "trainer.critic=adapter", "trainer.critic_init=reward", base="tiny/sft")
    said = [record.message for record in caplog.records if "one base" in record.message]
    assert said == ["one base in memory, base/base@v1; adapters of it: the policy, its reference, tiny/reward@v1"]

    # in memory: the base once, the adapters of policy, judge and critic, two heads
    trainer = stages.trainer
    whole = weight_bytes([load_causal_lm(stages.find("tiny/sft"))])
    judge = trainer.scorer.scorers[0].model
    adapter = sum(p.numel() * 4 for n, p in trainer.policy_model.named_parameters() if ".default." in n)
    critic_head = (16 + 1) * 4  # the judge's scores less its offset
    assert trainer.ref_model is None
    assert weight_bytes([trainer.model, judge]) == whole + 3 * adapter + 16 * 4 + critic_head

    # a policy's file is an adapter on the SFT model; merged it gives the logits it gave in memory
    policy = stages.find("tiny/policy")
    assert policy.base.ref == "tiny/sft@v1" and policy.base.base.ref == "base/base@v1"
    load_causal_lm(policy).save_pretrained(stages.folder / "aligned")
    exported = AutoModelForCausalLM.from_pretrained(stages.folder / "aligned")
    torch.testing.assert_close(logits(exported), logits(trainer.policy_model), atol=1e-4, rtol=0)
    assert not torch.allclose(logits(exported), logits(load_causal_lm(stages.find("tiny/sft"))), atol=1e-3)

    # the judge scores as it did in PPO, on its own and loaded anew
    prompts, completions = ["P1:", "P2:"], ["aab", "ZZ"]
    first, again = (reward_model_scorer(stages.find("tiny/reward"), "judge") for _ in range(2))
    assert torch.equal(first.score(prompts, completions), again.score(prompts, completions))
    torch.testing.assert_close(first.score(prompts, completions), trainer.scorer.score(prompts, completions))


def test_a_policy_on_the_sft_model_shares_the_base_with_a_judge_on_the_base(stages):
    stages("sft")
    stages("reward")
    stages("ppo", "trainer.critic=adapter", base="tiny/sft")
    trainer = stages.trainer
    assert trainer.ref_model is None
    sft = load_causal_lm(stages.find("tiny/sft"))
    with trainer.reference.active() as reference:
        torch.testing.assert_close(logits(reference), logits(sft), atol=1e-5, rtol=0)
    judge, _ = load_reward_model(stages.find("tiny/reward"))
    torch.testing.assert_close(logits(trainer.scorer.scorers[0].model), logits(judge), atol=1e-5, rtol=0)
    merged = load_causal_lm(stages.find("tiny/policy"))
    torch.testing.assert_close(logits(merged), logits(trainer.policy_model), atol=1e-4, rtol=0)
    files = {path.name for path in stages.find("tiny/policy").folder.rglob("*") if path.is_file()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= files and "value_model.safetensors" not in files


JUDGE = """
def f(prompts, completions, **columns):
    return [float("a" in c) for c in completions]
"""


@pytest.mark.parametrize("critic", ["separate", "shared", "adapter"])
def test_every_critic_runs_as_a_stage(stages, critic):
    (stages.folder / "judge.py").write_text(JUDGE)
    full = () if critic == "adapter" else ("model.adapter=null",)
    reward = f'reward=[{{function: "{stages.folder}/judge.py:f"}}]'
    summary = stages("ppo", reward, f"trainer.critic={critic}", "trainer.critic_warmup_updates=1", *full)
    assert (summary["status"], summary["num_updates"], summary["num_episodes"]) == ("done", 2, 32)
    kinds = {"separate": "ValueModel", "shared": "SharedCritic", "adapter": "AdapterCritic"}
    assert type(stages.trainer.value_model).__name__ == kinds[critic]


def test_the_older_name_of_where_the_critic_starts(stages):
    def critic_init(text):
        (stages.folder / "ppo.yaml").write_text((COMMON + PPO).replace("BASE", stages.base) + text)
        return load_config(stages.folder / "ppo.yaml", PPOStageConfig).trainer.get("critic_init")

    assert critic_init("critic: policy") == "policy"
    assert critic_init("critic: reward") is None  # it was a wish, and is what happens anyway where it can
    with pytest.raises(UserError, match="critic = 'shared'"):
        critic_init("critic: shared")


def test_judges_and_references_of_another_base_are_held_apart_and_said(stages, caplog):
    other = str(tiny_model(stages.folder / "other", seed=9))
    stages("reward", base=other)
    stages("sft", base=other)
    summary = stages("ppo", "reference=tiny/sft", "trainer.critic=adapter")
    assert summary["status"] == "done"
    said = [record.message for record in caplog.records if "is an adapter of" in record.message]
    assert said == [
        "reward tiny/reward@v1 is an adapter of base/other@v1, and the policy one of base/base@v1: "
        "it is held as a model of its own",
        "reference tiny/sft@v1 is an adapter of base/other@v1, and the policy one of base/base@v1: "
        "it is held as a model of its own",
    ] or said == [text.replace("base/base@v1", stages.base) for text in said]
    assert stages.trainer.ref_model is not None


def test_a_critic_s_adapter_is_carried_by_a_judge_on_another_base(stages):
    stages("reward", base=str(tiny_model(stages.folder / "other", seed=9)))
    summary = stages("ppo", "trainer.critic=adapter", "trainer.critic_init=reward")
    assert summary["status"] == "done"
    critic, judge = stages.trainer.value_model, stages.trainer.scorer.scorers[0].model
    assert critic.stack.host.get_base_model() is judge
    alone, _ = load_reward_model(stages.find("tiny/reward"))
    assert torch.equal(logits(judge), logits(alone))


def test_a_judge_that_lost_its_head_is_said_before_anything_is_sampled(stages):
    from safetensors.torch import load_file, save_file

    stages("reward")
    folder = stages.folder / "headless"
    folder.mkdir()
    for file in stages.find("tiny/reward").folder.iterdir():
        if file.name != "manifest.json":
            (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({n: t for n, t in weights.items() if "score" not in n}, folder / "adapter_model.safetensors")
    (folder / "reward.json").write_text(json.dumps({"score_offset": 0.0, "max_length": None}))
    with pytest.raises(UserError, match=r"headless: lacks score\.weight, so that its scores would be drawn at random"):
        stages("ppo", f"reward=[{{ref: {folder}}}]")


def test_a_held_out_judge_shares_the_base_too(stages):
    stages("reward")
    stages("reward", "output.name=tiny/other", "seed=5")
    stages("ppo", "judge=[{ref: tiny/other}]", "data.dev_fraction=0.25")
    optimised, judging = stages.trainer.scorer.scorers[0].model, stages.trainer.judge.scorers[0].model
    assert optimised.stack.host is judging.stack.host is stages.trainer.policy_model
    assert optimised.stack.names != judging.stack.names
    alone, _ = load_reward_model(stages.find("tiny/other"))
    torch.testing.assert_close(logits(judging), logits(alone), atol=1e-5, rtol=0)


def test_a_run_on_one_base_that_was_killed_is_gone_on_with_to_the_bit(stages, monkeypatch):
    class Killed(BaseException):
        pass

    def after_two_updates(self, logs, *args, **kwargs):
        if self.state.global_step == 2:
            raise Killed
        return log(self, logs, *args, **kwargs)

    stages("sft")
    stages("reward")
    settings = ("trainer.critic=adapter", "trainer.critic_init=reward", "trainer.save_strategy=steps")
    settings += ("trainer.save_steps=1", "trainer.total_episodes=64")
    assert stages("ppo", *settings, base="tiny/sft")["artefact"] == "tiny/policy@v1"
    log = PPOTrainer.log
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(PPOTrainer, "log", after_two_updates)
        stages("ppo", *settings, base="tiny/sft", run_id="killed")
    # the same content is the same version
    assert stages("ppo", *settings, base="tiny/sft", run_id="killed")["artefact"] == "tiny/policy@v1"
    assert stages("ppo", *settings, "seed=5", base="tiny/sft")["artefact"] == "tiny/policy@v2"
