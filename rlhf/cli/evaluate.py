"""`rlhf eval`: measure a policy or a reward model on held-out data."""

from typing import Any

import typer

from rlhf.cli.output import quiet_libraries, whole_console
from rlhf.cli.stages import Config, Json, Overrides, finish, open_workspace

app = typer.Typer(help="Measure a policy or a reward model on held-out data.", no_args_is_help=True)


@app.command(name="policy")
def eval_policy(context: typer.Context, config: Config, overrides: Overrides = None, json: Json = False) -> None:
    """Compare two language models on held-out prompts under a judge."""
    from rlhf.config import load_config
    from rlhf.evaluation.config import EvaluationConfig

    settings = load_config(config, EvaluationConfig, overrides or ())
    quiet_libraries()
    from rlhf.evaluation.policy import evaluate_policy

    workspace = open_workspace(context, json, config, overrides)
    finish(evaluate_policy(settings, workspace), json, workspace)


@app.command(name="reward")
def eval_reward(context: typer.Context, config: Config, overrides: Overrides = None, json: Json = False) -> None:
    """Measure a reward model on held-out preferences, beside "the longest wins"."""
    from rlhf.config import load_config
    from rlhf.evaluation.reward_config import RewardEvaluationConfig

    settings = load_config(config, RewardEvaluationConfig, overrides or ())
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

    groups = summary["groups"]
    for column, found in groups.items():
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
