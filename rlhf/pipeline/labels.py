"""The labels stage: completions of a model go into the label store, people or simulated annotators judge them there.

Simulated ones claim tasks and submit answers as people do; what the stage publishes is what `rlhf label export` would.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeling_app.converting import to_records
from labeling_app.drafts import takes_overlap
from labeling_app.exporting import describe, publish
from labeling_app.panels import make_panel
from labeling_app.simulated import Judge, answer_queue, explained
from labeling_app.store import Judgement, NewTask, Store, StoreSettings
from rlhf.datasets import Loaded, load
from rlhf.datasets.report import judgement_stats
from rlhf.errors import Interrupted, UserError
from rlhf.modeling import find_model
from rlhf.pipeline.labels_config import LabelledPrompts, LabelsConfig, PanelSection
from rlhf.pipeline.sampling import ModelWriter
from rlhf.pipeline.selecting import choose_tasks, find_ensemble
from rlhf.pipeline.supply import asked_before
from rlhf.records import Prompt, prompt_key
from rlhf.scorers import load_function
from rlhf.tracking.metrics import write_atomically
from rlhf.workspace import Workspace, report_problems

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Part:
    """Prompts of one part of the artefact, and who judges them: `judges` is None where people do."""

    section: LabelledPrompts
    data: Loaded
    records: list[Prompt]
    judges: list[Judge] | None


def collect_labels(config: LabelsConfig, workspace: Workspace) -> dict[str, Any]:
    """Sample `num_completions` for every prompt, have them judged, publish the judgements as `preferences`.

    The tasks stand in a queue named after the run, those of `held_out` in one below it. The artefact has the parts
    `train` and, with `held_out`, `dev`. Identical completions are shown once; a prompt with fewer than two different
    ones is left out and counted. A run that was interrupted goes on with the answers it has.

    Raises:
        UserError: the input is wrong, or the annotators answer with something other than tiers.
        Interrupted: people have not answered everything yet.
    """
    source = find_model(config.model.ref, workspace.registry, kinds=("base", "sft", "policy"))
    parts = {"train": _part(config, config, workspace)}
    if config.held_out is not None:
        parts["dev"] = _part(config.held_out, config, workspace)
    ensemble = find_ensemble(config.select, workspace.registry)
    models = [*source.refs, *(ensemble.refs if ensemble else [])]
    with (
        workspace.run("labels", config, config.tracking, data=parts["train"].data, models=models) as run,
        Store.open(workspace.home, settings=StoreSettings(gold_share=0)) as store,
    ):
        name = source.publish(workspace.registry).ref
        queues = {part: run.id if part == "train" else f"{run.id}/{part}" for part in parts}
        writer: ModelWriter | None = None
        counts: dict[str, dict[str, Any]] = {}
        for part, given in parts.items():
            asked = run.folder / f"tasks_{part}.json"
            if not asked.is_file():
                report_problems(given.data.problems, run.folder / f"set_aside_{part}.jsonl")
                writer = writer or ModelWriter(source, config.model, config.generation, name)
                tasks, figures = _written(given, writer, config)
                if part == "train":
                    tasks, chosen = choose_tasks(tasks, config.select, ensemble, config.num_tasks, config.seed)
                    figures |= chosen
                figures["num_without_choice"] += _add_tasks(store, queues[part], tasks)
                write_atomically(asked, json.dumps(figures).encode())
            counts[part] = json.loads(asked.read_text())
            if given.judges is not None:
                answer_queue(store, given.judges, queues[part])
        _wait_for_people(store, [queues[part] for part, given in parts.items() if given.judges is None], workspace)
        judged = {part: _judged(store, queues[part], part) for part in parts}
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
                "num_without_choice": sum(one["num_without_choice"] for one in counts.values()),
                **{key: value for key, value in counts["train"].items() if key != "num_without_choice"},
                "num_annotators": len({one.user_id for one in judged["train"]}),
                "agreement": judgement_stats(rankings).get("agreement"),
                "simulated": description["simulated"],
                "artefact": artefact.ref,
            }
        )


def _part(section: LabelledPrompts, config: LabelsConfig, workspace: Workspace) -> _Part:
    judges = _judges(section, config.seed)
    if judges is not None and section.overlap > len(judges):
        raise UserError(f"overlap = {section.overlap}: more than the {len(judges)} annotators there are")
    data = load(section.data, (Prompt,), seed=config.seed, open_ref=workspace.open_ref)
    records = [record for record in data.train if isinstance(record, Prompt)]
    if section is config and config.without:
        asked = asked_before(config.without, workspace)
        records = [record for record in records if prompt_key(record.prompt) not in asked]
        if not records:
            raise UserError(
                f"labels: all {len(data.train)} prompts have been asked about in {', '.join(config.without)}; give "
                "more prompts, or set num_tasks so that some are left for later"
            )
    if section is config and config.num_tasks is not None:
        pool = config.select.pool if config.select else 1.0
        records = records[: math.ceil(config.num_tasks * pool)]
    return _Part(section, data, records, judges)


def _judges(section: LabelledPrompts, seed: int) -> list[Judge] | None:
    """The simulated annotators; None for people."""
    annotators = section.annotators
    if isinstance(annotators, str):
        return None
    if isinstance(annotators, PanelSection):
        rubric = load_function(annotators.rubric, key="annotators.rubric.function")
        return list(
            make_panel(
                annotators.panel,
                rubric,
                seed,
                noise=annotators.noise,
                position_bias=annotators.position_bias,
                tie_within=annotators.tie_within,
            )
        )
    function = load_function(annotators, key="annotators.function")
    with explained(f"annotators.function = {annotators.function!r}"):
        judges = list(function(seed))
    if not judges or not all(callable(getattr(one, "judge", None)) for one in judges):
        raise UserError(
            f"annotators.function = {annotators.function!r}: returned {str(judges)[:80]}; expected a list of "
            "objects with a `name` and a method `judge(mode, prompt, responses, presented)`"
        )
    return judges


def _written(part: _Part, writer: ModelWriter, config: LabelsConfig) -> tuple[list[NewTask], dict[str, Any]]:
    """What the model writes to the part's prompts, as tasks, and how many prompts got nothing to choose from."""
    rows = [record.row() for record in part.records]
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
    without = len(prompts) - len(tasks)
    if without:
        logger.warning("%d of %d prompts are without a choice: no two different completions", without, len(prompts))
    return tasks, {"num_without_choice": without}


