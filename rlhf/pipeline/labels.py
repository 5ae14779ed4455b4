"""The labels stage: completions of a model, ranked by a function that stands in for people."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlhf.datasets import load
from rlhf.errors import UserError
from rlhf.generation import sample
from rlhf.modeling import device, find_model, load_causal_lm, load_tokenizer
from rlhf.pipeline.labels_config import LabelsConfig
from rlhf.records import Prompt, Ranking, write_jsonl
from rlhf.scorers import load_function
from rlhf.workspace import Workspace, report_problems


def simulate_labels(config: LabelsConfig, workspace: Workspace) -> dict[str, Any]:
    """Sample `num_completions` for every prompt, have them ranked, publish the rankings as `preferences`.

    Identical completions are shown once; a prompt with fewer than two different ones is left out and counted.

    Raises:
        UserError: the input is wrong, or the function returns something other than rankings.
    """
    source = find_model(config.model.ref, workspace.registry, kinds=("base", "sft", "policy"))
    annotate = load_function(config.annotators, key="annotators.function")
    data = load(config.data, (Prompt,), seed=config.seed, open_ref=workspace.open_ref)
    model, tokenizer = load_causal_lm(source, config.model).to(device()), load_tokenizer(source)
    prompts = [record.row()["prompt"] for record in data.train]

    with workspace.run("labels", config, config.tracking, data=data, models=source.refs) as run:
        report_problems(data.problems, run.folder / "set_aside.jsonl")
        options = config.generation.model_dump()
        completions = sample(model, tokenizer, prompts, num_return=config.num_completions, seed=config.seed, **options)
        shown: list[dict[str, None]] = [{} for _ in prompts]
        for completion in completions:
            shown[completion.prompt_index][completion.text] = None
        tasks = [(prompt, list(texts)) for prompt, texts in zip(prompts, shown, strict=True) if len(texts) > 1]
        rankings = annotate([prompt for prompt, _ in tasks], [texts for _, texts in tasks], config.seed)
        if not rankings or not all(isinstance(ranking, Ranking) for ranking in rankings):
            raise UserError(f"annotators.function = {config.annotators.function!r}: returned no rankings")
        people: dict[str, int] = {}
        for ranking in rankings:
            people[ranking.annotator or "unnamed"] = people.get(ranking.annotator or "unnamed", 0) + 1
        with TemporaryDirectory(dir=run.folder) as scratch:
            write_jsonl(Path(scratch) / "rankings.jsonl", rankings)
            artefact = workspace.registry.publish(
                Path(scratch),
                kind="preferences",
                name=config.output.name,
                parents=[("model", source.publish(workspace.registry))],
                metadata={
                    "annotators": [{"name": name, "num_judgements": count} for name, count in sorted(people.items())],
                    "simulated": all(ranking.simulated for ranking in rankings),
                    "num_rankings": len(rankings),
                },
                alias=config.output.alias,
                run_id=run.id,
            )
        return run.finish(
            {
                "num_rankings": len(rankings),
                "num_prompts": len(tasks),
                "num_without_choice": len(prompts) - len(tasks),
                "num_annotators": len(people),
                "simulated": all(ranking.simulated for ranking in rankings),
                "artefact": artefact.ref,
            }
        )
