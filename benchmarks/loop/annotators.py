"""What a careless and a malicious annotator among six cost, and what weights of reliability bring back.

`python -m benchmarks.loop.annotators HOME`, HOME being that of a finished `rlhf demo`. All annotators are simulated.
"""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer

from benchmarks.loop.pool import collect, load_pool, panel, shuffled
from benchmarks.loop.training import accuracy

ARMS: dict[str, tuple[dict[str, int], dict[str, Any]]] = {
    "all honest": ({"honest": 6}, {}),
    "two bad": ({"honest": 4, "careless": 1, "malicious": 1}, {}),
    "two bad, weighted": ({"honest": 4, "careless": 1, "malicious": 1}, {"loss": {"weights": "reliability"}}),
}
"""Who annotates, and the reward stage's section."""


def main(
    home: Annotated[Path, typer.Argument(help="RLHF_HOME of a finished `rlhf demo`.")],
    seeds: Annotated[str, typer.Option(help="Of annotators, tasks and training.")] = "0,1,2",
    tasks: Annotated[int, typer.Option(help="Prompts, four completions each.")] = 600,
    overlap: Annotated[int, typer.Option(help="Annotators that rank each.")] = 2,
    noise: Annotated[float, typer.Option(help="Rubric points of one logit.")] = 1.0,
    steps: Annotated[
        int, typer.Option(help="Of 16 rankings each, in every arm: who leaves some out trains no less.")
    ] = 300,
    items: Annotated[int, typer.Option(help="Prompts of the pool.")] = 2400,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
) -> None:
    """Print a line a training, then a table; with --json all of it in a file."""
    pool = load_pool(home, items)
    rows = []
    for seed in map(int, seeds.split(",")):
        chosen = shuffled(pool.items, seed)[:tasks]
        for arm, (people, sections) in ARMS.items():
            rankings = collect(chosen, panel(seed, noise, **people), overlap=overlap)
            found = accuracy(pool, rankings, seed, trainer={"max_steps": steps}, **sections)
            rows.append({"arm": arm, "seed": seed, **asdict(found)})
            low, high = found.accuracy_ci
            print(f"seed {seed}  {arm:18} {found.accuracy:.3f} [{low:.3f}, {high:.3f}]  {found.seconds} s", flush=True)
    means = {arm: mean(row["accuracy"] for row in rows if row["arm"] == arm) for arm in ARMS}
    honest = means["all honest"]
    print(f"\n{tasks} prompts, {overlap} rankings each by simulated annotators; held-out accuracy over seeds {seeds}")
    for arm, value in means.items():
        each = " ".join(f"{row['accuracy']:.3f}" for row in rows if row["arm"] == arm)
        print(f"{arm:18} {value:.3f} ({each})  lost against all honest: {100 * (honest - value):+.1f} points")
    print("asked: weighted at most 2 points lost, unweighted at least 4")
    if json_path:
        settings = {"tasks": tasks, "overlap": overlap, "noise": noise, "steps": steps, "items": items}
        json_path.write_text(json.dumps({"settings": settings, "means": means, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
