"""`rlhf label add --prompts`: models write completions, and the tasks go into the store as they come.

torch is imported once a model of this machine is to write; an endpoint needs none.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labeling_app.drafts import AddOptions, takes_overlap
from labeling_app.importing import sampled_prompts
from labeling_app.store import Store
from rlhf.config import COMMAND_LINE, Located, validate
from rlhf.datasets import DataConfig, DataSource, load
from rlhf.datasets.config import Mixing
from rlhf.errors import UserError
from rlhf.evaluation.config import GenerationSection
from rlhf.pipeline.writing import Batch, Prompt, Writer, write_tasks
from rlhf.records import Prompt as PromptRecord
from rlhf.workspace import Workspace

STOPPED = "stopped"
"""Why there is no more where somebody has pressed Ctrl-C."""


@dataclass(frozen=True)
class Sampling:
    """What is to be written, and by whom: models by their refs, and models behind an endpoint by its names for them."""

    prompts: str
    refs: Sequence[str] = ()
    endpoint: str | None = None
    model_names: Sequence[str] = ()
    num: int = 4
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    parallel: int = 4
    chat: bool = False
    limit: int | None = None

    def generation(self) -> GenerationSection:
        """How completions are drawn.

        Raises:
            UserError: a value is none that sampling takes.
        """
        values = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "top_p": self.top_p}
        return validate(values, GenerationSection, origin=COMMAND_LINE)


@dataclass
class Sampled:
    """What came of it. `gone` says why there is no more, if somebody stopped writing midway."""

    num_prompts: int = 0
    num_already: int = 0
    task_ids: list[int] = field(default_factory=list)
    num_responses: int = 0
    num_identical: int = 0
    problems: list[str] = field(default_factory=list)
    gone: str | None = None


def read_prompts(sampling: Sampling, workspace: Workspace) -> tuple[list[tuple[Prompt, dict[str, Any]]], list[str]]:
    """The prompts with the columns that came with them, in the file's order, and what is wrong with other rows.

    Raises:
        UserError: the file is missing, or none of its rows has a prompt.
    """
    given = {"path": Located(sampling.prompts, Path.cwd()), "limit": sampling.limit}
    if sampling.chat or sampling.endpoint:
        given["conversational"] = True
    source = validate(given, DataSource, origin=COMMAND_LINE)
    config = DataConfig(sources=[source], mixing=Mixing(shuffle=False), max_bad_fraction=1.0)
    loaded = load(config, (PromptRecord,), seed=0, open_ref=workspace.open_ref)
    rows = [record.row() for record in loaded.train]
    return [(row.pop("prompt"), row) for row in rows], [str(problem) for problem in loaded.problems]


@contextmanager
def open_writers(sampling: Sampling, workspace: Workspace) -> Iterator[list[Writer]]:
    """Everybody who is to write.

    Raises:
        UserError: a model is not there or cannot write, or the endpoint's URL is none.
    """
    with ExitStack() as stack:
        writers: list[Writer] = []
        if sampling.endpoint is not None:
            from rlhf.pipeline.endpoint import EndpointWriter

            drawn = sampling.generation()
            options = {"max_tokens": drawn.max_new_tokens, "temperature": drawn.temperature, "top_p": drawn.top_p}
            for name in sampling.model_names:
                writer = EndpointWriter(sampling.endpoint, name, options, parallel=sampling.parallel)
                writers.append(stack.enter_context(writer))
        if sampling.refs:
            writers += _models(sampling, workspace)
        yield writers


def _models(sampling: Sampling, workspace: Workspace) -> list[Writer]:
    from rlhf.config import ModelSection
    from rlhf.modeling import find_model
    from rlhf.pipeline.sampling import ModelWriter

    generation = sampling.generation()
    kinds = ("base", "sft", "policy")
    found = [find_model(ref, workspace.registry, kinds=kinds, key="--model") for ref in sampling.refs]
    names = [source.publish(workspace.registry).ref for source in found]
    if len(set(names)) < len(names):
        raise UserError(f"--model: two of {', '.join(sampling.refs)} are the same model")
    return [
        ModelWriter(source, ModelSection(ref=source.ref), generation, name)
        for source, name in zip(found, names, strict=True)
    ]


def add_sampled(
    store: Store,
    prompts: Sequence[tuple[Prompt, dict[str, Any]]],
    writers: Sequence[Writer],
    options: AddOptions,
    queue: str,
    *,
    num: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Sampled:
    """Have completions written to the prompts, and add each batch of tasks as it is finished.

    Prompts to which the same models have written in this queue before are left out, so that a command that was
    interrupted can be given again. `progress` is told how many prompts are done.
    """
    names = sorted(writer.name for writer in writers)
    known = store.read(sampled_prompts, queue, names)
    todo = [one for one in prompts if json.dumps(one[0], sort_keys=True) not in known]
    sampled = Sampled(num_prompts=len(prompts), num_already=len(prompts) - len(todo))
    for batch in _until_stopped(write_tasks(todo, writers, num=num, seed=options.seed, mode=options.mode)):
        tasks = [
            dataclasses.replace(
                task,
                priority=options.priority,
                overlap=options.overlap if takes_overlap(task.prompt, options.overlap_share, options.seed) else 1,
            )
            for task in batch.tasks
            if task is not None
        ]
        added = store.add_tasks(tasks, queue)
        sampled.task_ids += added.task_ids
        sampled.num_responses += added.num_responses
        sampled.num_identical += added.num_identical
        sampled.num_already += sum(one.task_id is not None for one in added.rejected)
        sampled.problems += [
            f"{_short(tasks[one.index].prompt)}: {one.why}" for one in added.rejected if one.task_id is None
        ]
        sampled.problems += [
            f"{_short(todo[batch.start + place][0])}: {why}"
            for place, why in enumerate(batch.why)
            if why and batch.gone is None
        ]
        sampled.gone = batch.gone
        if batch.tasks:
            progress(batch.start + len(batch.tasks))
    return sampled


def _until_stopped(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, and on Ctrl-C an empty last one: what was written before stays."""
    try:
        yield from batches
    except KeyboardInterrupt:
        yield Batch(0, [], [], gone=STOPPED)


def _short(prompt: Any) -> str:
    """The beginning of a prompt, by which its reader knows it."""
    text = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", ""))
    line = " ".join(text.split())
    return f"prompt {line[:60]!r}"
