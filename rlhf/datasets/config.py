"""The `data:` section: where rows come from and what is done to them before a stage sees them."""

import difflib
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rlhf.config import Located, Section
from rlhf.records import KINDS

FormatName = Literal[
    "auto",
    "records",
    "hh",
    "alpaca",
    "self_instruct",
    "sharegpt",
    "openassistant",
    "pandalm",
    "pairs",
    "text",
    "lines",
]

DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
"""The kinds of file that can be read, each also as `.gz` (Parquet has compression of its own)."""

TEXT_COLUMNS = ("prompt", "completion", "chosen", "rejected", "text")
"""The columns a template may write."""

RECORD_COLUMNS = frozenset(name for kind in KINDS for name in kind.model_fields)
FORMAT_COLUMNS = frozenset({"instruction", "input", "output", "instances", "conversations"})

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REF = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w.-]+)?")


class DataSource(Section):
    """One place rows come from."""

    path: Annotated[str, Field(min_length=1)]
    """A file, a folder, a registry ref (`support/preferences@v2`) or a Hub id (`owner/name`, or `hub:owner/name` where
    a folder or an artefact has the same name)."""
    name: str | None = None
    """What reports call this source; the path when left out."""
    format: FormatName = "auto"
    split: str | None = None
    """Which part of a folder or of a Hub data set: `train` when left out."""
    subset: str | None = None
    """The configuration of a Hub data set that has several."""
    data_dir: str | None = None
    """The folder inside a Hub data set or a local folder."""
    revision: str | None = None
    """The commit, tag or branch of a Hub data set."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """How often each row is seen in an epoch; `mixing` says more."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Use only this many records, the first."""
    held_out: bool = True
    """Whether `dev_fraction` holds out its share of this source too; false: all of it is trained on."""
    columns: dict[str, str] = {}
    """Our column <- theirs, `{prompt: dialogue, completion: summary}`; `a.b` reaches into nested columns."""
    values: dict[str, dict[str, str]] = {}
    """Words for the values of one of their columns, `{label: {0: negative, 1: positive}}`."""
    template: dict[str, str] = {}
    """Our column from a text with `{column}` placeholders, theirs or ours; `{{` and `}}` are braces."""
    conversational: bool | None = None
    """True turns texts into messages, False messages into an HH-style transcript; left out: as the data has it."""
    chunk_chars: Annotated[int, Field(gt=0)] | None = 2000
    """Plain text is cut into pieces of at most this many characters, at paragraphs where it can be; null: not cut."""

    @field_validator("values", mode="before")
    @classmethod
    def _keys_are_text(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {
            column: {str(key): word for key, word in words.items()} if isinstance(words, Mapping) else words
            for column, words in value.items()
        }

    @field_validator("columns")
    @classmethod
    def _columns_are_ours(cls, value: dict[str, str]) -> dict[str, str]:
        for target in value:
            _known(target, sorted(RECORD_COLUMNS | FORMAT_COLUMNS))
        return value

    @field_validator("template")
    @classmethod
    def _templates_parse(cls, value: dict[str, str]) -> dict[str, str]:
        for target, text in value.items():
            _known(target, TEXT_COLUMNS)
            parse_template(text)
        return value

    @field_validator("path", mode="before")
    @classmethod
    def _relative_to_where_it_was_written(cls, value: Any) -> Any:
        return resolve_path(value, value.base) if isinstance(value, Located) else value

    @property
    def label(self) -> str:
        """What reports and messages call this source."""
        return self.name or self.path


class Cleaning(Section):
    """What is done to every row. Text prompts keep their ends: these are part of the format."""

    strip: bool = True
    """Cut the white space at the end of completions, and at both ends of messages and documents."""
    unicode: Literal["NFC", "NFKC", "none"] = "NFC"
    """The Unicode form; unless `none`, line ends become `\\n` as well."""
    min_chars: Annotated[int, Field(ge=0)] = 0
    """Shorter records are left out: prompt and longest completion together."""
    max_chars: Annotated[int, Field(gt=0)] | None = None
    dedupe: Literal["exact", "near", "none"] = "exact"
    """`exact` ignores spacing. `near` also takes records whose texts share most of their five-letter runs."""
    near_threshold: Annotated[float, Field(gt=0.3, le=1)] = 0.85
    """The Jaccard similarity of five-letter runs from which texts count as near duplicates."""

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.max_chars is not None and self.max_chars < self.min_chars:
            raise ValueError(f"max_chars = {self.max_chars} is below min_chars = {self.min_chars}")
        return self


class Mixing(Section):
    """How the training rows of several sources come together.

    A source of n rows and weight w gets a share proportional to w * n^(1/temperature). At temperature 1 that is every
    row w times; the higher it is, the more alike the sources count; `.inf` makes the weights the shares themselves.
    """

    temperature: Annotated[float, Field(ge=1, allow_inf_nan=True)] = 1.0
    total: Annotated[int, Field(gt=0)] | None = None
    """How many training rows; as many as the weights ask for when left out."""
    shuffle: bool = True

    @field_validator("temperature")
    @classmethod
    def _is_a_number(cls, value: float) -> float:
        if value != value:
            raise ValueError("is not a number")
        return value


class DataConfig(Section):
    """The `data:` section of every stage."""

    sources: Annotated[list[DataSource], Field(min_length=1)]
    cleaning: Cleaning = Cleaning()
    dev: list[DataSource] = []
    """Where the held-out rows come from; training rows with one of their prompts are left out."""
    dev_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of prompts that is held out of `sources`."""
    split_seed: int = 0
    """Which prompts are held out. Apart from the run's seed, so that runs with other seeds are judged on the same."""
    mixing: Mixing = Mixing()
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    """More unusable rows than this in one source are an error."""

    @model_validator(mode="after")
    def _one_way_to_hold_out(self) -> Self:
        if self.dev and self.dev_fraction:
            raise ValueError("has both `dev` and `dev_fraction`: held-out rows come from one of them, drop the other")
        return self


def parse_template(text: str) -> list[tuple[str, str | None]]:
    """`text` as (literal, column or None) pieces.

    Raises:
        ValueError: unbalanced braces, an empty placeholder, or a format such as `{x:5}` or `{x!r}`.
    """
    try:
        pieces = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is no template: {error}; write {{{{ and }}}} for braces") from None
    for _, column, form, conversion in pieces:
        if column is not None and (not column or form or conversion):
            raise ValueError(f"{text!r} is no template: placeholders are {{column}} and nothing more")
    return [(literal, column) for literal, column, _, _ in pieces]


def resolve_path(path: str, base: Path) -> str:
    """`path` read from the folder `base`; refs, Hub ids and absolute paths stay as they are."""
    path = str(path)  # no longer Located
    if path.startswith("hub:"):
        return path
    wanted = Path(path).expanduser()
    if wanted.is_absolute():
        return str(wanted)
    there = base / wanted
    if not there.exists() and not _has_splits(there) and (looks_like_hub_id(path) or looks_like_ref(path)):
        return path
    return str(there)


def _has_splits(path: Path) -> bool:
    """Whether files of that name and a split's lie there: `hh.train.jsonl` of `hh`."""
    if not path.name or not path.parent.is_dir():
        return False
    names = (file.name for file in path.parent.iterdir())
    return any(name.startswith((f"{path.name}.", f"{path.name}-")) and _is_data_file(name) for name in names)


def looks_like_hub_id(path: str) -> bool:
    """Whether `path` may name a data set on the Hub."""
    return path.startswith("hub:") or (_HUB_ID.fullmatch(path) is not None and not _is_data_file(path))


def looks_like_ref(path: str) -> bool:
    """Whether `path` may name an artefact of the registry."""
    return _REF.fullmatch(path) is not None and not _is_data_file(path)


def _is_data_file(path: str) -> bool:
    return path.removesuffix(".gz").endswith(DATA_SUFFIXES)


def _known(name: str, names: Any) -> None:
    if name in names:
        return
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
    raise ValueError(f"{name!r} is not a column of any record; {hint}")
