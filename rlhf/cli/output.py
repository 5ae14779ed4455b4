"""What commands print: a table for people, one JSON object for programs, logs and bars on stderr."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def as_json(value: Any) -> None:
    """One JSON value on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def show_summary(summary: Mapping[str, Any]) -> None:
    """A summary as a table on stdout; its sections, if it has any, one below the other."""
    from rich.table import Table

    from rlhf.report.metrics import describe

    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(2):
        table.add_column(overflow="fold")  # a path or a digest is never cut
    for section, values in _sections(summary):
        shown = {key: value for key, value in values.items() if _fits_a_cell(value)}
        if section and shown:
            table.add_section()
            table.add_row(f"[bold]{section}[/bold]", "")
        for key, value in shown.items():
            label = describe(key).label
            table.add_row(f"  {label}" if section else label, _shown(value))
    whole_console().print(table)


def whole_console() -> "Console":
    """A console for tables; into a file or another program, names and paths stay in one piece."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 1000
    return console


def counted(number: int, name: str) -> str:
    """`1 ranking`, `2,000 rankings`."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _sections(summary: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    nested = {key: value for key, value in summary.items() if isinstance(value, dict)}
    flat = {key: value for key, value in summary.items() if not isinstance(value, dict)}
    return [*nested.items(), ("", flat)]


def _fits_a_cell(value: Any) -> bool:
    return (value is not None and not isinstance(value, dict | list)) or _is_interval(value)


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(end, int | float) for end in value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"{value[0]:.3f} to {value[1]:.3f}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("[", r"\[")


def quiet_libraries() -> None:
    """Logs to stderr in one form, ours from INFO on and others' warnings; no library draws bars of its own.

    Called before torch and transformers are imported, since they read some of this once.
    """
    from rich.console import Console
    from rich.logging import RichHandler

    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # what libraries will change one day is for those who call them, not for those who run a command
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|torch|rlhf)\b")
    handler = RichHandler(console=Console(file=sys.stderr), show_path=False, rich_tracebacks=False)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s", datefmt="[%X]")
    for package in ("rlhf", "sft", "reward", "labeling_app"):
        logging.getLogger(package).setLevel(logging.INFO)
