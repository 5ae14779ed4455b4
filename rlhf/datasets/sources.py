"""Rows out of files, folders and the Hub, each with the place it came from; nothing here knows what a row means."""

import csv
import gzip
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from rlhf.datasets.config import DATA_SUFFIXES, DataSource, looks_like_hub_id, looks_like_ref
from rlhf.errors import UserError
from rlhf.records import Problem, has_lone_surrogate, iter_json_lines

Row = dict[str, Any]
OpenRef = Callable[[str], Path]
"""Finds the folder of a registry artefact; raises UserError for a name it does not know."""


@dataclass(frozen=True)
class RawRow:
    """One row as it was found."""

    path: str
    line: int
    row: Row | Problem


def open_source(source: DataSource, open_ref: OpenRef | None = None) -> Iterator[RawRow]:
    """All rows of `source`.

    Raises:
        UserError: there is no such file, artefact or data set, or it cannot be read at all.
    """
    files = _find(source, open_ref)
    if files is None:
        return _hub_rows(source)
    if len(files) == 1 and files[0].is_dir():
        return _saved_rows(files[0], source)
    return (raw for file in files for raw in _file_rows(file, source))


# Where a source lies


def _find(source: DataSource, open_ref: OpenRef | None) -> list[Path] | None:
    """The files of `source`, or the folder of a saved data set; None when it is on the Hub."""
    path = Path(source.path).expanduser()
    if source.path.startswith("hub:"):
        return None
    if path.is_dir():
        return _files_of(path, source)
    if path.exists():
        if source.data_dir or source.subset:
            key = "data_dir" if source.data_dir else "subset"
            raise UserError(f"{source.path}: is a file, and `{key}` is for folders and the Hub: leave it out")
        return [path]
    parts = _with_split_name(path, source.split or "train")
    if parts:
        return parts
    unknown = None
    if open_ref is not None and looks_like_ref(source.path):
        try:
            return _files_of(open_ref(source.path), source)
        except UserError as error:
            # `group/name` may also be a Hub id: what the registry said is told if that fails too.
            if not looks_like_hub_id(source.path):
                raise
            unknown = error
    if looks_like_hub_id(source.path):
        if unknown is not None:
            _check_hub(source, unknown)
        return None
    raise UserError(f"{source.path}: no such file{_near_names(path)}")


def _with_split_name(path: Path, split: str) -> list[Path]:
    """`hh` and split `train` also mean `hh.train.jsonl.gz` and `hh-train.csv`."""
    if not path.name or not path.parent.is_dir():
        return []
    return sorted(
        file
        for file in path.parent.iterdir()
        if _suffix(file) in DATA_SUFFIXES
        and re.fullmatch(re.escape(path.name) + r"[.-]" + re.escape(split) + r"\..*", file.name)
    )


def _files_of(folder: Path, source: DataSource) -> list[Path]:
    """The files in `folder` that make up one split; or the folder itself if `datasets` wrote it."""
    if source.data_dir:
        folder = folder / source.data_dir
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return [folder]
    found = sorted(file for file in folder.rglob("*") if file.is_file() and _suffix(file) in DATA_SUFFIXES)
    found = [
        file
        for file in found
        if not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    ]
    # A single .json beside tables of rows is a description of them.
    tables = [file for file in found if not file.name.endswith((".json", ".json.gz", ".txt"))] or found
    split = source.split or "train"
    of_split = [file for file in tables if split in re.split(r"[.\-_]", file.name)]
    if of_split:
        return of_split
    if source.split is None and len(tables) == 1:
        return tables
    if not tables:
        raise UserError(f"{folder}: holds no data file ({', '.join(DATA_SUFFIXES)}, also .gz)")
    names = ", ".join(str(file.relative_to(folder)) for file in tables[:8])
    raise UserError(
        f"{folder}: no file of the split {split!r}; there are {names}: name one, or another `split`"
    )


