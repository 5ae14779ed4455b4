"""The file of `rlhf run`: which stages, in which order, each with its own config. Imports no torch."""

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from reward.config import RewardStageConfig
from rlhf.config import COMMAND_LINE, Located, Section, apply_override, read_yaml, validate
from rlhf.dpo.stage_config import DPOStageConfig
from rlhf.errors import UserError
from rlhf.evaluation.config import EvaluationConfig
from rlhf.evaluation.reward_config import RewardEvaluationConfig
from rlhf.export.config import ExportConfig
from rlhf.pipeline.labels_config import LabelsConfig
from rlhf.pipeline.rounds import AGAINST_LAST, RoundsSection, later_round, problems_with
from rlhf.ppo.stage_config import PPOStageConfig
from rlhf.rloo.stage_config import RLOOStageConfig
from rlhf.tracking import TrackingConfig
from sft.config import SFTStageConfig

SCHEMAS: dict[str, type[BaseModel]] = {
    "sft": SFTStageConfig,
    "labels": LabelsConfig,
    "reward": RewardStageConfig,
    "eval_reward": RewardEvaluationConfig,
    "ppo": PPOStageConfig,
    "dpo": DPOStageConfig,
    "rloo": RLOOStageConfig,
    "eval": EvaluationConfig,
    "export": ExportConfig,
}
"""The stages a file may have, in the order in which they run."""

NAMES = {
    "sft": "sft",
    "labels": "preferences",
    "reward": "reward",
    "eval_reward": "reward-eval",
    "ppo": "policy",
    "dpo": "dpo",
    "rloo": "rloo",
    "eval": "eval",
}
"""What a stage's artefact is called after the group, unless its config says otherwise."""

POLICIES = ("ppo", "rloo", "dpo")
"""The stages that make a policy: the first of them in a file makes the one that is evaluated and exported."""


def _num_of_rounds(value: Any) -> Any:
    """`rounds: 3` is `rounds: {num: 3}`."""
    return {"num": value} if isinstance(value, int) else value


class PipelineFile(Section):
    """What stands at the top of the file."""

    group: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """The W&B group, and the first half of the artefacts' names."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """The seed of every stage that does not set its own."""
    tracking: TrackingConfig = TrackingConfig()
    """Of every stage that does not set its own."""
    data: dict[str, Any] | None = None
    """The data of every stage that does not set its own: SFT learns from the better answers of judged pairs, PPO takes
    their prompts, evaluation the held-out part."""
    rounds: Annotated[RoundsSection, BeforeValidator(_num_of_rounds)] = RoundsSection()
    """How often labels, reward, ppo and eval are gone through."""
    stages: Annotated[dict[str, Any], Field(min_length=1)]


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        path: the file.
        file: its top.
        stages: stage -> its config as written, with the defaults that follow from the other stages; refs not pinned.
    """

    path: Path
    file: PipelineFile
    stages: dict[str, dict[str, Any]]

    def config(self, stage: str, data: Mapping[str, Any]) -> Any:
        """`data`, a stage's config with its refs pinned, as that stage takes it."""
        name = "eval" if stage == AGAINST_LAST else stage
        return validate(data, SCHEMAS[name], origin=f"{self.path}: stages.{name}")

    def output_name(self, stage: str) -> str | None:
        """The name of the artefact a stage publishes; None for a stage that publishes none."""
        output = self.stages[stage].get("output")
        return str(output["name"]) if output else None


def load_pipeline(path: Path, overrides: Sequence[str] = ()) -> Plan:
    """Read the file and the stages it names, and check all of them before anything runs.

    Overrides begin with a stage (`ppo.trainer.kl_coef=0.1`) or name a key of the file's top (`seed=3`).

    Raises:
        UserError: with one line for each thing that is wrong in any of the files.
    """
    data = read_yaml(path)
    if "stages" not in data and {"model", "output"} <= data.keys():
        raise UserError(f"{path}: has no `stages`: it is the config of one stage; run it with {_stage_commands(data)}")
    stage_names = set(data["stages"]) if isinstance(data.get("stages"), dict) else set()
    of_stages = [text for text in overrides if text.split(".")[0] in stage_names]
    _check_heads(overrides, stage_names)
    for text in overrides:
        if text not in of_stages:
            apply_override(data, text)
    file = validate(data, PipelineFile, origin=str(path), overridden=_keys(overrides))
    unknown = [name for name in file.stages if name not in SCHEMAS]
    if unknown:
        raise UserError([f"{path}: stages.{name}: no such stage; known: {', '.join(SCHEMAS)}" for name in unknown])
    stages = {name: _read_stage(path, name, data["stages"][name]) for name in SCHEMAS if name in file.stages}
    origins = {name: _origin(path, name, data["stages"][name]) for name in stages}
    problems: list[str] = []
    _inherit(stages, file)
    for text in of_stages:
        stage, _, rest = text.partition(".")
        apply_override(stages[stage], rest)
    _fill_in(stages, file)
    for name, config in stages.items():
        mine = {key.partition(".")[2] for key in _keys(of_stages) if key.startswith(f"{name}.")}
        try:
            validate(config, SCHEMAS[name], origin=origins[name], overridden=mine)
        except UserError as error:
            problems += [_of_stage(problem, name) for problem in error.problems]
    problems += [f"{path}: {problem}" for problem in problems_with(file.rounds, stages)]
    if problems:
        raise UserError(problems)
    plan = Plan(path, file, stages)
    if file.rounds.num > 1:
        _check_later_rounds(plan)
    return plan


