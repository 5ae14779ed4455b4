"""What `rlhf eval policy` reads: models, judges and prompts, found and checked before a model is loaded."""

import logging
import os
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from rlhf.chat_api import KEY_VARIABLE
from rlhf.datasets import Loaded, load
from rlhf.errors import UserError
from rlhf.evaluation.config import BASELINE, BestOfSection, EndpointSection, EvaluationConfig
from rlhf.modeling import ModelSource, find_model, load_tokenizer
from rlhf.records import Completion, Prompt
from rlhf.registry import Registry
from rlhf.scorers import FoundScorer, find_scorers
from rlhf.scoring_config import ScorerSection
from rlhf.workspace import Workspace

logger = logging.getLogger(__name__)

WRITERS = ("base", "sft", "policy")


@dataclass(frozen=True)
class Inputs:
    """What an evaluation reads before it starts.

    Attributes:
        main: the name of the candidate that the summary is about.
        writers: who writes, by name: the candidates, the main one first, and the baseline.
        reference: what the KL divergence is measured from.
        best_of: how many completions best-of-n draws, by the candidate's name.
        choosers: what chooses among them, likewise.
        judges: the reward models and functions that judge together; none where an endpoint judges alone.
        tokenizers: of the writers and, as `reference`, of the reference.
        measures_kl: the candidates whose divergence from the reference is defined.
        data: the prompts' rows.
        records: those that are written to, in the seeded random order in which they are drawn.
        sft_data: demonstrations, if there are any.
    """

    main: str
    writers: dict[str, ModelSource]
    reference: ModelSource
    best_of: dict[str, int]
    choosers: dict[str, list[FoundScorer]]
    judges: list[FoundScorer]
    tokenizers: dict[str, PreTrainedTokenizerBase]
    measures_kl: frozenset[str]
    data: Loaded
    records: list[Prompt]
    sft_data: Loaded | None = None

    @property
    def candidates(self) -> list[str]:
        """Names of all but the baseline."""
        return [name for name in self.writers if name != BASELINE]

    @property
    def refs(self) -> list[str]:
        """Of all models."""
        choosers = [scorer for found in self.choosers.values() for scorer in found]
        scorers = [scorer.source for scorer in (*self.judges, *choosers)]
        return [ref for model in (*self.writers.values(), self.reference, *scorers) if model for ref in model.refs]


def read(config: EvaluationConfig, workspace: Workspace) -> Inputs:
    """Find and check all that `config` names, before anything is written or a model is loaded.

    Raises:
        UserError: models, judges or data are not there or not what they are to be; of models and judges all at once.
    """
    registry = workspace.registry
    problems: list[str] = []
    sources: dict[str, ModelSource] = {}
    choosers: dict[str, list[FoundScorer]] = {}
    judges: list[FoundScorer] = []
    for name, (key, ref) in _models(config).items():
        try:
            sources[name] = find_model(ref, registry, WRITERS, key=key)
        except UserError as error:
            problems += error.problems
    for name, given in config.writers.items():
        if isinstance(given, BestOfSection):
            try:
                choosers[name] = find_scorers(given.by, registry, key=f"candidates.{name}.by")
            except UserError as error:
                problems += error.problems
    try:
        judges = _find_judges(config, registry)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    reference = sources.pop("reference", sources[BASELINE])
    tokenizers = {name: load_tokenizer(source) for name, source in {**sources, "reference": reference}.items()}
    best_of = {name: given.best_of for name, given in config.writers.items() if isinstance(given, BestOfSection)}
    measures_kl = _measures_kl(config, tokenizers, best_of)
    data = load(config.data, (Prompt,), seed=config.seed, open_ref=workspace.open_ref)
    records = [record for record in data.dev or data.train if isinstance(record, Prompt)]
    order = np.random.default_rng(config.seed).permutation(len(records))
    sft_data = None
    if config.sft_data is not None:
        sft_data = load(config.sft_data, (Completion,), seed=config.seed, open_ref=workspace.open_ref)
    return Inputs(
        main=config.main,
        writers=sources,
        reference=reference,
        best_of=best_of,
        choosers=choosers,
        judges=judges,
        tokenizers=tokenizers,
        measures_kl=measures_kl,
        data=data,
        records=[records[i] for i in order],
        sft_data=sft_data,
    )


def _models(config: EvaluationConfig) -> dict[str, tuple[str, str]]:
    """Name -> its key in the config and its ref: candidates, baseline and, where it is another, the reference."""
    models = {}
    for name, given in config.writers.items():
        key = f"candidates.{name}" if name in config.candidates else "candidate"
        models[name] = (f"{key}.ref", given.ref) if isinstance(given, BestOfSection) else (key, given)
    models[BASELINE] = (BASELINE, config.baseline)
    if config.reference is not None and config.reference != config.baseline:
        models["reference"] = ("reference", config.reference)
    return models


def _find_judges(config: EvaluationConfig, registry: Registry) -> list[FoundScorer]:
    """The scorers among the judges; of endpoints, the key that is to be there is looked for."""
    problems, names = [], []
    for index, section in enumerate(config.judge):
        if not isinstance(section, EndpointSection):
            continue
        names.append(section.name or section.model)
        if section.key_env != KEY_VARIABLE and not os.environ.get(section.key_env):
            problems.append(
                f"judge.{index}.key_env = {section.key_env!r}: the environment has no such variable; set it"
            )
    if len(set(names)) < len(names):
        problems.append(
            f"judge: two endpoints are called {max(names, key=names.count)!r}; give each a `name` of its own"
        )
    scorers = [section for section in config.judge if isinstance(section, ScorerSection)]
    found: list[FoundScorer] = []
    try:
        found = find_scorers(scorers, registry, key="judge") if scorers else []
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    return found


def _measures_kl(
    config: EvaluationConfig, tokenizers: dict[str, PreTrainedTokenizerBase], best_of: dict[str, int]
) -> frozenset[str]:
    """Of which candidates it is defined: something is drawn as it comes, and both models speak of the same tokens."""
    if config.generation.temperature == 0:
        logger.warning("no KL divergence: greedy completions are not drawn from the candidate")
        return frozenset()
    measured = set()
    vocabulary = tokenizers["reference"].get_vocab()
    for name in config.writers:
        if name in best_of:
            continue
        if tokenizers[name].get_vocab() == vocabulary:
            measured.add(name)
        elif name == config.main and config.reference is not None:
            raise UserError(
                f"reference = {config.reference!r}: has other tokens than the candidate, so there is "
                "no KL divergence between them; name the model that the candidate was trained from"
            )
        else:
            of = "the candidate" if name == config.main else name
            logger.warning("no KL divergence: the baseline has other tokens than %s; set `reference`", of)
    return frozenset(measured)
