"""How many rankings active selection saves: accuracy by number of rankings, chosen by disagreement or at random.

`python -m benchmarks.loop.selection HOME`, HOME being that of a finished `rlhf demo`. Both arms train the same ensemble
from the SFT model on all rankings so far and begin with the same ones drawn at random. The annotators are simulated.
"""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer

from benchmarks.loop.pool import Item, Pool, collect, load_pool, panel, shuffled
from benchmarks.loop.training import Trained, training
from labeling_app.simulated import Judge
from rlhf.pipeline.selecting import choose
from rlhf.records import Ranking
from rlhf.scoring import RewardModelScorer, disagreement

Curve = list[Trained]


def main(
    home: Annotated[Path, typer.Argument(help="RLHF_HOME of a finished `rlhf demo`.")],
    seeds: Annotated[str, typer.Option(help="Of annotators, pool and training.")] = "0,1,2",
    sizes: Annotated[str, typer.Option(help="Rankings after each round.")] = "200,400,600,800",
    random_share: Annotated[float, typer.Option(help="Of what is chosen, drawn from all.")] = 0.25,
    pool_factor: Annotated[float, typer.Option("--pool", help="Prompts to choose each from.")] = 4.0,
    members: Annotated[int, typer.Option(help="Of the ensemble.")] = 4,
    noise: Annotated[float, typer.Option(help="Rubric points of one logit.")] = 1.0,
    epochs: Annotated[float, typer.Option(help="Passes over the rankings.")] = 2.0,
    items: Annotated[int, typer.Option(help="Prompts of the pool.")] = 2400,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
) -> None:
    """Print a line a training, then a table; with --json all of it in a file."""
    pool = load_pool(home, items)
    numbers = [int(size) for size in sizes.split(",")]
    options: dict[str, Any] = {"ensemble": {"num_members": members}, "trainer": {"num_train_epochs": epochs}}
    curves: dict[str, list[Curve]] = {"random": [], "active": []}
    for seed in map(int, seeds.split(",")):
        order = shuffled(pool.items, seed)
        for arm, found in curves.items():
            factor = pool_factor if arm == "active" else 1.0
            found.append(_curve(pool, order, numbers, seed, noise, factor, random_share, options))
            shown = "  ".join(f"{one.num_rankings}: {one.accuracy:.3f}" for one in found[-1])
            print(f"seed {seed}  {arm:7} {shown}  {sum(one.seconds for one in found[-1]):.0f} s", flush=True)
    means = {
        arm: [mean(each) for each in zip(*(_values(one) for one in found), strict=True)]
        for arm, found in curves.items()
    }
    shares = [needed(numbers, _values(a), r[-1].accuracy) for r, a in zip(*curves.values(), strict=True)]
    print(f"\nheld-out accuracy, mean over seeds {seeds}; annotators are simulated")
    for arm, values in means.items():
        print(f"{arm:7} " + "  ".join(f"{size}: {value:.3f}" for size, value in zip(numbers, values, strict=True)))
    share = needed(numbers, means["active"], means["random"][-1])
    print(f"rankings for the accuracy of {numbers[-1]} random ones, of the means: {_shown(share)}; by seed: ", end="")
    print(", ".join(_shown(one) for one in shares) + "; asked: at most 60%")
    if json_path:
        settings = {"sizes": numbers, "random_share": random_share, "pool": pool_factor, "members": members}
        settings |= {"noise": noise, "epochs": epochs, "items": items}
        runs = {arm: [[asdict(one) for one in curve] for curve in found] for arm, found in curves.items()}
        result = {"settings": settings, "means": means, "share": share, "shares": shares, "runs": runs}
        json_path.write_text(json.dumps(result, indent=1) + "\n")


def _curve(
    pool: Pool,
    order: list[Item],
    sizes: list[int],
    seed: int,
    noise: float,
    pool_factor: float,
    random_share: float,
    options: dict[str, Any],
) -> Curve:
    """Accuracy after each of `sizes` rankings; a factor of 1 takes the next ones of `order`."""
    left, rankings, curve = list(order), [], []
    people = panel(seed, noise, honest=4)
    scorer: RewardModelScorer | None = None
    for size in sizes:
        num = size - len(rankings)
        if scorer is None or pool_factor == 1:
            picked = list(range(num))
        else:
            candidates = left[: round(num * pool_factor)]
            measured = _disagreements(scorer, candidates)
            picked = [one.index for one in choose(measured, num, random_share=random_share, seed=seed + size)]
        rankings += _asked([left[index] for index in picked], people)
        # what was looked at and not chosen comes again after the rest
        seen = len(picked) if scorer is None or pool_factor == 1 else len(candidates)
        passed_over = [item for index, item in enumerate(left[:seen]) if index not in set(picked)]
        left = left[seen:] + passed_over
        with training(pool, rankings, seed, **options) as (trained, loaded):
            curve.append(trained)
            scorer = loaded
    return curve


def _asked(items: list[Item], people: list[Judge]) -> list[Ranking]:
    return collect(items, people)


def _disagreements(scorer: RewardModelScorer, items: list[Item]) -> list[float]:
    prompts = [item.prompt for item in items for _ in item.completions]
    scores = scorer.score_members(prompts, [text for item in items for text in item.completions])
    return [disagreement(part) for part in scores.split([len(item.completions) for item in items])]


def _values(curve: Curve) -> list[float]:
    return [one.accuracy for one in curve]


def needed(sizes: list[int], values: list[float], wanted: float) -> float | None:
    """The share of the last size at which a curve, straight between its points, first reaches what is wanted."""
    for at, value in enumerate(values):
        if value >= wanted:
            if at == 0:
                return sizes[0] / sizes[-1]
            below, step = values[at - 1], value - values[at - 1]
            reached = sizes[at - 1] + (sizes[at] - sizes[at - 1]) * (wanted - below) / step
            return reached / sizes[-1]
    return None


def _shown(share: float | None) -> str:
    return "not reached" if share is None else f"{100 * share:.0f}%"


if __name__ == "__main__":
    typer.run(main)
