"""From judgements to records: rankings, pairs, ratings, demonstrations. They depend on what was said alone."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labeling_app.store import Content, Judgement, Response
from rlhf.datasets.split import PromptKeys, is_held_out
from rlhf.records import KINDS, Completion, Message, Preference, Ranking, Rating, Record, Text

PLACE_COLUMNS = frozenset({"file", "line", "row", "sampled_from"})
"""Of a task's origin: where it comes from; nothing that a record carries on."""

_WRITTEN = frozenset({"queue", "guidelines_version", "active_ms", "presented", "ratings", "model"})
"""Columns of one judgement, beside those that its record has by its kind."""

_RESERVED = PLACE_COLUMNS | _WRITTEN | frozenset(name for kind in KINDS for name in kind.model_fields)
"""Columns that do not come back: in a task made of an earlier export they tell of another judgement."""


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

        Each makes one ranking, or where there was one completion to grade, one rating.
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


def task_name(judgement: Judgement) -> str:
    """Names a question by what it shows, the same in every store and queue, in whatever order it was added."""
    shown = sorted(json.dumps(response.content, sort_keys=True) for response in judgement.responses)
    body = json.dumps([judgement.mode, judgement.prompt, shown], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def last_of_each_question(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Without what somebody judged again later: in another queue, or after the task was withdrawn and added anew.

    As of several revisions, the last one counts, so that nobody's word on a question weighs twice.
    """
    in_time = sorted(judgements, key=lambda one: (one.created_at, one.submission_id))
    last = {(one.user, task_name(one)): one.submission_id for one in in_time}
    kept = set(last.values())
    return [one for one in judgements if one.submission_id in kept]


def was_shown(judgement: Judgement) -> bool:
    """Whether a person saw the page; of programs and files the store's order and guidelines say nothing."""
    return not judgement.simulated and not judgement.is_imported


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
        | ({"presented": [place[response] for response in judgement.presented]} if was_shown(judgement) else {})
    )


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
    if judgement.guidelines_version is not None and was_shown(judgement):
        # counted by queue: the number says nothing without it
        known |= {"queue": judgement.queue, "guidelines_version": judgement.guidelines_version}
    if judgement.active_ms:
        known["active_ms"] = judgement.active_ms
    return carried | known


def writers(response: Response) -> list[str]:
    """Who wrote this text, as far as that is known."""
    return list(dict.fromkeys(source["model"] for source in response.sources if source.get("model")))


def _writer(response: Response) -> str | None:
    """Who wrote it; several who wrote the very same text stand together."""
    return " + ".join(writers(response)) or None


def _text(content: Content) -> Text:
    return content if isinstance(content, str) else [Message.model_validate(turn) for turn in content]


def _completion(content: Content, prompt: Content) -> Text:
    """In the form of its prompt: under a conversation, a text is the assistant's message."""
    if isinstance(content, str) and not isinstance(prompt, str):
        return [Message(role="assistant", content=content)]
    return _text(content)
