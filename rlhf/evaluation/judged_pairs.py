"""What people said of pairs of completions, as an evaluation counts it. Imports no torch."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from rlhf.errors import UserError
from rlhf.evaluation.statistics import Floats, wins
from rlhf.records import Preference, Ranking, Record, Text, exchange, plain, prompt_key


@dataclass(frozen=True)
class Tie:
    """Two different completions that somebody found equally good."""

    prompt: Text
    first: Text
    second: Text


@dataclass(frozen=True)
class JudgedPairs:
    """P pairs in an order that people gave them, and what came with them.

    Attributes:
        pairs: `pairs[i]` comes from `records[i]`.
        records: the preference or ranking of each pair; one ranking gives several.
        ties: what people could not tell apart; it counts for no accuracy.
        num_equal_texts: pairs of rankings left out, since both completions have the same words, or one has none.
    """

    pairs: list[Preference]
    records: list[Record]
    ties: list[Tie] = field(default_factory=list)
    num_equal_texts: int = 0

    @cached_property
    def clusters(self) -> list[str]:
        """The key of each pair's prompt: pairs of one prompt are no independent observations."""
        return [prompt_key(pair.prompt) for pair in self.pairs]

    @cached_property
    def texts(self) -> list[tuple[str, str]]:
        """What was chosen and what was rejected, without the turns that join the prompt."""
        return [(exchange(p.prompt, p.chosen)[1], exchange(p.prompt, p.rejected)[1]) for p in self.pairs]

    @cached_property
    def longest_outcomes(self) -> Floats:
        """[P]: 1 where the chosen text has more characters, 0 where it has fewer, a half where as many."""
        lengths = np.array([[len(chosen), len(rejected)] for chosen, rejected in self.texts])
        return wins(lengths[:, 0], lengths[:, 1])

    @cached_property
    def agreement_with_others(self) -> Floats:
        """[P]: the share of the others who judged the same pair that put it in the same order; NaN where nobody did.

        A judgement without an annotator's name cannot be known to be another person's, so it has none to agree with.
        """
        votes: dict[tuple[str, frozenset[str]], dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
        for key, pair in zip(self._same_pair, self.pairs, strict=True):
            if pair.annotator is not None:
                said = votes[key][pair.annotator]
                said[plain(pair.chosen)] = said.get(plain(pair.chosen), 0) + 1
        agreement = np.full(len(self.pairs), np.nan)
        for i, (key, pair) in enumerate(zip(self._same_pair, self.pairs, strict=True)):
            others = [said for name, said in votes[key].items() if name != pair.annotator]
            if pair.annotator is not None and others:
                # whoever has judged a pair twice and differently agrees with either order by half
                agreement[i] = np.mean([said.get(plain(pair.chosen), 0) / sum(said.values()) for said in others])
        return agreement

    @property
    def num_judged_both_ways(self) -> int:
        """Pairs of texts of which each was the better one at least once."""
        better: dict[Any, set[str]] = defaultdict(set)
        for key, pair in zip(self._same_pair, self.pairs, strict=True):
            better[key].add(plain(pair.chosen))
        return sum(len(found) > 1 for found in better.values())

    @cached_property
    def _same_pair(self) -> list[tuple[str, frozenset[str]]]:
        return [
            (cluster, frozenset((plain(pair.chosen), plain(pair.rejected))))
            for cluster, pair in zip(self.clusters, self.pairs, strict=True)
        ]


def judged_pairs(records: Sequence[Record]) -> JudgedPairs:
    """All that `records` say of pairs of completions, those of rankings included.

    Raises:
        UserError: nobody placed one completion above another.
    """
    pairs: list[Preference] = []
    sources: list[Record] = []
    ties: list[Tie] = []
    num_equal = 0
    for record in records:
        if isinstance(record, Ranking):
            found = record.pairs()
            num_equal += _num_ordered(record) - len(found)
            ties += _ties(record)
        else:
            found = [record] if isinstance(record, Preference) else []
        pairs += found
        sources += [record] * len(found)
    if not pairs:
        raise UserError("data: no ranking places one completion above another, so there is nothing to measure by")
    return JudgedPairs(pairs, sources, ties, num_equal)


def _num_ordered(ranking: Ranking) -> int:
    sizes = [len(tier) for tier in ranking.tiers]
    return math.comb(sum(sizes), 2) - sum(math.comb(size, 2) for size in sizes)


def _ties(ranking: Ranking) -> list[Tie]:
    pairs = (pair for tier in ranking.tiers for pair in itertools.combinations(tier, 2))
    texts = ((ranking.completions[one], ranking.completions[other]) for one, other in pairs)
    return [
        Tie(ranking.prompt, one, other)
        for one, other in texts
        if one != other and plain(one).strip() and plain(other).strip()
    ]
