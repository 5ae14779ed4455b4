"""What each annotator's judgements are worth: the weights that a reward model learns with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from labeling_app.quality.intervals import Bools, Floats, Ints, tally
from labeling_app.quality.panel import UNKNOWN, Panel, panel_of
from labeling_app.store import Judgement

PRIOR_COMPARISONS = 10.0
"""How many comparisons with somebody perfect the mean of all annotators is worth against a person's own."""

_FIRST_GUESS = 0.5
_LEAST_MEAN = 0.05
"""The mean reliability is taken to be above 0: without it, everybody could as well be wrong as right."""

_ROUNDS = 2000
_TOLERANCE = 1e-10
_SMALL = 1e-9


@dataclass(frozen=True)
class Reliability:
    """How far one annotator can be trusted.

    Attributes:
        weight: what a judgement of theirs counts in training; the mean over all judgements is 1.
        reliability: correlation of their votes with what is right, from -1 (always the opposite) over 0 (guesses) to 1.
        num_comparisons: how much it rests on: comparisons with others and with gold; at 0 it is the mean of all.
    """

    weight: float
    reliability: float
    num_comparisons: float


def reliability_weights(judgements: Panel | Sequence[Judgement]) -> dict[str, Reliability]:
    """A weight for each annotator who is not quarantined.

    The model is one factor (Spearman 1904), in the form in which Dalvi et al. (2013, "Aggregating crowdsourced binary
    ratings") use it for crowds: a vote s (1, 0 for a tie, -1) on a pair depends on what is right, z, and on nothing
    else, so that the mean of s_a s_b over the pairs that two people share is r_a r_b, with r_a the mean of s_a z: one
    less twice their share of errors. With gold, z is known: there the mean of s_a z is r_a itself. Grades enter in the
    same way: standardised for each annotator, so that neither leniency nor spread counts, two people's have the mean
    product r_a r_b. The r are found by least squares over all twos of people, weighed by what the two share, with
    each r drawn to the mean of all (ridge) as if by PRIOR_COMPARISONS: who has judged little is taken to be like the
    others. A ranking of K gives K (K - 1) / 2 pairs but only K - 1 comparisons worth of evidence: each of its pairs
    counts 2 / K.

    The weight is r, but not below 0, over its mean: for a gradient whose signal is r times that of the truth and
    whose noise is the same for everybody, the sum with weights r has the best ratio of signal to noise.
    Somebody who guesses, answers by place, or always ties gets about 0; somebody who turns answers round gets 0.
    More than half of the annotators turned round cannot be told from the others without gold.

    The outcome is a matter of the judgements alone: nothing is drawn, and neither order nor names matter.
    """
    panel = panel_of(judgements)
    kept = np.flatnonzero(panel.active)
    if not len(kept):
        return {}
    num, products, num_gold, gold_products = _moments(panel)
    own = np.ix_(kept, kept)
    reliability = _fit(num[own], products[own], num_gold[kept], gold_products[kept])
    comparisons = num[own].sum(axis=1) + num_gold[kept]
    num_judgements = np.bincount(panel.person, minlength=len(panel.people))[kept]
    worth = np.clip(reliability, 0, 1)
    mean = float(worth @ num_judgements) / num_judgements.sum()
    weights = worth / mean if mean > 0 else np.ones(len(kept))
    return {
        panel.people[person]: Reliability(float(weight), float(value), round(float(number), 3))
        for person, weight, value, number in zip(kept, weights, reliability, comparisons, strict=True)
    }


def _moments(panel: Panel) -> tuple[Floats, Floats, Floats, Floats]:
    """Shared comparisons [P, P] and sums of products [P, P] of all twos of people; [P] and [P] with gold."""
    num, products, num_gold, gold_products = _moments_of_pairs(panel)
    more = _moments_of_grades(panel)
    return num + more[0], products + more[1], num_gold + more[2], gold_products + more[3]


