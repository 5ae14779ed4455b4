"""`rlhf eval`: measure a policy or a reward model on held-out data."""

import typer

from rlhf.cli.output import quiet_libraries
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
    from rlhf.evaluation.rewards import evaluate_reward

    workspace = open_workspace(context, json, config, overrides)
    finish(evaluate_reward(settings, workspace), json, workspace)
