"""How often people agree on pairs of responses: all together, one against the others, against gold, two by two.

Three ways to count a comparison of two votes on a pair, each of which may be for one side or a tie:
*with ties* a tie is half a vote for either side (agreement is one less the distance of the votes: two ties agree, a
tie and an order agree by half); *strict* leaves out comparisons in which either of the two is a tie; *exact* asks for
the same of the three.

Tasks with gold are chosen, and everybody sees them, so agreement between people leaves them out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from labeling_app.quality.intervals import Bools, Floats, Ints, Share, share, tally
from labeling_app.quality.panel import Panel, Units, panel_of
from labeling_app.store import Judgement


@dataclass(frozen=True)
class Agreement:
    """Shares of comparisons that agree; `num` of `strict` is how many were of two orders, no tie among them."""

    with_ties: Share
    strict: Share
    exact: Share


@dataclass(frozen=True)
class GradeAgreement:
    """How grades of the same response compare.

    Attributes:
        exact: the share of comparisons with the same grade.
        within_one: the share with at most one step between them.
        difference: mean of own grade less the other: above 0 is lenient; None without a comparison.
    """

    exact: Share
    within_one: Share
    difference: float | None


@dataclass(frozen=True)
class Comparisons:
    """Sums over the comparisons that each judgement takes part in, [J] each; see `Agreement`."""

    num: Floats
    with_ties: Floats
    num_strict: Floats
    strict: Floats
    exact: Floats

    def halved(self) -> "Comparisons":
        """For all judgements together, where each comparison is met twice, once from either side."""
        return Comparisons(*(sums / 2 for sums in vars(self).values()))

    def agreement(self, group: Ints, chosen: Bools | None = None) -> Agreement:
        """Over the judgements that are `chosen` ([J] bool); those of one `group` ([J]) are one cluster."""
        kept = np.ones(len(group), dtype=np.bool_) if chosen is None else chosen

        def pooled(sums: Floats, sizes: Floats) -> Share:
            return share(np.bincount(group[kept], sums[kept]), np.bincount(group[kept], sizes[kept]))

        return Agreement(
            pooled(self.with_ties, self.num), pooled(self.strict, self.num_strict), pooled(self.exact, self.num)
        )


def pairwise_agreement(judgements: Panel | Sequence[Judgement]) -> Agreement:
    """How often two people agree on a pair, over all twos of people who judged it; intervals clustered by task.

    The quarantined and tasks with gold are left out.
    """
    panel = panel_of(judgements)
    return with_others(panel).halved().agreement(panel.task, panel.active[panel.person])


def agreement_by_annotator(judgements: Panel | Sequence[Judgement]) -> dict[str, tuple[Agreement, Agreement]]:
    """Each annotator against the others who judged the same pairs, and against gold; intervals clustered by task."""
    panel = panel_of(judgements)
    others, gold = with_others(panel), with_gold(panel)
    own = [panel.person == person for person in range(len(panel.people))]
    return {
        name: (others.agreement(panel.task, own[person]), gold.agreement(panel.task, own[person]))
        for person, name in enumerate(panel.people)
    }


def with_others(panel: Panel) -> Comparisons:
    """Every judgement against those of all others who count, pair by pair, tasks with gold left out."""
    pairs = panel.pairs
    counted = panel.of_active(pairs.judgement)
    open_to_all = ~panel.with_gold[pairs.task[pairs.item]]
    of_vote = []
    for value in (-1, 0, 1):
        said = counted & (pairs.vote == value)
        number = np.bincount(pairs.item[said], minlength=len(pairs.task)).astype(np.float64)
        of_vote.append((number[pairs.item] - said) * open_to_all)
    return _compare(panel, np.stack(of_vote, axis=1))


def with_gold(panel: Panel) -> Comparisons:
    """Every judgement against what is known to be right."""
    gold = panel.pairs.gold[panel.pairs.item]
    return _compare(panel, np.stack([gold == value for value in (-1, 0, 1)], axis=1).astype(np.float64))


def grade_agreement_by_annotator(
    judgements: Panel | Sequence[Judgement],
) -> dict[str, tuple[GradeAgreement, GradeAgreement]]:
    """Each annotator's grades against those of the others and against gold; for mode `rate`."""
    panel = panel_of(judgements)
    others, gold = _grades_of_others(panel), _grades_of_gold(panel.grades)
    person = panel.person[panel.grades.judgement]
    return {
        name: (_graded(panel, others, person == index), _graded(panel, gold, person == index))
        for index, name in enumerate(panel.people)
    }


