"""`rlhf data`: look at data before anything is trained on it, and write it down as the stages would see it."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from rlhf.cli import output
from rlhf.errors import UserError

app = typer.Typer(help="Look at data sets, and prepare them.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]


@app.command()
def inspect(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders, registry refs or Hub ids.")],
    form: Annotated[str, typer.Option("--format", help="What the rows are; found out when left out.")] = "auto",
    split: Annotated[str | None, typer.Option(help="Which part of a folder or Hub data set.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="Name a column: prompt=question. May be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only this many records, the first.")] = None,
    near: Annotated[bool, typer.Option("--near", help="Count near duplicates too.")] = False,
    examples: Annotated[int, typer.Option(min=0, help="How many records to show.")] = 2,
    as_json: Json = False,
) -> None:
    """Say what a data set holds: format, bad rows, lengths, duplicates, and how its judgements hang together."""
    from rlhf.config import Located, validate
    from rlhf.datasets import Cleaning, DataSource
    from rlhf.datasets.inspection import inspect_source

    row = {"format": form, "split": split, "limit": limit, "columns": _columns(column or [])}
    sources = [validate(row | {"path": Located(path, Path.cwd())}, DataSource, origin="command line") for path in paths]
    cleaning = Cleaning(dedupe="near" if near else "exact")
    open_ref = _open_ref()
    facts = [inspect_source(source, cleaning, num_examples=examples, open_ref=open_ref) for source in sources]
    if as_json:
        _print_json(facts)
        return
    for one in facts:
        _show(one)


@app.command()
def prepare(
    config: Annotated[Path, typer.Argument(help="A YAML file with a `data:` section, or that section alone.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Set keys of the file: data.dev_fraction=0.2")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="The folder to write; it must be new or empty.")],
    kind: Annotated[
        list[str] | None, typer.Option("--as", help="Turn the rows into this kind: prompt, completion, ... Repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a data set as a stage would see it: cleaned, deduplicated, split and mixed, with a report."""
    from rlhf.config import apply_override, read_yaml
    from rlhf.datasets import load
    from rlhf.datasets.inspection import write_prepared

    values = read_yaml(config)
    for override in overrides or ():
        apply_override(values, override)
    overridden = {text.partition("=")[0].strip() for text in overrides or ()}
    section, seed = _data_section(values, str(config), overridden)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: is there already and is not an empty folder; choose another")
    loaded = load(section, _kinds(kind or []), seed=seed, open_ref=_open_ref())
    write_prepared(loaded, out)
    if as_json:
        _print_json({"out": str(out)} | loaded.report.to_dict())
    else:
        typer.echo(loaded.report.summary())
        typer.echo(f"written to {out}: {', '.join(sorted(file.name for file in out.iterdir()))}")


def _columns(given: list[str]) -> dict[str, str]:
    columns = {}
    for text in given:
        ours, equals, theirs = text.partition("=")
        if not equals or not ours or not theirs:
            raise UserError(f"--column {text}: expected OURS=THEIRS, such as prompt=question")
        columns[ours] = theirs
    return columns


def _data_section(values: dict[str, Any], origin: str, overridden: set[str]) -> tuple[Any, int]:
    """The `data:` section of a stage's file, whose other sections are left alone, and the file's seed."""
    from pydantic import BaseModel

    from rlhf.config import validate
    from rlhf.datasets import DataConfig

    class WithData(BaseModel):
        data: DataConfig
        seed: int = 0

    if "data" in values or "sources" not in values:
        whole = validate(values, WithData, origin=origin, overridden=overridden)
        return whole.data, whole.seed
    return validate(values, DataConfig, origin=origin, overridden=overridden), 0


def _kinds(names: list[str]) -> list[Any]:
    from rlhf.records import KINDS

    known = {kind.__name__.lower(): kind for kind in KINDS}
    for name in names:
        if name not in known:
            raise UserError(f"--as {name}: no such kind of record; known: {', '.join(known)}")
    return [known[name] for name in names] or list(KINDS)


def _open_ref() -> Callable[[str], tuple[Path, str] | None] | None:
    from rlhf.registry import Registry

    registry = Registry()
    if not registry.exists():
        return None

    def open_ref(ref: str) -> tuple[Path, str] | None:
        artefact = registry.find(ref)
        return None if artefact is None else (registry.open(artefact), artefact.ref)

    return open_ref


def _show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(Text(facts["path"], style="bold"))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(facts):
        table.add_row(name, Text(value))
    console.print(table)
    for example in facts["examples"]:
        console.print(Text(""))
        for name, value in example.items():
            console.print(Text(f"  {name}: {_short(value)}"))
    console.print(Text(""))


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in facts["kinds"].items())
    lines = [
        ("format", facts["format"]),
        ("rows", f"{facts['rows']:,}, {facts['set_aside']:,} of them set aside"),
        *(("", problem) for problem in facts["problems"]),
        ("records", f"{kinds}; {output.counted(facts['prompts'], 'prompt')}"),
        ("duplicates", f"{facts['duplicates']:,}"),
    ]
    if "near_duplicates" in facts:
        lines.append(("near duplicates", f"{facts['near_duplicates']:,}"))
    for part, numbers in facts["lengths"].items():
        lines.append((f"{part} characters", ", ".join(f"{name} {value:,}" for name, value in numbers.items())))
    for name, value in facts["judgements"].items():
        if value:
            shown = f"{value:.1%}" if name in ("longest_wins", "tie_share", "agreement") else f"{value:,}"
            lines.append((name.replace("_", " "), shown))
    return lines + [("note", note) for note in facts["notes"]]


def _short(value: Any, limit: int = 300) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _print_json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
