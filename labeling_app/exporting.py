"""From judgements to what models learn from: rankings, pairs, ratings, demonstrations.

No record depends on the store's numbers or on the clock: the same answers make the same files. Only their description
names tasks by number.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from labeling_app.comparing import compare_models
from labeling_app.store import Content, Judgement, Response, Store
from rlhf.datasets.split import PromptKeys, is_held_out
from rlhf.errors import UserError
from rlhf.records import Completion, Message, Preference, Ranking, Rating, Record, Text, write_jsonl
from rlhf.registry import Artefact, Registry

PLACE_COLUMNS = frozenset({"file", "line", "row", "sampled_from"})
"""Of a task's origin: where it comes from; nothing that a record carries on."""

_RESERVED = PLACE_COLUMNS | frozenset(name for kind in (Ranking, Rating) for name in kind.model_fields)


@dataclass
class Records:
    """One part of what is exported. `all_bad` are rankings whose completions were all called bad."""

    rankings: list[Ranking] = field(default_factory=list)
    pairs: list[Preference] = field(default_factory=list)
    ratings: list[Rating] = field(default_factory=list)
    demonstrations: list[Completion] = field(default_factory=list)
    all_bad: list[Ranking] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How many there are of each."""
        return {f"num_{name}": len(records) for name, records in vars(self).items()}

    def num_judgements(self) -> Counter[str]:
        """How many judgements of each annotator the records here come from.

        Each makes one ranking, or where there was one completion to grade, one rating; the same task may have been
        judged in two queues.
        """
        made = [(row["annotator"], row["task"]) for row in _rows([*self.rankings, *self.all_bad])]
        ranked = set(made)
        made += [key for row in _rows(self.ratings) if (key := (row["annotator"], row["task"])) not in ranked]
        return Counter(annotator for annotator, _ in made)

    def files(self, part: str) -> dict[str, Sequence[Record]]:
        """What lies where: the rankings at the top, where a `data:` source looks first, the rest in folders."""
        others = {name: records for name, records in vars(self).items() if name != "rankings" and records}
        return {f"{part}.jsonl": self.rankings} | {f"{name}/{part}.jsonl": others[name] for name in others}


def _rows(records: Iterable[Record]) -> Iterator[dict[str, Any]]:
    """As they are written: tasks are a column of their own in some records, and an unnamed one in others."""
    return (record.row() for record in records)


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and how.

    Attributes:
        queues: whose answers.
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
    known = [one.queue for one in store.status()]
    unknown = [queue for queue in options.queues if queue not in known]
    if unknown:
        raise UserError(f"queue {unknown[0]!r}: there is none; there are {', '.join(known) or 'no queues yet'}")
    every = [one for queue in options.queues for one in store.judgements(queue, with_quarantined=True)]
    trusted = [one for one in every if not one.quarantined]
    kept = [one for one in trusted if one.gold is None]
    if not kept:
        where = ", ".join(options.queues)
        raise UserError(
            f"queue {where}: nothing to export: {len(every):,} answer{'s' * (len(every) != 1)}, none by a trusted "
            "annotator beside gold"
        )
    weights = None
    if options.reliability_weights:
        from labeling_app.quality.reliability import reliability_weights

        weights = {user: round(one.weight, 6) for user, one in reliability_weights(trusted).items()}
    parts = split_by_prompt(to_records(kept, weights, with_all_bad=options.with_all_bad), options.dev_fraction)
    description = describe(kept, parts) | {
        "queues": sorted({one.queue for one in kept}),
        "tasks": {queue: ranges(one.task_id for one in kept if one.queue == queue) for queue in options.queues},
        "dev_fraction": options.dev_fraction,
        "num_gold_left_out": len(trusted) - len(kept),
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


def to_records(
    judgements: Iterable[Judgement], weights: Mapping[str, float] | None = None, *, with_all_bad: bool = False
) -> Records:
    """What was judged, as records, in the order of tasks and of the annotators' names.

    Graded completions make ratings, and two or more of them a ranking by grade as well. Ties make no pair. Somebody
    whose weight is 0 is left out.

    Args:
        judgements: of people who are trusted; gold tasks belong elsewhere.
        weights: annotator -> what each of their judgements counts; 1 for all when None.
        with_all_bad: rankings that were called bad as a whole count as the others do.
    """
    records = Records()
    for judgement in sorted(judgements, key=lambda one: (one.task_id, one.user)):
        weight = 1.0 if weights is None else weights.get(judgement.user, 1.0)
        if weight <= 0:
            continue
        _add_demonstration(records, judgement)
        if judgement.mode == "rate":
            records.ratings += _ratings(judgement)
        ranking = _ranking(judgement, weight)
        if ranking is None:
            continue
        if ranking.all_bad and not with_all_bad:
            records.all_bad.append(ranking)
        else:
            records.rankings.append(ranking)
            records.pairs += ranking.pairs()
    return records


def split_by_prompt(records: Records, dev_fraction: float, seed: int = 0) -> dict[str, Records]:
    """`train` and, with a fraction, `dev`: every prompt is in one of them, the same ones that the stages hold out."""
    parts = {"train": Records()} | ({"dev": Records()} if dev_fraction else {})
    keys = PromptKeys()
    for name, every in vars(records).items():
        for record in every:
            part = "dev" if is_held_out(keys.opening(record), dev_fraction, seed) else "train"
            getattr(parts[part], name).append(record)
    return parts


def describe(judgements: Sequence[Judgement], parts: Mapping[str, Records]) -> dict[str, Any]:
    """Who judged what, for lineage: annotators by pseudonym, models, tasks, versions of the guidelines."""
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
        "guidelines_versions": sorted({one.guidelines_version for one in judgements if one.guidelines_version}),
        "parts": {part: records.counts() for part, records in parts.items()},
    }


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
    return sorted({name for one in judgements for response in one.responses for name in _writers(response)})


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


def task_name(judgement: Judgement) -> str:
    """Names a question by what it shows, the same in every store."""
    body = json.dumps([judgement.mode, judgement.prompt, [response.content for response in judgement.responses]])
    return hashlib.sha256(body.encode()).hexdigest()[:16]


# One judgement


def _ranking(judgement: Judgement, weight: float) -> Ranking | None:
    """The order that was given, or that follows from grades; None where there is only one completion."""
    if len(judgement.responses) < 2:
        return None
    answer = judgement.answer
    place = {response.id: position for position, response in enumerate(judgement.responses)}
    if answer.ratings is None:
        tiers = [sorted(place[response] for response in tier) for tier in answer.tiers]
        graded: dict[str, Any] = {}
    else:
        grades = [answer.ratings[response.id] for response in judgement.responses]
        levels = sorted(set(grades), reverse=True)
        tiers = [[at for at, grade in enumerate(grades) if grade == level] for level in levels]
        graded = {"ratings": grades}
    flags = [answer.flags.get(response.id, []) for response in judgement.responses]
    models = [_writer(response) for response in judgement.responses]
    return Ranking.model_validate(
        _shared(judgement)
        | graded
        | {
            "prompt": _text(judgement.prompt),
            "completions": [_completion(response.content, judgement.prompt) for response in judgement.responses],
            "tiers": tiers,
            "flags": flags if any(flags) else None,
            "all_bad": answer.all_bad,
            "strength": answer.strength,
            "rationale": answer.rationale,
            "models": [model or "unknown" for model in models] if any(models) else None,
            "weight": weight,
        }
        | ({"presented": [place[response] for response in judgement.presented]} if _was_shown(judgement) else {})
    )


def _was_shown(judgement: Judgement) -> bool:
    """Whether a person saw the responses in the order that the store has; it says nothing of programs and files."""
    return not judgement.simulated and not judgement.is_imported


def _ratings(judgement: Judgement) -> list[Rating]:
    grades = judgement.answer.ratings or {}
    return [
        Rating(
            prompt=_text(judgement.prompt),
            completion=_completion(response.content, judgement.prompt),
            rating=float(grades[response.id]),
            **_shared(judgement),
            **({"model": model} if (model := _writer(response)) else {}),
        )
        for response in judgement.responses
    ]


def _add_demonstration(records: Records, judgement: Judgement) -> None:
    edit = judgement.answer.edit
    if edit is None:
        return
    records.demonstrations.append(
        Completion(
            prompt=_text(judgement.prompt),
            completion=_completion(edit.text, judgement.prompt),
            **_shared(judgement),
        )
    )


def _shared(judgement: Judgement) -> dict[str, Any]:
    """Columns that every record of a judgement has; those that came with the task among them."""
    carried = {name: value for name, value in judgement.origin.items() if name not in _RESERVED}
    known: dict[str, Any] = {
        "annotator": judgement.user,
        "task": task_name(judgement),
        "simulated": judgement.simulated,
    }
    if judgement.guidelines_version is not None:
        known["guidelines_version"] = judgement.guidelines_version
    if judgement.active_ms:
        known["active_ms"] = judgement.active_ms
    return carried | known


def _writers(response: Response) -> list[str]:
    return list(dict.fromkeys(source["model"] for source in response.sources if source.get("model")))


def _writer(response: Response) -> str | None:
    """Who wrote it; several who wrote the very same text stand together."""
    return " + ".join(_writers(response)) or None


def _text(content: Content) -> Text:
    return content if isinstance(content, str) else [Message.model_validate(turn) for turn in content]


def _completion(content: Content, prompt: Content) -> Text:
    """In the form of its prompt: under a conversation, a text is the assistant's message."""
    if isinstance(content, str) and not isinstance(prompt, str):
        return [Message(role="assistant", content=content)]
    return _text(content)
