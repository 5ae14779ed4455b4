"""From the `trainer:` section to the real config object of TRL or of our PPO, and the file that describes those.

`python -m rlhf.modeling.trainer_config` writes `rlhf/config/trainer_fields.json` anew after a library update.
"""

import dataclasses
import enum
import json
import sys
import types
import typing
import warnings
from collections.abc import Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, TypeVar

import torch

import rlhf.config.trainer_args as trainer_args
from rlhf.errors import UserError

ArgsT = TypeVar("ArgsT")

CLASSES = {
    "SFTConfig": "trl.trainer.sft_config",
    "RewardConfig": "trl.trainer.reward_config",
    "PPOConfig": "rlhf.ppo.config",
    "DPOConfig": "trl.trainer.dpo_config",
    "RLOOConfig": "trl.trainer.rloo_config",
}
LIBRARIES = ("trl", "transformers")
JSON_TYPES = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    dict: "dict",
    list: "list",
    type(None): "null",
}


def build_args(cls: type[ArgsT], values: Mapping[str, Any], **owned: Any) -> ArgsT:
    """An instance of a trainer's config class.

    Args:
        cls: SFTConfig, RewardConfig, PPOConfig, DPOConfig or RLOOConfig.
        values: the `trainer` section.
        owned: fields the framework sets itself, such as `output_dir` and `seed`.

    Raises:
        UserError: a value is of the wrong type or the class refuses the combination.
    """
    checked, problems = trainer_args.check_trainer_args(values, describe(cls), cls.__name__)
    if problems:
        raise UserError([f"trainer.{key} = {value!r}: {what}" for key, value, what in problems])
    if checked.get("bf16") and not torch.accelerator.is_available():
        checked.setdefault("use_cpu", True)  # what transformers would ask for: a processor is all there is
    try:
        with warnings.catch_warnings():
            # TRL's own default sets the old name of this field, and transformers warns of it
            warnings.filterwarnings("ignore", "`gradient_checkpointing", FutureWarning)
            return cls(**checked, **owned)
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error


def describe(cls: type) -> dict[str, dict[str, Any]]:
    """Field name -> the JSON types it takes and, for enumerations, the choices."""
    hints = typing.get_type_hints(cls)
    assert dataclasses.is_dataclass(cls)
    return {field.name: _describe_type(hints[field.name]) for field in dataclasses.fields(cls) if field.init}


def _describe_type(hint: Any) -> dict[str, Any]:
    names: set[str] = set()
    choices: list[str] = []
    for part in _union_parts(hint):
        origin = typing.get_origin(part) or part
        if origin is typing.Literal:
            for choice in typing.get_args(part):
                names.add(JSON_TYPES[type(choice)])
                choices += [choice] if isinstance(choice, str) else []
        elif isinstance(origin, type) and issubclass(origin, enum.Enum):
            names.add("str")
            choices += [str(member.value) for member in origin]
        elif origin in JSON_TYPES:
            names.add(JSON_TYPES[origin])
        else:
            names.add("any")
    has_free_text = any(part is str for part in _union_parts(hint))
    enumerated = choices and not (has_free_text and not _enum_in(hint))
    return {"types": sorted(names)} | ({"choices": sorted(set(choices))} if enumerated else {})


def _enum_in(hint: Any) -> bool:
    """Transformers writes `SchedulerType | str` and means the enumeration's values."""
    return any(isinstance(part, type) and issubclass(part, enum.Enum) for part in _union_parts(hint))


def _union_parts(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [leaf for part in typing.get_args(hint) for leaf in _union_parts(part)]
    return [hint]


def current_fields() -> dict[str, Any]:
    """What `trainer_fields.json` has to say for the installed libraries."""
    return {
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "classes": {name: describe(getattr(import_module(module), name)) for name, module in CLASSES.items()},
    }


def main() -> None:
    """Write the description of the installed classes."""
    path = Path(trainer_args.__file__).with_name("trainer_fields.json")
    path.write_text(json.dumps(current_fields(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
