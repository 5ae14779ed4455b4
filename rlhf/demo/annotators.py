"""Simulated annotators: they know the rubric, weigh it each in their own way, and err as often as people do.

They answer in the label store through the same calls as people. Their names start with `sim-`, and the store marks
them, and all that comes of their answers, as simulated.
"""

# ruff: noqa: S311 - seeded draws that make the demo's data, nothing secret

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from labeling_app.answers import Mode
from rlhf.demo.rubric import rubric_breakdown, rubric_score

TASTE_SPREAD = 0.25
POSITION_BIAS = 0.1
TIE_WITHIN = 0.15


@dataclass(frozen=True)
class SimulatedAnnotator:
    """Ranks completions by the rubric, seen through personal taste and noise.

    Args:
        name: pseudonym, `sim-...`.
        noise: standard deviation of the error on one completion's utility, in rubric points.
        seed: with `name` it fixes the taste; with prompt and completion it fixes the error.
    """

    name: str
    noise: float
    seed: int = 0

    @cached_property
    def taste(self) -> dict[str, float]:
        """What one rubric point of each criterion is worth to this person, about 1."""
        rng = random.Random(f"taste {self.name} {self.seed}")
        names = ("action", "item", "courtesy", "next_step", "focus", "fluency", "ending")
        return {name: max(0.1, rng.gauss(1.0, TASTE_SPREAD)) for name in names}

    def judge(self, mode: Mode, prompt: str, responses: Sequence[str], presented: Sequence[int]) -> list[list[int]]:
        """Tiers of positions in `responses`, best first; close calls share a tier.

        The one shown first gets a small bonus, as with people (52% against 48% in AlpacaFarm).
        """
        utility = [
            self._worth(prompt, text) + POSITION_BIAS * (at == presented[0]) for at, text in enumerate(responses)
        ]
        order = sorted(range(len(responses)), key=lambda at: -utility[at])
        tiers = [[order[0]]]
        for at in order[1:]:
            if utility[tiers[-1][0]] - utility[at] < TIE_WITHIN:
                tiers[-1].append(at)
            else:
                tiers.append([at])
        return tiers

    def _worth(self, prompt: str, text: str) -> float:
        error = random.Random(f"error {self.name} {self.seed} {prompt} {text}").gauss(0.0, self.noise)
        points = asdict(rubric_breakdown(prompt, text))
        return error + sum(self.taste[name] * value for name, value in points.items())


@dataclass(frozen=True)
class Rubric:
    """Says what the rubric itself says, without taste or errors; equal scores tie."""

    name: str = "sim-rubric"

    def judge(self, mode: Mode, prompt: str, responses: Sequence[str], presented: Sequence[int]) -> list[list[int]]:
        """Tiers of positions in `responses`, best first."""
        tiers: dict[float, list[int]] = {}
        for at, text in enumerate(responses):
            tiers.setdefault(rubric_score(prompt, text), []).append(at)
        return [tiers[score] for score in sorted(tiers, reverse=True)]


def panel(seed: int) -> list[SimulatedAnnotator]:
    """The demo's four annotators, from careful to careless."""
    noises = {"sim-ana": 0.7, "sim-ben": 0.85, "sim-chi": 1.0, "sim-dee": 1.15}
    return [SimulatedAnnotator(name, noise, seed) for name, noise in noises.items()]


def rubric(seed: int) -> list[Rubric]:
    """Held-out judgements to measure against. A function that makes annotators takes a seed, needed or not."""
    return [Rubric()]
