"""`rlhf label`: put questions before people, see how far they are, take their answers away."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf.cli import label_serve, output
from rlhf.cli.label_report import Total, show_export, show_results, show_status, status_as_dict
from rlhf.errors import UserError

if TYPE_CHECKING:
    from labeling_app.drafts import AddOptions, Drafts
    from labeling_app.store import Store, StoreSettings
    from rlhf.pipeline.adding import Sampling

app = typer.Typer(
    help="Have people judge completions: add tasks, serve them, export the answers.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]
Queue = Annotated[
    str | None, typer.Option(help="Which queue, the config's or `default` when left out; `serve` serves one.")
]


@app.command()
def add(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="Completions to be judged: task files, trees, pairs, grades."),
    ] = None,
    prompts: Annotated[str | None, typer.Option(help="Prompts, to which completions are to be written.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="REF", help="Who writes them: a ref, folder or Hub id. Repeatable.")
    ] = None,
    compare: Annotated[
        tuple[str, str] | None, typer.Option(metavar="REF REF", help="Two models that write one completion each.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="A server that speaks OpenAI's chat API writes them.")
    ] = None,
    model_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="What that server calls the model. Repeatable.")
    ] = None,
    num: Annotated[
        int | None, typer.Option(min=2, max=9, help="Completions of one prompt: 4, or 2 in the modes pair and ab.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest completion.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="Of the sampling.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Of the sampling.")] = 1.0,
    parallel: Annotated[int, typer.Option(min=1, max=256, help="Requests to the endpoint at once.")] = 4,
    chat: Annotated[bool, typer.Option("--chat", help="Ask plain-text prompts as a user's message in a chat.")] = False,
    gold: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Judged rows whose verdict is right: mixed in unmarked.")
    ] = None,
    votes: Annotated[bool, typer.Option("--votes", help="Store what the rows were judged as answers too.")] = False,
    config: Annotated[
        Path | None, typer.Option(help="The YAML file that `serve` is given: its flags are known, its queue is filled.")
    ] = None,
    queue: Queue = None,
    mode: Annotated[
        str | None, typer.Option(help="rank, pair, rate or ab; by what the rows hold when left out.")
    ] = None,
    overlap: Annotated[int, typer.Option(min=1, max=1000, help="How many people judge a task.")] = 1,
    overlap_share: Annotated[
        float, typer.Option(min=0, max=1, help="The share of tasks that --overlap is for; the others get one.")
    ] = 1.0,
    priority: Annotated[int, typer.Option(help="Tasks of a higher priority are given out first.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many rows of each file, the first.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sampling, and of the share that --overlap is for.")] = 0,
    as_json: Json = False,
) -> None:
    """Queue completions for people to judge: from files, or written now by models or a server.

    Rows that cannot be used are reported one by one; the others are added.
    """
    from labeling_app.drafts import AddOptions

    settings = label_serve.settings_of(config)
    queue = queue or settings.queue
    writers = [*(model or []), *(compare or []), *(model_name or [])]
    chosen = _mode("ab" if compare and mode is None else mode)
    if not (files or gold or prompts):
        raise UserError("rlhf label add: name files with completions, or --prompts FILE and who is to write to them")
    _check_writers(prompts, writers, endpoint, model_name, compare and [*compare, *(model or [])])
    flags = frozenset(settings.flags)
    options = AddOptions(chosen, overlap, overlap_share, priority, votes=votes, flags=flags, seed=seed)
    output.quiet_libraries()
    total = Total()
    read = [
        _read_files(given, replace(options, gold=is_gold, votes=votes and not is_gold), chat, limit)
        for given, is_gold in ((files, False), (gold, True))
        if given
    ]
    if prompts:
        from rlhf.pipeline.adding import Sampling

        sampling = Sampling(
            prompts=prompts,
            refs=[*(model or []), *(compare or [])],
            endpoint=endpoint,
            model_names=model_name or [],
            num=_num(num, chosen, len(writers)),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            parallel=parallel,
            chat=chat,
            limit=limit,
        )
        _add_sampled(sampling, options, queue, total, show=not as_json)
    if read:
        from labeling_app.importing import add_drafts

        with _store(settings.store) as store:
            for drafts in read:
                total.add_outcome(add_drafts(store, drafts, queue))
    total.report(queue, as_json)


@app.command()
def status(queue: Annotated[str | None, typer.Argument(help="Only this queue.")] = None, as_json: Json = False) -> None:
    """Show how far each queue is, and who has judged how much."""
    with _existing_store() as store:
        found = store.status(queue)
    if queue is not None and not found:
        raise UserError(f"queue {queue!r}: there is none; `rlhf label status` shows all")
    if as_json:
        output.as_json([status_as_dict(one) for one in found])
    elif not found:
        typer.echo("No tasks yet: `rlhf label add` puts some in.")
    else:
        for one in found:
            show_status(one)


@app.command()
def results(queue: Annotated[str, typer.Argument(help="A queue of blind A/B tasks.")], as_json: Json = False) -> None:
    """Show which model people prefer in a blind A/B, how surely, and how far they agree."""
    from labeling_app.results import ab_results

    with _existing_store() as store:
        found = ab_results(store, queue)
    if as_json:
        output.as_json(found)
    else:
        show_results(found)


@app.command()
def export(
    name: Annotated[str | None, typer.Argument(help="group/name of the artefact, such as support/preferences.")] = None,
    queue: Annotated[list[str] | None, typer.Option(help="Which queue: `default` when left out. Repeatable.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--output", help="Write files into this folder, and publish nothing.")
    ] = None,
    dev_fraction: Annotated[float, typer.Option(min=0, max=0.9, help="The share of prompts that is held out.")] = 0.1,
    reliability_weights: Annotated[
        bool, typer.Option("--reliability-weights", help="Weigh each annotator by agreement with the others and gold.")
    ] = False,
    with_all_bad: Annotated[
        bool, typer.Option("--with-all-bad", help="Learn the order of completions that were all called bad, too.")
    ] = False,
    alias: Annotated[str | None, typer.Option(help="Moved to the new version.")] = None,
    as_json: Json = False,
) -> None:
    """Publish the answers for training: rankings, pairs, ratings, demonstrations.

    Left out are gold tasks and the answers of quarantined annotators.
    """
    if (name is None) == (folder is None):
        raise UserError("rlhf label export: give a name (support/preferences) or --output FOLDER, one of the two")
    from labeling_app.exporting import ExportOptions, export_labels
    from labeling_app.settings import QUEUE
    from rlhf.registry import Registry
    from rlhf.workspace import default_home

    options = ExportOptions(
        queues=tuple(queue or (QUEUE,)),
        dev_fraction=dev_fraction,
        reliability_weights=reliability_weights,
        with_all_bad=with_all_bad,
    )
    with _existing_store() as store:
        summary = export_labels(store, options, Registry(default_home()), name=name, folder=folder, alias=alias)
    if as_json:
        output.as_json(summary)
    else:
        show_export(summary)


@app.command()
def withdraw(
    queue: Annotated[str | None, typer.Argument(metavar="[QUEUE]", help="All tasks of this queue.")] = None,
    task: Annotated[
        list[int] | None, typer.Option(metavar="ID", min=1, max=2**31 - 1, help="This task, by its number. Repeatable.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Give tasks to nobody any more.

    What was answered stays and counts, and whoever has a task on the screen may still answer it.
    """
    if (queue is None) == (not task):
        raise UserError("rlhf label withdraw: give a queue or --task ID (repeatable), one of the two")
    from labeling_app.store.adding import would_withdraw

    which = queue if queue is not None else list(task or [])
    with _existing_store() as store:
        num_tasks, num_answers = store.read(would_withdraw, which)
        stays = (
            f"{output.counted(num_answers, 'answer')} {'stays and counts' if num_answers == 1 else 'stay and count'}"
        )
        if num_tasks and not yes:
            if as_json or not sys.stdin.isatty():
                raise UserError(
                    f"rlhf label withdraw: this cannot be undone ({output.counted(num_tasks, 'task')}; {stays}); "
                    "say --yes if it is meant"
                )
            question = f"Withdraw {output.counted(num_tasks, 'task')}, for good? {stays[:1].upper()}{stays[1:]}."
            typer.confirm(question, abort=True, err=True)
        num_tasks = store.withdraw(which)
    if as_json:
        output.as_json({"queue": queue, "tasks": task or None, "num_withdrawn": num_tasks, "num_answers": num_answers})
    else:
        typer.echo(f"{output.counted(num_tasks, 'task')} withdrawn; {stays}")


