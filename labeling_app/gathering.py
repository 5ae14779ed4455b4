"""Entries about one question come together, each question with all that was said of it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

from labeling_app.task_rows import Entry, Verdict
from rlhf.records import Problem

MOST_RATED = 6
"""Graded answers to one question come in tasks of at most so many."""

Gathered = tuple[Entry, list[Verdict]]
"""What is shown, and what people have said of it; their positions are those of the entry's completions."""


def gather(entries: Iterable[Entry], problems: list[Problem], notes: list[Problem]) -> list[Gathered]:
    """One entry a question, in the order of their rows, with everybody's judgement of it.

    Entries with one completion each are put beside the others of their prompt: at most `MOST_RATED` at a time.

    Args:
        entries: whose verdicts place or grade all their completions.
        problems: rows that add nothing are reported here.
        notes: remarks on rows that are used go here.
    """
    groups: dict[str, list[Entry]] = {}
    singles: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.is_single:
            singles.setdefault(key(entry.prompt), []).append(entry)
        else:
            mode = entry.given.get("mode")
            groups.setdefault(key(entry.prompt, sorted(map(key, entry.completions)), mode), []).append(entry)
    together = [_joined(same, problems) for same in groups.values()]
    together += [part for same in singles.values() for part in _side_by_side(same, problems, notes)]
    return sorted(together, key=lambda one: (one[0].place.path, one[0].place.line))


def key(*parts: object) -> str:
    """Equal for equal parts."""
    return json.dumps(parts, sort_keys=True)


def _joined(same: Sequence[Entry], problems: list[Problem]) -> Gathered:
    """The first entry of a question and what all of them say; an entry that adds nothing is reported."""
    first = same[0]
    verdicts: dict[str | None, Verdict] = {}
    for entry in same:
        verdict = entry.verdict
        if verdict is not None and verdict.annotator not in verdicts:
            verdicts[verdict.annotator] = _moved(verdict, entry, first)
        elif entry is not first:
            problems.append(entry.place.problem(f"repeats {_where(first)}: added once"))
    return first, list(verdicts.values())


def _moved(verdict: Verdict, entry: Entry, first: Entry) -> Verdict:
    """What was said of `entry`, by the positions that its completions have in `first`."""
    free: dict[str, list[int]] = {}
    for place, content in enumerate(first.completions):
        free.setdefault(key(content), []).append(place)
    to = [free[key(content)].pop(0) for content in entry.completions]
    back = {new: old for old, new in enumerate(to)}
    flags = verdict.flags
    return replace(
        verdict,
        tiers=[[to[place] for place in tier] for tier in verdict.tiers],
        flags=None if flags is None else [flags[back[place]] for place in range(len(to))],
    )


def _side_by_side(same: Sequence[Entry], problems: list[Problem], notes: list[Problem]) -> list[Gathered]:
    """Single completions of one prompt as tasks, with the grades of everybody who graded all of a task's."""
    of_text: dict[str, dict[str | None, Entry]] = {}
    for entry in same:
        by = entry.verdict.annotator if entry.verdict else None
        graders = of_text.setdefault(key(entry.completions[0]), {})
        if by in graders:
            problems.append(entry.place.problem(f"repeats {_where(graders[by])}: added once"))
        else:
            graders[by] = entry
    texts = list(of_text.values())
    num_tasks = -(-len(texts) // MOST_RATED)
    size = -(-len(texts) // num_tasks)
    return [_beside(texts[start : start + size], notes) for start in range(0, len(texts), size)]


def _beside(texts: Sequence[dict[str | None, Entry]], notes: list[Problem]) -> Gathered:
    entries = [next(iter(graders.values())) for graders in texts]
    first = replace(
        entries[0],
        completions=[entry.completions[0] for entry in entries],
        models=[entry.models[0] for entry in entries],
        generations=[entry.generations[0] for entry in entries],
        verdict=None,
        # of one completion's columns only those that the others share are the task's
        origin={
            name: value
            for name, value in entries[0].origin.items()
            if all(entry.origin.get(name) == value for entry in entries)
        },
    )
    verdicts = []
    for grader in dict.fromkeys(name for graders in texts for name in graders):
        given = [graders[grader].verdict if grader in graders else None for graders in texts]
        grades = {place: one.ratings[0] for place, one in enumerate(given) if one is not None and one.ratings}
        if len(grades) == len(texts):
            verdicts.append(Verdict(annotator=grader, ratings=grades))
        elif grades:
            who = grader or "somebody"
            notes.append(first.place.problem(f"{who} graded {len(grades)} of {len(texts)}: these grades are left out"))
    return first, verdicts


def _where(entry: Entry) -> str:
    return f"{entry.place.unit} {entry.place.line}"
