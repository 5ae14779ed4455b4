"""Checks of the `trainer:` section without importing the class it is for.

The names and types of TRL's config classes and of our PPOConfig stand in `trainer_fields.json`, written by
`python -m rlhf.modeling.trainer_config` and held equal to the installed classes by a test. With other library versions
than the file was written for nothing is checked here: the stage asks the real class once it is imported.
"""

import difflib
import json
from collections.abc import Mapping
from functools import cache
from importlib import metadata, resources
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from rlhf.config.loading import TrainerArgsProblem
from rlhf.config.located import Located, resolve_path

OWNED = {
    "output_dir": "the run folder has its place; see `output` for the registry name",
    "seed": "set `seed` at the top of the file",
    "report_to": "set `tracking`",
    "run_name": "set `tracking` and `output.name`",
    "project": "set `tracking.project`",
    "resume_from_checkpoint": "run the same command with --resume",
    "restore_callback_states_from_checkpoint": "a resumed run goes on where it was, callbacks included",
    "logging_nan_inf_filter": "a loss that is no number is logged as it is, and stops training",
    "model_init_kwargs": "set `model`",
    "trust_remote_code": "code that comes with a model is never run",
    "sft_model_path": "set `model.ref`",
    "reward_model_path": "set `reward`",
    "dataset_text_field": "map columns under `data.sources`",
}
"""Trainer fields that have their owner elsewhere in the config, and where."""

_FROM_THE_BATCH = "follows from per_device_train_batch_size, gradient_accumulation_steps and num_mini_batches"

_ONE_PROCESS = "a stage trains in one process"

_IN_SAMPLES = "completions before and after training are in the run's samples.jsonl"

OWNED_IN: dict[str, dict[str, str]] = {
    "SFTConfig": {},
    "RewardConfig": {
        "chat_template_path": "texts are read under the model's own template; give it one in `rlhf sft`",
        "eos_token": 'name it as "eos_token" in the tokenizer_config.json of the model',
        "pad_token": 'name it as "pad_token" in the tokenizer_config.json of the model',
        "pad_to_multiple_of": "texts are padded to the longest of their batch",
        "dataset_num_proc": "texts are tokenised in one process",
    },
    "PPOConfig": {
        "world_size": _ONE_PROCESS,
        "ds3_gather_for_generation": _ONE_PROCESS,
        "dataset_num_proc": "prompts are tokenised in one process",
        "num_total_batches": "follows from total_episodes or num_train_epochs",
        "micro_batch_size": _FROM_THE_BATCH,
        "local_batch_size": _FROM_THE_BATCH,
        "batch_size": _FROM_THE_BATCH,
        "local_mini_batch_size": _FROM_THE_BATCH,
        "mini_batch_size": _FROM_THE_BATCH,
        "reward_weights": "set `weight` beside each scorer of `reward`",
        "model_adapter_name": "set `model.ref` to the adapter to go on from",
        "ref_adapter_name": "set `reference` to the adapter to measure KL from",
    },
    "DPOConfig": {
        "pad_token": 'name it as "pad_token" in the tokenizer_config.json of the model',
        "remove_unused_columns": "pairs are handed over as they are read",
        "padding_free": "TRL has taken it out for now",
    },
    "RLOOConfig": {
        "reward_weights": "set `weight` beside each scorer of `reward`",
        "remove_unused_columns": "reward functions are given all columns of the data",
        "chat_template_kwargs": "texts are read under the model's own template; give it one in `rlhf sft`",
        "log_completions": _IN_SAMPLES,
        "log_multimodal": _IN_SAMPLES,
        "log_unique_prompts": _IN_SAMPLES,
        "num_completions_to_print": _IN_SAMPLES,
    },
}
"""The same for the fields of one class alone, with those that nothing reads here."""

_READ_BY_PPO = """
    total_episodes num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps num_mini_batches
    num_ppo_epochs local_rollout_forward_batch_size data_seed max_prompt_length truncate_prompts
    max_tokens_per_micro_batch

    response_length stop_token stop_token_id temperature missing_eos_penalty whiten_rewards reward_at kl_coef
    kl_estimator kl_controller kl_target kl_horizon cliprange vf_coef cliprange_value gamma lam kl_in kl_budget
    max_approx_kl reward_ensemble reward_ensemble_coef reward_timeout score_normalization score_clip length_penalty
    length_penalty_after ptx_coef generation vllm_gpu_memory_utilization stop_strings monitor monitor_thresholds
    max_rollbacks

    critic critic_init critic_learning_rate critic_trunk_gradient critic_warmup_updates

    learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args optim_target_modules adam_beta1
    adam_beta2 adam_epsilon weight_decay max_grad_norm bf16 fp16 tf32 use_cpu full_determinism gradient_checkpointing
    gradient_checkpointing_kwargs activation_checkpointing activation_checkpointing_kwargs

    eval_strategy eval_steps eval_delay eval_on_start per_device_eval_batch_size num_sample_generations
    metric_for_best_model greater_is_better load_best_model_at_end

    logging_strategy logging_steps logging_first_step log_level disable_tqdm

    save_strategy save_steps save_total_limit save_only_model push_to_hub hub_model_id hub_strategy hub_token
    hub_private_repo hub_always_push hub_revision
"""

