"""What rows of files ask people, and what others have said of it already; nothing is stored here.

What `rlhf.datasets` reads is read here too: OpenAssistant trees, PandaLM votes, HH pairs, graded answers.
A row of our own is `{prompt, completions: [text or {content, model, generation}], mode?, gold?, priority?, overlap?}`.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from labeling_app.answers import Answer, Mode
from labeling_app.store.values import Content
from rlhf.datasets import DataSource, find_source
from rlhf.datasets.formats import read_rows
from rlhf.datasets.rows import RawRow, Row, as_json, without_nan
from rlhf.datasets.sources import OpenRef, open_source
from rlhf.errors import UserError
from rlhf.records import (
    KINDS,
    Completion,
    Message,
    Preference,
    Problem,
    Prompt,
    Ranking,
    Rating,
    Record,
    Text,
    parse_record,
)

LONGEST_RATIONALE = 10_000

_JUDGED = frozenset(name for kind in KINDS for name in kind.columns)
_ENTRY_KEYS = frozenset({"content", "model", "generation"})


class TaskRow(Record):
    """A prompt and completions that nobody has judged yet."""

    columns = frozenset({"prompt", "completions"})
    prompt: Text
    completions: Annotated[list[Text], Field(min_length=1)]
    models: list[str | None] | None = None
    generations: list[dict[str, Any] | None] | None = None
    mode: Mode | None = None
    priority: int | None = None
    overlap: Annotated[int, Field(ge=1, le=1000)] | None = None
    gold: list[list[int]] | list[int] | None = None
    """What is known to be right: positions in tiers, best first; where responses are rated, a grade for each."""

    @model_validator(mode="after")
    def _one_entry_each(self) -> Self:
        for name in ("models", "generations"):
            per_completion = getattr(self, name)
            if per_completion is not None and len(per_completion) != len(self.completions):
                raise ValueError(f"`{name}` has {len(per_completion)} entries for {len(self.completions)} completions")
        return self


@dataclass(frozen=True)
class Verdict:
    """What one person said of the completions of an entry; these are named by their positions.

    `ratings` has a grade for each completion that was graded; None where they were ordered.
    """

    annotator: str | None = None
    tiers: list[list[int]] = field(default_factory=list)
    ratings: dict[int, float] | None = None
    all_bad: bool = False
    strength: int | None = None
    flags: list[list[str]] | None = None
    rationale: str | None = None

    def answer(self, ids: Sequence[int], known_flags: Collection[str]) -> Answer:
        """The answer to a task whose responses have these ids, position by position; unknown flags are dropped."""
        flags = {
            ids[place]: kept
            for place, names in enumerate(self.flags or [])
            if (kept := [name for name in dict.fromkeys(names) if name in known_flags])
        }
        return Answer(
            tiers=[[ids[place] for place in tier] for tier in self.tiers],
            ratings=None if self.ratings is None else {ids[place]: int(grade) for place, grade in self.ratings.items()},
            all_bad=self.all_bad,
            strength=self.strength if len(self.tiers) > 1 else None,
            flags=flags,
            rationale=self.rationale[:LONGEST_RATIONALE] if self.rationale else None,
        )


@dataclass(frozen=True)
class Entry:
    """One row, or one of several records in it: completions of one prompt.

    `models` and `generations` have one entry a completion, None where nobody has said. `given` is what the row itself
    sets: mode, priority, overlap. `origin` holds the columns that have no meaning here.
    """

    place: RawRow
    prompt: Content
    completions: list[Content]
    models: list[str | None]
    generations: list[dict[str, Any] | None]
    verdict: Verdict | None = None
    gold: Verdict | None = None
    given: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def is_single(self) -> bool:
        """Whether this is one completion on its own, to be put beside others of its prompt."""
        return len(self.completions) == 1 and (self.verdict is None or self.verdict.ratings is not None)


def read_entries(source: DataSource, open_ref: OpenRef | None = None) -> tuple[list[Entry], list[Problem]]:
    """All entries of a source, or those of its first `limit` rows, and the rows that are none.

    Raises:
        UserError: the source is missing, unreadable or empty, or no format fits its rows.
    """
    raws = map(_with_plain_completions, open_source(source, find_source(source, open_ref)))
    _, rows = read_rows(raws, source)
    entries: list[Entry] = []
    problems: list[Problem] = []
    num_rows = 0
    for raw, made in islice(rows, source.limit):
        num_rows += 1
        if isinstance(made, Problem):
            problems.append(made)
            continue
        try:
            entries += [_entry(raw, row) for row in made]
        except ValueError as error:
            problems.append(raw.problem(str(error)))
    if num_rows == 0:
        raise UserError(f"{source.label}: is empty: it holds no rows")
    return entries, problems


def _with_plain_completions(raw: RawRow) -> RawRow:
    """`completions` of objects become lists of texts, models and generation parameters."""
    if not isinstance(raw.row, dict) or not isinstance(raw.row.get("completions"), list):
        return raw
    given = raw.row["completions"]
    if not any(isinstance(one, dict) for one in given):
        return raw
    try:
        parts = [_parts(one, at) for at, one in enumerate(given)]
    except ValueError as error:
        return raw.bad(str(error))
    lists = {
        "completions": [part["content"] for part in parts],
        "models": [part.get("model") for part in parts],
        "generations": [part.get("generation") for part in parts],
    }
    return dataclasses.replace(raw, row=raw.row | lists)


def _parts(one: Any, at: int) -> Mapping[str, Any]:
    if not isinstance(one, dict):
        return {"content": one}
    if "role" in one:  # a message on its own
        return {"content": [one]}
    if "content" not in one or not one.keys() <= _ENTRY_KEYS:
        raise ValueError(
            f"`completions`[{at}] has the keys {', '.join(sorted(one)) or '(none)'}; expected content, and model and "
            "generation where they are known"
        )
    return one


def _entry(raw: RawRow, row: Row) -> Entry:
    """The entry of a row in our columns.

    Raises:
        ValueError: it is none; the text says why.
    """
    row = {
        name: value if name in _JUDGED or isinstance(value, str) else without_nan(as_json(value))
        for name, value in row.items()
        if value is not None
    }
    if "tiers" not in row and "completions" in row:
        return _of_task(raw, parse_record(row, [TaskRow]))
    record = parse_record(row)
    match record:
        case Ranking():
            verdict = Verdict(
                annotator=record.annotator,
                tiers=record.tiers,
                all_bad=record.all_bad,
                strength=record.strength,
                flags=record.flags,
                rationale=record.rationale,
            )
            return _made(raw, record, record.prompt, record.completions, verdict, models=record.models)
        case Preference():
            verdict = Verdict(annotator=record.annotator, tiers=[[0], [1]])
            return _made(raw, record, record.prompt, [record.chosen, record.rejected], verdict)
        case Rating():
            verdict = Verdict(annotator=record.annotator, ratings={0: record.rating})
            return _made(raw, record, record.prompt, [record.completion], verdict)
        case Completion():
            return _made(raw, record, record.prompt, [record.completion], None)
        case Prompt():
            raise ValueError(
                "has a prompt and no completions: add `completions`, or have some sampled "
                "(`rlhf label add --prompts FILE --model REF`)"
            )
    raise ValueError(f"is a {type(record).__name__.lower()}, in which there is nothing to judge")


def _of_task(raw: RawRow, row: Record) -> Entry:
    assert isinstance(row, TaskRow)
    given = {name: value for name in ("mode", "priority", "overlap") if (value := getattr(row, name)) is not None}
    entry = _made(raw, row, row.prompt, row.completions, None, models=row.models, generations=row.generations)
    return dataclasses.replace(entry, gold=_gold(row), given=given)


def _gold(row: TaskRow) -> Verdict | None:
    if row.gold is None:
        return None
    grades = [grade for grade in row.gold if isinstance(grade, int)]
    tiers = [tier for tier in row.gold if isinstance(tier, list)]
    k = len(row.completions)
    if tiers:
        if sorted(place for tier in tiers for place in tier) != list(range(k)):
            raise ValueError(f"`gold` has to place each of the completions 0 to {k - 1} once (found {row.gold})")
        return Verdict(tiers=tiers)
    if len(grades) != k:
        raise ValueError(f"`gold` has {len(grades)} grades for {k} completions")
    return Verdict(ratings=dict(enumerate(grades)))


def _made(
    raw: RawRow,
    record: Record,
    prompt: Text,
    completions: Sequence[Text],
    verdict: Verdict | None,
    models: Sequence[str | None] | None = None,
    generations: Sequence[dict[str, Any] | None] | None = None,
) -> Entry:
    extra = {name: without_nan(as_json(value)) for name, value in (record.model_extra or {}).items()}
    model, generation = extra.pop("model", None), extra.pop("generation", None)
    if models is None and len(completions) == 1 and isinstance(model, str):
        models, generations = [model], [generation if isinstance(generation, dict) else None]
    if isinstance(record, Ranking) and record.task is not None:
        extra["task"] = record.task
    return Entry(
        place=dataclasses.replace(raw, row={}),
        prompt=_content(prompt),
        completions=[_reply(completion) for completion in completions],
        models=list(models) if models is not None else [None] * len(completions),
        generations=list(generations) if generations is not None else [None] * len(completions),
        verdict=verdict,
        origin=extra,
    )


def _content(text: Text) -> Content:
    return text if isinstance(text, str) else list(_rows(text))


def _reply(text: Text) -> Content:
    """A completion that is one message of the assistant's is shown and kept as its text."""
    if not isinstance(text, str) and len(text) == 1 and text[0].role == "assistant" and not text[0].model_extra:
        return text[0].content
    return _content(text)


def _rows(messages: Iterable[Message]) -> Iterator[dict[str, Any]]:
    for message in messages:
        yield message.model_dump(exclude_none=True)
