"""`rlhf eval`: measure a policy or a reward model on held-out data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from rlhf.cli.output import quiet_libraries, whole_console
from rlhf.cli.stages import Json, Overrides, finish, open_workspace
from rlhf.errors import UserError

if TYPE_CHECKING:
    from rlhf.evaluation.config import EvaluationConfig
    from rlhf.evaluation.reward_config import RewardEvaluationConfig
    from rlhf.evaluation.unseen import What

HELP = """Measure a policy or a reward model on held-out data.

`rlhf eval FILE` takes a data file alone: preferences or rankings measure the newest reward model of the registry,
prompts or demonstrations the newest policy.
"""


class _FileOrCommand(TyperGroup):
    """Commands, or the path of a data file in the place of one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` begin with; the one without a name where they begin with a data file."""
        if args and args[0] not in self.commands:
            from rlhf.evaluation.unseen import is_data

            if is_data(Path(args[0])):
                return "", self.commands["file"], args
        return super().resolve_command(ctx, args)


app = typer.Typer(help=HELP, no_args_is_help=True, cls=_FileOrCommand)

Source = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG|FILE", help="A YAML file, or a data file: .jsonl, .csv, .parquet, ...", show_default=False
    ),
]
Model = Annotated[str | None, typer.Option(metavar="REF", help="With a data file: measure this model.")]
Baseline = Annotated[
    str | None, typer.Option(metavar="REF", help="With a data file: compare with this one, not the SFT model.")
]
Judge = Annotated[str | None, typer.Option(metavar="REF", help="With a data file: a reward model that judges.")]
Resume = Annotated[
    str | None, typer.Option(metavar="RUN", help="Go on with this run: verdicts that it has are not asked for again.")
]


@app.command(name="policy")
def eval_policy(
    context: typer.Context,
    config: Source,
    overrides: Overrides = None,
    json: Json = False,
    model: Model = None,
    baseline: Baseline = None,
    judge: Judge = None,
    resume: Resume = None,
) -> None:
    """Compare language models with a baseline on held-out prompts under judges."""
    from rlhf.evaluation.config import EvaluationConfig

    settings = _settings(config, overrides, "policy", EvaluationConfig, model, baseline, judge)
    _evaluate_policy(context, settings, json, config, overrides, resume)


@app.command(name="frontier")
def eval_frontier(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A PPO run whose evaluations had a judge: its id, or its folder.")],
    json: Json = False,
) -> None:
    """Say where a PPO run became over-optimised: where a held-out judge falls while the training score rises."""
    quiet_libraries()
    from rlhf.evaluation.frontier import find_run, report_frontier

    workspace = open_workspace(context, json)
    summary = report_frontier(run, workspace.home)
    workspace.write_report(find_run(run, workspace.home))  # the figure stands in it now
    finish(summary if json else {key: value for key, value in summary.items() if key != "points"}, json, workspace)


@app.command(name="reward")
def eval_reward(
    context: typer.Context, config: Source, overrides: Overrides = None, json: Json = False, model: Model = None
) -> None:
    """Measure a reward model on held-out preferences, beside "the longest wins" and what people agree on."""
    from rlhf.evaluation.reward_config import RewardEvaluationConfig

    settings = _settings(config, overrides, "reward", RewardEvaluationConfig, model)
    _evaluate_reward(context, settings, json, config, overrides)


@app.command(name="file", hidden=True)
def eval_file(
    context: typer.Context,
    file: Source,
    overrides: Overrides = None,
    json: Json = False,
    model: Model = None,
    baseline: Baseline = None,
    judge: Judge = None,
) -> None:
    """Measure the newest model that a data file says something about: what stands for `rlhf eval FILE`."""
    from rlhf.evaluation.config import EvaluationConfig

    settings = _chosen(file, overrides, None, model, baseline, judge)
    if isinstance(settings, EvaluationConfig):
        _evaluate_policy(context, settings, json, file, overrides)
    else:
        _evaluate_reward(context, settings, json, file, overrides)


def _settings(
    path: Path, overrides: list[str] | None, what: "What", schema: Any, *named: str | None
) -> Any:  # a schema each
    """The config that a YAML file is, or that a data file is given."""
    from rlhf.config import load_config
    from rlhf.evaluation.unseen import is_data

    if is_data(path):
        return _chosen(path, overrides, what, *named)
    for option, value in zip(("--model", "--baseline", "--judge"), named, strict=False):
        if value is not None:
            raise UserError(f"{option} {value}: goes with a data file; in {path} the models have their keys")
    return load_config(path, schema, overrides or ())


def _chosen(
    path: Path, overrides: list[str] | None, what: "What | None", *named: str | None
) -> "EvaluationConfig | RewardEvaluationConfig":
    from rlhf.evaluation.unseen import Named, choose
    from rlhf.workspace import Workspace

    found = choose(path, Workspace.open().registry, Named(*named), overrides or (), what)
    typer.echo(found.line, err=True)
    return found.config


def _evaluate_policy(
    context: typer.Context,
    settings: Any,
    json: bool,
    config: Path,
    overrides: list[str] | None,
    resume: str | None = None,
) -> None:
    quiet_libraries()
    from rlhf.evaluation.policy import evaluate_policy

    workspace = open_workspace(context, json, config, overrides, resume=resume)
    finish(evaluate_policy(settings, workspace), json, workspace)


def _evaluate_reward(
    context: typer.Context, settings: Any, json: bool, config: Path, overrides: list[str] | None
) -> None:
    quiet_libraries()
    from rlhf.evaluation.ending import RequirementsNotMet
    from rlhf.evaluation.rewards import evaluate_reward

    workspace = open_workspace(context, json, config, overrides)
    try:
        summary = evaluate_reward(settings, workspace)
    except RequirementsNotMet as error:
        _finish_reward(error.summary, json, workspace)
        raise
    _finish_reward(summary, json, workspace)


def _finish_reward(summary: dict[str, Any], json: bool, workspace: Any) -> None:
    """As `finish`, with a table for every column by which accuracy was told apart."""
    if json:
        finish(summary, json, workspace)
        return
    from rich.table import Table
    from rich.text import Text

    for column, found in summary["groups"].items():
        table = Table(column, "accuracy", "interval", "longest wins", "people agree", "pairs", "prompts", box=None)
        for name, of in found.items():
            interval = of["accuracy_ci"]
            shares = (
                f"{of['accuracy']:.3f}",
                f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "",
                f"{of['accuracy_longest']:.3f}",
                "" if of["agreement_people"] is None else f"{of['agreement_people']:.3f}",
            )
            table.add_row(Text(name), *shares, f"{of['num_pairs']:,}", f"{of['num_prompts']:,}")
        whole_console().print(table)
    finish({key: value for key, value in summary.items() if key != "groups"}, json, workspace)
