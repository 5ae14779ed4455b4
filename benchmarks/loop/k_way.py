"""What a ranking of four teaches beside one answer about a pair, and beside as many pairs as it holds.

`python -m benchmarks.loop.k_way HOME`, HOME being that of a finished `rlhf demo`. The annotators are simulated.
"""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Annotated

import typer

from benchmarks.loop.pool import NUM_COMPLETIONS, collect, load_pool, pairs_of, panel, shuffled
from benchmarks.loop.training import accuracy

PAIRS = NUM_COMPLETIONS * (NUM_COMPLETIONS - 1) // 2


def main(
    home: Annotated[Path, typer.Argument(help="RLHF_HOME of a finished `rlhf demo`.")],
    seeds: Annotated[str, typer.Option(help="Of annotators, tasks and training.")] = "0,1,2",
    answers: Annotated[int, typer.Option(help="Rankings, and pairwise answers.")] = 300,
    noise: Annotated[float, typer.Option(help="Rubric points of one logit.")] = 1.0,
    epochs: Annotated[float, typer.Option(help="Passes over the answers.")] = 2.0,
    items: Annotated[int, typer.Option(help="Prompts of the pool.")] = 2400,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
) -> None:
    """Print a line a training, then a table; with --json all of it in a file."""
    pool = load_pool(home, items)
    if answers * PAIRS > len(pool.items):
        raise SystemExit(f"{answers} x {PAIRS} pairs take as many prompts, and the pool has {len(pool.items)}")
    rows = []
    for seed in map(int, seeds.split(",")):
        order = shuffled(pool.items, seed)
        arms = {
            f"{answers} rankings of {NUM_COMPLETIONS}": order[:answers],
            f"{answers} pairwise answers": pairs_of(order[:answers], seed),
            f"{answers * PAIRS} pairwise answers": pairs_of(order[: answers * PAIRS], seed),
        }
        for arm, chosen in arms.items():
            rankings = collect(chosen, panel(seed, noise, honest=4))
            found = accuracy(pool, rankings, seed, trainer={"num_train_epochs": epochs})
            rows.append({"arm": arm, "seed": seed, **asdict(found)})
            low, high = found.accuracy_ci
            print(f"seed {seed}  {arm:22} {found.accuracy:.3f} [{low:.3f}, {high:.3f}]  {found.seconds} s", flush=True)
    print(f"\nheld-out accuracy, mean over seeds {seeds}; annotators are simulated")
    means = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        each = [row["accuracy"] for row in rows if row["arm"] == arm]
        means[arm] = mean(each)
        print(f"{arm:22} {means[arm]:.3f} ({' '.join(f'{value:.3f}' for value in each)})")
    if json_path:
        settings = {"answers": answers, "noise": noise, "epochs": epochs, "items": items}
        json_path.write_text(json.dumps({"settings": settings, "means": means, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
