"""What the registry knows of a reward model that is to be evaluated."""

from rlhf.errors import UserError
from rlhf.modeling import ModelSource
from rlhf.records import Prompt, prompt_key, read_jsonl
from rlhf.registry import Registry


def given_temperature(given: float | str | None, model: ModelSource, registry: Registry) -> float | None:
    """The temperature that a config gives: a number, or that of an earlier report on the same model.

    Raises:
        UserError: there is no such report, it is about another model or a policy, or it could not measure one.
    """
    if not isinstance(given, str):
        return given
    where = f"temperature = {given!r}"
    try:
        report = registry.resolve(given, ["report"])
    except UserError as error:
        raise UserError([f"{where}: {problem}" for problem in error.problems]) from None
    about = next((parent for parent in report.parents if parent.role == "reward"), None)
    if about is None or report.metadata.get("evaluation") != "reward":
        raise UserError(f"{where}: {report.ref} evaluates no reward model; name one that `rlhf eval reward` published")
    if model.artefact is None or about.digest != model.artefact.digest:
        raise UserError(f"{where}: {report.ref} is about {about.ref}, and this evaluates {model.ref}")
    found = report.metadata["metrics"].get("temperature")
    if found is None:
        raise UserError(f"{where}: {report.ref} could not measure a temperature; its data was too small")
    return float(found)


def prompts_trained_on(model: ModelSource, registry: Registry) -> set[str] | None:
    """The keys of the prompts that a reward model of the registry was trained on; None where nothing is known of it."""
    if model.artefact is None:
        return None
    judgements = [parent.ref for parent in model.artefact.parents if parent.kind == "preferences"]
    files = [path for ref in judgements if (path := registry.open(ref) / "train.jsonl").is_file()]
    if not files:
        return None
    # a row that has no prompt was trained on by nobody
    return {prompt_key(record.prompt) for path in files for record in read_jsonl(path, Prompt)[0]}
