"""The figures on real votes against independent implementations: scikit-learn's kappa, alpha from its definition."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations, permutations
from pathlib import Path

import pytest
from judging import Sheet
from sklearn.metrics import cohen_kappa_score

from labeling_app.quality import (
    agreement_by_annotator,
    agreement_of_two,
    krippendorff_alpha,
    pairwise_agreement,
    reliability_weights,
)
from labeling_app.store import Judgement

PANDALM = Path("/work/shared/data/rankings/pandalm_3_annotators.json")
NAMES = ("annotator1", "annotator2", "annotator3")

pytestmark = pytest.mark.skipif(not PANDALM.exists(), reason=f"{PANDALM} is not here")


@cache
def votes() -> list[tuple[int, int, int]]:
    """0 for a tie, 1, 2: as they lie in the file."""
    return [(row[NAMES[0]], row[NAMES[1]], row[NAMES[2]]) for row in json.loads(PANDALM.read_text())]


@cache
def judgements() -> tuple[Judgement, ...]:
    sheet = Sheet()
    tiers = {0: [[1, 2]], 1: [[1], [2]], 2: [[2], [1]]}
    for task, said in enumerate(votes()):
        for name, vote in zip(NAMES, said, strict=True):
            sheet.add(name, task, tiers[vote])
    return tuple(sheet.judgements)


def alpha_by_definition(units: Sequence[Sequence[float]], metric: str) -> float:
    """Krippendorff (2018), chapter 12: from the coincidence matrix, in plain Python."""
    coincidences: Counter[tuple[float, float]] = Counter()
    for values in units:
        for c, k in permutations(values, 2):
            coincidences[c, k] += 1 / (len(values) - 1)
    marginals: Counter[float] = Counter()
    for (c, _), number in coincidences.items():
        marginals[c] += number
    total = sum(marginals.values())
    levels = sorted(marginals)

    def ordinal(c: float, k: float) -> float:
        low, high = min(c, k), max(c, k)
        between = sum(marginals[g] for g in levels if low <= g <= high)
        return (between - (marginals[low] + marginals[high]) / 2) ** 2

    def nominal(c: float, k: float) -> float:
        return float(c != k)

    distance: Callable[[float, float], float] = {"nominal": nominal, "ordinal": ordinal}[metric]
    observed = sum(number * distance(c, k) for (c, k), number in coincidences.items())
    by_chance = sum(marginals[c] * marginals[k] * distance(c, k) for c in levels for k in levels if c != k)
    return 1 - (total - 1) * observed / by_chance


def test_alpha_of_pairs_equals_the_definition():
    alpha = krippendorff_alpha(judgements(), "pairs")
    assert alpha.value == pytest.approx(alpha_by_definition(votes(), "nominal"), abs=1e-12)
    assert alpha.num_units == 999
    assert alpha.low is not None and alpha.high is not None
    assert alpha.low < alpha.value < alpha.high
    assert 0.03 < alpha.high - alpha.low < 0.09


def test_alpha_of_places_equals_the_definition():
    places = {0: (1.5, 1.5), 1: (1, 2), 2: (2, 1)}
    units = [[places[vote][response] for vote in said] for said in votes() for response in (0, 1)]
    alpha = krippendorff_alpha(judgements(), "places")
    assert alpha.value == pytest.approx(alpha_by_definition(units, "ordinal"), abs=1e-12)


def test_kappa_of_every_two_equals_scikit_learns():
    found = {(two.one, two.other): two for two in agreement_of_two(judgements())}
    assert len(found) == 3
    for one, other in combinations(range(3), 2):
        columns = [[said[person] for said in votes()] for person in (one, other)]
        two = found[NAMES[one], NAMES[other]]
        assert two.kappa == pytest.approx(cohen_kappa_score(*columns), abs=1e-12)
        assert two.num_tasks == two.num_pairs == 999


def test_pairwise_agreement_equals_counting():
    compared = [two for said in votes() for two in combinations(said, 2)]
    ordered = [(one, other) for one, other in compared if one and other]
    agreement = pairwise_agreement(judgements())
    assert agreement.exact.value == pytest.approx(sum(one == other for one, other in compared) / len(compared))
    assert agreement.strict.value == pytest.approx(sum(one == other for one, other in ordered) / len(ordered))
    assert agreement.strict.num == len(ordered)
    worth = [1.0 if one == other else 0.5 if 0 in (one, other) else 0.0 for one, other in compared]
    assert agreement.with_ties.value == pytest.approx(sum(worth) / len(worth))
    assert agreement.with_ties.num == len(compared) == 2997


def test_an_annotator_against_the_others_equals_counting():
    for person, name in enumerate(NAMES):
        compared = [(said[person], said[other]) for said in votes() for other in range(3) if other != person]
        own = agreement_by_annotator(judgements())[name][0]
        assert own.exact.value == pytest.approx(sum(one == other for one, other in compared) / len(compared))


def test_three_careful_annotators_weigh_about_the_same():
    weights = reliability_weights(judgements())
    assert all(0.8 < each.weight < 1.2 for each in weights.values())
    assert sum(each.weight for each in weights.values()) == pytest.approx(3)
