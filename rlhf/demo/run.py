"""`rlhf demo`: the whole path on a world of its own, from a tiny base model to an exported policy."""

import shlex
import shutil
import sys
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from rlhf.demo.world import write_data
from rlhf.errors import UserError
from rlhf.pipeline.config import load_pipeline
from rlhf.pipeline.run import run_stages
from rlhf.workspace import Workspace


def run_demo(workspace: Workspace, *, seed: int = 0, fresh: bool = False) -> dict[str, Any]:
    """Lay out the demo in the workspace's home (base model, data, configs) and run it.

    Configs that are there already stay as they are: they are the user's to change.

    Args:
        workspace: everything the demo writes lies in its home.
        seed: of the world, the simulated annotators and every stage.
        fresh: run finished stages anew.

    Returns:
        The summary of `rlhf run`.

    Raises:
        UserError: the home cannot be made.
    """
    home = workspace.home
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{home}: cannot be made a folder ({error.strerror}); choose another one") from None
    write_data(home / "data", seed)
    for part in ("base", "configs"):
        target = home / "base" if part == "base" else home
        _copy_missing(resources.files("rlhf.demo") / part, target)
    return run_stages(load_pipeline(home / "run.yaml", [f"seed={seed}"]), workspace, fresh=fresh)


def next_steps(workspace: Workspace, summary: dict[str, Any]) -> str:
    """The next commands, as they can be typed where the demo was run."""
    home = workspace.home
    shown = home.relative_to(Path.cwd()) if home.is_relative_to(Path.cwd()) else home
    made, rlhf = summary["artefacts"], _program()
    writers = f"--model {made['sft']} --model {made['ppo']} --max-new-tokens 64 --limit 25"
    return "\n".join(
        [
            "",
            "What next:",
            f"  look at the report:            {summary['report']}",
            "  rank some outputs yourself:",
            f"    {rlhf} --home {shown} label add --prompts {shown}/data/prompts_heldout.jsonl {writers}",
            f"    {rlhf} --home {shown} label serve",
            f"  see where the policy is from:  {rlhf} --home {shown} models lineage {made['ppo']}",
            f"  change something, run again:   {rlhf} --home {shown} run {shown}/run.yaml ppo.trainer.kl_target=2",
            f"  point it at a real model:      {rlhf} run configs/qwen.yaml   (in a checkout of the project)",
        ]
    )


def _program() -> str:
    """What is to be typed for `rlhf`: the word where the shell would find this program by it, else as it was called."""
    called = Path(sys.argv[0])
    on_path = shutil.which("rlhf")
    if called.name != "rlhf" or (on_path is not None and Path(on_path).resolve() == called.resolve()):
        return "rlhf"
    return shlex.quote(sys.argv[0])


def _copy_missing(source: Traversable, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and not (target / file.name).exists():
            with resources.as_file(file) as path:
                shutil.copy2(path, target / file.name)
