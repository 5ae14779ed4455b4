"""What each judgement counts: by its annotator's reliability, and by which members of an ensemble learn from it."""

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reward.config import EnsembleSection
from reward.data import Weigh
from rlhf.errors import UserError
from rlhf.records import Preference, Ranking, Rating, Record, plain, prompt_key
from rlhf.registry import LineageNode, Registry
from rlhf.reliability import Floats, Moments, fit_reliability, shared_moments, standard_errors, standardised

_ERRORS = 2.0
"""Standard errors within which a reliability is taken to be no different."""

DESCRIPTION_NAME = "labels.json"
"""What `rlhf label export` writes beside rows in a folder."""

Unit = tuple[str, ...]


@dataclass(frozen=True)
class Annotator:
    """One annotator's weight and where it comes from.

    Attributes:
        weight: what a judgement of theirs counts; the mean over all judgements of named annotators is 1.
        reliability: see `rlhf.reliability.fit_reliability`.
        num_comparisons: how many comparisons with others that rests on.
        num_judgements: records.
    """

    weight: float
    reliability: float
    num_comparisons: float
    num_judgements: int


def annotator_weights(records: Iterable[Record]) -> dict[str, Annotator]:
    """A weight for each annotator of these records.

    It is the reliability r over its mean: for a gradient whose signal is r times that of the truth and whose noise is
    the same for everybody, the sum with weights r has the best ratio of signal to noise. It is 0 where r is not above
    0, and where r cannot be told from that of somebody who guesses, but can be told from that of those who are trusted.
    Answers that are the wrong way round are not turned: that would be to trust somebody who has shown not to be worth
    it.

    Raises:
        UserError: no two annotators judged the same completions.
    """
    records = [record for record in {id(record): record for record in records}.values() if _annotator(record)]
    names = sorted({_annotator(record) for record in records})
    number = {name: index for index, name in enumerate(names)}
    votes, grades = _votes(records, number), _grades(records, number)
    num, products = (one + other for one, other in zip(votes, grades, strict=True))
    nothing = np.zeros(len(names))
    moments = Moments(num, products, nothing, nothing)
    if not num.any():
        raise UserError(
            f"loss.weights = 'reliability': no two of {len(names)} named annotators judged the same completions, so "
            "that nobody's answers can be held against another's; set it to 'record'"
        )
    reliability = fit_reliability(moments)
    counts = np.bincount([number[_annotator(record)] for record in records], minlength=len(names))
    weights = _weights(moments, reliability, counts)
    return {
        name: Annotator(float(weight), float(value), round(float(compared), 3), int(judged))
        for name, weight, value, compared, judged in zip(
            names, weights, reliability, moments.num_comparisons, counts, strict=True
        )
    }


def refuse_weighted(paths: Iterable[str], refs: Iterable[str], registry: Registry) -> None:
    """Raise UserError where an export of labels has weighed its annotators already: the weights would count twice.

    Args:
        paths: the sources as the config names them; beside an export in a folder lies its description.
        refs: the artefacts that were read. One of a training run is looked through to what that read.
        registry: holds them.
    """
    weighted = [path for path in paths if _is_in_weighted_folder(Path(path).expanduser())]
    weighted += [ref for ref in refs if _is_weighted(registry.lineage(ref))]
    if weighted:
        raise UserError(
            f"loss.weights = 'reliability': {', '.join(weighted)} comes from an export that weighs its annotators "
            "already, and the weights would be squared; set it to 'record', or export without --reliability-weights"
        )


def _is_weighted(node: LineageNode) -> bool:
    # what wrote the completions is an ancestor too, with judgements of its own, which are not in these rows
    sources = (child for child in node.children if child.role == "source")
    return bool(node.artefact.metadata.get("reliability_weights")) or any(map(_is_weighted, sources))


