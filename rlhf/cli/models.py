"""`rlhf models`: what the registry holds, where it came from, and what can go."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf.cli import output
from rlhf.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.tree import Tree

    from rlhf.registry import Artefact, GcPlan, LineageNode, Registry

app = typer.Typer(
    help="Look at the artefacts in the registry: what there is, where it came from, and what can go.",
    no_args_is_help=True,
)

Ref = Annotated[str, typer.Argument(metavar="REF", help="group/name, group/name@v3 or group/name@alias.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]


@app.command()
def ls(
    prefix: Annotated[str | None, typer.Argument(help="Only names that start like this.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only artefacts of this kind.")] = None,
    as_json: Json = False,
) -> None:
    """List the artefacts, name by name, oldest version first."""
    from rlhf.registry import KINDS, Registry
    from rlhf.registry.names import did_you_mean

    if kind is not None and kind not in KINDS:
        raise UserError(f"--kind {kind}: no such kind; {did_you_mean(kind, KINDS, 'kinds')}")
    registry = Registry()
    found = registry.artefacts(prefix, kind) if registry.exists() else []
    if as_json:
        output.as_json([artefact.as_dict() for artefact in found])
    elif found:
        _print(_table_of_artefacts(found))
    else:
        typer.echo(f"No artefacts here: {registry.home} (RLHF_HOME chooses another place).")


@app.command()
def show(ref: Ref, as_json: Json = False) -> None:
    """Show one artefact: content, parents, metadata, and where it lies."""
    registry = _registry()
    artefact = registry.resolve(ref)
    files = registry.files(artefact)
    if as_json:
        output.as_json(artefact.as_dict() | {"files": files})
        return
    facts = _table("", "")
    rows = {
        "ref": artefact.ref,
        "kind": artefact.kind,
        "aliases": ", ".join(artefact.aliases),
        "created": f"{_moment(artefact)} UTC",
        "run": artefact.run_id or "",
        "digest": artefact.digest,
        "path": str(artefact.path),
    }
    rows |= {f"parent ({parent.role})": f"{parent.ref}  {parent.kind}" for parent in artefact.parents}
    rows |= {f"metadata {key}": _one_line(value) for key, value in artefact.metadata.items()}
    rows |= {f"file {file['path']}": f"{_size(file['size'])}  sha256 {file['sha256'][:12]}" for file in files}
    for name, value in rows.items():
        facts.add_row(_plain(name), _plain(value))
    _print(facts)


@app.command()
def lineage(ref: Ref, as_json: Json = False) -> None:
    """Show what an artefact was made from, all the way back to the people who judged."""
    root = _registry().lineage(ref)
    if as_json:
        output.as_json(root.as_dict())
    else:
        _print(lineage_tree(root))


@app.command()
def alias(
    name: Annotated[str, typer.Argument(help="group/name.")],
    alias: Annotated[str, typer.Argument(help="The alias to move; it is made if need be.")],
    to: Annotated[str | None, typer.Argument(help="A version (v3) or another alias.")] = None,
    expect: Annotated[
        str | None, typer.Option(help="Move only if it stands there now: a version (v2), or `none`.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the alias away.")] = False,
    as_json: Json = False,
) -> None:
    """Let an alias stand at another version, so that `name@alias` means that one."""
    from rlhf.registry import ANY
    from rlhf.registry.names import parse_version

    if remove == (to is not None):
        raise UserError("rlhf models alias: give the version to move to (v3), or --remove, and not both")
    expected = None if expect in (None, "none") else parse_version(expect)
    if expect not in (None, "none") and expected is None:
        raise UserError(f"--expect {expect}: neither a version (v1, v2, ...) nor `none`")
    moved = _registry().move_alias(name, alias, to, expected=ANY if expect is None else expected)
    stands_at = None if moved is None else moved.ref
    if as_json:
        output.as_json({"name": name, "alias": alias, "ref": stands_at})
    else:
        typer.echo(f"{name}@{alias} " + ("is gone" if stands_at is None else f"-> {stands_at}"))


@app.command()
def verify(
    refs: Annotated[list[str] | None, typer.Argument(metavar="[REF]...", help="All, if none.")] = None,
    as_json: Json = False,
) -> None:
    """Check that every file of the artefacts is what was published; exit code 2 if one is not."""
    registry = _registry()
    chosen = [registry.resolve(ref) for ref in refs] if refs else registry.artefacts()
    problems = {artefact.ref: registry.verify(artefact) for artefact in chosen}
    damaged = {ref: found for ref, found in problems.items() if found}
    if as_json:
        output.as_json([{"ref": ref, "problems": found} for ref, found in problems.items()])
    else:
        for ref, found in damaged.items():
            typer.echo("\n".join([f"{ref}: damaged", *(f"  {problem}" for problem in found)]))
        typer.echo(f"{len(problems) - len(damaged)} of {len(problems)} artefacts are as they were published")
    if damaged:
        raise typer.Exit(UserError.exit_code)


@app.command()
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Do it; without this, only say it.")] = False,
    grace_hours: Annotated[float, typer.Option(min=0, help="Leave alone what is younger.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Find what no alias, unfinished run or kept artefact leads to; with --delete, remove it."""
    from datetime import timedelta

    plan = _registry().gc(dry_run=not delete, grace=timedelta(hours=grace_hours))
    if as_json:
        output.as_json(plan.as_dict())
    else:
        _print_plan(plan)


