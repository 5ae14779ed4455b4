"""metrics.jsonl: one JSON object a line, readable by anything, whatever ended the process that wrote it.

JSON has no NaN and no infinity, and a metric that became one is exactly what a reader must see, so they are
written as the strings "NaN", "Infinity" and "-Infinity", and `read_metrics` gives them back as floats.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def plain_value(value: Any) -> Any:
    """`value` as JSON holds it: array scalars become numbers, non-finite numbers become strings, paths text.

    Raises:
        TypeError: it is something that JSON does not hold.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): plain_value(inner) for key, inner in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain_value(inner) for inner in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        return plain_value(value.tolist())
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON: {value!r}")


def encode_line(row: Mapping[str, Any]) -> bytes:
    """`row` as one line of JSONL; half a character (a lone surrogate, as models write) is escaped."""
    text = json.dumps(plain_value(row), ensure_ascii=False, allow_nan=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(plain_value(row), allow_nan=False).encode() + b"\n"


def _decode_line(line: bytes) -> dict[str, Any] | None:
    """The object that `line` holds, or None: torn, or not an object."""
    try:
        row = json.loads(line)
    except ValueError:  # JSONDecodeError and UnicodeDecodeError
        return None
    return row if isinstance(row, dict) else None


def read_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The objects of a JSONL file as they lie; a torn line, as kill -9 leaves one at the end, is left out.

    A file that is not there is an empty one: a run that was killed early has logged nothing.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    rows = (_decode_line(line) for line in content.split(b"\n") if line.strip())
    return [row for row in rows if row is not None]


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in the order they were logged, non-finite numbers as floats again.

    Args:
        path: the file, or the run folder it lies in.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "metrics.jsonl"
    return [
        {key: _NON_FINITE.get(value, value) if isinstance(value, str) else value for key, value in row.items()}
        for row in read_lines(path)
    ]


def read_samples(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a run's samples.jsonl; text stays text, whatever it says."""
    return read_lines(Path(folder) / "samples.jsonl")


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`, wholly or not at all, and on the disk before this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def keep_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Make `rows` all that the JSONL file at `path` holds."""
    write_atomically(path, b"".join(encode_line(row) for row in rows))


class JsonLines:
    """A JSONL file that is appended to; every line is with the operating system before `write` returns.

    Args:
        path: the file.
        durable: every line is on the disk before `write` returns, too.
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.path = path
        self._durable = durable
        _cut_torn_tail(path)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - held open for the life of the run

    def write(self, row: Mapping[str, Any]) -> None:
        """Append `row`."""
        self._file.write(encode_line(row))
        if self._durable:
            os.fsync(self._file.fileno())

    def rewind(self, stage: str, step: int) -> int:
        """Drop `stage`'s lines beyond `step`; returns how many."""
        rows = read_lines(self.path)
        kept = [row for row in rows if row.get("stage") != stage or row.get("step", 0) <= step]
        if len(kept) < len(rows):
            self._file.close()
            keep_lines(self.path, kept)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        return len(rows) - len(kept)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _cut_torn_tail(path: Path) -> None:
    """Take away what a killed writer left after the last newline, so that the next line starts on its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
