"""What other people's rows mean: which format a file has, and each of its rows in our columns.

A format is a pair of functions: does a row look like this, and which of our rows does it make. `read_rows` finds the
format of a source by its first rows and then treats all alike, so that a bad row is a problem and not another format.
"""

import contextlib
import difflib
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.datasets import transcripts
from rlhf.datasets.config import DataSource, parse_template
from rlhf.datasets.rows import RawRow, Row
from rlhf.errors import UserError
from rlhf.records import KINDS, Document, Problem, Prompt

SAMPLE = 100
"""Rows by which a format is known."""

_VOTE = re.compile(r"annotator_?\d+")

# Column names that go together in many published sets; anything else is named by `columns`.
QUESTION_COLUMNS = (
    ("question", "answer"),
    ("query", "response"),
    ("prompt", "response"),
    ("dialogue", "summary"),
    ("document", "summary"),
    ("article", "highlights"),
    ("input", "output"),
)


@dataclass(frozen=True)
class Format:
    """One shape that rows come in.

    `fits(row, ours)` says whether a row looks like it, given our columns that a template will add. `expand(row)`
    gives the rows it makes in our columns, or raises ValueError with what is wrong; it uses up `columns(row)`.
    """

    fits: Callable[[Row, frozenset[str]], bool]
    expand: Callable[[Row], list[Row]]
    columns: Callable[[Row], Iterable[str]] = lambda row: ()


def read_rows(raws: Iterable[RawRow], source: DataSource) -> tuple[str, Iterator[tuple[RawRow, list[Row] | Problem]]]:
    """The name of the format of `raws`, and for each of them its rows in our columns, or what is wrong with it.

    Raises:
        UserError: no format fits, or `columns` and `template` name columns that no row has.
    """
    iterator = iter(raws)
    sample = list(itertools.islice(iterator, SAMPLE))
    rows = [raw.row for raw in sample if isinstance(raw.row, dict)]
    _check_columns(rows, source)
    renamed = list(_that_can_be_renamed(rows, source))
    name = source.format if source.format not in ("auto", "text", "lines") else _detect(renamed, source)
    every: Iterable[RawRow] = itertools.chain(sample, iterator)
    if name == "openassistant" and not any(isinstance(row.get("prompt"), dict) for row in rows):
        every = transcripts.gather_trees(every)
    return name, ((raw, _expand(raw, FORMATS[name], source)) for raw in every)


def _expand(raw: RawRow, form: Format, source: DataSource) -> list[Row] | Problem:
    if isinstance(raw.row, Problem):
        return raw.row
    try:
        row = _renamed(raw.row, source)
        used = set(form.columns(row))
        rest = {name: value for name, value in row.items() if name not in used}
        made = [rest | part for part in form.expand(row)]
        if source.template:
            parsed = {target: parse_template(text) for target, text in source.template.items()}
            seen = raw.row | row
            made = [part | {to: _render(pieces, seen | part) for to, pieces in parsed.items()} for part in made]
        if source.conversational is not None or any(_mixed(part) for part in made):
            as_messages = source.conversational is not False
            made = [transcripts.to_messages(part) if as_messages else transcripts.to_text(part) for part in made]
    except KeyError as error:
        return raw.problem(f"has no column `{error.args[0]}`")
    except ValueError as error:
        return raw.problem(str(error))
    return made


def _mixed(row: Row) -> bool:
    """A prompt as text beside completions as messages, or the other way round, fits no trainer."""
    types = {type(row[name]) for name in ("prompt", "completion", "chosen", "rejected") if name in row}
    if isinstance(row.get("completions"), list):
        types |= {type(one) for one in row["completions"]}
    return str in types and list in types


# Columns, values, templates


def look_up(row: Mapping[str, Any], name: str) -> Any:
    """The column `name`, or what `a.b.0` reaches inside columns.

    Raises:
        KeyError: there is none.
    """
    if name in row:
        return row[name]
    value: Any = row
    for step in name.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise KeyError(name)
    return value


