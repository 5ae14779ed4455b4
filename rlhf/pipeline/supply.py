"""Whether the prompts last for all rounds: counted before the first, since the last one begins hours later."""

import logging
import math

from rlhf.datasets import DataConfig, load
from rlhf.errors import UserError
from rlhf.pipeline.config import Plan
from rlhf.pipeline.labels_config import LabelsConfig
from rlhf.records import Preference, Prompt, Ranking, prompt_key
from rlhf.workspace import Workspace

logger = logging.getLogger(__name__)


def check_supply(plan: Plan, workspace: Workspace) -> None:
    """Count the prompts that the rounds of a file will ask about; say so where there are fewer than it wants.

    Raises:
        UserError: no prompt is left for the last round.
    """
    rounds = plan.file.rounds
    labels: LabelsConfig = plan.config("labels", plan.stages["labels"])
    given = [labels.data, *([rounds.data] if rounds.data is not None else [])]
    made = f"{plan.output_name('sft')}-data"
    if any(source.path.partition("@")[0] == made for data in given for source in data.sources):
        return  # what SFT is about to publish cannot be counted yet
    asked = asked_before(labels.without, workspace) if labels.without else set()
    first, later = (_prompts(data, labels.seed, workspace) - asked for data in (given[0], given[-1]))
    num_asked = len(first) if labels.num_tasks is None else min(labels.num_tasks, len(first))
    left = len(later) - max(0, num_asked - len(first - later))  # at most: round 1 may have asked about more of them
    short = []
    for number in range(2, rounds.num + 1):
        if left <= 0:
            each = "" if labels.num_tasks is None else f" of stages.labels.num_tasks = {labels.num_tasks}"
            raise UserError(
                f"rounds.num = {rounds.num}: {len(first | later)} different prompts are enough for {number - 1} rounds"
                f"{each}, and none is asked about twice: give more prompts, lower stages.labels.num_tasks, or set "
                f"rounds.num: {number - 1}"
            )
        wanted = left if labels.num_tasks is None else math.ceil(labels.num_tasks * rounds.select.pool)
        if left < wanted:
            short.append(f"round {number}: {left}")
        left -= left if labels.num_tasks is None else labels.num_tasks
    if short:
        logger.warning(
            "rounds: fewer prompts are left than stages.labels.num_tasks = %s x rounds.select.pool = %g (%s): "
            "there is less to choose among, or nothing",
            labels.num_tasks,
            rounds.select.pool,
            ", ".join(short),
        )


def asked_before(refs: list[str], workspace: Workspace) -> set[str]:
    """Keys of the prompts that these preferences of the registry are about."""
    values = {"sources": [{"path": ref} for ref in refs], "mixing": {"shuffle": False}}
    found = load(DataConfig.model_validate(values), (Ranking, Preference), seed=0, open_ref=workspace.open_ref)
    return {prompt_key(record.prompt) for record in (*found.train, *found.dev)}  # type: ignore[attr-defined]


def _prompts(data: DataConfig, seed: int, workspace: Workspace) -> set[str]:
    found = load(data, (Prompt,), seed=seed, open_ref=workspace.open_ref).train
    return {prompt_key(record.prompt) for record in found if isinstance(record, Prompt)}