def _is_in_weighted_folder(path: Path) -> bool:
    about = (path if path.is_dir() else path.parent) / DESCRIPTION_NAME
    if not path.exists() or not about.is_file():
        return False
    try:
        described = json.loads(about.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{about}: is not JSON: {error}") from None
    return isinstance(described, dict) and bool(described.get("reliability_weights"))


def _weights(moments: Moments, reliability: Floats, counts: np.ndarray) -> Floats:
    worth = np.clip(reliability, 0, 1)
    trusted = float(worth**2 @ counts) / max(float(worth @ counts), 1e-9)
    error = _ERRORS * standard_errors(moments, reliability)
    worth[(reliability < error) & (trusted - reliability > error)] = 0
    total = float(worth @ counts)
    return np.asarray(worth * counts.sum() / total) if total > 0 else np.ones(len(worth))


def _annotator(record: Record) -> str:
    return getattr(record, "annotator", None) or ""


def _votes(records: Sequence[Record], number: Mapping[str, int]) -> tuple[Floats, Floats]:
    """Moments [P, P] of what was said of pairs of completions."""
    said: dict[tuple[Unit, int], tuple[int, float]] = {}  # of one person and pair, the last word
    for texts, annotator, prompt, places in _orders(records):
        worth = 2 / max(len(texts), 2)
        for one, other in itertools.combinations(range(len(texts)), 2):
            first, second = sorted((one, other), key=lambda at: texts[at])
            if texts[first] != texts[second]:
                vote = (places[second] > places[first]) - (places[second] < places[first])
                said[(prompt, texts[first], texts[second]), number[annotator]] = (vote, worth)
    return _moments(
        [key for key, _ in said],
        [person for _, person in said],
        np.array([vote for vote, _ in said.values()], dtype=np.float64),
        np.array([worth for _, worth in said.values()], dtype=np.float64),
        len(number),
    )


def _orders(records: Sequence[Record]) -> Iterable[tuple[list[str], str, str, list[int]]]:
    """Texts, annotator, prompt and the texts' places of rankings and of single pairs."""
    for record in records:
        if isinstance(record, Ranking):
            placed = [(at, place) for place, tier in enumerate(record.tiers) for at in tier]
            texts = [plain(record.completions[at]) for at, _ in placed]
            yield texts, _annotator(record), prompt_key(record.prompt), [place for _, place in placed]
        elif isinstance(record, Preference):
            texts = [plain(record.chosen), plain(record.rejected)]
            yield texts, _annotator(record), prompt_key(record.prompt), [0, 1]


def _grades(records: Sequence[Record], number: Mapping[str, int]) -> tuple[Floats, Floats]:
    """Moments [P, P] of grades, standardised for each annotator: neither leniency nor spread counts."""
    given: dict[tuple[Unit, int], float] = {}
    for record in records:
        if isinstance(record, Rating):
            given[(prompt_key(record.prompt), plain(record.completion)), number[_annotator(record)]] = record.rating
    people = np.array([person for _, person in given], dtype=np.int64)
    values = standardised(np.array(list(given.values()), dtype=np.float64), people, len(number))
    return _moments([key for key, _ in given], people.tolist(), values, np.ones(len(given)), len(number))


def _moments(
    units: Sequence[Unit], people: Sequence[int], values: Floats, worth: Floats, num_people: int
) -> tuple[Floats, Floats]:
    index: dict[Unit, int] = {}
    items = np.array([index.setdefault(unit, len(index)) for unit in units], dtype=np.int64)
    return shared_moments(items, np.array(people, dtype=np.int64), values, worth, num_people)


def members_of(
    ensemble: EnsembleSection | None, records: Iterable[Record], weights: Mapping[str, float], *, seed: int
) -> Weigh:
    """What each judgement counts for each member: its annotator's weight times how often the member has drawn it.

    With `annotators` a member draws as many annotators as there are, with replacement, and learns from all they said;
    those of weight 0 are not drawn from. With `prompts` it draws prompts (Efron & Tibshirani 1993, chapter 8.5). An
    annotator without a name or a weight counts once.

    Raises:
        UserError: annotators are to be drawn, and fewer than two have a name and a weight.
    """
    num_members = ensemble.num_members if ensemble else 1
    resample = ensemble.resample if ensemble else "none"
    if resample == "none":
        return lambda _, annotator: [_weight(weights, annotator)] * num_members
    if resample == "prompts":
        units = sorted({prompt_key(record.prompt) for record in records})  # type: ignore[attr-defined]
    else:
        units = sorted({name for record in records if (name := _annotator(record)) and _weight(weights, name) > 0})
        if len(units) < 2:
            found = f"only {units[0]}" if units else "none"
            raise UserError(
                f"ensemble.resample = 'annotators': there are not two annotators with a name to draw from ({found}); "
                "set it to 'prompts'"
            )
    drawn = _draw(units, num_members, seed)

    def weigh(prompt: str, annotator: str | None) -> Sequence[float]:
        counts = drawn.get((annotator or "") if resample == "annotators" else prompt, [1.0] * num_members)
        return [_weight(weights, annotator) * count for count in counts]

    return weigh


def _weight(weights: Mapping[str, float], annotator: str | None) -> float:
    return weights.get(annotator, 1.0) if annotator else 1.0


def _draw(units: Sequence[str], num_members: int, seed: int) -> dict[str, list[float]]:
    """How often each member has drawn each unit."""
    rng = np.random.default_rng(seed)
    counts = [np.bincount(rng.integers(len(units), size=len(units)), minlength=len(units)) for _ in range(num_members)]
    columns: dict[str, list[float]] = defaultdict(list)
    for member in counts:
        for unit, count in zip(units, member.tolist(), strict=True):
            columns[unit].append(float(count))
    return dict(columns)
