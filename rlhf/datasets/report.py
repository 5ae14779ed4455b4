"""What a load did, in numbers: for the run folder, for `rlhf data`, and for the eyes of whoever prepared the data."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf.datasets.clean import texts_of
from rlhf.records import Completion, Document, Preference, Problem, Ranking, Rating, Record, plain, prompt_key

PERCENTILES = (5, 50, 95, 99)


@dataclass(frozen=True)
class SourceReport:
    """What one source gave."""

    name: str
    path: str
    format: str
    role: str
    """`train` or `dev`."""
    rows: int
    set_aside: int
    kinds: dict[str, int]
    """Records by kind, as they stand in the source, before any became another kind."""
    records: int
    """Records of the kinds that were asked for."""
    first_problem: str | None = None


@dataclass(frozen=True)
class DataReport:
    """All that a load did."""

    sources: list[SourceReport]
    num_train: int
    num_dev: int
    num_train_prompts: int
    num_dev_prompts: int
    removed: dict[str, int]
    """Good records left out, by reason: too_short, too_long, duplicate, near_duplicate, prompt_in_dev, near_dev."""
    lengths: dict[str, dict[str, float]]
    """Characters by part (prompt, completion, text): min, percentiles, max, mean."""
    notes: list[str] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Rows read, of all sources."""
        return sum(source.rows for source in self.sources)

    @property
    def num_set_aside(self) -> int:
        """Rows that could not be used."""
        return sum(source.set_aside for source in self.sources)

    def summary(self) -> str:
        """One line a source with rows set aside, one for the rest."""
        lines = [
            f"{source.name}: {source.set_aside:,} of {source.rows:,} rows set aside; first: {source.first_problem}"
            for source in self.sources
            if source.set_aside
        ]
        removed = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in self.removed.items() if count)
        lines.append(
            f"{self.num_train:,} training and {self.num_dev:,} held-out records of {self.num_train_prompts:,} and "
            f"{self.num_dev_prompts:,} prompts" + (f" (left out: {removed})" if removed else "")
        )
        return "\n".join([*lines, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can say it."""
        return dataclasses.asdict(self) | {"num_rows": self.num_rows, "num_set_aside": self.num_set_aside}


def length_stats(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """Characters of each part of the records."""
    lengths: dict[str, list[int]] = defaultdict(list)
    for record in records:
        names = _part_names(record)
        for name, text in zip(names, texts_of(record), strict=True):
            lengths[name].append(len(plain(text)))
    return {name: _describe(values) for name, values in lengths.items()}


def _part_names(record: Record) -> list[str]:
    match record:
        case Ranking():
            return ["prompt"] + ["completion"] * len(record.completions)
        case Preference():
            return ["prompt", "chosen", "rejected"]
        case Rating() | Completion():
            return ["prompt", "completion"]
        case Document():
            return ["text"]
    return ["messages" if hasattr(record, "messages") else "prompt"]


def _describe(values: list[int]) -> dict[str, float]:
    values = sorted(values)
    at = {f"p{share}": values[min(len(values) - 1, len(values) * share // 100)] for share in PERCENTILES}
    return {"min": values[0], **at, "max": values[-1], "mean": round(sum(values) / len(values), 1)}


def judgement_stats(records: Sequence[Record]) -> dict[str, Any]:
    """What can be said of preferences and rankings before anything is trained on them.

    `longest_wins` is the share of strict pairs in which the longer completion is the better one (a draw in length
    counts half), `tie_share` the share of judged pairs that are ties, `judged_both_ways` the number of pairs of texts
    of which each was the better one once, and `agreement` the share of pairs of annotators who gave the same verdict
    (better, worse or tie) on the same two completions.
    """
    wins = strict = ties = 0.0
    both_ways: dict[tuple[str, frozenset[str]], set[str]] = defaultdict(set)
    verdicts: dict[tuple[str, tuple[str, str]], dict[str, int]] = defaultdict(dict)
    for record in records:
        if not isinstance(record, Preference | Ranking):
            continue
        key = prompt_key(record.prompt)
        for better, worse, tied in _judged_pairs(record):
            if tied:
                ties += 1
            else:
                strict += 1
                wins += 0.5 if len(better) == len(worse) else float(len(better) > len(worse))
                both_ways[key, frozenset((better, worse))].add(better)
            if record.annotator is not None and better != worse:
                low, high = sorted((better, worse))
                verdicts[key, (low, high)][record.annotator] = 0 if tied else 1 if better == low else -1
    if not strict + ties:
        return {}
    agreeing, compared = _agreement(verdicts.values())
    return {
        "pairs": int(strict + ties),
        "longest_wins": round(wins / strict, 4) if strict else None,
        "tie_share": round(ties / (strict + ties), 4),
        "judged_both_ways": sum(len(better) > 1 for better in both_ways.values()),
        "annotators": len({name for votes in verdicts.values() for name in votes}),
        "agreement": round(agreeing / compared, 4) if compared else None,
        "agreement_pairs": compared,
    }


def _judged_pairs(record: Preference | Ranking) -> Iterable[tuple[str, str, bool]]:
    if isinstance(record, Preference):
        yield plain(record.chosen), plain(record.rejected), False
        return
    texts = [plain(text) for text in record.completions]
    for tier in record.tiers:
        for a, b in itertools.combinations(tier, 2):
            yield texts[a], texts[b], True
    for upper, lower in itertools.combinations(record.tiers, 2):
        for a, b in itertools.product(upper, lower):
            yield texts[a], texts[b], False


def _agreement(units: Iterable[dict[str, int]]) -> tuple[int, int]:
    agreeing = compared = 0
    for votes in units:
        for a, b in itertools.combinations(votes.values(), 2):
            compared += 1
            agreeing += a == b
    return agreeing, compared


def joint_note(records: Sequence[Record]) -> str | None:
    """A warning when prompts and completions meet without a space or a line end between them."""
    pairs = [
        (record.prompt, answer)
        for record in records[:1000]
        if isinstance(record, Completion | Preference)
        for answer in [record.completion if isinstance(record, Completion) else record.chosen]
        if isinstance(record.prompt, str) and isinstance(answer, str)
    ]
    bare = [(prompt, answer) for prompt, answer in pairs if not prompt[-1:].isspace() and not answer[:1].isspace()]
    if len(bare) * 2 <= len(pairs):
        return None
    prompt, answer = bare[0]
    return (
        f"as plain text prompts and completions meet without a space ({(prompt[-15:] + answer[:10])!r}): give a "
        'template such as {prompt: "{prompt}\\n\\n"}, or `conversational: true` for a model with a chat template'
    )


def problems_line(problems: Sequence[Problem], most: int = 3) -> list[str]:
    """The first few problems, a line each, and how many more there are."""
    lines = [f"  {problem}" for problem in problems[:most]]
    return lines + ([f"  and {len(problems) - most:,} more"] if len(problems) > most else [])
