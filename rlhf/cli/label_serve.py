"""`rlhf label serve` and `rlhf label users`: the ranking app, and who may come in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf.cli import output
from rlhf.errors import UserError

if TYPE_CHECKING:
    from labeling_app.settings import LabelingConfig
    from labeling_app.store import Store

users = typer.Typer(help="List, add, invite, close and quarantine the people who rank.", invoke_without_command=True)

Config = Annotated[Path | None, typer.Option(help="A YAML file such as configs/labeling.yaml.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The pseudonym that exports show.")]
ForLinks = Annotated[Path | None, typer.Option(help="The YAML file that `serve` is given: links need its address.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]
Undo = Annotated[bool, typer.Option("--undo", help="Take it back.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `rlhf label`."""
    app.command()(serve)
    app.add_typer(users, name="users")


def serve(
    config: Config = None,
    host: Annotated[str | None, typer.Option(help="127.0.0.1 is for this machine; others need accounts.")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes any that is free.")] = None,
    queue: Annotated[str | None, typer.Option(help="Which tasks to serve.")] = None,
) -> None:
    """Serve the ranking app until it is stopped with Ctrl-C; prints a link with which to come in.

    On 127.0.0.1 the link logs in whoever opens it first. On other hosts people need accounts (`rlhf label users add`).
    """
    output.quiet_libraries()
    from labeling_app.web.serve import serve
    from rlhf.workspace import default_home

    settings = settings_of(config, host=host, port=port, queue=queue)
    serve(default_home(), settings, lambda line: typer.echo(line))


@users.callback()
def people(context: typer.Context) -> None:
    """List, add, invite, close and quarantine the people who rank; without a command, list them."""
    if context.invoked_subcommand is None:
        ls()


@users.command()
def ls(as_json: Json = False) -> None:
    """List the users."""
    with _store() as store:
        found = store.users()
    if as_json:
        output.as_json([_as_dict(user) for user in found])
        return
    if not found:
        typer.echo("Nobody yet: `rlhf label users add NAME` adds somebody.")
        return
    _print_table([_as_dict(user) for user in found])


@users.command()
def add(
    name: Name,
    admin: Annotated[bool, typer.Option("--admin", help="Give access to the figures, too.")] = False,
    config: ForLinks = None,
) -> None:
    """Add somebody, and print the one-time link with which they choose their password."""
    from labeling_app.store.values import IMPORTED
    from labeling_app.web.serve import LOCAL_USER, address_for_links, invite

    address = address_for_links(settings_of(config))
    if name == LOCAL_USER or name.startswith(IMPORTED):
        whose = "whoever opens the app on 127.0.0.1" if name == LOCAL_USER else "answers that came in a file"
        raise UserError(f"user {name!r}: is a name for {whose}; choose another")
    with _store() as store:
        user = store.add_user(name, "admin" if admin else "annotator")
        typer.echo(f"{name} was added. Hand over this link (works once, for 7 days): {invite(store, user, address)}")


@users.command()
def invite(name: Name, config: ForLinks = None) -> None:
    """Print a new one-time link for somebody whose link is used up or whose password is forgotten.

    It also lets in whoever is locked out after too many wrong passwords.
    """
    from labeling_app.accounts import check_is_a_person
    from labeling_app.web.serve import address_for_links, invite

    settings = settings_of(config)
    with _store() as store:
        user = store.user(name)
        check_is_a_person(user)
        typer.echo(invite(store, user, address_for_links(settings)))


@users.command()
def disable(name: Name, undo: Undo = False) -> None:
    """Close an account and log its user out; answers given so far count."""
    with _store() as store:
        store.set_disabled(store.user(name).id, not undo)
    typer.echo(f"{name}: {'open again' if undo else 'closed'}")


@users.command()
def quarantine(
    name: Name,
    reason: Annotated[str, typer.Option(help="Kept with the events.")] = "",
    undo: Undo = False,
) -> None:
    """Keep somebody's answers out of exports, and give them no more tasks."""
    with _store() as store:
        store.set_quarantined(store.user(name).id, not undo, reason=reason)
    typer.echo(f"{name}: {'trusted again' if undo else 'quarantined'}")


def settings_of(path: Path | None, **given: Any) -> "LabelingConfig":
    """The app's settings: those of a file, with what was typed on top.

    Raises:
        UserError: a key is unknown or has a wrong value; all of them at once.
    """
    from labeling_app.settings import LabelingConfig
    from rlhf.config import COMMAND_LINE, read_yaml, validate

    set_here = {key: value for key, value in given.items() if value is not None}
    if path is None:
        return validate(set_here, LabelingConfig, origin=COMMAND_LINE)
    return validate(read_yaml(path) | set_here, LabelingConfig, origin=str(path), overridden=set(set_here))


def _store() -> "Store":
    from labeling_app.store import Store
    from rlhf.workspace import default_home

    return Store.open(default_home())


def _as_dict(user: Any) -> dict[str, Any]:
    from labeling_app.store.values import IMPORTED
    from labeling_app.web.serve import LOCAL_USER

    states = {
        "simulated": user.simulated,
        "imported": user.name.startswith(IMPORTED),
        "closed": user.disabled_at,
        "quarantined": user.quarantined_at,
    }
    needs_link = not user.has_password and user.name != LOCAL_USER
    return {
        "name": user.name,
        "role": user.role,
        "state": ", ".join(word for word, holds in states.items() if holds) or ("invited" if needs_link else ""),
        "since": user.created_at.isoformat(timespec="minutes"),
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    output.whole_console().print(table)