def _near_names(path: Path) -> str:
    import difflib

    if not path.parent.is_dir():
        return f"; nor is there a folder {path.parent}"
    close = difflib.get_close_matches(path.name, [file.name for file in path.parent.iterdir()], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


# Files


def _file_rows(path: Path, source: DataSource) -> Iterator[RawRow]:
    suffix = _suffix(path)
    if source.format in ("text", "lines") or suffix == ".txt":
        rows = _text_rows(path, source)
    elif suffix in (".jsonl", ".ndjson"):
        rows = _jsonl_rows(path)
    elif suffix == ".json":
        rows = _json_rows(path)
    elif suffix in (".csv", ".tsv"):
        rows = _csv_rows(path, "\t" if suffix == ".tsv" else None)
    elif suffix == ".parquet":
        rows = _parquet_rows(path)
    else:
        raise UserError(
            f"{path}: cannot tell what this is by its name; known are {', '.join(DATA_SUFFIXES)} (also .gz), "
            "and any text with `format: text` or `format: lines`"
        )
    try:
        yield from rows
    except (EOFError, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: the compressed file is damaged ({error}): fetch it again") from None
    except PermissionError:
        raise UserError(f"{path}: may not be read by this user") from None


def _jsonl_rows(path: Path) -> Iterator[RawRow]:
    for line, row in iter_json_lines(path):
        yield RawRow(str(path), line, row)


def _read_text(path: Path) -> str:
    """The whole file; bytes that are not UTF-8 become lone surrogates, for which each row is then looked through."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return raw.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff").replace("\r\n", "\n")


def _checked(path: Path, line: int, row: Any) -> RawRow:
    if not isinstance(row, dict):
        return RawRow(
            str(path), line, Problem(str(path), line, f"is a JSON {type(row).__name__}, not an object")
        )
    if has_lone_surrogate(row):
        return RawRow(str(path), line, Problem(str(path), line, "is not UTF-8"))
    return RawRow(str(path), line, row)


def _json_rows(path: Path) -> Iterator[RawRow]:
    """A list of rows, an object of rows, an object with one list of rows in it, or JSON Lines by another name."""
    text = _read_text(path)
    start = len(text) - len(text.lstrip())
    if text[start : start + 1] != "[":
        try:
            whole, end = json.JSONDecoder().raw_decode(text, start)
        except ValueError as error:
            raise UserError(f"{path}: is not JSON: {error}") from None
        if text[end:].strip():
            yield from _jsonl_rows(path)
            return
        rows = _rows_inside(whole)
        if rows is None:
            raise UserError(f"{path}: holds no list of rows; expected [{{...}}, ...] or one object a line")
        for number, row in enumerate(rows, start=1):
            yield _checked(path, number, row)
        return
    yield from _array_rows(path, text, start + 1)


def _rows_inside(whole: Any) -> list[Any] | None:
    if not isinstance(whole, dict):
        return None
    if whole and all(isinstance(value, dict) for value in whole.values()):
        return list(whole.values())
    lists = [
        value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)
    ]
    return lists[0] if len(lists) == 1 else None


def _array_rows(path: Path, text: str, at: int) -> Iterator[RawRow]:
    """The elements of the JSON array whose bracket stands before `at`, each with the line it begins on."""
    decoder = json.JSONDecoder()
    blank = re.compile(r"[\s,]*")
    line, counted = 1, 0
    while True:
        match = blank.match(text, at)
        at = match.end() if match else at
        line, counted = line + text.count("\n", counted, at), at
        if at >= len(text):
            yield RawRow(
                str(path), line, Problem(str(path), line, "the file ends here, before the list does")
            )
            return
        if text[at] == "]":
            return
        try:
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            what = f"is not JSON: {error}; the rest of the file is not read"
            yield RawRow(str(path), line, Problem(str(path), line, what))
            return
        yield _checked(path, line, row)


def _csv_rows(path: Path, delimiter: str | None) -> Iterator[RawRow]:
    lines = _read_text(path).splitlines(keepends=True)
    if not lines:
        return
    header = lines[0]
    if delimiter is None:
        delimiter = ";" if header.count(";") > header.count(",") else ","
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(iter(lines), delimiter=delimiter)
    names = [name.strip() for name in next(reader)]
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield RawRow(str(path), line, Problem(str(path), line, f"is not CSV: {error}"))
            continue
        if not cells:
            continue
        if len(cells) != len(names):
            what = f"has {len(cells)} fields where the header has {len(names)}"
            yield RawRow(str(path), line, Problem(str(path), line, what))
            continue
        yield _checked(path, line, dict(zip(names, cells, strict=True)))


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: is not Parquet: {str(error).splitlines()[0]}") from None
    line = 0
    for batch in table.iter_batches(batch_size=4096):
        for row in batch.to_pylist():
            line += 1
            yield RawRow(str(path), line, {name: as_json(value) for name, value in row.items()})


def _text_rows(path: Path, source: DataSource) -> Iterator[RawRow]:
    text = _read_text(path)
    if source.format == "lines":
        pieces = ((number, line) for number, line in enumerate(text.split("\n"), start=1))
    else:
        pieces = cut_text(text, source.chunk_chars)
    for line, piece in pieces:
        if piece.strip():
            yield _checked(path, line, {"text": piece})


_DOCUMENT_BORDER = re.compile(r"\n[ \t]*\n[ \t]*\n\s*|\s*\f\s*")
_PARAGRAPH_BORDER = re.compile(r"\n[ \t]*\n")
_SENTENCE_END = re.compile(r"[.!?]['\"”’)]*\s|\n")


def cut_text(text: str, chunk_chars: int | None) -> Iterator[tuple[int, str]]:
    """Pieces of `text` and the line each begins on: documents (parted by two blank lines or a form feed), and these
    cut into runs of whole paragraphs of at most `chunk_chars` characters; a longer paragraph is cut at a sentence."""
    line, counted = 1, 0
    for start, end in _spans(text, 0, len(text), _DOCUMENT_BORDER):
        for first, last in _chunks(text, start, end, chunk_chars):
            line, counted = line + text.count("\n", counted, first), first
            yield line, text[first:last]


def _spans(text: str, start: int, end: int, border: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    for match in border.finditer(text, start, end):
        if text[start : match.start()].strip():
            yield start, match.start()
        start = match.end()
    if text[start:end].strip():
        yield start, end


def _chunks(text: str, start: int, end: int, limit: int | None) -> Iterator[tuple[int, int]]:
    if limit is None or end - start <= limit:
        yield start, end
        return
    open_at: int | None = None
    open_end = start
    for first, last in _spans(text, start, end, _PARAGRAPH_BORDER):
        if open_at is not None and last - open_at <= limit:
            open_end = last
            continue
        if open_at is not None:
            yield open_at, open_end
        while last - first > limit:
            cut = max(
                (match.end() for match in _SENTENCE_END.finditer(text, first, first + limit)), default=0
            )
            cut = cut or text.rfind(" ", first, first + limit) + 1 or first + limit
            yield first, cut
            first = cut
        open_at, open_end = (first, last) if first < last else (None, last)
    if open_at is not None:
        yield open_at, open_end


# `datasets`


def _saved_rows(folder: Path, source: DataSource) -> Iterator[RawRow]:
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: is not a whole saved data set: {error}") from None
    if isinstance(found, datasets.DatasetDict):
        split = source.split or "train"
        if split not in found:
            raise UserError(f"{folder}: no split {split!r}; there are {', '.join(map(str, found))}")
        found = found[split]
    return _dataset_rows(found, str(folder))


def _hub_rows(source: DataSource) -> Iterator[RawRow]:
    name = source.path.removeprefix("hub:")
    return _dataset_rows(_load_hub(source, name), name)


def _check_hub(source: DataSource, unknown: UserError) -> None:
    try:
        _load_hub(source, source.path)
    except UserError as error:
        raise UserError([*error.problems, *unknown.problems]) from None


def _load_hub(source: DataSource, name: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(
            name,
            source.subset,
            data_dir=source.data_dir,
            split=source.split or "train",
            revision=source.revision,
        )
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name}: is no file or folder here, and could not be had from the Hub ({type(error).__name__}: {first}); "
            "give the path of a local copy, or check the name and the network (HF_HUB_OFFLINE must not be set)"
        ) from None


def _dataset_rows(found: Any, path: str) -> Iterator[RawRow]:
    line = 0
    for batch in found.with_format(None).iter(batch_size=1000):
        names = list(batch)
        for values in zip(*batch.values(), strict=True):
            line += 1
            yield RawRow(
                path, line, {name: as_json(value) for name, value in zip(names, values, strict=True)}
            )


def as_json(value: Any) -> Any:
    """`value` as JSON can say it: dates and the like become text, what is binary becomes null."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    if isinstance(value, bytes):
        return None
    return float(value) if isinstance(value, Decimal) else str(value)


def without_nan(value: Any) -> Any:
    """`value` with every NaN and infinity, which JSON has no word for, as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return value
