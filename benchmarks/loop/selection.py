"""How many rankings active selection saves: accuracy by number of rankings, chosen by disagreement or at random.

`python -m benchmarks.loop.selection HOME`, HOME being that of a finished `rlhf demo`. Both arms train the same ensemble
from the SFT model on all rankings so far and begin with the same ones drawn at random. The annotators are simulated.

A noisy curve first reaches an accuracy too early: that of random choice often reaches its own last accuracy before its
last ranking, so it stands beside the other by the same rule. What decides is the accuracy of active choice at `BUDGET`
of the rankings less that of random choice at all of them, on the same held-out pairs.
"""

import json
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import numpy as np
import typer
from scipy.stats import t as student

from benchmarks.loop.pool import Item, Pool, collect, load_pool, panel, shuffled
from benchmarks.loop.training import Trained, training
from labeling_app.simulated import Judge
from rlhf.evaluation.rewards import all_pairs, score_pairs
from rlhf.evaluation.statistics import Floats, bootstrap_mean, wins
from rlhf.pipeline.selecting import choose
from rlhf.records import Preference, Ranking, prompt_key, read_jsonl
from rlhf.scoring import RewardModelScorer, disagreement

BUDGET = 0.6
"""The share of random choice's rankings that active choice is to do with."""


@dataclass(frozen=True)
class Point:
    """A training, and on which of P held-out pairs its model is right, [P]."""

    trained: Trained
    right: Floats


Curve = list[Point]


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
    held_out = all_pairs(read_jsonl(pool.held_out, Ranking)[0])
    numbers = [int(size) for size in sizes.split(",")]
    options: dict[str, Any] = {"ensemble": {"num_members": members}, "trainer": {"num_train_epochs": epochs}}
    curves: dict[str, list[Curve]] = {"random": [], "active": []}
    for seed in map(int, seeds.split(",")):
        order = shuffled(pool.items, seed)
        for arm, found in curves.items():
            factor = pool_factor if arm == "active" else 1.0
            found.append(_curve(pool, held_out, order, numbers, seed, noise, factor, random_share, options))
            points = [point.trained for point in found[-1]]
            shown = "  ".join(f"{one.num_rankings}: {one.accuracy:.3f}" for one in points)
            print(f"seed {seed}  {arm:7} {shown}  {sum(one.seconds for one in points):.0f} s", flush=True)
    means = {
        arm: [mean(each) for each in zip(*(_values(one) for one in found), strict=True)]
        for arm, found in curves.items()
    }
    print(f"\nheld-out accuracy, mean over seeds {seeds}; annotators are simulated")
    for arm, values in means.items():
        print(f"{arm:7} " + "  ".join(f"{size}: {value:.3f}" for size, value in zip(numbers, values, strict=True)))
    reached: dict[str, dict[str, Any]] = {
        arm: {
            "of_means": needed(numbers, means[arm], means["random"][-1]),
            "by_seed": [
                needed(numbers, _values(a), _values(r)[-1]) for a, r in zip(found, curves["random"], strict=True)
            ],
        }
        for arm, found in curves.items()
    }
    print(f"rankings at which the accuracy of {numbers[-1]} random ones is first reached")
    for arm, shares in reached.items():
        print(f"{arm:7} {_shown(shares['of_means'])} of the means; by seed {', '.join(map(_shown, shares['by_seed']))}")
    gain = gain_at_budget(
        numbers,
        [[point.right for point in curve] for curve in curves["active"]],
        [curve[-1].right for curve in curves["random"]],
        [prompt_key(pair.prompt) for pair in held_out],
    )
    print(f"active at {BUDGET:.0%} of the rankings less random at all: {gain}")
    if json_path:
        settings = {"sizes": numbers, "random_share": random_share, "pool": pool_factor, "members": members}
        settings |= {"noise": noise, "epochs": epochs, "items": items}
        runs = {arm: [[asdict(point.trained) for point in curve] for curve in found] for arm, found in curves.items()}
        result = {
            "settings": settings,
            "means": means,
            "reached": reached,
            "gain_at_budget": asdict(gain),
            "runs": runs,
        }
        json_path.write_text(json.dumps(result, indent=1) + "\n")


def _curve(
    pool: Pool,
    held_out: Sequence[Preference],
    order: list[Item],
    sizes: list[int],
    seed: int,
    noise: float,
    pool_factor: float,
    random_share: float,
    options: dict[str, Any],
) -> Curve:
    """Accuracy after each of `sizes` rankings; a factor of 1 takes the next ones of `order`."""
    left, rankings, curve = list(order), list[Ranking](), list[Point]()
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
            curve.append(Point(trained, wins(*score_pairs(loaded, held_out))))
            scorer = loaded
    return curve


def _asked(items: list[Item], people: list[Judge]) -> list[Ranking]:
    return collect(items, people)


def _disagreements(scorer: RewardModelScorer, items: list[Item]) -> list[float]:
    prompts = [item.prompt for item in items for _ in item.completions]
    scores = scorer.score_members(prompts, [text for item in items for text in item.completions])
    return [disagreement(part) for part in scores.split([len(item.completions) for item in items])]


def _values(curve: Curve) -> list[float]:
    return [point.trained.accuracy for point in curve]


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


@dataclass(frozen=True)
class Gain:
    """A difference of two accuracies: its mean, intervals of 95% over prompts and over seeds, and each seed's own."""

    mean: float
    over_prompts: list[float]
    over_seeds: list[float] | None
    """Student's t; None for one seed."""
    by_seed: list[float]

    def __str__(self) -> str:
        ends = {"prompts": self.over_prompts, "seeds": self.over_seeds}
        intervals = [f"[{each[0]:+.3f}, {each[1]:+.3f}] over {name}" for name, each in ends.items() if each]
        return f"{self.mean:+.3f} {', '.join(intervals)}; by seed {' '.join(f'{one:+.3f}' for one in self.by_seed)}"


def gain_at_budget(
    sizes: Sequence[int],
    active: Sequence[Sequence[Floats]],
    random: Sequence[Floats],
    prompts: Sequence[Hashable],
) -> Gain:
    """Accuracy of active choice at `BUDGET` of the last size, straight between its points, less random choice's at all.

    Args:
        sizes: of the curves' N points.
        active: for each seed and point, what is right of P held-out pairs, [S][N][P].
        random: the same at the last point, [S][P].
        prompts: of the pairs, [P]; those of one prompt are drawn together.
    """
    at = BUDGET * sizes[-1]
    above = next(number for number, size in enumerate(sizes) if size >= at)
    below = max(above - 1, 0)
    share = (at - sizes[below]) / (sizes[above] - sizes[below]) if above else 1.0
    pairs = zip(active, random, strict=True)
    differences = np.stack([(1 - share) * curve[below] + share * curve[above] - last for curve, last in pairs])
    by_seed = [float(each) for each in differences.mean(1)]
    found, over_seeds = bootstrap_mean(differences.mean(0), prompts), None
    if len(by_seed) > 1:
        half = float(student.ppf(0.975, len(by_seed) - 1)) * stdev(by_seed) / len(by_seed) ** 0.5
        over_seeds = [found.value - half, found.value + half]
    return Gain(found.value, found.interval, over_seeds, by_seed)


def _shown(share: float | None) -> str:
    return "not reached" if share is None else f"{100 * share:.0f}%"


if __name__ == "__main__":
    typer.run(main)
