"""Which tasks people are asked about: those that a reward model's members disagree on, and some at random."""

# ruff: noqa: S311 - seeded draws, nothing secret

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any, Literal

from labeling_app.store import NewTask
from rlhf.errors import UserError
from rlhf.modeling import ModelSource, device, find_model
from rlhf.modeling.reward_file import read_reward_file
from rlhf.pipeline.labels_config import SelectSection
from rlhf.registry import Registry
from rlhf.scorers import reward_model_scorer
from rlhf.scoring import disagreement

Reason = Literal["disagreement", "random"]


@dataclass(frozen=True)
class Chosen:
    """The place of a task among those there were to choose from, and why it was chosen."""

    index: int
    selected_by: Reason


def choose(disagreements: Sequence[float] | int, num: int, *, random_share: float, seed: int) -> list[Chosen]:
    """`num` tasks, in the order in which they are: some drawn from all, and of the others those disagreed on most.

    Args:
        disagreements: of each task; only their number where all are to be drawn.
        num: how many are wanted; all where there are fewer.
        random_share: of `num`, rounded; the rest goes by disagreement, equal ones in a random order.
        seed: of the drawing.
    """
    total = disagreements if isinstance(disagreements, int) else len(disagreements)
    order = random.Random(f"select {seed}").sample(range(total), total)
    num = min(num, total)
    num_random = num if isinstance(disagreements, int) else round(num * random_share)
    drawn, rest = order[:num_random], order[num_random:]
    if not isinstance(disagreements, int):
        rest = sorted(rest, key=lambda index: -disagreements[index])
    chosen = [Chosen(index, "random") for index in drawn]
    chosen += [Chosen(index, "disagreement") for index in rest[: num - num_random]]
    return sorted(chosen, key=lambda one: one.index)


def find_ensemble(section: SelectSection | None, registry: Registry) -> ModelSource | None:
    """The reward model whose members are to disagree; None where none is needed.

    Raises:
        UserError: it is not there, or is one model alone.
    """
    if section is None or section.by != "disagreement":
        return None
    assert section.ref is not None
    source = find_model(section.ref, registry, kinds=("reward",), key="select.ref")
    if read_reward_file(source.folder).combine is None:
        raise UserError(
            f"select.ref = {section.ref!r}: has no members that could disagree; train it with an ensemble (in the "
            "reward stage `ensemble: {num_members: 4}`), or set select.by: random"
        )
    return source


def choose_tasks(
    tasks: Sequence[NewTask], section: SelectSection | None, ensemble: ModelSource | None, num: int | None, seed: int
) -> tuple[list[NewTask], dict[str, Any]]:
    """The tasks that people are asked about, and what is to be said of the choice.

    A chosen task's origin says why: `selected_by`, and where it was measured, `disagreement`.

    Args:
        tasks: all there are to choose from.
        section: how; None takes all.
        ensemble: whose members disagree.
        num: how many; one in `section.pool` when None.
        seed: of what is drawn.
    """
    if section is None:
        return list(tasks), {}
    num = num or max(1, round(len(tasks) / section.pool))
    if ensemble is None:
        chosen = choose(len(tasks), num, random_share=1.0, seed=seed)
        return [_told(tasks[one.index], {"selected_by": one.selected_by}) for one in chosen], {"num_pool": len(tasks)}
    measured = disagreements(tasks, ensemble)
    chosen = choose(measured, num, random_share=section.random_share, seed=seed)
    figures = {
        "num_pool": len(tasks),
        "num_by_disagreement": sum(one.selected_by == "disagreement" for one in chosen),
        "disagreement_pool": round(mean(measured), 6),
        "disagreement_chosen": round(mean(measured[one.index] for one in chosen), 6),
    }
    told = [
        _told(
            tasks[one.index],
            {"selected_by": one.selected_by, "disagreement": round(measured[one.index], 6)},
        )
        for one in chosen
    ]
    return told, figures


def disagreements(tasks: Sequence[NewTask], ensemble: ModelSource) -> list[float]:
    """How little the members of a reward model agree on the order of each task's completions."""
    scorer = reward_model_scorer(ensemble, "ensemble", device=device())
    asked = [(task.prompt, str(response.content)) for task in tasks for response in task.responses]
    scores = scorer.score_members([prompt for prompt, _ in asked], [text for _, text in asked])
    parts = scores.split([len(task.responses) for task in tasks])
    return [disagreement(part) for part in parts]


def _told(task: NewTask, why: dict[str, Any]) -> NewTask:
    return replace(task, origin={**task.origin, **why})