def _add_tasks(store: Store, queue: str, tasks: Sequence[NewTask]) -> int:
    """Put tasks into the queue; how many it refused.

    What the queue has already, from before an interruption, stays as it is.
    """
    refused = Counter(one.why for one in store.add_tasks(tasks, queue).rejected if one.task_id is None)
    if refused:
        why = "; ".join(f"{number} x {reason}" for reason, number in refused.most_common())
        logger.warning("%d of %d prompts are without a choice: %s", refused.total(), len(tasks), why)
    return refused.total()


def _judged(store: Store, queue: str, part: str) -> list[Judgement]:
    judged = store.judgements(queue, with_gold=False)
    if not judged:
        raise UserError(f"labels: none of the {part} prompts got two different completions to choose from")
    return judged


def _wait_for_people(store: Store, queues: Sequence[str], workspace: Workspace) -> None:
    """Raise Interrupted while there is something in the queues that people can still answer."""
    waiting = [one for queue in queues for one in store.status(queue) if one.num_tasks > one.num_done]
    if not waiting:
        return
    done, total = sum(one.num_done for one in waiting), sum(one.num_tasks for one in waiting)
    at_home = "" if workspace.home == Path(".rlhf").absolute() else f"--home {workspace.home} "
    again = f"`{workspace.command}`" if workspace.command else "the same command"
    raise Interrupted(
        f"labels: people have answered {done} of {total} tasks in queue {', '.join(one.queue for one in waiting)}: let "
        f"them go on with `rlhf {at_home}label serve`; once all are answered, {again} goes on from here"
    )
