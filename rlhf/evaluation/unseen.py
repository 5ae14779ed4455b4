"""`rlhf eval` with nothing but a data file: what it holds decides what is measured, the registry names the models.

Imports no torch.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlhf.config import Located, apply_override, validate
from rlhf.datasets import DataConfig, DataSource
from rlhf.datasets.config import DATA_SUFFIXES
from rlhf.datasets.loading import read_source
from rlhf.errors import UserError
from rlhf.evaluation.config import EvaluationConfig
from rlhf.evaluation.reward_config import RewardEvaluationConfig
from rlhf.registry import Artefact, Kind, Registry

What = Literal["reward", "policy"]

MEASURED_BY: dict[str, What] = {
    "ranking": "reward",
    "preference": "reward",
    "prompt": "policy",
    "completion": "policy",
    "conversation": "policy",
}
"""What rows of a kind say something about: a reward model, or a policy that answers their prompts."""

DEMONSTRATIONS = {"completion", "conversation"}
"""Rows that also tell what a policy has forgotten of what people wrote."""

ROWS_READ = 200
"""Of a file, to see what it holds."""

NUM_PROMPTS = 200
"""That a policy answers, unless `num_prompts` says otherwise."""


@dataclass(frozen=True)
class Named:
    """What the command line names; what is None is found in the registry."""

    model: str | None = None
    baseline: str | None = None
    judge: str | None = None


@dataclass(frozen=True)
class Chosen:
    """An evaluation's config, and in one line which models were taken and why."""

    config: RewardEvaluationConfig | EvaluationConfig
    line: str


def is_data(path: Path) -> bool:
    """Whether `path` is a data file or a folder of them by its name, and no config."""
    return path.name.removesuffix(".gz").endswith(DATA_SUFFIXES) or path.is_dir()


def choose(
    path: Path, registry: Registry, named: Named, overrides: Sequence[str] = (), what: What | None = None
) -> Chosen:
    """The evaluation that `path` allows.

    Args:
        path: a file as `data.sources` takes it.
        registry: where models are looked for.
        named: models that need not be looked for.
        overrides: `key=value`, of the config that is made.
        what: what is to be evaluated; left out, it is what most rows say something about.

    Raises:
        UserError: the rows fit no evaluation, the registry has no such model, or an override is wrong.
    """
    kinds = kinds_in(path)
    what = what or measured_by(path, kinds)
    values, line = (_reward if what == "reward" else _policy)(registry, named)
    data = {"sources": [{"path": Located(str(path), Path.cwd())}]}
    values["data"] = data
    if what == "policy" and kinds.keys() <= DEMONSTRATIONS:
        values["sft_data"] = data
    for override in overrides:
        apply_override(values, override)
    keys = {text.partition("=")[0].strip() for text in overrides}
    if what == "reward":
        return Chosen(validate(values, RewardEvaluationConfig, origin=str(path), overridden=keys), line)
    config = validate(values, EvaluationConfig, origin=str(path), overridden=keys)
    return Chosen(config, line + (f"; {config.num_prompts} prompts at most" if config.num_prompts else ""))


def kinds_in(path: Path) -> dict[str, int]:
    """How many of the first rows of `path` are of which kind. Raises UserError where they cannot be read."""
    source = DataSource(path=str(path.absolute()), limit=ROWS_READ)
    return read_source(source, DataConfig(sources=[source], max_bad_fraction=1.0)).report.kinds


def measured_by(path: Path, kinds: Mapping[str, int]) -> What:
    """What most of the rows of `path` say something about, by their `kinds`.

    Raises:
        UserError: they are texts or ratings, which no evaluation takes.
    """
    counts: Counter[What] = Counter()
    for kind, number in kinds.items():
        if kind in MEASURED_BY:
            counts[MEASURED_BY[kind]] += number
    if not counts:
        raise UserError(
            f"{path}: holds {', '.join(f'{kind}s' for kind in kinds)}; `rlhf eval` takes preferences or rankings for a "
            "reward model, and prompts or demonstrations for a policy"
        )
    return "reward" if counts["reward"] >= counts["policy"] else "policy"


