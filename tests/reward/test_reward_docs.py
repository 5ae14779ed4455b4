"""What docs/reward.md shows is a config that the stage takes."""

import re
from pathlib import Path

import yaml

from reward.config import RewardStageConfig
from rlhf.config import load_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reward.md"


def test_every_block_of_the_page_is_a_config(tmp_path):
    whole, *parts = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL))
    assert [list(part) for part in parts] == [["loss"], ["ensemble"]]
    for part in ({}, *parts):
        (tmp_path / "reward.yaml").write_text(yaml.safe_dump(whole | part))
        config = load_config(tmp_path / "reward.yaml", RewardStageConfig)
        assert config.loss.kind == "bradley_terry"