label_serve.register(app)


# Adding


def _mode(given: str | None) -> Any:
    from typing import get_args

    from labeling_app.answers import Mode

    if given is not None and given not in get_args(Mode):
        raise UserError(f"--mode {given}: no such mode; known: {', '.join(get_args(Mode))}")
    return given


def _num(given: int | None, mode: str | None, num_writers: int) -> int:
    """How many completions a prompt gets."""
    wanted = given or (2 if mode in ("pair", "ab") else 4)
    if mode in ("pair", "ab") and wanted != 2:
        raise UserError(f"--num {wanted}: mode {mode} compares two; leave --num out")
    if num_writers > wanted:
        raise UserError(f"--num {wanted}: there are {num_writers} models, and each is to write at least one")
    if mode == "ab" and num_writers != 2:
        raise UserError("--mode ab: compares two models; name two (--compare A B)")
    return wanted


def _check_writers(
    prompts: str | None,
    writers: Sequence[str],
    endpoint: str | None,
    model_name: Sequence[str] | None,
    compared: Sequence[str] | None,
) -> None:
    """Prompts need somebody who writes, and the other way round.

    Raises:
        UserError: so it is not.
    """
    if bool(endpoint) != bool(model_name):
        raise UserError("--endpoint URL and --model-name NAME belong together: where the model is, and its name there")
    if prompts and not writers:
        raise UserError("--prompts: who is to write? --model REF, --compare A B, or --endpoint URL --model-name NAME")
    if writers and not prompts:
        raise UserError("--prompts FILE is missing: to what are the models to write?")
    if compared is not None and len(compared) > 2:
        raise UserError("--compare A B: compares two models; leave --model out")