def _check_later_rounds(plan: Plan) -> None:
    """Raise UserError, before anything runs, where a later round's stages would be refused."""
    made = {name: f"{plan.output_name(name)}@v1" for name in plan.stages if name != "export"}
    for name, config in later_round(plan.stages, plan.file.rounds, [made]).items():
        plan.config(name, config)


def _read_stage(path: Path, name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        base = value.base if isinstance(value, Located) else path.parent
        return read_yaml(base / value)
    if isinstance(value, dict):
        return copy.deepcopy(value)
    raise UserError(f"{path}: stages.{name} = {value!r}: expected the path of a YAML file, or the mapping itself")


def _origin(path: Path, name: str, value: Any) -> str:
    return str(path.parent / value) if isinstance(value, str) else f"{path}: stages.{name}"


def _of_stage(problem: str, stage: str) -> str:
    """A problem of an override, with its key and the one that is suggested as they are typed: below the stage."""
    if not problem.startswith(f"{COMMAND_LINE}: "):
        return problem
    problem = problem.replace(f"{COMMAND_LINE}: ", f"{COMMAND_LINE}: {stage}.", 1)
    before, suggests, key = problem.rpartition("; did you mean ")
    return f"{before}{suggests}{stage}.{key}" if suggests and "." in key else problem


def _stage_commands(data: Mapping[str, Any]) -> str:
    """Which command takes a stage's file, as far as its keys tell."""
    if "reward" in data:
        return "`rlhf ppo`"
    return "`rlhf reward`" if "centre" in data else "`rlhf sft` or `rlhf reward`"


def _check_heads(overrides: Sequence[str], stages: set[str]) -> None:
    """An override begins with one of the file's stages or with a key of its top."""
    known = [*stages, *PipelineFile.model_fields]
    problems = []
    for text in overrides:
        head = text.partition("=")[0].split(".")[0].strip()
        if head not in known:
            close = difflib.get_close_matches(head, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"
            problems.append(f"{COMMAND_LINE}: {text}: the file has no stage and no key {head!r}; {hint}")
    if problems:
        raise UserError(problems)


def _keys(overrides: Sequence[str]) -> set[str]:
    return {text.partition("=")[0].strip() for text in overrides}


def _inherit(stages: dict[str, dict[str, Any]], file: PipelineFile) -> None:
    """What stands at the top of the file goes to every stage that does not set its own."""
    for name, config in stages.items():
        if name != "export":
            config.setdefault("seed", file.seed)
            # what is not set stays unset: WANDB_PROJECT stands in for a project that nobody named
            config.setdefault("tracking", file.tracking.model_dump(exclude_unset=True))
            if file.data is not None and not (name in ("reward", "eval_reward", "dpo") and "labels" in stages):
                config.setdefault("data", copy.deepcopy(file.data))


def _fill_in(stages: dict[str, dict[str, Any]], file: PipelineFile) -> None:
    """Names of what the stages publish, and what one stage takes from another."""
    for name, config in stages.items():
        if name != "export":
            output = config.setdefault("output", {})
            if isinstance(output, dict):
                output.setdefault("name", f"{file.group}/{NAMES[name]}")
    # what is wrong with a name is said where it stands, not again by every stage that would take it from there
    made = {
        name: _made_by(config, f"{file.group}/{NAMES[name]}") for name, config in stages.items() if name != "export"
    }
    if "sft" in made:
        for name in ("labels", "reward", *POLICIES):
            if name in stages and isinstance(stages[name].setdefault("model", {}), dict):
                stages[name]["model"].setdefault("ref", made["sft"])
        if "eval" in stages:
            stages["eval"].setdefault("baseline", made["sft"])
    if "sft" in made and "reward" in stages and isinstance(stages.get("ppo", {}).get("trainer", {}), dict):
        # scores are centred on what PPO will see at its start
        ppo = stages.get("ppo", {}).get("trainer", {})
        sampled = {"max_new_tokens": ppo.get("response_length", 53), "temperature": ppo.get("temperature", 0.7)}
        stages["reward"].setdefault("centre", {"ref": made["sft"], **(sampled if "ppo" in stages else {})})
    for name in ("ppo", "rloo"):
        if name in stages and "reward" in made:
            stages[name].setdefault("reward", [{"ref": made["reward"]}])
    policy = next((made[name] for name in POLICIES if name in made), None)
    if "eval" in stages and policy:
        stages["eval"].setdefault("candidate", policy)
    if "eval" in stages and "reward" in made:
        stages["eval"].setdefault("judge", [{"ref": made["reward"]}])
    if "export" in stages and policy:
        stages["export"].setdefault("model", policy)
    if "labels" in made:
        judged: dict[str, Any] = {"sources": [{"path": made["labels"], "split": "train"}]}
        if "held_out" in stages["labels"]:
            judged["dev"] = [{"path": made["labels"], "split": "dev"}]
        else:
            judged["dev_fraction"] = 0.1
        for name in ("reward", "dpo"):
            if name in stages:
                stages[name].setdefault("data", copy.deepcopy(judged))
    if "eval_reward" in stages and "reward" in made:
        # what reward holds out, and nothing else: the same rows by the same seed
        evaluated = stages["eval_reward"]
        evaluated.setdefault("model", made["reward"])
        if "data" in stages["reward"]:
            evaluated.setdefault("data", copy.deepcopy(stages["reward"]["data"]))


def _made_by(config: Mapping[str, Any], default: str) -> str:
    output = config.get("output")
    name = output.get("name") if isinstance(output, dict) else None
    return name if isinstance(name, str) else default
