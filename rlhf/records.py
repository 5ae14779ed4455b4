"""The records that pass between the stages, and their JSONL.

One line of a file is one record. Column names are TRL's dataset formats where TRL has one (`prompt`/`completion`,
`messages`, `text`, `prompt`/`chosen`/`rejected`); rankings and ratings are ours. Columns that a record does not name
are kept and travel along, so that reward functions can use them.

A bad line never stops a read: it comes back as a `Problem` that names file and line, and the caller decides.
"""

import gzip
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rlhf.errors import UserError


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(frozen=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str


Text = str | list[Message]
"""What a model reads or writes: plain text, or a conversation that a chat template turns into text."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


def _is_blank(text: Text) -> bool:
    return not text.strip() if isinstance(text, str) else not text


class Record(BaseModel):
    """What all records share: immutable, unknown columns kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    columns: ClassVar[frozenset[str]] = frozenset()
    """The columns by which a row is known to be of this kind."""

    @field_validator("prompt", "chosen", "rejected", "messages", check_fields=False)
    @classmethod
    def _not_empty(cls, value: Text) -> Text:
        if _is_blank(value):
            raise ValueError("is empty")
        return value

    def row(self) -> dict[str, Any]:
        """This record as one JSON object; columns that hold their default are left out."""
        required = {name for name, info in type(self).model_fields.items() if info.is_required()}
        full = self.model_dump()
        changed = self.model_dump(exclude_defaults=True)
        return {name: value for name, value in full.items() if name in required or name in changed}


class Prompt(Record):
    """Something to be answered."""

    columns = frozenset({"prompt"})
    prompt: Text


class Completion(Record):
    """A prompt and the answer to learn (a demonstration) or to look at (a sample)."""

    columns = frozenset({"prompt", "completion"})
    prompt: Text
    completion: Text

    @field_validator("completion")
    @classmethod
    def _some_text(cls, value: Text) -> Text:
        if not value:
            raise ValueError("is empty")
        return value


class Conversation(Record):
    """A whole conversation to learn from."""

    columns = frozenset({"messages"})
    messages: list[Message]


class Document(Record):
    """Plain text to learn from."""

    columns = frozenset({"text"})
    text: Annotated[str, Field(min_length=1)]


class Rating(Record):
    """One completion and the grade somebody gave it."""

    columns = frozenset({"prompt", "completion", "rating"})
    prompt: Text
    completion: Text
    rating: Finite
    annotator: str | None = None


class Preference(Record):
    """One judged pair: `chosen` is better than `rejected`.

    `weight` multiplies the pair's loss, `margin` is how much better in score units, `group_id` names the ranking it
    comes from: pairs of one group belong in one batch.
    """

    columns = frozenset({"prompt", "chosen", "rejected"})
    prompt: Text
    chosen: Text
    rejected: Text
    weight: Annotated[Finite, Field(gt=0)] = 1.0
    margin: Finite | None = None
    group_id: str | None = None
    annotator: str | None = None

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.chosen == self.rejected:
            raise ValueError("`chosen` and `rejected` are the same text: a pair needs a difference")
        return self


class Ranking(Record):
    """K completions of one prompt in the order one annotator put them.

    `tiers` holds positions in `completions`, best tier first; completions that share a tier are tied, a completion
    in no tier was not judged. `flags[i]` are the complaints about completion i, `models[i]` is who wrote it. `weight`
    multiplies that of every pair: how far this annotator is to be trusted.
    """

    columns = frozenset({"prompt", "completions", "tiers"})
    prompt: Text
    completions: Annotated[list[Text], Field(min_length=2)]
    tiers: list[Annotated[list[int], Field(min_length=1)]]
    annotator: str | None = None
    flags: list[list[str]] | None = None
    all_bad: bool = False
    strength: Annotated[int, Field(ge=1, le=4)] | None = None
    rationale: str | None = None
    models: list[str] | None = None
    task: str | None = None
    simulated: bool = False
    weight: Annotated[Finite, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _tiers_fit(self) -> Self:
        k = len(self.completions)
        placed = [index for tier in self.tiers for index in tier]
        outside = [index for index in placed if not 0 <= index < k]
        if outside:
            raise ValueError(f"`tiers` names completion {outside[0]}, but there are only 0 to {k - 1}")
        if len(set(placed)) != len(placed):
            twice = next(index for index in placed if placed.count(index) > 1)
            raise ValueError(f"`tiers` places completion {twice} twice")
        for name in ("flags", "models"):
            per_completion = getattr(self, name)
            if per_completion is not None and len(per_completion) != k:
                raise ValueError(f"`{name}` has {len(per_completion)} entries for {k} completions")
        return self

    @property
    def group_id(self) -> str:
        """Names this ranking: the same judgement has the same id wherever it is read."""
        body = json.dumps([self.row()["prompt"], self.row()["completions"], self.tiers, self.annotator, self.task])
        return hashlib.sha256(body.encode()).hexdigest()[:16]

    def pairs(self) -> list[Preference]:
        """All pairs in which one completion stands above another; ties give none.

        Each weighs 1/C(K, 2) with K the number of completions placed, so that a ranking counts as one judgement
        however long it is (InstructGPT, Ouyang et al. 2022, eq. 1), times the ranking's own weight. Pairs of equal
        texts are left out, and so are those with an empty one.
        """
        num_placed = sum(len(tier) for tier in self.tiers)
        if num_placed < 2:
            return []
        weight = self.weight * 2 / (num_placed * (num_placed - 1))
        return [
            Preference(
                prompt=self.prompt,
                chosen=self.completions[better],
                rejected=self.completions[worse],
                weight=weight,
                group_id=self.group_id,
                annotator=self.annotator,
            )
            for upper, lower in itertools.combinations(self.tiers, 2)
            for better, worse in itertools.product(upper, lower)
            if self.completions[better] != self.completions[worse]
            and not _is_blank(self.completions[better])
            and not _is_blank(self.completions[worse])
        ]


KINDS: tuple[type[Record], ...] = (Ranking, Preference, Rating, Completion, Conversation, Document, Prompt)
"""From the most to the least particular: the first whose columns are all present is what a row is."""


@dataclass(frozen=True)
class Problem:
    """One row that could not be used; `line` counts from 1, rows instead of lines where a file has no lines."""

    path: str
    line: int
    what: str
    unit: Literal["line", "row"] = "line"

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.unit == "line" else f"{self.path}, row {self.line}"
        return f"{place}: {self.what}"


def prompt_key(prompt: Text) -> str:
    """Equal for prompts with equal words, whatever their spacing: what splits and joins go by."""
    if isinstance(prompt, str):
        turns = [("", prompt)]
    else:
        turns = [(turn.role, turn.content) for turn in prompt]
    body = json.dumps([(role, " ".join(content.split())) for role, content in turns])
    return hashlib.sha256(body.encode()).hexdigest()


def plain(text: Text) -> str:
    """`text` as people read it: a conversation becomes one `role: content` paragraph a turn."""
    if isinstance(text, str):
        return text
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in text)


def exchange(prompt: Text, completion: Text) -> tuple[str | list[dict[str, Any]], str]:
    """Prompt and completion with the completion as text; its earlier messages, if any, join the prompt.

    Raises:
        UserError: the prompt is text and the completion is messages, or these do not end with the assistant's.
    """
    if isinstance(completion, str):
        return (prompt if isinstance(prompt, str) else _as_rows(prompt)), completion
    if isinstance(prompt, str) or completion[-1].role != "assistant":
        raise UserError(
            "data: a completion in messages needs a prompt in messages and must end with the assistant's: "
            f"{plain(prompt)[:60]!r}"
        )
    return _as_rows([*prompt, *completion[:-1]]), completion[-1].content


def _as_rows(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [message.model_dump(exclude_none=True) for message in messages]


def parse_record(row: Mapping[str, Any], kinds: Sequence[type[Record]] = KINDS) -> Record:
    """The record that `row` is, chosen among `kinds` by its columns.

    Raises:
        ValueError: the row fits none of `kinds`, or one of its columns holds what it must not; the text says which.
    """
    for kind in kinds:
        if kind.columns <= row.keys():
            try:
                return kind.model_validate(dict(row))
            except ValidationError as error:
                raise ValueError(_explain(error)) from None
    wanted = " or ".join("+".join(sorted(kind.columns)) for kind in kinds)
    raise ValueError(f"has the columns {', '.join(sorted(row)) or '(none)'}; expected {wanted}")


def _explain(error: ValidationError) -> str:
    """The problems of one row in one line, each with its column and what was found there."""
    problems: dict[str, str] = {}
    # A Text column is a union, and each branch complains: the complaint from deepest inside is the one that helps.
    for detail in sorted(error.errors(), key=lambda detail: -len(detail["loc"])):
        column = str(detail["loc"][0]) if detail["loc"] else ""
        where = "".join(f"[{step}]" for step in detail["loc"][1:] if step not in _UNION_BRANCHES)
        text = detail["msg"].removeprefix("Value error, ")
        found = "" if not column else f" (found {_short(detail['input'])})"
        named = f"`{column}`{where} " if column else ""
        problems.setdefault(column, f"{named}{text[:1].lower()}{text[1:]}{found}")
    return "; ".join(problems.values())


_UNION_BRANCHES = ("str", "list[Message]")


def _short(value: Any, limit: int = 60) -> str:
    shown = repr(value)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def iter_json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    """Every non-blank line of a JSONL file (`.gz` too) with its number, counted from 1."""
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                yield number, Problem(str(path), number, f"is not UTF-8 (byte {error.start} of the line)")
            except json.JSONDecodeError as error:
                yield number, Problem(str(path), number, f"is not JSON: {error.msg} at column {error.colno}")
            except (
                ValueError,
                RecursionError,
            ) as error:  # a number of thousands of digits, nesting without end
                yield number, Problem(str(path), number, f"is not JSON that can be read: {error}")
            else:
                if isinstance(row, dict):
                    if b"\\u" in raw and has_lone_surrogate(row):
                        yield (
                            number,
                            Problem(
                                str(path),
                                number,
                                "holds half a character (a lone surrogate, \\ud800 to \\udfff)",
                            ),
                        )
                    else:
                        yield number, row
                else:
                    yield number, Problem(str(path), number, f"is a JSON {type(row).__name__}, not an object")


_SURROGATE = re.compile("[\ud800-\udfff]")


def has_lone_surrogate(value: Any) -> bool:
    """Whether a text in `value` holds half a surrogate pair: no UTF-8 file and no tokenizer takes it."""
    if isinstance(value, str):
        return not value.isascii() and _SURROGATE.search(value) is not None
    if isinstance(value, Mapping):
        return any(has_lone_surrogate(key) or has_lone_surrogate(inner) for key, inner in value.items())
    return isinstance(value, list) and any(has_lone_surrogate(inner) for inner in value)


R = TypeVar("R", bound=Record)


def read_jsonl(path: str | os.PathLike[str], *kinds: type[R]) -> tuple[list[R], list[Problem]]:
    """The records of a JSONL file and the rows that are none.

    Args:
        path: the file; `.gz` is read as it lies.
        kinds: what the rows may be; any record when left out.

    Raises:
        UserError: there is no such file.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    records: list[R] = []
    problems: list[Problem] = []
    for number, row in iter_json_lines(path):
        if isinstance(row, Problem):
            problems.append(row)
            continue
        try:
            records.append(parse_record(row, kinds or KINDS))  # type: ignore[arg-type]
        except ValueError as error:
            problems.append(Problem(str(path), number, str(error)))
    return records, problems


def write_jsonl(path: str | os.PathLike[str], records: Iterable[Record | Mapping[str, Any]]) -> int:
    """Write one record a line, wholly or not at all; returns how many."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            for record in records:
                row = record.row() if isinstance(record, Record) else record
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count
