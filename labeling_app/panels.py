"""Simulated people of known character, who judge by a rubric: to try out what is done with people's answers.

Their names begin with `sim-`, and the label store marks them, and all that comes of their answers, as simulated.
"""

# ruff: noqa: S311 - seeded draws that make answers up, nothing secret

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from labeling_app.answers import Mode

Character = Literal["honest", "biased", "careless", "malicious"]
"""`honest`: ranks by the rubric and errs; `biased`: so does this one, and favours what is shown first by far;
`careless`: ranks without reading; `malicious`: turns round what an honest one would say."""

Rubric = Callable[..., Sequence[float]]
"""`rubric(prompts=[...], completions=[...]) -> scores`, higher is better: a reward function."""

STRONG_POSITION_BIAS = 3.0
"""In units of `noise`: of two replies of equal worth, the first one shown is preferred 20 times to 1."""


@dataclass(frozen=True)
class SimulatedPerson:
    """Ranks completions by a rubric with the errors of a Bradley-Terry model.

    The worth of a completion is its rubric score over `noise`, and a draw from Gumbel's distribution: of two
    completions the first is preferred with probability sigmoid((score_1 - score_2) / noise), and a ranking has Plackett
    and Luce's distribution (Yellott 1977). Draws depend on name, seed, prompt and text alone: asked again, the answer
    is the same.

    Args:
        name: pseudonym, `sim-...`.
        character: how this one goes about it.
        rubric: what a completion is worth.
        noise: rubric points in which a preference of 73 to 27 takes place (1 logit).
        position_bias: bonus of the completion shown first, in units of `noise`.
        tie_within: completions whose worth is closer than this, in units of `noise`, share a tier.
        seed: of all draws.
    """

    name: str
    character: Character
    rubric: Rubric
    noise: float = 1.0
    position_bias: float = 0.1
    tie_within: float = 0.0
    seed: int = 0

    def judge(self, mode: Mode, prompt: Any, responses: Sequence[Any], presented: Sequence[int]) -> list[list[int]]:
        """Tiers of positions in `responses`, best first."""
        draws = [random.Random(f"{self.name} {self.seed} {prompt} {text}") for text in responses]
        if self.character == "careless":
            worth = [draw.random() for draw in draws]
            return [[at] for at in sorted(range(len(worth)), key=lambda at: -worth[at])]
        scores = self.rubric(prompts=[prompt] * len(responses), completions=list(responses))
        bias = STRONG_POSITION_BIAS if self.character == "biased" else self.position_bias
        worth = [
            score / self.noise + _gumbel(draw) + bias * (at == presented[0])
            for at, (score, draw) in enumerate(zip(scores, draws, strict=True))
        ]
        tiers = _tiers(worth, self.tie_within)
        return tiers[::-1] if self.character == "malicious" else tiers


def make_panel(
    characters: Mapping[Character, int],
    rubric: Rubric,
    seed: int,
    *,
    noise: float = 1.0,
    position_bias: float = 0.1,
    tie_within: float = 0.0,
) -> list[SimulatedPerson]:
    """So many of each character: `sim-honest-1`, `sim-honest-2`, ..., `sim-careless-1`."""
    return [
        SimulatedPerson(f"sim-{character}-{number}", character, rubric, noise, position_bias, tie_within, seed)
        for character, count in characters.items()
        for number in range(1, count + 1)
    ]


def _gumbel(draw: random.Random) -> float:
    return -math.log(-math.log(max(draw.random(), 1e-300)))


def _tiers(worth: Sequence[float], tie_within: float) -> list[list[int]]:
    """Positions by descending worth; each tier holds what lies within `tie_within` of its best."""
    order = sorted(range(len(worth)), key=lambda at: -worth[at])
    tiers = [[order[0]]]
    for at in order[1:]:
        if worth[tiers[-1][0]] - worth[at] < tie_within:
            tiers[-1].append(at)
        else:
            tiers.append([at])
    return tiers