READ_IN: dict[str, frozenset[str]] = {"PPOConfig": frozenset(_READ_BY_PPO.split())}
"""The fields that a loop of our own reads, where it is not transformers': of the others it takes none, for they would
change nothing. SFT and reward training run through transformers' loop, which reads all of its own."""

AT_LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_length": 1,
    "learning_rate": 0,
    "weight_decay": 0,
}
"""Bounds that the trainers' own classes do not hold, and that would come up in the middle of training."""

PATH_FIELDS = ("chat_template_path", "deepspeed", "fsdp_config", "accelerator_config")
"""Trainer fields that may name a file, which is then looked for beside the file that names it."""


@cache
def trainer_fields() -> dict[str, Any]:
    """The generated file: `versions` of the libraries and `classes` -> field -> its description."""
    text = resources.files("rlhf.config").joinpath("trainer_fields.json").read_text(encoding="utf-8")
    fields: dict[str, Any] = json.loads(text)
    return fields


def fits_installed_versions() -> bool:
    """Whether the generated file describes the installed libraries."""
    return all(metadata.version(name) == version for name, version in trainer_fields()["versions"].items())


class TrainerArgs:
    """Annotation for the `trainer` section: `Annotated[dict[str, Any], TrainerArgs("SFTConfig")]`."""

    def __init__(self, class_name: str) -> None:
        self.class_name = class_name

    @property
    def keys(self) -> list[str]:
        """The fields a user may set."""
        return sorted(settable(trainer_fields()["classes"][self.class_name], self.class_name))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, values: dict[str, Any]) -> dict[str, Any]:
        fields = trainer_fields()["classes"][self.class_name] if fits_installed_versions() else None
        checked, problems = check_trainer_args(values, fields, self.class_name)
        if problems:
            raise TrainerArgsProblem(problems)
        return checked


def settable(fields: Mapping[str, Any], class_name: str) -> set[str]:
    """The names among `fields` of a class that a user may set: those that are read, and have no other owner."""
    names = set(fields) - OWNED.keys() - OWNED_IN[class_name].keys()
    return names & READ_IN.get(class_name, names)


def check_trainer_args(
    values: Mapping[str, Any], fields: Mapping[str, Any] | None, class_name: str
) -> tuple[dict[str, Any], list[tuple[str, Any, str]]]:
    """The values as the trainer's config takes them, and (key, value, what is wrong) of those it would not.

    Args:
        values: what stands under `trainer:`.
        fields: field -> {"types": [...], "choices": [...]}; None checks nothing but the owned names.
        class_name: SFTConfig, RewardConfig, PPOConfig, DPOConfig or RLOOConfig.
    """
    owned = OWNED | OWNED_IN[class_name]
    checked: dict[str, Any] = {}
    problems: list[tuple[str, Any, str]] = []
    for key, value in values.items():
        if key in owned:
            problems.append((key, value, f"is not set here: {owned[key]}"))
        elif fields is not None and key not in fields:
            close = difflib.get_close_matches(key, sorted(settable(fields, class_name)), n=1)
            problems.append((key, value, f"unknown key{f'; did you mean trainer.{close[0]}?' if close else ''}"))
        elif fields is not None and key not in settable(fields, class_name):
            problems.append((key, value, f"{class_name.removesuffix('Config')}'s loop does not read it; leave it out"))
        else:
            problem = (None if fields is None else wrong_type(value, fields[key])) or _too_small(key, value)
            if problem:
                problems.append((key, value, problem))
            elif key in PATH_FIELDS and isinstance(value, Located) and (value.base / value).exists():
                checked[key] = resolve_path(value)
            else:
                checked[key] = _plain(value)
    if class_name != "PPOConfig" and not _trains(values):
        what = "trains no step, and what is published is to be trained; give more than 0, or set trainer.max_steps"
        problems.append(("num_train_epochs", values["num_train_epochs"], what))
    return checked, problems


def _trains(values: Mapping[str, Any]) -> bool:
    """Whether there is a step to take; what is no number is another check's to refuse."""
    epochs, steps = values.get("num_train_epochs", 1), values.get("max_steps", -1)
    return any(not isinstance(value, int | float) or value > 0 for value in (epochs, steps))


def wrong_type(value: Any, field: Mapping[str, Any]) -> str | None:
    """What is wrong with `value` for a field so described, or None."""
    types, choices = field["types"], field.get("choices")
    if "any" in types:
        return None
    if choices and isinstance(value, str):
        if value in choices:
            return None
        close = difflib.get_close_matches(value, choices, n=1)
        return f"expected one of {', '.join(choices)}{f'; did you mean {close[0]}?' if close else ''}"
    found = {bool: "bool", int: "int", float: "float", dict: "dict", list: "list", type(None): "null"}.get(
        type(value), "str"
    )
    if found in types or (found == "int" and "float" in types):
        return None
    wanted = " or ".join(
        {"null": "nothing (null)", "str": "text", "dict": "a mapping"}.get(name, name) for name in types
    )
    return f"expected {wanted}"


def _too_small(key: str, value: Any) -> str | None:
    if key in AT_LEAST and isinstance(value, int | float) and not value >= AT_LEAST[key]:
        return f"expected at least {AT_LEAST[key]}"
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


__all__ = [
    "OWNED",
    "OWNED_IN",
    "READ_IN",
    "TrainerArgs",
    "check_trainer_args",
    "fits_installed_versions",
    "trainer_fields",
]
