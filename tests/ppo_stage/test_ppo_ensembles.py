"""`train_ppo` against one artefact of several members: heads or adapters, on the policy's base or apart from it."""

import json

import pytest
import torch
from tiny import tiny_model

from rlhf.config import AdapterSection, ModelSection, load_config
from rlhf.errors import UserError
from rlhf.export.export import export_model
from rlhf.modeling import AdapterEnsemble, SharedBaseEnsemble, find_model, load_tokenizer, new_reward_model, save_model
from rlhf.ppo import stage
from rlhf.ppo.stage import train_ppo
from rlhf.ppo.stage_config import PPOStageConfig
from rlhf.ppo.trainer import PPOTrainer
from rlhf.records import write_jsonl
from rlhf.scorers import reward_model_scorer
from rlhf.tracking import read_metrics, read_samples
from rlhf.workspace import Workspace

PPO = """
model: {ref: tiny/base}
reward: [{ref: tiny/reward}]
data: {sources: [{path: prompts.jsonl}], dev_fraction: 0.2}
trainer:
  total_episodes: 32
  per_device_train_batch_size: 16
  num_ppo_epochs: 1
  learning_rate: 3e-3
  response_length: 6
  temperature: 1.0
  activation_checkpointing: false
  logging_steps: 1
output: {name: tiny/policy}
tracking: {wandb: off}
"""
KINDS = {
    "heads": (None, "heads"),
    "heads on an adapter": (AdapterSection(r=2), "heads"),
    "adapters": (AdapterSection(r=2), "adapters"),
}


class World:
    """A base and an ensemble on it, in a registry."""

    trainer: PPOTrainer

    def __init__(self, folder, kind, **about):
        adapter, members = KINDS[kind]
        self.folder = folder
        self.workspace = Workspace.open(folder / "home", progress=False)
        self.registry = self.workspace.registry
        base = self.registry.publish(tiny_model(folder / "base", seed=3), kind="base", name="tiny/base")
        source = self.find("tiny/base")
        section = ModelSection(ref="tiny/base", adapter=adapter)
        model = new_reward_model(source, section, seed=1, num_outputs=3, members=members)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and "lora_B" in name:
                    parameter.normal_(std=0.3, generator=generator)
        save_model(model, load_tokenizer(source), folder / "reward", base_ref=base.ref)
        said = {"score_offset": [0.1, 0.2, 0.3], "max_length": None, "combine": "mean_minus_std", "std_coef": 0.5}
        (folder / "reward" / "reward.json").write_text(json.dumps(said | about))
        self.registry.publish(folder / "reward", kind="reward", name="tiny/reward", parents=[("base", base)])
        write_jsonl(folder / "prompts.jsonl", [{"prompt": f"P{n}:"} for n in range(40)])
        (folder / "ppo.yaml").write_text(PPO)

    def find(self, ref):
        return find_model(ref, self.registry)

    def ppo(self, *overrides):
        return train_ppo(load_config(self.folder / "ppo.yaml", PPOStageConfig, overrides), self.workspace)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(Workspace, "write_report", lambda *_: None)

    def made(kind, **about):
        world = World(tmp_path, kind, **about)

        class Kept(PPOTrainer):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                world.trainer = self

        monkeypatch.setattr(stage, "PPOTrainer", Kept)
        return world

    return made


@pytest.mark.parametrize("policy", ["full", "adapter"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_artefact_serves_and_says_how_little_its_members_agree(world, kind, policy):
    world = world(kind)
    summary = world.ppo(*(["model.adapter={r: 4}"] if policy == "adapter" else []))
    judge = world.trainer.scorer.scorers[0]
    shared = policy == "adapter" and kind != "heads"
    if kind == "adapters":
        assert isinstance(judge.model, SharedBaseEnsemble if shared else AdapterEnsemble)
    apart = reward_model_scorer(world.find("tiny/reward"), "apart")
    texts = (["P1:", "P2:"], ["aab", "ZZ"])
    scores = apart.score_members(*texts)
    torch.testing.assert_close(judge.score_members(*texts), scores, atol=1e-5, rtol=0)
    expected = scores.mean(1) - 0.5 * scores.std(1, correction=0)
    torch.testing.assert_close(apart.score(*texts), expected)

    run = world.workspace.home / "runs" / summary["run"]
    rows = read_metrics(run)
    trained = [row for row in rows if "objective/score_ensemble_std" in row]
    evaluated = [row for row in rows if "eval_objective/score_ensemble_std" in row]
    assert len(trained) == 2 and evaluated and all(row["objective/score_ensemble_std"] > 0 for row in trained)
    members = [evaluated[0][f"eval_objective/scores/reward/{i}"] for i in range(3)]
    assert summary["score_before"] == pytest.approx(sum(members) / 3, abs=1e-4)
    samples = [row for row in read_samples(run) if "before" in row]
    assert samples and all(row["ensemble_std_before"] > 0 and row["ensemble_std_after"] > 0 for row in samples)
    assert [parent.ref for parent in world.registry.resolve("tiny/policy").parents][-1] == "tiny/reward@v1"


@pytest.mark.parametrize("critic", ["head", "adapter", "separate"])
def test_heads_on_an_adapter_give_the_policys_critic_its_start(world, critic):
    world = world("heads on an adapter")
    summary = world.ppo("model.adapter={r: 4}", f"trainer.critic={critic}", "trainer.critic_init=reward")
    assert summary["num_updates"] == 2


@pytest.mark.parametrize("override", ["trainer.critic=head", "trainer.critic_init=reward"])
@pytest.mark.parametrize("policy", ["full", "adapter"])
def test_adapters_give_no_critic_its_start(world, override, policy):
    world = world("adapters")
    with pytest.raises(UserError, match="but reward is an ensemble of adapters, and no one model has its score"):
        world.ppo(override, *(["model.adapter={r: 4}"] if policy == "adapter" else []))


def test_heads_are_exported_with_an_example_that_gives_their_score(world, tmp_path, capsys):
    world = world("heads on an adapter")
    export_model("tiny/reward", tmp_path / "out", registry=world.registry)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "It is an ensemble of 3 reward models" in card
    exec(card.split("```python\n")[1].split("```")[0].replace("'out'", repr(str(tmp_path / "out"))), {})
    scorer = reward_model_scorer(world.find("tiny/reward"), "reward")
    expected = scorer.score(["Hello"], [" Good day."]).item()
    assert float(capsys.readouterr().out) == pytest.approx(expected, abs=1e-5)
    again = reward_model_scorer(world.find(str(tmp_path / "out")), "reward")
    assert again.score(["Hello"], [" Good day."]).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("how", ["merged", "adapter"])
def test_adapters_are_not_exported(world, tmp_path, how):
    world = world("adapters")
    with pytest.raises(UserError, match="tiny/reward@v1: is an ensemble of 3 adapters, and neither"):
        export_model("tiny/reward", tmp_path / "out", registry=world.registry, format=how)
    assert not (tmp_path / "out").exists()
