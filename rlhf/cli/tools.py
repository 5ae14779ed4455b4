"""`rlhf chat` and `rlhf doctor`."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from rlhf.cli.output import as_json, quiet_libraries
from rlhf.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command()(chat)
    app.command()(doctor)


def chat(
    refs: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Refs, folders or Hub ids; all of them answer.")
    ],
    template: Annotated[
        str | None,
        typer.Option(help=r"For models without a chat template: the prompt around {text}, e.g. 'Q: {text}\nA:'"),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 0.7,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
) -> None:
    """Talk to one model, or to several side by side: a line from the keyboard (or stdin) is one message."""
    quiet_libraries()
    from rlhf.chat import converse, open_partners
    from rlhf.workspace import Workspace

    partners = open_partners(refs, Workspace.open().registry, template)
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    for ref, answer in converse(partners, _lines(), **options):
        typer.echo(f"{ref}> {answer}" if len(partners) > 1 else answer)


def doctor(json: Annotated[bool, typer.Option("--json", help="Print the findings as one JSON array.")] = False) -> None:
    """Check what this machine has: packages, home, W&B, Hub, accelerator."""
    from rlhf.doctor import examine
    from rlhf.workspace import default_home

    findings = list(examine(default_home()))
    broken = [finding for finding in findings if finding.verdict == "broken"]
    if json:
        as_json([vars(finding) for finding in findings])
    else:
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            typer.echo(f"{finding.verdict:6} {finding.what:{width}}  {finding.found}")
    if broken:
        raise UserError([f"{finding.what}: {finding.found}" for finding in broken])


def _lines() -> Iterator[str]:
    """Lines of stdin, with a prompt where a person types them, until the end of input."""
    while True:
        if sys.stdin.isatty():
            typer.echo("you> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line
