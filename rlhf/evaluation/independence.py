"""Whether a judge is independent of what a candidate was trained for: told by lineage."""

from collections.abc import Sequence

from rlhf.files import sha256
from rlhf.inputs import function_file
from rlhf.modeling import ModelSource
from rlhf.registry import LineageNode, Registry
from rlhf.scorers import FoundScorer


def judge_is_training_reward(
    candidate: ModelSource, judges: Sequence[FoundScorer], registry: Registry, choosers: Sequence[FoundScorer] = ()
) -> bool:
    """Whether the candidate was optimised for what it is now judged by: it then looks good whatever it has learned.

    Reward models are known again by their content, functions by name and the content of their file, or by how they are
    written in the config where the file has been edited since. What best-of-n chooses by counts as well.
    """
    nodes = _ancestors(candidate, registry)
    models = {node.artefact.digest for node in nodes if node.role == "reward"}
    models |= {scorer.source.artefact.digest for scorer in choosers if scorer.source and scorer.source.artefact}
    functions: set[tuple[str, str]] = set()
    for scorer in (scorer for node in nodes for scorer in node.scorers if "function" in scorer):
        functions |= _names_of(scorer["function"], scorer["sha256"])
    for chooser in choosers:
        functions |= _names_of_scorer(chooser)
    return any(
        judge.source.artefact is not None and judge.source.artefact.digest in models
        if judge.source is not None
        else bool(functions & _names_of_scorer(judge))
        for judge in judges
    )


def shared_annotators(candidate: ModelSource, judges: Sequence[FoundScorer], registry: Registry) -> list[str] | None:
    """The annotators from whom both the candidate, or a reward of its, and a judge have learned, by pseudonym.

    None where nothing is known: no judge is a model, or of one side no lineage names annotators.
    """
    of_candidate = {str(one["name"]) for node in _judgements(candidate, registry) for one in node.annotators}
    of_judge = {str(one["name"]) for node in _behind(judges, registry) for one in node.annotators}
    return sorted(of_candidate & of_judge) if of_candidate and of_judge else None


def shares_judgements(candidate: ModelSource, judges: Sequence[FoundScorer], registry: Registry) -> bool | None:
    """Whether the candidate, or a reward of its, and a judge have learned from the same judgements; None as above."""
    of_candidate = {node.artefact.digest for node in _judgements(candidate, registry)}
    of_judge = {node.artefact.digest for node in _behind(judges, registry)}
    return bool(of_candidate & of_judge) if of_candidate and of_judge else None


def _behind(judges: Sequence[FoundScorer], registry: Registry) -> list[LineageNode]:
    return [node for judge in judges if judge.source for node in _judgements(judge.source, registry)]


def _judgements(model: ModelSource, registry: Registry) -> list[LineageNode]:
    """What it, and what it was made of, learned from: not what that was taken from, which may hold more annotators."""
    nodes = _ancestors(model, registry)
    return [node for node in nodes if node.artefact.kind == "preferences" and node.role != "source"]


def _ancestors(model: ModelSource, registry: Registry) -> list[LineageNode]:
    """The model itself and all above it; nothing of a model that the registry does not know."""
    return list(registry.lineage(model.artefact).walk()) if model.artefact is not None else []


def _names_of_scorer(scorer: FoundScorer) -> set[tuple[str, str]]:
    if scorer.source is not None:
        return set()
    file = function_file(scorer.section)
    return _names_of(str(scorer.section.function), sha256(file) if file else None)


def _names_of(function: str, content: str | None) -> set[tuple[str, str]]:
    """By what a function is known again: its name with its module or file as given, and with the file's digest."""
    module, _, name = function.rpartition(":")
    return {(name, module), *([(name, content)] if content else [])}
