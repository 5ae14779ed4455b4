"""Simulated annotators: they know the rubric, weigh it each in their own way, and err as often as people do.

Their names start with `sim-` and every ranking they write is marked `simulated`.
"""

# ruff: noqa: S311 - seeded draws that make the demo's data, nothing secret

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

from rlhf.demo.rubric import rubric_breakdown
from rlhf.records import Ranking

TASTE_SPREAD = 0.25
POSITION_BIAS = 0.1
TIE_WITHIN = 0.15
OVERLAP = 0.25


@dataclass(frozen=True)
class SimulatedAnnotator:
    """Ranks completions by the rubric, seen through personal taste and noise.

    Args:
        name: pseudonym, `sim-...`.
        noise: standard deviation of the error on one completion's utility, in rubric points.
        seed: with `name` it fixes the taste; with a task's number it fixes the errors made on that task.
    """

    name: str
    noise: float
    seed: int = 0

    @property
    def taste(self) -> dict[str, float]:
        """What one rubric point of each criterion is worth to this person, about 1."""
        rng = random.Random(f"taste {self.name} {self.seed}")
        names = ("action", "item", "courtesy", "next_step", "focus", "fluency", "ending")
        return {name: max(0.1, rng.gauss(1.0, TASTE_SPREAD)) for name in names}

    def rank(self, prompt: str, completions: Sequence[str], task: int = 0) -> list[list[int]]:
        """Tiers of positions in `completions`, best first; equal texts and close calls share a tier.

        The completion shown first gets a small bonus, as with people (52% against 48% in AlpacaFarm).
        """
        rng = random.Random(f"task {self.name} {self.seed} {task}")
        taste = self.taste
        shown_first = rng.randrange(len(completions))
        utility: dict[str, float] = {}
        for position, text in enumerate(completions):
            points = asdict(rubric_breakdown(prompt, text))
            worth = sum(taste[name] * value for name, value in points.items()) + rng.gauss(0.0, self.noise)
            utility.setdefault(text, worth + POSITION_BIAS * (position == shown_first))
        order = sorted(range(len(completions)), key=lambda position: -utility[completions[position]])
        tiers = [[order[0]]]
        for position in order[1:]:
            best_of_tier = utility[completions[tiers[-1][0]]]
            if best_of_tier - utility[completions[position]] < TIE_WITHIN:
                tiers[-1].append(position)
            else:
                tiers.append([position])
        return tiers


def panel(seed: int) -> list[SimulatedAnnotator]:
    """The demo's four annotators, from careful to careless."""
    noises = {"sim-ana": 0.7, "sim-ben": 0.85, "sim-chi": 1.0, "sim-dee": 1.15}
    return [SimulatedAnnotator(name, noise, seed) for name, noise in noises.items()]


def annotate(prompts: Sequence[str], completions_per_prompt: Sequence[Sequence[str]], seed: int) -> list[Ranking]:
    """Rankings of every prompt's completions by one annotator of the panel, a quarter of them by two.

    `task` names the prompt's place, so that rankings of the same task by different people can be compared.
    """
    people = panel(seed)
    rng = random.Random(f"assignment {seed}")
    rankings = []
    for number, (prompt, completions) in enumerate(zip(prompts, completions_per_prompt, strict=True)):
        for person in rng.sample(people, 2 if rng.random() < OVERLAP else 1):
            rankings.append(
                Ranking(
                    prompt=prompt,
                    completions=list(completions),
                    tiers=person.rank(prompt, completions, task=number),
                    annotator=person.name,
                    task=f"demo-{number}",
                    simulated=True,
                )
            )
    return rankings


def rank_by_rubric(prompts: Sequence[str], completions_per_prompt: Sequence[Sequence[str]], seed: int) -> list[Ranking]:
    """What the rubric itself says, without taste or errors; equal scores tie. Held-out judgements to measure against.

    `seed` is there because every function that ranks takes one.
    """
    rankings = []
    for number, (prompt, completions) in enumerate(zip(prompts, completions_per_prompt, strict=True)):
        tiers: dict[float, list[int]] = {}
        for position, text in enumerate(completions):
            tiers.setdefault(rubric_breakdown(prompt, text).total, []).append(position)
        rankings.append(
            Ranking(
                prompt=prompt,
                completions=list(completions),
                tiers=[tiers[score] for score in sorted(tiers, reverse=True)],
                annotator="sim-rubric",
                task=f"demo-{number}",
                simulated=True,
            )
        )
    return rankings


def pairwise_agreement(rankings: Sequence[Ranking]) -> tuple[float, int]:
    """How often two people put a pair the same way round, and over how many pairs both had an order for.

    Returns:
        The share (NaN without a common pair) and the number of pairs.
    """
    by_task: dict[str | None, list[Ranking]] = {}
    for ranking in rankings:
        by_task.setdefault(ranking.task, []).append(ranking)
    same = total = 0
    for group in by_task.values():
        for one, other in combinations(group, 2):
            place, other_place = _places(one), _places(other)
            for a, b in combinations(sorted(place.keys() & other_place.keys()), 2):
                first, second = place[a] - place[b], other_place[a] - other_place[b]
                total += first * second != 0
                same += first * second > 0
    return (same / total if total else float("nan")), total


def _places(ranking: Ranking) -> dict[int, int]:
    return {position: tier for tier, members in enumerate(ranking.tiers) for position in members}
