"""From what rows hold to tasks that can be added, with what was said of them.

A row that cannot be used is reported with its place and left out; one that can, but holds something odd, is used and
noted.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from labeling_app.answers import HIGHEST_RATING, LOWEST_RATING, Mode
from labeling_app.gathering import gather, key
from labeling_app.settings import FLAGS
from labeling_app.store.values import Content, NewResponse, NewTask
from labeling_app.task_rows import Entry, Verdict
from rlhf.datasets.rows import RawRow
from rlhf.datasets.split import is_held_out
from rlhf.records import Problem

MOST_CHARACTERS = 1_000_000
LONG = 20_000
"""Texts longer than this are noted: people will have to read them."""

_ODD = {
    "control characters": re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"),
    # Unicode's property Bidi_Control
    "bidirectional control characters": re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"),
}

KnownModel = Callable[[str], str]
"""The name under which a model is kept; ValueError for one that is not there."""


@dataclass(frozen=True)
class AddOptions:
    """How rows become tasks.

    Attributes:
        mode: of every task whose row does not say; by what the row holds when None.
        overlap: how many people answer a task, of the share `overlap_share` of the tasks; the others get one.
        gold: what was said of the rows is what is right: they become gold tasks.
        votes: what was said of the rows is kept, to be stored as answers.
        flags: the complaints that answers may hold; votes lose others.
        seed: which tasks belong to the share.
    """

    mode: Mode | None = None
    overlap: int = 1
    overlap_share: float = 1.0
    priority: int = 0
    gold: bool = False
    votes: bool = False
    flags: frozenset[str] = frozenset(FLAGS)
    seed: int = 0


@dataclass(frozen=True)
class Draft:
    """A task that can be added, and what people have said of it; their positions are those of `task.responses`."""

    place: RawRow
    task: NewTask
    verdicts: list[Verdict] = field(default_factory=list)


@dataclass
class Drafts:
    """What files give. `problems` are rows left out, `notes` are remarks on rows that are used."""

    tasks: list[Draft] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)


def draft_tasks(entries: Iterable[Entry], options: AddOptions, pinned: KnownModel = lambda name: name) -> Drafts:
    """Entries as tasks, in the order of their rows."""
    drafts = Drafts()
    checked = []
    for entry in entries:
        try:
            checked.append(_checked(entry, options, pinned, drafts.notes))
        except ValueError as error:
            drafts.problems.append(entry.place.problem(str(error)))
    drafts.notes += _names_from_elsewhere(checked)
    for entry, verdicts in gather(checked, drafts.problems, drafts.notes):
        try:
            drafts.tasks.append(_draft(entry, verdicts, options, drafts.notes))
        except ValueError as error:
            drafts.problems.append(entry.place.problem(str(error)))
    return drafts


def takes_overlap(prompt: Content, share: float, seed: int) -> bool:
    """Whether a task with this prompt is among the share that several people judge."""
    return is_held_out(key("overlap", prompt), share, seed)


def _names_from_elsewhere(entries: Iterable[Entry]) -> list[Problem]:
    """A note on each name that might be a ref and is none, at the first row that has it: it may be a typo."""
    first: dict[str, Entry] = {}
    for entry in entries:
        for model in entry.models:
            if model is not None and "/" in model and "@" not in model:
                first.setdefault(model, entry)
    words = "is not in the registry: kept as the name of a model from elsewhere"
    return [entry.place.problem(f"model {model!r} {words}") for model, entry in first.items()]


# One entry


def _checked(entry: Entry, options: AddOptions, pinned: KnownModel, notes: list[Problem]) -> Entry:
    """The entry with its models' names pinned; what is odd about it is noted.

    Raises:
        ValueError: it cannot be used.
    """
    named = [("the prompt", _text(entry.prompt))]
    named += [(f"completion {place}", _text(content)) for place, content in enumerate(entry.completions)]
    for name, text in named:
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"{name} has {len(text):,} characters; {MOST_CHARACTERS:,} are the most")
        if len(text) > LONG:
            notes.append(entry.place.problem(f"{name} has {len(text):,} characters"))
        for what, pattern in _ODD.items():
            found = sorted({f"U+{ord(one):04X}" for one in pattern.findall(text)})
            if found:
                more = ", ..." if len(found) > 5 else ""
                notes.append(entry.place.problem(f"{name} holds {what} ({', '.join(found[:5])}{more})"))
    if entry.verdict is not None and options.votes:
        unknown = sorted({flag for flags in entry.verdict.flags or [] for flag in flags} - options.flags)
        known = ", ".join(sorted(options.flags))
        notes += [entry.place.problem(f"the flag {flag!r} is not one of {known}: left out") for flag in unknown]
    if entry.verdict is not None and entry.verdict.tiers and (options.votes or options.gold):
        entry = _judged_part(entry, notes)
    return replace(entry, models=[None if model is None else pinned(model) for model in entry.models])


def _judged_part(entry: Entry, notes: list[Problem]) -> Entry:
    """The entry without the completions that nobody has placed: an answer places all."""
    assert entry.verdict is not None
    placed = sorted(place for tier in entry.verdict.tiers for place in tier)
    missing = len(entry.completions) - len(placed)
    if not missing:
        return entry
    notes.append(entry.place.problem(f"{missing} of {len(entry.completions)} completions not judged: left out"))
    new = {old: position for position, old in enumerate(placed)}
    flags = entry.verdict.flags
    return replace(
        entry,
        completions=[entry.completions[place] for place in placed],
        models=[entry.models[place] for place in placed],
        generations=[entry.generations[place] for place in placed],
        verdict=replace(
            entry.verdict,
            tiers=[[new[place] for place in tier] for tier in entry.verdict.tiers],
            flags=None if flags is None else [flags[place] for place in placed],
        ),
    )


# From there to a task


def _draft(entry: Entry, verdicts: list[Verdict], options: AddOptions, notes: list[Problem]) -> Draft:
    """The task of an entry.

    Raises:
        ValueError: it has none.
    """
    mode = _mode(entry, verdicts, options)
    keys = [key(content) for content in entry.completions]
    if len(set(keys)) < len(keys):
        notes.append(entry.place.problem(f"of {len(keys)} completions {len(set(keys))} differ: each is shown once"))
    if mode == "ab" and len({model for model in entry.models if model is not None}) < 2:
        raise ValueError("mode ab compares two models: both completions need a `model`, and not the same one")
    fitting = []
    for verdict in verdicts:
        why = _misfit(verdict, mode)
        if why is None:
            fitting.append(_merged(verdict, keys))
        elif options.votes or options.gold:
            who = verdict.annotator or "somebody"
            notes.append(entry.place.problem(f"what {who} said {why}: left out"))
    gold = _gold(entry, mode, keys, fitting, options)
    votes = fitting if options.votes and gold is None else []
    shared = takes_overlap(entry.prompt, options.overlap_share, options.seed)
    wanted = entry.given.get("overlap") or (options.overlap if shared else 1)
    responses = [
        NewResponse(content, model, generation)
        for content, model, generation in zip(entry.completions, entry.models, entry.generations, strict=True)
    ]
    task = NewTask(
        prompt=entry.prompt,
        responses=responses,
        mode=mode,
        priority=entry.given.get("priority", options.priority),
        overlap=max(wanted, len(votes)),
        gold=gold,
        origin={"file": Path(entry.place.path).name, entry.place.unit: entry.place.line, **entry.origin},
    )
    return Draft(entry.place, task, votes)


def _mode(entry: Entry, verdicts: Sequence[Verdict], options: AddOptions) -> Mode:
    said = [*verdicts, *([entry.gold] if entry.gold else [])]
    by_content: Mode = "pair" if len({key(content) for content in entry.completions}) == 2 else "rank"
    if any(verdict.ratings is not None for verdict in said):
        by_content = "rate"
    mode: Mode = entry.given.get("mode") or options.mode or by_content
    return mode


def _misfit(verdict: Verdict, mode: Mode) -> str | None:
    """Why something that was said cannot be said of a task in `mode`; None when it can."""
    if (verdict.ratings is not None) != (mode == "rate"):
        return f"is {'grades' if verdict.ratings is not None else 'an order'}, and the mode is {mode}"
    whole = range(LOWEST_RATING, HIGHEST_RATING + 1)
    odd = next((grade for grade in (verdict.ratings or {}).values() if grade not in whole), None)
    return None if odd is None else f"holds the grade {odd:g}, and grades are whole, {whole[0]} to {whole[-1]}"


def _merged(verdict: Verdict, keys: Sequence[str]) -> Verdict:
    """What was said, with identical completions at one height, the first one named: they are one on the page."""
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    seen: set[int] = set()
    tiers = []
    for tier in verdict.tiers:
        places = list(dict.fromkeys(first[keys[place]] for place in tier))
        new = [place for place in places if place not in seen]
        seen.update(new)
        tiers += [new] if new else []
    grades = None
    if verdict.ratings is not None:
        grades = {place: verdict.ratings[place] for place in sorted(first.values())}
    return replace(verdict, tiers=tiers, ratings=grades)


def _gold(
    entry: Entry, mode: Mode, keys: Sequence[str], verdicts: Sequence[Verdict], options: AddOptions
) -> dict[str, object] | None:
    """What is right, as the store takes it.

    Raises:
        ValueError: it does not fit the mode, or the judgements that are to be gold differ.
    """
    verdict = entry.gold
    if verdict is not None:
        why = _misfit(verdict, mode)
        if why is not None:
            raise ValueError(f"`gold` {why}")
        verdict = _merged(verdict, keys)
    elif options.gold:
        said = {key(one.tiers, sorted((one.ratings or {}).items())) for one in verdicts}
        if not said:
            raise ValueError("says not what is right: a gold task needs `gold`, or a judgement")
        if len(said) > 1:
            raise ValueError(f"{len(said)} different judgements: a gold task needs one that holds")
        verdict = verdicts[0]
    if verdict is None:
        return None
    if verdict.ratings is not None:
        return {"ratings": {place: int(grade) for place, grade in verdict.ratings.items()}}
    return {"tiers": verdict.tiers}


def _text(content: Content) -> str:
    return content if isinstance(content, str) else "\n".join(str(turn.get("content", "")) for turn in content)
