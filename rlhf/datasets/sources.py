"""Rows out of files, folders and the Hub, each with the place it came from; nothing here knows what a row means."""

import csv
import dataclasses
import difflib
import gzip
import io
import itertools
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.datasets.config import DATA_SUFFIXES, DataSource, looks_like_hub_id, looks_like_ref
from rlhf.datasets.hub import hub_rows, saved_rows
from rlhf.datasets.plain_text import cut_text
from rlhf.datasets.rows import RawRow, as_json
from rlhf.errors import UserError
from rlhf.records import has_lone_surrogate, iter_json_lines

OpenRef = Callable[[str], tuple[Path, str] | None]
"""Finds the folder of a registry artefact and the very version it is (`name@v3`); None for a name it does not know."""


class Found(NamedTuple):
    """Where a source lies: its files, or the folder of a saved data set; no `files` when it is on the Hub."""

    files: list[Path] | None
    ref: str | None = None
    """The version of the artefact that was opened, if it is one."""


def open_source(source: DataSource, found: Found) -> Iterator[RawRow]:
    """All rows of `source`, which was `found` before.

    Raises:
        UserError: it cannot be read at all.
    """
    files = found.files
    if files is None:
        return hub_rows(source)
    if len(files) == 1 and files[0].is_dir():
        return saved_rows(files[0], source)
    return (raw for file in files for raw in _file_rows(file, source))


# Where a source lies


def find_source(source: DataSource, open_ref: OpenRef | None = None) -> Found:
    """What `source` is read from.

    Raises:
        UserError: there is no such file, artefact or data set.
    """
    path = Path(source.path).expanduser()
    if source.path.startswith("hub:"):
        return Found(None)
    if path.is_dir():
        return Found(_files_of(path, source))
    if path.exists():
        if source.data_dir or source.subset:
            key = "data_dir" if source.data_dir else "subset"
            raise UserError(f"{source.path}: is a file, and `{key}` is for folders and the Hub: leave it out")
        return Found([path])
    parts = _with_split_name(path, source.split or "train")
    if parts:
        return Found(parts)
    if open_ref is not None and looks_like_ref(source.path):
        opened = open_ref(source.path)
        if opened is not None:
            folder, ref = opened
            return Found(_files_of(folder, source), ref)
    if looks_like_hub_id(source.path):
        return Found(None)
    if "@" in source.path and looks_like_ref(source.path):
        raise UserError(f"{source.path}: no such artefact in the registry; `rlhf models ls` lists what there is")
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
    found = [file for file in found if not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)]
    # A single .json beside tables of rows is a description of them.
    tables = [file for file in found if not file.name.endswith((".json", ".json.gz", ".txt"))] or found
    split = source.split or "train"
    of_split = [file for file in tables if split in re.split(r"[.\-_]", file.name)]
    if of_split:
        # What lies deeper beside them is the same in another form, as in what `rlhf label export` writes.
        return [file for file in of_split if file.parent == folder] or of_split
    if source.split is None and len(tables) == 1:
        return tables
    if not tables:
        raise UserError(f"{folder}: holds no data file ({', '.join(DATA_SUFFIXES)}, also .gz)")
    names = ", ".join(str(file.relative_to(folder)) for file in tables[:8])
    raise UserError(f"{folder}: no file of the split {split!r}; there are {names}: name one, or another `split`")


def _near_names(path: Path) -> str:
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
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
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


def _checked(raw: RawRow) -> RawRow:
    if not isinstance(raw.row, dict):
        return raw.bad(f"is a JSON {type(raw.row).__name__}, not an object")
    return raw.bad("is not UTF-8") if has_lone_surrogate(raw.row) else raw


def _json_rows(path: Path) -> Iterator[RawRow]:
    """A list of rows, an object of rows, an object with one list of rows in it, or JSON Lines by another name."""
    text = _read_text(path)
    start = len(text) - len(text.lstrip())
    if text[start : start + 1] == "[":
        yield from _array_rows(path, text, start + 1)
        return
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
        yield _checked(RawRow(str(path), number, row, "row"))


def _rows_inside(whole: Any) -> list[Any] | None:
    if not isinstance(whole, dict):
        return None
    if whole and all(isinstance(value, dict) for value in whole.values()):
        return list(whole.values())
    lists = [value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return lists[0] if len(lists) == 1 else None


def _array_rows(path: Path, text: str, at: int) -> Iterator[RawRow]:
    """The elements of the JSON array whose bracket stands before `at`: those before a broken place are saved."""
    decoder = json.JSONDecoder()
    between = re.compile(r"[\s,]*")
    for number in itertools.count(1):
        here = RawRow(str(path), number, {}, "row")
        gap = between.match(text, at)
        at = gap.end() if gap else at
        if text[at : at + 1] == "]":
            return
        try:
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield here.bad(f"is not JSON: {error}; what follows in the file is not read")
            return
        yield _checked(dataclasses.replace(here, row=row))


def _csv_rows(path: Path, delimiter: str | None) -> Iterator[RawRow]:
    # lines end at line feeds and carriage returns alone: str.splitlines would cut cells at U+2028 and others too
    lines = io.StringIO(_read_text(path), newline="")
    header = lines.readline()
    if not header:
        return
    if delimiter is None:
        delimiter = ";" if header.count(";") > header.count(",") else ","
    csv.field_size_limit(sys.maxsize)
    lines.seek(0)
    reader = csv.reader(lines, delimiter=delimiter)
    names = [name.strip() for name in next(reader)]
    while True:
        here = RawRow(str(path), reader.line_num + 1, {})
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield here.bad(f"is not CSV: {error}")
            continue
        if not cells:
            continue
        if len(cells) != len(names):
            yield here.bad(f"has {len(cells)} fields where the header has {len(names)}")
            continue
        yield _checked(dataclasses.replace(here, row=dict(zip(names, cells, strict=True))))


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
            yield RawRow(str(path), line, {name: as_json(value) for name, value in row.items()}, "row")


def _text_rows(path: Path, source: DataSource) -> Iterator[RawRow]:
    text = _read_text(path)
    if source.format == "lines":
        pieces: Iterable[tuple[int, str]] = enumerate(text.split("\n"), start=1)
    else:
        pieces = cut_text(text, source.chunk_chars)
    for line, piece in pieces:
        if piece.strip():
            yield _checked(RawRow(str(path), line, {"text": piece}))
