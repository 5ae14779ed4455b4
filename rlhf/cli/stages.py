"""The commands that run a stage or several: sft, reward, ppo, export, run, demo."""

from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any

import typer

from rlhf.cli.output import as_json, quiet_libraries, show_summary

Config = Annotated[Path, typer.Argument(help="A YAML file; see docs/config.md.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Set keys: trainer.learning_rate=1e-5", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object on stdout.")]
Resume = Annotated[
    str | None, typer.Option("--resume", metavar="RUN", help="Go on with this run from its last intact checkpoint.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    for command in (demo, sft, reward, ppo, dpo, rloo):
        app.command()(command)
    app.command(name="run")(run_pipeline)
    app.command()(export)


def sft(
    context: typer.Context, config: Config, overrides: Overrides = None, json: Json = False, resume: Resume = None
) -> None:
    """Fine-tune a language model on texts, prompts with completions, or conversations."""
    _train("sft.config:SFTStageConfig", "sft.train:train_sft", context, config, overrides, json, resume)


def reward(
    context: typer.Context, config: Config, overrides: Overrides = None, json: Json = False, resume: Resume = None
) -> None:
    """Train a reward model on pairs and rankings."""
    _train("reward.config:RewardStageConfig", "reward.train:train_reward", context, config, overrides, json, resume)


def ppo(
    context: typer.Context, config: Config, overrides: Overrides = None, json: Json = False, resume: Resume = None
) -> None:
    """Optimise a policy against a reward model, held to a reference by a KL penalty."""
    _train("rlhf.ppo.stage_config:PPOStageConfig", "rlhf.ppo.stage:train_ppo", context, config, overrides, json, resume)


def dpo(
    context: typer.Context, config: Config, overrides: Overrides = None, json: Json = False, resume: Resume = None
) -> None:
    """Optimise a policy on pairs and rankings directly, without a reward model (DPO)."""
    _train("rlhf.dpo.stage_config:DPOStageConfig", "rlhf.dpo.stage:train_dpo", context, config, overrides, json, resume)


def rloo(
    context: typer.Context, config: Config, overrides: Overrides = None, json: Json = False, resume: Resume = None
) -> None:
    """Optimise a policy against a reward without a critic, by several answers to each prompt (RLOO)."""
    _train(
        "rlhf.rloo.stage_config:RLOOStageConfig", "rlhf.rloo.stage:train_rloo", context, config, overrides, json, resume
    )


def _train(
    schema: str,
    stage: str,
    context: typer.Context,
    config: Path,
    overrides: list[str] | None,
    json: bool,
    resume: str | None,
) -> None:
    """Run one stage. What its config and its function are called is resolved in turn: a typo needs no torch."""
    from rlhf.config import load_config

    settings = load_config(config, resolve_name(schema), overrides or ())
    quiet_libraries()
    train = resolve_name(stage)
    workspace = open_workspace(context, json, config, overrides, resume=resume)
    finish(train(settings, workspace), json, workspace)


def run_pipeline(
    context: typer.Context,
    config: Config,
    overrides: Overrides = None,
    json: Json = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run every stage anew, finished ones too.")] = False,
) -> None:
    """Run all stages of one file; finished ones are not run again.

    Keys begin with the stage: `rlhf run run.yaml ppo.trainer.kl_coef=0.1`.
    """
    from rlhf.pipeline.config import load_pipeline

    plan = load_pipeline(config, overrides or ())
    quiet_libraries()
    from rlhf.pipeline.run import run_stages

    finish(run_stages(plan, open_workspace(context, json, config, overrides), fresh=fresh), json)


def demo(
    json: Json = False,
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its data, configs, artefacts and runs.")] = Path(
        "rlhf-demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of every random draw, the simulated annotators' included.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run every stage anew, finished ones too.")] = False,
) -> None:
    """Watch a tiny model being aligned: minutes on two cores, no network, no account.

    The people who rank its replies are **simulated**.
    """
    quiet_libraries()
    from rlhf.demo.run import run_demo
    from rlhf.tracking.environment import command_line
    from rlhf.workspace import Workspace

    command = command_line(["rlhf", "demo", "--folder", str(folder), "--seed", str(seed)])
    workspace = Workspace.open(folder, progress=not json, command=command)
    summary = run_demo(workspace, seed=seed, fresh=fresh)
    finish(summary, json)
    if not json:
        from rlhf.demo.run import next_steps

        typer.echo(next_steps(workspace, summary), err=True)


def export(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(help="What to export: a registry ref such as support/policy@v2.")],
    path: Annotated[Path, typer.Argument(help="The folder to write.")],
    form: Annotated[
        str, typer.Option("--format", help="merged: a whole model; adapter: the adapter alone.")
    ] = "merged",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; as the weights are stored when left out.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is no earlier export.")] = False,
    json: Json = False,
) -> None:
    """Write a model out of the registry as a folder that stands alone, with a card that names its ancestors."""
    from rlhf.config import Located, validate
    from rlhf.export.config import ExportConfig

    given: dict[str, Any] = {
        "model": ref,
        "path": Located(str(path), Path.cwd()),
        "format": form,
        "overwrite": overwrite,
    }
    settings = validate(given | ({"dtype": dtype} if dtype else {}), ExportConfig, origin="rlhf export")
    quiet_libraries()
    from rlhf.export.export import export_model

    workspace = open_workspace(context, json)
    summary = export_model(
        settings.model,
        settings.path,
        registry=workspace.registry,
        format=settings.format,
        dtype=settings.dtype,
        overwrite=settings.overwrite,
    )
    finish(summary, json)


def open_workspace(
    context: typer.Context,
    json: bool,
    config: Path | None = None,
    overrides: list[str] | None = None,
    *,
    resume: str | None = None,
) -> Any:
    """The workspace of a command, which knows what has been typed and the run to go on with."""
    from rlhf.tracking.environment import command_line
    from rlhf.workspace import Workspace

    program, *words = context.command_path.split()
    home = context.find_root().params.get("home")
    at_home = ["--home", str(home)] if home else []
    typed = command_line([program, *at_home, *words, *([str(config)] if config else []), *(overrides or [])])
    workspace = Workspace.open(run_id=resume, progress=not json, command=typed)
    if resume is not None and workspace.existing_run() is None:
        from rlhf.errors import UserError

        raise UserError(f"{context.command_path} --resume {resume}: there is no such run in {workspace.home / 'runs'}")
    return workspace


def finish(summary: dict[str, Any], json: bool, workspace: Any = None) -> None:
    """Print the summary, with the path of the run's report where a stage has written one."""
    if workspace is not None and "run" in summary and "report" not in summary:
        report = workspace.home / "runs" / summary["run"] / "report.html"
        summary = summary | ({"report": str(report)} if report.is_file() else {})
    if json:
        as_json(summary)
    else:
        show_summary(summary)