def _reward(registry: Registry, named: Named) -> tuple[dict[str, Any], str]:
    for option, value in (("--baseline", named.baseline), ("--judge", named.judge)):
        if value is not None:
            raise UserError(f"{option} {value}: a reward model is measured by the preferences alone; leave it out")
    if named.model is not None:
        return {"model": Located(named.model, Path.cwd())}, f"measuring {named.model}"
    model = _newest(registry, "reward")
    return {"model": model.ref}, f"measuring {model.ref}, the newest reward model"


def _policy(registry: Registry, named: Named) -> tuple[dict[str, Any], str]:
    if named.model is None:
        candidate: Artefact | None = _newest(registry, "policy")
        assert candidate is not None
        model, said = candidate.ref, f"{candidate.ref}, the newest policy,"
    else:
        candidate, model, said = _known(registry, named.model), named.model, named.model
    baseline, why = named.baseline, ""
    if baseline is None:
        parent = None if candidate is None else _trained_from(registry, candidate)
        if parent is None:
            raise UserError(f"{model}: the registry does not know what it was trained from; name it with --baseline")
        baseline, why = parent.ref, ", which it was trained from"
    judge, whose = named.judge, ""
    if judge is None:
        found, is_training_reward = _judge(registry, candidate)
        judge = found.ref
        whose = (
            ", the reward model it was trained on" if is_training_reward else ", a reward model it was not trained on"
        )
    values: dict[str, Any] = {
        "candidate": Located(model, Path.cwd()),
        "baseline": Located(baseline, Path.cwd()),
        "judge": [{"ref": Located(judge, Path.cwd())}],
        "num_prompts": NUM_PROMPTS,
    }
    line = f"comparing {said} with {baseline}{why}, judged by {judge}{whose}"
    return values, line


def _newest(registry: Registry, kind: Kind) -> Artefact:
    found = _by_age(registry, kind)
    if not found:
        name = "reward model" if kind == "reward" else kind
        trained = "`rlhf reward`" if kind == "reward" else "`rlhf ppo`"
        raise UserError(f"the registry has no {name} to evaluate: train one with {trained}, or name one with --model")
    return found[0]


def _by_age(registry: Registry, kind: Kind) -> list[Artefact]:
    """Those whose training was not stopped, the newest first."""
    found = registry.artefacts(kind=kind) if registry.exists() else []
    return sorted((one for one in found if "stopped" not in one.metadata), key=lambda one: one.created_at, reverse=True)


def _known(registry: Registry, ref: str) -> Artefact | None:
    return registry.find(ref) if registry.exists() else None


def _trained_from(registry: Registry, policy: Artefact) -> Artefact | None:
    """The nearest SFT model among the bases of bases; without one, the policy's own base."""
    first = here = _base(registry, policy)
    while here is not None and here.kind != "sft":
        here = _base(registry, here)
    return here or first


def _base(registry: Registry, artefact: Artefact) -> Artefact | None:
    ref = next((parent.ref for parent in artefact.parents if parent.role == "base"), None)
    return None if ref is None else registry.resolve(ref)


def _judge(registry: Registry, candidate: Artefact | None) -> tuple[Artefact, bool]:
    """The reward model that knows the least of what the candidate was trained for, of several such the newest.

    That is one that learned from other annotators than the candidate's rewards; else one by another name; else another
    version; else the one it was trained on. The second value says whether it is that one.
    """
    found = _by_age(registry, "reward")
    if not found:
        raise UserError("the registry has no reward model to judge by; name a judge with --judge")
    nodes = [] if candidate is None else list(registry.lineage(candidate).walk())
    trained_on = [node.artefact for node in nodes if node.role == "reward"]
    digests, names = {one.digest for one in trained_on}, {one.name for one in trained_on}
    people = {name for one in trained_on for name in _annotators(registry, one)}

    def how_near(one: Artefact) -> tuple[bool, bool, bool]:
        own = _annotators(registry, one)
        return one.digest in digests, not own or bool(people & own), one.name in names

    judge = min(found, key=how_near)
    return judge, judge.digest in digests


def _annotators(registry: Registry, reward: Artefact) -> set[str]:
    """By whose judgements it was trained, not those of the larger set that they may have been taken from."""
    nodes = registry.lineage(reward).walk()
    judgements = (node for node in nodes if node.artefact.kind == "preferences" and node.role != "source")
    return {str(annotator["name"]) for node in judgements for annotator in node.annotators}