@dataclass(frozen=True)
class TwoPeople:
    """Two annotators on the pairs that both have judged.

    Attributes:
        exact: share of the same vote.
        with_ties: share of agreement when a tie is half a vote.
        strict: share of the same order where both have one; None where they never both have.
        kappa: Cohen's kappa of the three votes; None where chance alone makes them agree.
    """

    one: str
    other: str
    num_tasks: int
    num_pairs: int
    exact: float
    with_ties: float
    strict: float | None
    kappa: float | None


def agreement_of_two(judgements: Panel | Sequence[Judgement]) -> list[TwoPeople]:
    """Every two annotators who share a pair (tasks with gold left out), in alphabetical order."""
    panel = panel_of(judgements)
    pairs = panel.pairs
    kept = ~panel.with_gold[pairs.task[pairs.item]]
    item, vote, person = pairs.item[kept], pairs.vote[kept], panel.person[pairs.judgement[kept]]
    shape = (len(pairs.task), len(panel.people))
    of_vote = [_incidence(item[vote == value], person[vote == value], shape) for value in (-1, 0, 1)]
    tables = np.array([[(one.T @ other).toarray() for other in of_vote] for one in of_vote])
    in_tasks = ~panel.with_gold[panel.task] & (np.bincount(pairs.judgement, minlength=len(panel.task)) > 0)
    seen = _incidence(panel.task[in_tasks], panel.person[in_tasks], (len(panel.with_gold), len(panel.people)))
    num_tasks = (seen.T @ seen).toarray()
    return [
        _two(panel.people[one], panel.people[other], int(num_tasks[one, other]), tables[:, :, one, other])
        for one, other in np.argwhere(np.triu(tables.sum(axis=(0, 1)), k=1) > 0).tolist()
    ]


def _two(one: str, other: str, num_tasks: int, table: Floats) -> TwoPeople:
    """`table` [3, 3] counts the pairs by the vote of the one and the vote of the other."""
    num, same = table.sum(), np.trace(table)
    strict_same, strict_other = table[0, 0] + table[2, 2], table[0, 2] + table[2, 0]
    by_chance = float(table.sum(axis=1) @ table.sum(axis=0)) / num**2
    return TwoPeople(
        one,
        other,
        num_tasks,
        int(num),
        exact=float(same / num),
        with_ties=float((same + (num - same - strict_other) / 2) / num),
        strict=float(strict_same / (strict_same + strict_other)) if strict_same + strict_other else None,
        kappa=float((same / num - by_chance) / (1 - by_chance)) if by_chance < 1 else None,
    )


def _incidence(rows: Ints, columns: Ints, shape: tuple[int, int]) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def _compare(panel: Panel, others: Floats) -> Comparisons:
    """`others` [V, 3]: how many voted -1, 0 and 1 on the pair of each vote."""
    pairs = panel.pairs
    second, tie, first = others.T
    same = np.choose(pairs.vote + 1, [second, tie, first])
    num = others.sum(axis=1)
    ordered = pairs.vote != 0
    num_strict = np.where(ordered, first + second, 0)
    # One tie of the two is half an agreement: the ties of others for an order, the orders of others for a tie.
    half = np.where(ordered, tie, first + second)

    def summed(values: Floats) -> Floats:
        return tally(pairs.judgement, values, len(panel.judgements))

    return Comparisons(
        summed(num), summed(same + half / 2), summed(num_strict), summed(np.where(ordered, same, 0)), summed(same)
    )


def _grades_of_others(panel: Panel) -> Floats:
    """[N, 7]: how many others gave the response of each grade a 1, a 2, ..."""
    grades = panel.grades
    counted = panel.of_active(grades.judgement)
    grade = grades.value.astype(np.int64) - 1
    table = np.zeros((len(grades.task), 7))
    np.add.at(table, (grades.unit[counted], grade[counted]), 1)
    others: Floats = table[grades.unit]
    others[counted, grade[counted]] -= 1
    others[panel.with_gold[grades.task[grades.unit]]] = 0
    return others


def _grades_of_gold(grades: Units) -> Floats:
    table: Floats = (grades.gold[grades.unit][:, None] == np.arange(1, 8)).astype(np.float64)
    return table


def _graded(panel: Panel, others: Floats, kept: Bools) -> GradeAgreement:
    grades = panel.grades
    distance = grades.value[kept, None] - np.arange(1, 8)
    counts = others[kept]
    clusters = panel.task[grades.judgement[kept]]

    def shared(agree: Bools) -> Share:
        return share(np.bincount(clusters, (counts * agree).sum(axis=1)), np.bincount(clusters, counts.sum(axis=1)))

    total = counts.sum()
    difference = float((counts * distance).sum() / total) if total else None
    return GradeAgreement(shared(distance == 0), shared(np.abs(distance) <= 1), difference)
