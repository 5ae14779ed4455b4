"""From judgements to what models learn from: rankings, pairs, ratings, demonstrations.

No record depends on the store's numbers or on the clock: the same answers make the same files. Only their description
names tasks by number.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from labeling_app.comparing import compare_models
from labeling_app.converting import (
    Records,
    last_of_each_question,
    split_by_prompt,
    task_name,
    to_records,
    was_shown,
    writers,
)
from labeling_app.store import Judgement, Store, Tx, reading
from labeling_app.store.status import status
from rlhf.errors import UserError
from rlhf.records import write_jsonl
from rlhf.registry import Artefact, Registry


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and how.

    Attributes:
        queues: whose answers; a question that somebody has judged in several counts once, by the last answer.
        dev_fraction: the share of prompts that goes into the part `dev`.
        reliability_weights: weigh each annotator by agreement with the others and with gold (`labeling_app.quality`).
        with_all_bad: rankings that were called bad as a whole count as the others do.
    """

    queues: tuple[str, ...]
    dev_fraction: float = 0.1
    reliability_weights: bool = False
    with_all_bad: bool = False


def export_labels(
    store: Store,
    options: ExportOptions,
    registry: Registry,
    *,
    name: str | None = None,
    folder: Path | None = None,
    alias: str | None = None,
) -> dict[str, Any]:
    """Publish what was judged under `name`, or write it into `folder`; gold and quarantined annotators are left out.

    Returns:
        What was exported, in numbers, and where it is.

    Raises:
        UserError: there is no such queue, nothing was judged in it, or it cannot be written.
    """
    every = store.read(judged_in, options.queues)
    trusted = [one for one in every if not one.quarantined]
    without_gold = [one for one in trusted if one.gold is None]
    kept = last_of_each_question(without_gold)
    num_repeated = len(without_gold) - len(kept)
    weights = None
    if options.reliability_weights:
        from labeling_app.quality.reliability import reliability_weights

        weights = {user: round(one.weight, 6) for user, one in reliability_weights(trusted).items()}
        kept = [one for one in kept if weights[one.user] > 0]
    if not kept:
        where = ", ".join(options.queues)
        raise UserError(
            f"queue {where}: nothing to export: {len(every):,} answer{'s' * (len(every) != 1)}, none by a trusted "
            "annotator beside gold"
        )
    parts = split_by_prompt(to_records(kept, weights, with_all_bad=options.with_all_bad), options.dev_fraction)
    description = describe(kept, parts) | {
        "queues": sorted({one.queue for one in kept}),
        "tasks": {queue: ranges(one.task_id for one in kept if one.queue == queue) for queue in options.queues},
        "dev_fraction": options.dev_fraction,
        "num_gold_left_out": len(trusted) - len(without_gold),
        "num_repeated_left_out": num_repeated,
        "quarantined": sorted({one.user for one in every if one.quarantined}),
        "comparisons": compare_models(kept),
        "reliability_weights": weights,
    }
    if folder is not None:
        files = write_folder(parts, folder)
        (folder / "labels.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        return description | {"path": str(folder), "files": files}
    assert name is not None
    artefact = publish(parts, description, registry, name, alias=alias)
    return description | {"artefact": artefact.ref, "digest": artefact.digest, "path": str(artefact.path)}


def judged_in(tx: Tx, queues: Sequence[str]) -> list[Judgement]:
    """All answers in these queues at one moment, whosoever's.

    Raises:
        UserError: there is no such queue.
    """
    known = [one.queue for one in status(tx)]
    unknown = [queue for queue in queues if queue not in known]
    if unknown:
        raise UserError(f"queue {unknown[0]!r}: there is none; there are {', '.join(known) or 'no queues yet'}")
    return [one for queue in dict.fromkeys(queues) for one in reading.judgements(tx, queue, with_quarantined=True)]


def describe(judgements: Sequence[Judgement], parts: Mapping[str, Records]) -> dict[str, Any]:
    """Who judged what, for lineage: annotators by pseudonym, models, tasks, versions of the guidelines by queue.

    Args:
        judgements: those that the records were made of.
        parts: the records.
    """
    people = {judgement.user: judgement.simulated for judgement in judgements}
    counts = Counter(judgement.user for judgement in judgements)
    held_out = parts["dev"].num_judgements() if "dev" in parts else Counter[str]()
    tasks = sorted({task_name(judgement) for judgement in judgements})
    return {
        "annotators": [
            {
                "name": name,
                "num_judgements": counts[name],
                "num_held_out": held_out[name],
                "simulated": people[name],
            }
            for name in sorted(people)
        ],
        "simulated": any(people.values()),
        "models": models_of(judgements),
        "num_tasks": len(tasks),
        "tasks_sha256": hashlib.sha256("\n".join(tasks).encode()).hexdigest(),
        "guidelines_versions": _guidelines_versions(judgements),
        "parts": {part: records.counts() for part, records in parts.items()},
    }


def _guidelines_versions(judgements: Iterable[Judgement]) -> dict[str, list[int]]:
    """By queue, since the versions are counted by queue."""
    found: dict[str, set[int]] = {}
    for one in judgements:
        if one.guidelines_version is not None and was_shown(one):
            found.setdefault(one.queue, set()).add(one.guidelines_version)
    return {queue: sorted(versions) for queue, versions in sorted(found.items())}


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in a compact form: `1-40,52`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def models_of(judgements: Iterable[Judgement]) -> list[str]:
    """Everybody who wrote a completion that was judged, as far as that is known."""
    return sorted({name for one in judgements for response in one.responses for name in writers(response)})


def write_folder(parts: Mapping[str, Records], folder: Path) -> list[str]:
    """Write all parts; returns the files, relative to the folder.

    Raises:
        UserError: the folder is there and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already and is not an empty folder; choose another")
    files = {name: records for part, found in parts.items() for name, records in found.files(part).items()}
    for name, records in files.items():
        write_jsonl(folder / name, records)
    return sorted(files)


def publish(
    parts: Mapping[str, Records],
    description: Mapping[str, Any],
    registry: Registry,
    name: str,
    *,
    alias: str | None = None,
    run_id: str | None = None,
    parents: Sequence[tuple[str, str]] = (),
) -> Artefact:
    """The records as a `preferences` artefact; models of the registry that wrote completions become its parents.

    Raises:
        UserError: the name is malformed or holds another kind.
    """
    writers = [
        ("model", model)
        for model in description["models"]
        if "@" in model and registry.exists() and registry.find(model) is not None
    ]
    registry.home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=registry.home) as scratch:
        write_folder(parts, Path(scratch))
        return registry.publish(
            Path(scratch),
            kind="preferences",
            name=name,
            parents=[*parents, *(writer for writer in writers if writer not in parents)],
            metadata=description,
            alias=alias,
            run_id=run_id,
        )
