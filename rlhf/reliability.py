"""What each annotator's answers are worth, told from what several of them said of the same completions.

Pure functions of arrays, with P people. The label store and the reward stage both read their own records into these.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PRIOR_COMPARISONS = 10.0
"""How many comparisons with somebody perfect the mean of all annotators is worth against a person's own."""

_FIRST_GUESS = 0.5
_LEAST_MEAN = 0.05
"""The mean reliability is taken to be above 0: without it, everybody could as well be wrong as right."""

_ROUNDS = 2000
_TOLERANCE = 1e-10
_SMALL = 1e-9


@dataclass(frozen=True)
class Moments:
    """What two people said of the same things, and what each said of things with a known answer.

    Attributes:
        num: [P, P] comparisons that two people share; 0 on the diagonal.
        products: [P, P] sums of the products of their votes.
        num_known: [P] comparisons with what is known to be right.
        known_products: [P] sums of the products of votes and what is right.
    """

    num: Floats
    products: Floats
    num_known: Floats
    known_products: Floats

    @property
    def num_comparisons(self) -> Floats:
        """[P]: how much each one's reliability rests on."""
        return self.num.sum(axis=1) + self.num_known


def shared_moments(item: Ints, person: Ints, value: Floats, worth: Floats, people: int) -> tuple[Floats, Floats]:
    """`num` and `products` [P, P] of `Moments`.

    Args:
        item: [V], what was judged.
        person: [V], who judged it; of one person and item there is one value at most.
        value: [V], what was said: 1, 0 or -1 of a pair, a standardised grade of a text.
        worth: [V], what a comparison of this item counts: in a ranking of K, each of the K (K - 1) / 2 pairs 2 / K,
            since they are K - 1 comparisons worth of evidence.
        people: P.
    """
    shape = (int(item.max()) + 1 if len(item) else 0, people)
    seen = sparse.csr_array((np.sqrt(worth), (item, person)), shape=shape)
    said = sparse.csr_array((np.sqrt(worth) * value, (item, person)), shape=shape)
    num, products = (seen.T @ seen).toarray(), (said.T @ said).toarray()
    np.fill_diagonal(num, 0)
    np.fill_diagonal(products, 0)
    return num, products


def standardised(value: Floats, group: Ints, num_groups: int) -> Floats:
    """Mean 0 and variance 1 in each group; 0 where all are equal."""
    number = np.maximum(np.bincount(group, minlength=num_groups), 1)
    centred = value - (np.bincount(group, value, minlength=num_groups) / number)[group]
    deviation = np.sqrt(np.bincount(group, centred**2, minlength=num_groups) / number)[group]
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > _SMALL)


def fit_reliability(moments: Moments) -> Floats:
    """The correlation [P] of each one's votes with what is right, from -1 (the opposite) over 0 (guesses) to 1.

    The model is one factor (Spearman 1904), in the form in which Dalvi et al. (2013, "Aggregating crowdsourced binary
    ratings") use it for crowds: a vote s (1, 0 for a tie, -1) on a pair depends on what is right, z, and on nothing
    else, so that the mean of s_a s_b over the pairs that two people share is r_a r_b, with r_a the mean of s_a z: one
    less twice their share of errors, which is agreement corrected for chance. Least squares of `products / num` by
    r_a r_b and of `known_products / num_known` by r_a over all twos of people, weighed by what the two share, with each
    r drawn to the mean of all (ridge) as if by PRIOR_COMPARISONS: who has judged little is taken to be like the others.
    """
    num, products = moments.num, moments.products
    evidence = moments.num_comparisons
    known: Bools = evidence > 0
    reliability = np.full(len(num), _FIRST_GUESS)
    if not known.any():
        return reliability
    for _ in range(_ROUNDS):
        mean = max(float(evidence @ reliability) / float(evidence.sum()), _LEAST_MEAN)
        wanted = (PRIOR_COMPARISONS * mean + moments.known_products + products @ reliability) / (
            PRIOR_COMPARISONS + moments.num_known + num @ reliability**2
        )
        # All at once and half the way, so that nobody's turn comes first.
        moved = (reliability + np.clip(wanted, -1, 1)) / 2
        if float(np.abs(moved - reliability).max()) < _TOLERANCE:
            break
        reliability = moved
    return reliability


def standard_errors(moments: Moments, reliability: Floats) -> Floats:
    """How far each `reliability` [P] would move with other items: the spread of the sums that it is made of, [P]."""
    products = np.outer(reliability, reliability)
    spread = (moments.num * (1 - products**2)) @ reliability**2 + moments.num_known * (1 - reliability**2)
    return np.asarray(np.sqrt(spread) / (PRIOR_COMPARISONS + moments.num_known + moments.num @ reliability**2))
