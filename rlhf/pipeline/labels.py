"""The labels stage: completions of a model, ranked by a function that stands in for people."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlhf.datasets import Loaded, load
from rlhf.datasets.report import judgement_stats
from rlhf.errors import UserError
from rlhf.generation import sample
from rlhf.modeling import device, find_model, load_causal_lm, load_tokenizer
from rlhf.pipeline.labels_config import LabelledPrompts, LabelsConfig
from rlhf.records import Prompt, Ranking, write_jsonl
from rlhf.scorers import load_function
from rlhf.workspace import Workspace, report_problems

Task = tuple[Any, list[str]]
"""A prompt and the different completions to be ranked."""


def simulate_labels(config: LabelsConfig, workspace: Workspace) -> dict[str, Any]:
    """Sample `num_completions` for every prompt, have them ranked, publish the rankings as `preferences`.

    The artefact has the parts `train` and, with `held_out`, `dev`. Identical completions are shown once; a prompt with
    fewer than two different ones is left out and counted.

    Raises:
        UserError: the input is wrong, or a function returns something other than rankings.
    """
    source = find_model(config.model.ref, workspace.registry, kinds=("base", "sft", "policy"))
    parts = {"train": _part(config, config, workspace)}
    if config.held_out is not None:
        parts["dev"] = _part(config.held_out, config, workspace)
    model, tokenizer = load_causal_lm(source, config.model).to(device()), load_tokenizer(source)
    options = config.generation.model_dump() | {"num_return": config.num_completions, "seed": config.seed}

    with workspace.run("labels", config, config.tracking, data=parts["train"][0], models=source.refs) as run:
        rankings: dict[str, list[Ranking]] = {}
        num_without_choice = 0
        for part, (data, annotate) in parts.items():
            report_problems(data.problems, run.folder / f"set_aside_{part}.jsonl")
            prompts = [record.row()["prompt"] for record in data.train]
            texts = [(found.prompt_index, found.text) for found in sample(model, tokenizer, prompts, **options)]
            tasks = _tasks(prompts, texts)
            num_without_choice += len(prompts) - len(tasks)
            rankings[part] = annotate([prompt for prompt, _ in tasks], [texts for _, texts in tasks], config.seed)
            if not rankings[part] or not all(isinstance(ranking, Ranking) for ranking in rankings[part]):
                raise UserError(f"annotators.function: returned no rankings for the {part} prompts")
        people = Counter(ranking.annotator or "unnamed" for ranking in rankings["train"])
        simulated = all(ranking.simulated for every in rankings.values() for ranking in every)
        with TemporaryDirectory(dir=run.folder) as scratch:
            for part, found in rankings.items():
                write_jsonl(Path(scratch) / f"{part}.jsonl", found)
            artefact = workspace.registry.publish(
                Path(scratch),
                kind="preferences",
                name=config.output.name,
                parents=[("model", source.publish(workspace.registry))],
                metadata={
                    "annotators": [{"name": name, "num_judgements": count} for name, count in sorted(people.items())],
                    "simulated": simulated,
                    "num_rankings": len(rankings["train"]),
                },
                alias=config.output.alias,
                run_id=run.id,
            )
        return run.finish(
            {
                "num_rankings": len(rankings["train"]),
                "num_without_choice": num_without_choice,
                "num_annotators": len(people),
                "agreement": judgement_stats(rankings["train"]).get("agreement"),
                "simulated": simulated,
                "artefact": artefact.ref,
            }
        )


def _part(
    section: LabelledPrompts, config: LabelsConfig, workspace: Workspace
) -> tuple[Loaded, Callable[..., list[Ranking]]]:
    annotate = load_function(section.annotators, key="annotators.function")
    return load(section.data, (Prompt,), seed=config.seed, open_ref=workspace.open_ref), annotate


def _tasks(prompts: Sequence[Any], texts: Sequence[tuple[int, str]]) -> list[Task]:
    """Prompts with two or more different completions, these in the order in which they were drawn."""
    shown: list[dict[str, None]] = [{} for _ in prompts]
    for index, text in texts:
        shown[index][text] = None
    return [(prompt, list(different)) for prompt, different in zip(prompts, shown, strict=True) if len(different) > 1]
