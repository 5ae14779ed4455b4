"""What each annotator's judgements are worth: the weights that a reward model learns with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labeling_app.quality.intervals import tally
from labeling_app.quality.panel import UNKNOWN, Panel, panel_of
from labeling_app.store import Judgement
from rlhf.reliability import Floats, Moments, fit_reliability, shared_moments, standardised

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

    `rlhf.reliability` finds how far each one's votes agree with what is right (r). With gold, that is known. Grades
    enter as votes on pairs do: standardised for each annotator, so that neither leniency nor spread counts. A ranking
    of K gives K (K - 1) / 2 pairs but only K - 1 comparisons worth of evidence: each of its pairs counts 2 / K.

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
    moments = Moments(num[own], products[own], num_gold[kept], gold_products[kept])
    reliability = fit_reliability(moments)
    num_judgements = np.bincount(panel.person, minlength=len(panel.people))[kept]
    worth = np.clip(reliability, 0, 1)
    mean = float(worth @ num_judgements) / num_judgements.sum()
    weights = worth / mean if mean > 0 else np.ones(len(kept))
    return {
        panel.people[person]: Reliability(float(weight), float(value), round(float(number), 3))
        for person, weight, value, number in zip(kept, weights, reliability, moments.num_comparisons, strict=True)
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
    num, products = shared_moments(item[between], person[between], vote[between], worth[between], people)
    return num, products, num_gold, gold_products


def _moments_of_grades(panel: Panel) -> tuple[Floats, Floats, Floats, Floats]:
    grades = panel.grades
    person, unit = panel.person[grades.judgement], grades.unit
    people = len(panel.people)
    value = standardised(grades.value, person, people)
    gold = grades.gold[unit]
    known = ~np.isnan(gold)
    # As everybody's grades are spread, so that a single one says something too.
    spread = float(grades.value.std()) if len(grades.value) else 0.0
    right = (gold[known] - grades.value.mean()) / spread if spread > _SMALL else np.zeros(int(known.sum()))
    num_gold = tally(person[known], np.ones(int(known.sum())), people)
    gold_products = tally(person[known], value[known] * right, people)
    between = ~panel.with_gold[grades.task[unit]]
    worth = np.ones(int(between.sum()))
    num, products = shared_moments(unit[between], person[between], value[between], worth, people)
    return num, products, num_gold, gold_products
