"""Every config that ships, and every one that the docs show, is one."""

import json
import re
from importlib import resources
from pathlib import Path

import pytest
import yaml

from labeling_app.settings import LabelingConfig
from reward.config import RewardStageConfig
from rlhf.config import load_config
from rlhf.config.trainer_args import OWNED, OWNED_IN, fits_installed_versions, trainer_fields
from rlhf.dpo.stage_config import DPOStageConfig
from rlhf.evaluation.config import EvaluationConfig
from rlhf.evaluation.reward_config import RewardEvaluationConfig
from rlhf.pipeline.config import SCHEMAS, load_pipeline
from rlhf.ppo.stage_config import PPOStageConfig
from rlhf.rloo.stage_config import RLOOStageConfig
from sft.config import SFTStageConfig

ROOT = Path(__file__).parents[2]
LABELING = ROOT / "configs" / "labeling.yaml"
CONFIGS = sorted(path for path in (ROOT / "configs").glob("**/*.yaml") if path != LABELING)
CONFIGS += sorted(path for path in (ROOT / "configs" / "demo").glob("*.yaml") if path not in CONFIGS)
PIPELINES = [path for path in CONFIGS if "stages:" in path.read_text()]


def yaml_blocks(page):
    """The fenced YAML blocks of a Markdown page, each with the line it starts on."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```ya?ml[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield text[: match.start()].count("\n") + 1, match[1]


def schema_of(data):
    """Which command's whole file this is; None for a part of one."""
    keys = set(data)
    if "stages" in keys:
        return "pipeline"
    if {"baseline", "judge"} <= keys and keys & {"candidate", "candidates"}:
        return EvaluationConfig
    if "model" in keys and isinstance(data["model"], str) and "data" in keys:
        return RewardEvaluationConfig
    if {"model", "data", "output"} <= keys:
        if "rloo" in data["output"]["name"]:
            return RLOOStageConfig
        if "reward" in keys:
            return PPOStageConfig
        if "dpo" in data["output"]["name"]:
            return DPOStageConfig
        return RewardStageConfig if "centre" in keys or "reward" in data["output"]["name"] else SFTStageConfig
    return None


def whole_configs():
    pages = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
    for page in pages:
        for line, block in yaml_blocks(page):
            data = yaml.safe_load(block)
            if isinstance(data, dict) and schema_of(data):
                yield pytest.param(block, id=f"{page.name}:{line}")


def test_there_are_configs_to_check():
    assert {path.name for path in PIPELINES} >= {"hh_harmless.yaml", "qwen.yaml", "run.yaml"}


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_a_shipped_pipeline_parses_with_all_its_stages(path):
    plan = load_pipeline(path)
    assert list(plan.stages) == [stage for stage in SCHEMAS if stage in plan.file.stages]
    assert {"sft", "reward", "ppo", "eval", "export"} <= set(plan.stages)
    for stage, values in plan.stages.items():
        plan.config(stage, values)


def test_every_shipped_file_is_a_pipeline_or_a_stage_of_one():
    named = set()
    for path in PIPELINES:
        stages = yaml.safe_load(path.read_text())["stages"]
        named |= {path.parent / value for value in stages.values() if isinstance(value, str)}
    assert [path for path in CONFIGS if path not in PIPELINES and path not in named] == []


def test_the_shipped_config_of_the_ranking_app_parses_and_its_guidelines_are_there():
    config = load_config(LABELING, LabelingConfig)
    assert config.guidelines.read_text(encoding="utf-8").startswith("# What makes a reply better")
    defaults = LabelingConfig()
    assert (config.flags, config.skip_reasons, config.gold_share) == (
        defaults.flags,
        defaults.skip_reasons,
        defaults.gold_share,
    )


@pytest.mark.parametrize("block", list(whole_configs()))
def test_a_config_in_the_docs_parses(tmp_path, block):
    path = tmp_path / "shown.yaml"
    path.write_text(block)
    data = yaml.safe_load(block)
    schema = schema_of(data)
    if schema != "pipeline":
        load_config(path, schema)
        return
    for value in data["stages"].values():
        if isinstance(value, str) and not (tmp_path / value).exists():
            shipped = ROOT / "configs" / "demo" / value
            (tmp_path / value).write_bytes(shipped.read_bytes())
    load_pipeline(path)


@pytest.mark.parametrize("block", list(whole_configs()))
def test_the_model_of_a_config_in_the_docs_can_be_made(tmp_path, block):
    from tiny import tiny_model

    from rlhf.config import ModelSection
    from rlhf.modeling import find_model, load_causal_lm
    from rlhf.registry import Registry

    section = yaml.safe_load(block).get("model")
    if not isinstance(section, dict):
        return
    folder = str(tiny_model(tmp_path / "base"))
    source = find_model(folder, Registry(tmp_path / "home"))
    model = load_causal_lm(source, ModelSection.model_validate(section | {"ref": folder}), trainable=True)
    assert any(parameter.requires_grad for parameter in model.parameters())


def test_the_description_of_the_trainer_fields_is_that_of_the_installed_classes():
    from rlhf.modeling.trainer_config import current_fields

    assert trainer_fields() == current_fields(), "run: python -m rlhf.modeling.trainer_config"
    assert fits_installed_versions()


def test_the_description_is_written_as_the_command_writes_it():
    from rlhf.modeling.trainer_config import current_fields

    text = resources.files("rlhf.config").joinpath("trainer_fields.json").read_text(encoding="utf-8")
    assert text == json.dumps(current_fields(), indent=1, sort_keys=True) + "\n"


def test_every_field_that_has_its_owner_elsewhere_is_a_field_of_some_trainer():
    known = {name for fields in trainer_fields()["classes"].values() for name in fields}
    assert set(OWNED) - known == set()
    assert {name: set(OWNED_IN[name]) - set(fields) for name, fields in trainer_fields()["classes"].items()} == {
        "SFTConfig": set(),
        "RewardConfig": set(),
        "PPOConfig": set(),
        "DPOConfig": set(),
        "RLOOConfig": set(),
    }


def test_with_other_library_versions_the_real_class_is_asked(tmp_path, monkeypatch):
    from trl import SFTConfig

    import rlhf.config.trainer_args as trainer_args
    from rlhf.errors import UserError
    from rlhf.modeling.trainer_config import build_args

    monkeypatch.setattr(trainer_args, "fits_installed_versions", lambda: False)
    path = tmp_path / "stage.yaml"
    path.write_text(
        "model: {ref: ./a}\noutput: {name: a/b}\ndata: {sources: [{path: a.jsonl}]}\ntrainer: {learning_rte: 1}\n"
    )
    config = load_config(path, SFTStageConfig)
    with pytest.raises(UserError, match=r"trainer.learning_rte = 1: unknown key; did you mean trainer.learning_rate"):
        build_args(SFTConfig, config.trainer, output_dir=str(tmp_path))