def _renamed(row: Row, source: DataSource) -> Row:
    if not source.columns and not source.values:
        return row
    row = dict(row)
    for column, words in source.values.items():
        row[column] = _word(row, column, words)
    new = {name: value for name, value in row.items() if name not in source.columns.values()}
    for target, name in source.columns.items():
        try:
            new[target] = look_up(row, name)
        except KeyError:
            raise ValueError(f"has no column `{name}`") from None
    return new


def _that_can_be_renamed(rows: Iterable[Row], source: DataSource) -> Iterator[Row]:
    for row in rows:
        # The rows that cannot are reported one by one when their turn comes.
        with contextlib.suppress(ValueError):
            yield _renamed(row, source)


def _word(row: Row, column: str, words: Mapping[str, str]) -> str:
    value = row.get(column)
    key = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if key not in words:
        raise ValueError(f"`{column}` is {value!r}, and `values` knows {', '.join(words)}")
    return words[key]


def _render(pieces: list[tuple[str, str | None]], row: Row) -> str:
    out = []
    for literal, name in pieces:
        out.append(literal)
        if name is None:
            continue
        try:
            value = look_up(row, name)
        except KeyError:
            raise ValueError(f"has no column `{name}`, which the template names") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"`{name}` is {value}, which no template can say")
        if value is None or isinstance(value, list | dict):
            raise ValueError(f"`{name}` is {'empty' if value is None else 'no plain value'}, so no template can say it")
        out.append(str(value))
    return "".join(out)


def _check_columns(rows: list[Row], source: DataSource) -> None:
    """Complain at once about a column that none of the first rows has."""
    if not rows:
        return
    there = sorted({name for row in rows for name in row})
    wanted = [(f"columns.{target}", name) for target, name in source.columns.items()]
    wanted += [(f"values.{name}", name) for name in source.values]
    problems = []
    for key, name in wanted:
        if any(_has(row, name) for row in rows):
            continue
        close = difflib.get_close_matches(name, there, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(there)}"
        problems.append(f"{source.label}: {key} = {name}: no row has such a column; {hint}")
    if problems:
        raise UserError(problems)


def _has(row: Row, name: str) -> bool:
    try:
        look_up(row, name)
    except KeyError:
        return False
    return True


def _detect(rows: list[Row], source: DataSource) -> str:
    ours = frozenset(source.template)
    votes = Counter(next((name for name, form in FORMATS.items() if form.fits(row, ours)), None) for row in rows)
    name = votes.most_common(1)[0][0] if votes else "records"
    if name is None:
        there = ", ".join(sorted({name for row in rows for name in row}))
        raise UserError(
            f"{source.label}: has the columns {there}, and no known format has those; say which is which, for example "
            "`columns: {prompt: question, completion: answer}`, or name the `format`"
        )
    return name


# The formats


def _is_records(row: Row, ours: frozenset[str]) -> bool:
    strong = [kind for kind in KINDS if kind not in (Document, Prompt)]
    return any(kind.columns <= row.keys() | ours for kind in strong)


def _is_text(row: Row, ours: frozenset[str]) -> bool:
    return any(kind.columns <= row.keys() | ours for kind in (Document, Prompt))


def _is_hh(row: Row, ours: frozenset[str]) -> bool:
    """Both sides hold the whole exchange: no prompt apart, or lists of messages that begin before the answer."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return "prompt" not in row and "prompt" not in ours
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        return False
    starts = [side[0].get("role") for side in (chosen, rejected) if side and isinstance(side[0], dict)]
    return len(starts) == 2 and "assistant" not in starts


def instruction_prompt(row: Row) -> str:
    """Alpaca's instruction, and below it the input where there is one."""
    instruction = row.get("instruction")
    extra = row.get("input", row.get("context")) or ""
    if not isinstance(instruction, str) or not isinstance(extra, str):
        raise ValueError(f"`instruction` or `input` is no text (found {instruction!r:.60})")
    return f"{instruction}\n\n{extra}" if extra.strip() else instruction