def lineage_tree(root: "LineageNode") -> "Tree":
    """The way back as a tree: what something was made from hangs below it, the annotators as leaves."""
    from rich.tree import Tree

    tree = Tree(_plain(_label(root)))

    def hang(node: "LineageNode", below: "Tree") -> None:
        for judge in node.annotators:
            simulated = " (simulated)" if judge.get("simulated", node.simulated) else ""
            counts = {name: judge.get(f"num_{name}s") for name in ("judgement", "ranking")}
            told = (f", {output.counted(number, name)}" for name, number in counts.items() if number is not None)
            count = next(told, "")
            held_out = f", {judge['num_held_out']} of them held out" if judge.get("num_held_out") else ""
            below.add(_plain(f"annotator: {judge.get('name', '?')}{simulated}{count}{held_out}"))
        for queue, numbers in node.tasks.items():
            below.add(_plain(f"tasks of the queue {queue}: {_shortened(numbers)}"))
        if node.artefact.kind == "preferences" and node.artefact.run_id and not node.tasks and not node.repeated:
            below.add(_plain(f"tasks: all that the run {node.artefact.run_id} made"))
        for scorer in [] if node.repeated else node.scorers:
            below.add(_plain(f"rewarded by: {_scorer(scorer)}"))
        for child in node.children:
            hang(child, below.add(_plain(_label(child))))

    hang(root, tree)
    return tree


def _shortened(numbers: str, limit: int = 80) -> str:
    if len(numbers) <= limit:
        return numbers
    return f"{numbers[:limit].rpartition(',')[0]}, ... (--json has all of them)"


def _label(node: "LineageNode") -> str:
    role = "" if node.role is None else f"{node.role}: "
    named = [alias for alias in node.artefact.aliases if alias != "latest"]
    aliases = f"  [{', '.join(named)}]" if named else ""
    if node.repeated:
        return f"{role}{node.artefact.ref}  (see above)"
    return f"{role}{node.artefact.ref}  {node.artefact.kind}, {node.artefact.created_at:%Y-%m-%d}{aliases}"


def _scorer(scorer: dict[str, Any]) -> str:
    """`support/reward@v1, weight 1`, or a function with its weight and the digest of its file."""
    weight = f", weight {scorer.get('weight', 1.0):g}"
    if "function" not in scorer:
        return f"{scorer.get('ref', '?')}{weight}"
    return f"function {scorer['function']}{weight}, sha256 {scorer.get('sha256') or 'unknown'}"


def _registry() -> "Registry":
    from rlhf.registry import Registry

    registry = Registry()
    if not registry.exists():
        raise UserError(f"{registry.home}: no registry here; go where your runs are, or set RLHF_HOME")
    return registry


def _table_of_artefacts(found: "list[Artefact]") -> "Table":
    table = _table("ref", "kind", "aliases", "created (UTC)", "digest")
    for artefact in found:
        row = (
            artefact.ref,
            artefact.kind,
            ", ".join(artefact.aliases),
            _moment(artefact),
            artefact.digest[:12],
        )
        table.add_row(*map(_plain, row))
    return table


def _print_plan(plan: "GcPlan") -> None:
    if plan.delete or plan.garbage:
        table = _table("deleted" if plan.deleted else "would be deleted", "why", "size")
        for artefact in plan.delete:
            table.add_row(_plain(artefact.ref), "no alias, unfinished run or kept artefact leads there", "")
        for garbage in plan.garbage:
            shown = f"{garbage.path.parent.name}/{garbage.path.name[:12]}"
            table.add_row(_plain(shown), garbage.why, _size(garbage.num_bytes))
        _print(table)
    done = "freed" if plan.deleted else "would be freed; `rlhf models gc --delete` does it"
    typer.echo(f"{len(plan.kept)} artefacts kept, {len(plan.delete)} not, {_size(plan.num_bytes)} {done}")


def _table(*columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=any(columns), pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("ref", "digest"))
    return table


def _print(shown: Any) -> None:
    import os

    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160  # into a file or another program: refs stay in one piece
    console.print(shown)


def _plain(text: str) -> Any:
    """Text that rich shows as it is, brackets and all."""
    from rich.text import Text

    return Text(text)


def _one_line(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _moment(artefact: "Artefact") -> str:
    return f"{artefact.created_at:%Y-%m-%d %H:%M}"


def _size(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
