"""Typed configuration: YAML and dotted overrides in, frozen pydantic models out, every problem named at once."""

from rlhf.config.loading import COMMAND_LINE, apply_override, load_config, read_yaml, validate
from rlhf.config.located import LocalPath, Located, ModelRef, is_explicit_path
from rlhf.config.sections import (
    AdapterSection,
    EarlyStopping,
    ModelSection,
    OutputSection,
    Section,
    StageConfig,
)
from rlhf.config.trainer_args import TrainerArgs

__all__ = [
    "COMMAND_LINE",
    "AdapterSection",
    "EarlyStopping",
    "LocalPath",
    "Located",
    "ModelRef",
    "ModelSection",
    "OutputSection",
    "Section",
    "StageConfig",
    "TrainerArgs",
    "apply_override",
    "is_explicit_path",
    "load_config",
    "read_yaml",
    "validate",
]
