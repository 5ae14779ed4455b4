"""The labels stage: completions of a model go into the label store, simulated annotators judge them there.

They claim tasks and submit answers as people do; what the stage publishes is what `rlhf label export` would.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

from labeling_app.converting import to_records
from labeling_app.drafts import takes_overlap
from labeling_app.exporting import describe, publish
from labeling_app.simulated import Judge, answer_queue, explained
from labeling_app.store import Judgement, NewTask, Store, StoreSettings
from rlhf.datasets import Loaded, load
from rlhf.datasets.report import judgement_stats
from rlhf.errors import UserError
from rlhf.modeling import find_model
from rlhf.pipeline.labels_config import LabelledPrompts, LabelsConfig
from rlhf.pipeline.sampling import ModelWriter
from rlhf.records import Prompt
from rlhf.scorers import load_function
from rlhf.workspace import Workspace, report_problems

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Part:
    """Prompts of one part of the artefact, and who judges them."""

    section: LabelledPrompts
    data: Loaded
    judges: list[Judge]


def simulate_labels(config: LabelsConfig, workspace: Workspace) -> dict[str, Any]:
    """Sample `num_completions` for every prompt, have them judged, publish the judgements as `preferences`.

    The tasks stand in a queue named after the run, those of `held_out` in one below it. The artefact has the parts
    `train` and, with `held_out`, `dev`. Identical completions are shown once; a prompt with fewer than two different
    ones is left out and counted. A run that was interrupted goes on with the answers it has.

    Raises:
        UserError: the input is wrong, or the annotators answer with something other than tiers.
    """
    source = find_model(config.model.ref, workspace.registry, kinds=("base", "sft", "policy"))
    parts = {"train": _part(config, config.seed, workspace)}
    if config.held_out is not None:
        parts["dev"] = _part(config.held_out, config.seed, workspace)
    with (
        workspace.run("labels", config, config.tracking, data=parts["train"].data, models=source.refs) as run,
        Store.open(workspace.home, settings=StoreSettings(gold_share=0)) as store,
    ):
        name = source.publish(workspace.registry).ref
        writer = ModelWriter(source, config.model, config.generation, name)
        judged: dict[str, list[Judgement]] = {}
        num_without_choice = 0
        for part, given in parts.items():
            queue = run.id if part == "train" else f"{run.id}/{part}"
            report_problems(given.data.problems, run.folder / f"set_aside_{part}.jsonl")
            num_without_choice += _add_tasks(store, queue, given, writer, config)
            answer_queue(store, given.judges, queue)
            judged[part] = store.judgements(queue)
            if not judged[part]:
                raise UserError(f"labels: none of the {part} prompts got two different completions to choose from")
        records = {part: to_records(found) for part, found in judged.items()}
        description = describe([one for found in judged.values() for one in found], records)
        rankings = records["train"].rankings
        artefact = publish(
            records,
            description | {"num_rankings": len(rankings)},
            workspace.registry,
            config.output.name,
            alias=config.output.alias,
            run_id=run.id,
        )
        return run.finish(
            {
                "num_rankings": len(rankings),
                "num_without_choice": num_without_choice,
                "num_annotators": len({one.user_id for one in judged["train"]}),
                "agreement": judgement_stats(rankings).get("agreement"),
                "simulated": True,
                "artefact": artefact.ref,
            }
        )


def _part(section: LabelledPrompts, seed: int, workspace: Workspace) -> _Part:
    function = load_function(section.annotators, key="annotators.function")
    with explained(f"annotators.function = {section.annotators.function!r}"):
        judges = list(function(seed))
    if not judges or not all(callable(getattr(one, "judge", None)) for one in judges):
        raise UserError(
            f"annotators.function = {section.annotators.function!r}: returned {str(judges)[:80]}; expected a list of "
            "objects with a `name` and a method `judge(mode, prompt, responses, presented)`"
        )
    if section.overlap > len(judges):
        raise UserError(f"overlap = {section.overlap}: more than the {len(judges)} annotators there are")
    return _Part(section, load(section.data, (Prompt,), seed=seed, open_ref=workspace.open_ref), judges)


def _add_tasks(store: Store, queue: str, part: _Part, writer: ModelWriter, config: LabelsConfig) -> int:
    """Put what the model writes into the queue; how many prompts got nothing to choose from.

    What the queue has already, from before an interruption, stays as it is.
    """
    rows = [record.row() for record in part.data.train]
    prompts = [row.pop("prompt") for row in rows]
    written = writer.write(prompts, config.num_completions, config.seed)
    tasks = [
        NewTask(
            prompt=prompt,
            responses=one.responses,
            overlap=part.section.overlap if takes_overlap(prompt, part.section.overlap_share, config.seed) else 1,
            origin=row,
        )
        for prompt, row, one in zip(prompts, rows, written, strict=True)
        if len({response.content for response in one.responses}) > 1
    ]
    refused = Counter(one.why for one in store.add_tasks(tasks, queue).rejected if one.task_id is None)
    without = refused + Counter({"no two different completions": len(prompts) - len(tasks)})
    if without.total():
        why = "; ".join(f"{number} x {reason}" for reason, number in without.most_common())
        logger.warning("%d of %d prompts are without a choice: %s", without.total(), len(prompts), why)
    return without.total()
