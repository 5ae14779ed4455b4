"""What `rlhf eval policy` reads: models, judges and prompts, found and checked before a model is loaded."""

import logging
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from rlhf.datasets import Loaded, load
from rlhf.errors import UserError
from rlhf.evaluation.config import EvaluationConfig
from rlhf.files import sha256
from rlhf.inputs import function_file
from rlhf.modeling import ModelSource, find_model, load_tokenizer
from rlhf.records import Prompt
from rlhf.registry import Registry
from rlhf.scorers import FoundScorer, find_scorers
from rlhf.workspace import Workspace

logger = logging.getLogger(__name__)

WRITERS = ("base", "sft", "policy")


@dataclass(frozen=True)
class Inputs:
    """What an evaluation reads before it starts."""

    candidate: ModelSource
    baseline: ModelSource
    reference: ModelSource
    judges: list[FoundScorer]
    tokenizers: dict[str, PreTrainedTokenizerBase]
    measures_kl: bool
    data: Loaded
    records: list[Prompt]

    @property
    def refs(self) -> list[str]:
        """Of all models."""
        models = (self.candidate, self.baseline, self.reference, *(judge.source for judge in self.judges))
        return [ref for model in models if model for ref in model.refs]


def read(config: EvaluationConfig, workspace: Workspace) -> Inputs:
    """Find and check all that `config` names, before anything is written or a model is loaded.

    Raises:
        UserError: models, judges or data are not there or not what they are to be; of models and judges all at once.
    """
    registry = workspace.registry
    problems: list[str] = []
    reference = config.reference or config.baseline
    wanted = {"candidate": config.candidate, "baseline": config.baseline, "reference": reference}
    sources: dict[str, ModelSource] = {}
    judges: list[FoundScorer] = []
    for key, ref in wanted.items():
        if key == "reference" and ref == config.baseline:
            continue
        try:
            sources[key] = find_model(ref, registry, WRITERS, key=key)
        except UserError as error:
            problems += error.problems
    try:
        judges = find_scorers(config.judge, registry, key="judge")
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    sources.setdefault("reference", sources["baseline"])
    tokenizers = {key: load_tokenizer(source) for key, source in sources.items()}
    measures_kl = _measures_kl(config, tokenizers)
    data = load(config.data, (Prompt,), seed=config.seed, open_ref=workspace.open_ref)
    records = [record for record in data.dev or data.train if isinstance(record, Prompt)]
    order = np.random.default_rng(config.seed).permutation(len(records))
    return Inputs(
        **sources,
        judges=judges,
        tokenizers=tokenizers,
        measures_kl=measures_kl,
        data=data,
        records=[records[i] for i in order],
    )


def _measures_kl(config: EvaluationConfig, tokenizers: dict[str, PreTrainedTokenizerBase]) -> bool:
    """Whether the divergence is defined: something is drawn, and both models speak of the same tokens."""
    if tokenizers["candidate"].get_vocab() != tokenizers["reference"].get_vocab():
        if config.reference is not None:
            raise UserError(
                f"reference = {config.reference!r}: has other tokens than the candidate, so there is "
                "no KL divergence between them; name the model that the candidate was trained from"
            )
        logger.warning("no KL divergence: the baseline has other tokens than the candidate; set `reference`")
        return False
    if config.generation.temperature == 0:
        logger.warning("no KL divergence: greedy completions are not drawn from the candidate")
        return False
    return True


def judge_is_training_reward(inputs: Inputs, registry: Registry) -> bool:
    """Whether the candidate was optimised for what it is now judged by: it then looks good whatever it has learned.

    Reward models are known again by their content, functions by name and the content of their file, or by how they are
    written in the config where the file has been edited since.
    """
    if inputs.candidate.artefact is None:
        return False
    nodes = list(registry.lineage(inputs.candidate.artefact).walk())
    models = {node.artefact.digest for node in nodes if node.role == "reward"}
    functions: set[tuple[str, str]] = set()
    for scorer in (scorer for node in nodes for scorer in node.scorers if "function" in scorer):
        functions |= _names_of(scorer["function"], scorer["sha256"])
    found = False
    for judge in inputs.judges:
        if judge.source is not None:
            found |= judge.source.artefact is not None and judge.source.artefact.digest in models
        else:
            file = function_file(judge.section)
            found |= bool(functions & _names_of(str(judge.section.function), sha256(file) if file else None))
    if found:
        logger.warning("the judge is a reward that the candidate was trained on, so it favours the candidate")
    return found


def _names_of(function: str, content: str | None) -> set[tuple[str, str]]:
    """By what a function is known again: its name with its module or file as given, and with the file's digest."""
    module, _, name = function.rpartition(":")
    return {(name, module), *([(name, content)] if content else [])}