def _expand_alpaca(row: Row) -> list[Row]:
    made: Row = {"prompt": instruction_prompt(row)}
    answer = next((row[name] for name in ("output", "response") if name in row), None)
    return [made if answer is None else made | {"completion": answer}]


def _expand_seed(row: Row) -> list[Row]:
    instances = row["instances"]
    if not isinstance(instances, list) or not instances or not all(isinstance(one, dict) for one in instances):
        raise ValueError("`instances` is no list of objects with `input` and `output`")
    return [row_ for one in instances for row_ in _expand_alpaca({"instruction": row.get("instruction")} | one)]


def _question_columns(row: Row) -> tuple[str, str] | None:
    return next((pair for pair in QUESTION_COLUMNS if set(pair) <= row.keys()), None)


def _expand_pairs(row: Row) -> list[Row]:
    pair = _question_columns(row)
    if pair is None:
        known = ", ".join("/".join(names) for names in QUESTION_COLUMNS)
        raise ValueError(f"has none of the column pairs {known}")
    made = {"prompt": row[pair[0]], "completion": row[pair[1]]}
    # A graded answer is no demonstration: with a score beside it, it is a rating.
    return [made | {"rating": row["score"]} if "score" in row else made]


def _pairs_columns(row: Row) -> set[str]:
    return {*(_question_columns(row) or ()), "score"}


def _vote_columns(row: Row) -> list[str]:
    return sorted(name for name in row if _VOTE.fullmatch(name))


def _expand_votes(row: Row) -> list[Row]:
    """One ranking for each annotator: 1 and 2 name the better response, 0 is a tie."""
    answers = [row["response1"], row["response2"]]
    models = str(row.get("cmp_key", "")).split("_")
    shared: Row = {"prompt": instruction_prompt(row), "completions": answers}
    shared |= {"models": models} if len(models) == 2 else {}
    shared |= {"task": str(row["idx"])} if "idx" in row else {}
    tiers = {0: [[0, 1]], 1: [[0], [1]], 2: [[1], [0]]}
    made = []
    for name in _vote_columns(row):
        vote = row[name]
        if isinstance(vote, str) and vote.strip().isdigit():
            vote = int(vote)
        if isinstance(vote, bool) or vote not in tiers:
            raise ValueError(f"`{name}` is {vote!r}; a vote is 1, 2 or 0 for a tie")
        made.append(shared | {"tiers": tiers[vote], "annotator": name})
    return made


FORMATS: dict[str, Format] = {
    "openassistant": Format(transcripts.is_tree, transcripts.expand_tree, lambda row: row.keys()),
    "pandalm": Format(
        lambda row, ours: {"response1", "response2"} <= row.keys() and bool(_vote_columns(row)),
        _expand_votes,
        lambda row: {"instruction", "input", "response1", "response2", "idx", "cmp_key", *_vote_columns(row)},
    ),
    "hh": Format(_is_hh, transcripts.expand_hh, lambda row: ("prompt", "chosen", "rejected")),
    "sharegpt": Format(transcripts.is_sharegpt, transcripts.expand_sharegpt, lambda row: transcripts.SHAREGPT_COLUMNS),
    "records": Format(_is_records, lambda row: [row]),
    "self_instruct": Format(
        lambda row, ours: {"instruction", "instances"} <= row.keys(),
        _expand_seed,
        lambda row: ("instruction", "instances"),
    ),
    "alpaca": Format(
        lambda row, ours: "instruction" in row,
        _expand_alpaca,
        lambda row: ("instruction", "input", "context", "output", "response"),
    ),
    "pairs": Format(lambda row, ours: _question_columns(row) is not None, _expand_pairs, _pairs_columns),
    "text": Format(_is_text, lambda row: [row]),
}
"""In the order in which they are tried, the most particular first."""
