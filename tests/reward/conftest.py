"""The stage on tiny models."""

import pytest
from tiny import tiny_model

from reward.config import RewardStageConfig
from reward.train import train_reward
from rlhf.config import load_config
from rlhf.records import write_jsonl
from rlhf.workspace import Workspace

TEXT = """
model: {ref: MODEL}
data: {sources: [{path: rows.jsonl}], dev_fraction: 0.3}
trainer:
  num_train_epochs: 3
  per_device_train_batch_size: 8
  learning_rate: 1e-2
  gradient_checkpointing: false
  logging_steps: 5
centre: {ref: BASE, num_prompts: 16, max_new_tokens: 8}
output: {name: tiny/reward, alias: best}
tracking: {wandb: off}
"""


@pytest.fixture(scope="package")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "base": tiny_model(folder / "base"),
        "chat": tiny_model(folder / "chat", chat=True),
        "encoder": tiny_model(folder / "encoder", "encoder", seed=2),
    }


@pytest.fixture
def reward(tmp_path, models):
    """Runs the stage on `rows` with overrides as on the command line."""
    workspace = Workspace.open(tmp_path / "home", progress=False)

    def run(*overrides, rows, model="base", centre="base", run_id=None):
        write_jsonl(tmp_path / "rows.jsonl", rows)
        (tmp_path / "reward.yaml").write_text(
            TEXT.replace("MODEL", str(models[model])).replace("BASE", str(models[centre]))
        )
        config = load_config(tmp_path / "reward.yaml", RewardStageConfig, overrides)
        return train_reward(config, workspace.within(run_id=run_id))

    run.workspace = workspace
    return run