def _moments_of_pairs(panel: Panel) -> tuple[Floats, Floats, Floats, Floats]:
    pairs = panel.pairs
    # Grades say more than the order that follows from them, and are not to count twice.
    ordered = np.array([judgement.answer.ratings is None for judgement in panel.judgements], dtype=np.bool_)
    kept = ordered[pairs.judgement]
    person, item, vote = panel.person[pairs.judgement[kept]], pairs.item[kept], pairs.vote[kept].astype(np.float64)
    gold = pairs.gold[item]
    # Of a pair that is tied by right, no answer tells anything.
    known = (gold != UNKNOWN) & (gold != 0)
    worth = 2 / pairs.size[item]
    people = len(panel.people)
    num_gold = tally(person[known], worth[known], people)
    gold_products = tally(person[known], (worth * vote * gold)[known], people)
    between = ~panel.with_gold[pairs.task[item]]
    num, products = _between_people(item[between], person[between], vote[between], worth[between], people)
    return num, products, num_gold, gold_products


def _moments_of_grades(panel: Panel) -> tuple[Floats, Floats, Floats, Floats]:
    grades = panel.grades
    person, unit = panel.person[grades.judgement], grades.unit
    people = len(panel.people)
    value = _standardised(grades.value, person, people)
    gold = grades.gold[unit]
    known = ~np.isnan(gold)
    # As everybody's grades are spread, so that a single one says something too.
    spread = float(grades.value.std()) if len(grades.value) else 0.0
    right = (gold[known] - grades.value.mean()) / spread if spread > _SMALL else np.zeros(int(known.sum()))
    num_gold = tally(person[known], np.ones(int(known.sum())), people)
    gold_products = tally(person[known], value[known] * right, people)
    between = ~panel.with_gold[grades.task[unit]]
    worth = np.ones(int(between.sum()))
    num, products = _between_people(unit[between], person[between], value[between], worth, people)
    return num, products, num_gold, gold_products


def _between_people(item: Ints, person: Ints, value: Floats, worth: Floats, people: int) -> tuple[Floats, Floats]:
    shape = (int(item.max()) + 1 if len(item) else 0, people)
    seen = sparse.csr_array((np.sqrt(worth), (item, person)), shape=shape)
    said = sparse.csr_array((np.sqrt(worth) * value, (item, person)), shape=shape)
    num, products = (seen.T @ seen).toarray(), (said.T @ said).toarray()
    np.fill_diagonal(num, 0)
    np.fill_diagonal(products, 0)
    return num, products


def _standardised(value: Floats, group: Ints, num_groups: int) -> Floats:
    """Mean 0 and variance 1 in each group; 0 where all are equal."""
    number = np.maximum(np.bincount(group, minlength=num_groups), 1)
    centred = value - (tally(group, value, num_groups) / number)[group]
    deviation = np.sqrt(tally(group, centred**2, num_groups) / number)[group]
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > _SMALL)


def _fit(num: Floats, products: Floats, num_gold: Floats, gold_products: Floats) -> Floats:
    """Least squares of `products / num` [P, P] by r_a r_b and of `gold_products / num_gold` [P] by r_a, with ridge."""
    evidence = num.sum(axis=1) + num_gold
    known: Bools = evidence > 0
    reliability = np.full(len(num), _FIRST_GUESS)
    if not known.any():
        return reliability
    for _ in range(_ROUNDS):
        mean = max(float(evidence @ reliability) / float(evidence.sum()), _LEAST_MEAN)
        wanted = (PRIOR_COMPARISONS * mean + gold_products + products @ reliability) / (
            PRIOR_COMPARISONS + num_gold + num @ reliability**2
        )
        # All at once and half the way, so that nobody's turn comes first.
        moved = (reliability + np.clip(wanted, -1, 1)) / 2
        if float(np.abs(moved - reliability).max()) < _TOLERANCE:
            break
        reliability = moved
    return reliability