def _read_files(files: Sequence[str], options: "AddOptions", chat: bool, limit: int | None) -> "Drafts":
    from labeling_app.importing import known_model, read_tasks
    from rlhf.config import COMMAND_LINE, Located, validate
    from rlhf.datasets import DataSource
    from rlhf.workspace import Workspace

    workspace = Workspace.open()
    common = {"limit": limit, "conversational": True if chat else None}
    sources = [
        validate(common | {"path": Located(file, Path.cwd())}, DataSource, origin=COMMAND_LINE) for file in files
    ]
    return read_tasks(sources, options, known_model(workspace.registry), workspace.open_ref)


def _add_sampled(sampling: "Sampling", options: "AddOptions", queue: str, total: Total, *, show: bool) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from rlhf.pipeline.adding import add_sampled, open_writers, read_prompts
    from rlhf.workspace import Workspace

    workspace = Workspace.open()
    prompts, problems = read_prompts(sampling, workspace)
    total.problems += problems
    with (
        open_writers(sampling, workspace) as writers,
        _store() as store,
        Progress(console=Console(stderr=True), disable=not show) as bar,
    ):
        shown = bar.add_task("writing", total=len(prompts))
        total.add_sampled(
            add_sampled(
                store,
                prompts,
                writers,
                options,
                queue,
                num=sampling.num,
                progress=lambda done: bar.update(shown, completed=done),
            )
        )


# The store


def _store(settings: "StoreSettings | None" = None) -> "Store":
    from labeling_app.store import Store, StoreSettings
    from rlhf.workspace import default_home

    return Store.open(default_home(), settings=settings or StoreSettings())


def _existing_store() -> "Store":
    """The store of this home, which is not made by looking at it.

    Raises:
        UserError: there is none.
    """
    import os

    from rlhf.workspace import default_home

    home = default_home()
    if "RLHF_DATABASE_URL" not in os.environ and not (home / "labels.db").is_file():
        raise UserError(
            f"{home}: holds no labels yet; `rlhf label add` makes the first tasks (RLHF_HOME chooses a place)"
        )
    return _store()
