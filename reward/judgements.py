"""From records to what was said of the completions of one prompt: comparisons, orders and grades.

One group is one row to train on, so that all that belongs together is in one batch (InstructGPT, Ouyang et al. 2022,
section 3.5: shuffled pairs overfit within an epoch).
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from reward.config import LossSection
from rlhf.errors import UserError
from rlhf.records import Preference, Ranking, Rating, Record, Text, plain, prompt_key

KINDS = (Ranking, Preference, Rating)


@dataclass(frozen=True)
class Pair:
    """One text of a group is better than another; both are positions in its `texts`."""

    better: int
    worse: int
    weight: float = 1.0
    margin: float = 0.0
    annotator: str | None = None


@dataclass(frozen=True)
class Order:
    """A ranking that is learned as a whole; `tiers` of positions, best first."""

    tiers: tuple[tuple[int, ...], ...]
    weight: float = 1.0
    annotator: str | None = None


@dataclass(frozen=True)
class Grade:
    """The grade that somebody gave one text."""

    text: int
    value: float
    annotator: str | None = None


@dataclass(frozen=True)
class Group:
    """Judgements that belong in one batch. The pairs of a group with an `order` are what it says of two at a time."""

    texts: tuple[tuple[Text, Text], ...]
    """Prompts and completions."""
    pairs: tuple[Pair, ...] = ()
    order: Order | None = None
    grades: tuple[Grade, ...] = ()


@dataclass
class Gathered:
    """What can be learned from, and how much could not."""

    groups: list[Group] = field(default_factory=list)
    num_without_order: int = 0
    """Rankings of one tier, of one completion, or of nothing but equal or empty texts."""
    num_equal_pairs: int = 0
    """Pairs in rankings of which both texts are the same."""
    num_lone_ratings: int = 0
    """Grades that make no comparison: their annotator gave no other completion of the prompt another one."""


def gather(records: Iterable[Record], loss: LossSection) -> Gathered:
    """What `loss` learns from, in the order of the records.

    Comparisons (`bradley_terry`, `plackett_luce`) are also made of the grades that one annotator gave completions of
    one prompt. `ordinal` takes comparisons and grades as they are; `regression` takes grades alone.

    Raises:
        UserError: there are comparisons, and the loss takes none.
    """
    found = Gathered()
    records = list(records)
    ratings = [record for record in records if isinstance(record, Rating)]
    others = [record for record in records if isinstance(record, Ranking | Preference)]
    if loss.kind == "regression" and others:
        raise UserError(
            f"loss.kind = 'regression': learns from ratings alone, and the data has {_counted(others)} beside "
            f"{len(ratings)} ratings; take 'ordinal', which learns from all of them, or leave them out of data.sources"
        )
    if loss.kind in ("bradley_terry", "plackett_luce"):
        made, found.num_lone_ratings = rankings_by_grade(ratings)
        others += made
    else:
        found.groups += _groups_of_grades(ratings)
    pairs: dict[str, list[Preference]] = {}
    for number, record in enumerate(others):
        if isinstance(record, Ranking):
            group = _group_of_ranking(record, loss, found)
            if group is None:
                found.num_without_order += 1
            else:
                found.groups.append(group)
        else:
            pairs.setdefault(record.group_id or f"pair {number}", []).append(record)
    found.groups += [_group_of_pairs(each) for each in pairs.values()]
    return found


def _counted(records: Sequence[Record]) -> str:
    counts = Counter("rankings" if isinstance(record, Ranking) else "pairs" for record in records)
    return " and ".join(f"{number} {name}" for name, number in counts.items())


def rankings_by_grade(ratings: Iterable[Rating]) -> tuple[list[Ranking], int]:
    """Rankings of what one annotator graded under one prompt, and how many grades make none.

    A text that was graded twice has the mean of its grades.
    """
    by_judge: dict[tuple[str, str | None], list[Rating]] = defaultdict(list)
    for rating in ratings:
        by_judge[prompt_key(rating.prompt), rating.annotator].append(rating)
    rankings, num_alone = [], 0
    for given in by_judge.values():
        by_text: dict[str, list[Rating]] = defaultdict(list)
        for rating in given:
            by_text[plain(rating.completion)].append(rating)
        means = [sum(each.rating for each in same) / len(same) for same in by_text.values()]
        levels = sorted(set(means), reverse=True)
        if len(levels) < 2:
            num_alone += len(given)
            continue
        rankings.append(
            Ranking(
                prompt=given[0].prompt,
                completions=[same[0].completion for same in by_text.values()],
                tiers=[[at for at, mean in enumerate(means) if mean == level] for level in levels],
                annotator=given[0].annotator,
                simulated=any(getattr(rating, "simulated", False) for rating in given),
            )
        )
    return rankings, num_alone


def _groups_of_grades(ratings: Iterable[Rating]) -> Iterator[Group]:
    """The grades of one prompt together."""
    by_prompt: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        by_prompt[prompt_key(rating.prompt)].append(rating)
    for given in by_prompt.values():
        places: dict[tuple[str, str], int] = {}
        grades = tuple(
            Grade(places.setdefault((plain(one.prompt), plain(one.completion)), len(places)), one.rating, one.annotator)
            for one in given
        )
        texts = {(plain(one.prompt), plain(one.completion)): (one.prompt, one.completion) for one in reversed(given)}
        yield Group(tuple(texts[key] for key in places), grades=grades)


def _group_of_pairs(pairs: Sequence[Preference]) -> Group:
    texts = tuple((pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected))
    return Group(
        texts,
        tuple(
            Pair(2 * at, 2 * at + 1, pair.weight, pair.margin or 0.0, pair.annotator) for at, pair in enumerate(pairs)
        ),
    )


def _group_of_ranking(ranking: Ranking, loss: LossSection, found: Gathered) -> Group | None:
    """All pairs of a ranking, as `Ranking.pairs` weighs them, and with `plackett_luce` the ranking as a whole."""
    texts = [plain(completion) for completion in ranking.completions]
    num_placed = sum(len(tier) for tier in ranking.tiers)
    pairs = []
    for (upper_at, upper), (lower_at, lower) in itertools.combinations(enumerate(ranking.tiers), 2):
        for better, worse in itertools.product(upper, lower):
            if not texts[better].strip() or not texts[worse].strip():
                continue
            if texts[better] == texts[worse]:
                found.num_equal_pairs += 1
                continue
            margin = _margin(loss, ranking.strength if upper_at == 0 else None, lower_at - upper_at)
            weight = ranking.weight * 2 / (num_placed * (num_placed - 1))
            pairs.append(Pair(better, worse, weight, margin, ranking.annotator))
    if not pairs:
        return None
    order = None
    if loss.kind == "plackett_luce":
        tiers = [tuple(at for at in tier if texts[at].strip()) for tier in ranking.tiers]
        order = Order(tuple(tier for tier in tiers if tier), ranking.weight, ranking.annotator)
    return Group(tuple((ranking.prompt, completion) for completion in ranking.completions), tuple(pairs), order)


def _margin(loss: LossSection, strength: int | None, distance: int) -> float:
    """The least there can be, of strength and of distance, is no margin (Touvron et al. 2023, section 3.2.2)."""
    if loss.margin == "tiers":
        return loss.margin_unit * (distance - 1)
    return loss.margin_unit * (strength - 1) if loss.margin == "strength" and strength else 0.0


def num_contradictions(groups: Iterable[Group]) -> int:
    """Pairs of completions of which one judgement says this and another that."""
    said: dict[tuple[str, str, str], set[bool]] = defaultdict(set)
    for group in groups:
        names = [(prompt_key(prompt), plain(completion)) for prompt, completion in group.texts]
        for pair in group.pairs:
            (prompt, better), (_, worse) = names[pair.better], names[pair.worse]
            said[prompt, min(better, worse), max(better, worse)].add(better < worse)
    return sum(len(ways) == 2 for ways in said.values())
