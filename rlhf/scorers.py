"""From the sections that name scorers to the scorers themselves."""

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import torch

from rlhf.config import ModelSection
from rlhf.errors import UserError
from rlhf.modeling import (
    ModelSource,
    Offset,
    find_model,
    load_reward_model,
    load_tokenizer,
    read_reward_file,
)
from rlhf.registry import Registry
from rlhf.scoring import Ensemble, FunctionScorer, RewardModelScorer, Scorer, WeightedScorer
from rlhf.scoring_config import ScorerSection

Dtype = Literal["float32", "bfloat16", "float16"]
LoadedRewardModel = tuple[torch.nn.Module, Offset]
"""A reward model, and the offset to be taken from its scores."""

REWARD_KINDS = ("base", "reward")
"""What a scorer may be; `base` is what a model from outside the registry is taken in as."""


@dataclass(frozen=True)
class FoundScorer:
    """A scorer that is known to be there, not yet in memory: a reward model's `source`, or a `function`."""

    section: ScorerSection
    source: ModelSource | None = None
    function: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        """The name given, else the function's, the artefact's (without its group) or the folder's."""
        if self.section.name:
            return self.section.name
        if self.source is None:
            return self.section.split_function()[1]
        name = self.source.artefact.name if self.source.artefact else self.source.ref.rstrip("/")
        return name.rpartition("/")[2]


def find_scorers(sections: Sequence[ScorerSection], registry: Registry, *, key: str = "reward") -> list[FoundScorer]:
    """Look every scorer up, before anything is loaded.

    Args:
        sections: at least one.
        registry: where refs are looked up; what is found there is verified.
        key: the config key the list stands under, for the errors.

    Raises:
        UserError: a model or function is not there or is no scorer, or two have one name; all at once.
    """
    found: list[FoundScorer] = []
    problems: list[str] = []
    for index, section in enumerate(sections):
        where = f"{key}.{index}"
        try:
            if section.ref is not None:
                source = find_model(section.ref, registry, REWARD_KINDS, key=f"{where}.ref")
                found.append(FoundScorer(section, source=source))
            else:
                found.append(FoundScorer(section, function=load_function(section, key=f"{where}.function")))
        except UserError as error:
            problems.extend(error.problems)
    names = [scorer.name for scorer in found]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(f"{key}: two scorers are called {name!r}; give each a `name` of its own")
    if problems:
        raise UserError(problems)
    return found


def load_scorers(
    found: Sequence[FoundScorer],
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    dtype: Dtype = "float32",
    in_memory: Mapping[int, LoadedRewardModel] | None = None,
) -> Scorer:
    """The scorer that `found` make together: the only one as it is, several as their weighted sum.

    Args:
        found: what `find_scorers` returned.
        batch_size: rows that a reward model reads at once.
        device: where reward models are put; they stay on the CPU when left out.
        dtype: of the reward models' weights.
        in_memory: reward models that are loaded already, by their place in `found`.

    Raises:
        UserError: a reward model cannot be loaded or has no scalar head.
    """
    loaded = in_memory or {}
    scorers = [_load(scorer, batch_size, device, dtype, loaded.get(i)) for i, scorer in enumerate(found)]
    weights = [scorer.section.weight for scorer in found]
    if weights == [1.0]:
        return scorers[0]
    return WeightedScorer(scorers, weights, name="+".join(scorer.name for scorer in found))


def build_scorer(
    sections: Sequence[ScorerSection],
    registry: Registry,
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    key: str = "reward",
) -> Scorer:
    """`find_scorers` and `load_scorers` in one step."""
    return load_scorers(find_scorers(sections, registry, key=key), batch_size=batch_size, device=device)


def load_function(section: ScorerSection, *, key: str = "function") -> Callable[..., Any]:
    """The function that a section names.

    Raises:
        UserError: there is no such module, file or function, it cannot be imported, or it cannot be called.
    """
    given = f"{key} = {section.function!r}"
    module_name, name = section.split_function()
    file = section.function_file()
    module = _import_file(file, given) if file else _import_module(module_name, section.folder, given)
    found = getattr(module, name, None)
    if found is None:
        known = [other for other, value in vars(module).items() if callable(value) and not other.startswith("_")]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"functions there: {', '.join(known) or 'none'}"
        raise UserError(f"{given}: {module_name} has no function {name}; {hint}")
    if not callable(found):
        raise UserError(f"{given}: is {found!r:.40}, not a function (prompts, completions, **columns) -> scores")
    function: Callable[..., Any] = found
    return function


def reward_model_scorer(
    source: ModelSource,
    name: str,
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    dtype: Dtype = "float32",
    loaded: LoadedRewardModel | None = None,
) -> RewardModelScorer:
    """A trained reward model, or an ensemble, as a scorer, with offset and length limit that it was trained with.

    `loaded` is the model where it is in memory already, with its offset.

    Raises:
        UserError: the model cannot be loaded or has no scalar head.
    """
    model, offset = loaded or load_reward_model(source, ModelSection(ref=source.ref, dtype=dtype))
    tokenizer = load_tokenizer(source, generates=False)
    about = read_reward_file(source.folder)
    if device is not None:
        torch.nn.Module.to(model, device)
    return RewardModelScorer(
        model,
        tokenizer,
        name,
        batch_size=batch_size,
        offset=offset,
        max_length=about.max_length,
        combine=Ensemble(about.combine, about.std_coef) if about.combine else None,
    )


def _load(
    found: FoundScorer,
    batch_size: int,
    device: torch.device | str | None,
    dtype: Dtype,
    loaded: LoadedRewardModel | None,
) -> Scorer:
    if found.source is None:
        assert found.function is not None
        return cast(Scorer, FunctionScorer(found.function, name=found.name))
    return reward_model_scorer(
        found.source, found.name, batch_size=batch_size, device=device, dtype=dtype, loaded=loaded
    )


def _import_file(file: Path, given: str) -> ModuleType:
    if not file.is_file():
        raise UserError(f"{given}: {file}: no such file")
    # named after the whole path, so that two files of one name do not become one module
    name = f"rlhf_user_{file.stem}_{abs(hash(file)):x}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as dataclasses and pickle expect of an imported module
    try:
        with _first_on_path(file.parent), _explained(given, None):
            spec.loader.exec_module(module)
    except UserError:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str, folder: Path | None, given: str) -> ModuleType:
    with _first_on_path(folder), _explained(given, name):
        return importlib.import_module(name)


@contextmanager
def _first_on_path(folder: Path | None) -> Iterator[None]:
    """Modules of `folder` can be imported, as those beside a script can."""
    before = list(sys.path)
    if folder is not None:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()  # the folder may have changed within the clock's grain
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _explained(given: str, module: str | None) -> Iterator[None]:
    """What goes wrong while a user's module is imported, as the user's error."""
    try:
        yield
    except ModuleNotFoundError as error:
        if module is not None and error.name and f"{module}.".startswith(f"{error.name}."):
            what = f"no module {error.name} beside the config file or among the installed packages"
        else:
            what = f"it imports {error.name}, which is not installed"
        raise UserError(f"{given}: {what}") from error
    except Exception as error:  # whatever the user's module raises is the user's to mend
        raise UserError(f"{given}: cannot be imported: {type(error).__name__}: {error}") from error
