"""From the `data:` section to the records a stage asked for."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rlhf.datasets import clean, report, split
from rlhf.datasets.config import Cleaning, DataConfig, DataSource
from rlhf.datasets.convert import convert, name_kinds
from rlhf.datasets.formats import read_rows
from rlhf.datasets.report import DataReport, SourceReport
from rlhf.datasets.rows import Row, as_json, without_nan
from rlhf.datasets.sources import OpenRef, find_source, open_source
from rlhf.errors import UserError
from rlhf.records import KINDS, Problem, Record, parse_record, plain

_REQUIRED = frozenset(name for kind in KINDS for name in kind.columns)
_OPTIONAL = frozenset(name for kind in KINDS for name in kind.model_fields) - _REQUIRED


@dataclass(frozen=True)
class Loaded:
    """What a stage trains on and what it is judged on.

    `problems` are the rows that were set aside, each with file and line; `write_jsonl` takes them as
    `vars(problem)`. `refs` are the versions of the registry's artefacts that the rows were read from, `hub` the ids
    of the Hub's data sets.
    """

    train: list[Record]
    dev: list[Record]
    problems: list[Problem]
    report: DataReport
    refs: tuple[str, ...] = ()
    hub: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """The sha256 of all rows in their order."""
        digest = hashlib.sha256()
        for part in (self.train, self.dev):
            for record in part:
                digest.update(json.dumps(record.row(), sort_keys=True).encode() + b"\n")
            digest.update(b"\n")
        return digest.hexdigest()


@dataclass(frozen=True)
class SourceRows:
    """What one source holds: its records of the kinds asked for, and what was set aside."""

    records: list[Record]
    problems: list[Problem]
    report: SourceReport
    ref: str | None = None
    hub: str | None = None


def load(config: DataConfig, kinds: Sequence[type[Record]], *, seed: int, open_ref: OpenRef | None = None) -> Loaded:
    """Read, clean, convert, deduplicate, split and mix.

    Args:
        config: the `data:` section.
        kinds: what the stage wants. Rows of another kind are turned into the first of these that they can be; see
            `rlhf.datasets.convert`.
        seed: decides the sample and the order of the training rows. It has no say in what is held out.
        open_ref: finds the folder of a registry artefact, and its version.

    Raises:
        UserError: a source is missing or unreadable, too many of its rows are bad, or nothing is left to train on.
    """
    # 1. Rows of every source, in our columns and of the kinds asked for.
    sources = [read_source(source, config, kinds, role="train", open_ref=open_ref) for source in config.sources]
    dev_sources = [read_source(source, config, kinds, role="dev", open_ref=open_ref) for source in config.dev]
    removed: Counter[str] = Counter()
    # 2. Too short, too long, there already.
    pools = _reduce([source.records for source in sources], config.cleaning, removed)
    dev = [
        record for pool in _reduce([one.records for one in dev_sources], config.cleaning, removed) for record in pool
    ]
    # 3. What is held out.
    keys = split.PromptKeys()
    if config.dev_fraction:
        fractions = [config.dev_fraction if source.held_out else 0.0 for source in config.sources]
        held_out = [
            [split.is_held_out(keys.opening(record), fraction, config.split_seed) for record in pool]
            for pool, fraction in zip(pools, fractions, strict=True)
        ]
        dev = [record for pool, out in zip(pools, held_out, strict=True) for record in itertools.compress(pool, out)]
        pools = [
            [record for record, is_out in zip(pool, out, strict=True) if not is_out]
            for pool, out in zip(pools, held_out, strict=True)
        ]
    # 4. No prompt on both sides.
    pools = _without_leaks(pools, dev, config.cleaning, keys, removed)
    # 5. The mixture.
    if not any(pools):
        raise UserError(_nothing_left(config, sources, dev, removed))
    train = split.mix(pools, [source.weight for source in config.sources], config.mixing, seed)
    problems = [problem for source in [*sources, *dev_sources] for problem in source.problems]
    made = DataReport(
        sources=[source.report for source in [*sources, *dev_sources]],
        num_train=len(train),
        num_dev=len(dev),
        num_train_prompts=len({keys.whole(record) for record in train}),
        num_dev_prompts=len({keys.whole(record) for record in dev}),
        removed=dict(removed),
        lengths=report.length_stats(train),
        notes=_notes(config, train, dev),
    )
    refs = dict.fromkeys(source.ref for source in [*sources, *dev_sources] if source.ref is not None)
    hub = dict.fromkeys(source.hub for source in [*sources, *dev_sources] if source.hub is not None)
    return Loaded(train, dev, problems, made, tuple(refs), tuple(hub))


def read_source(
    source: DataSource,
    config: DataConfig,
    kinds: Sequence[type[Record]] = KINDS,
    *,
    role: str = "train",
    open_ref: OpenRef | None = None,
) -> SourceRows:
    """The records of one source, cleaned row by row; nothing is deduplicated or split yet.

    Raises:
        UserError: the source is missing, unreadable, empty, or holds more bad rows than `max_bad_fraction`.
    """
    found_at = find_source(source, open_ref)
    format_name, rows = read_rows(open_source(source, found_at), source)
    records: list[Record] = []
    problems: list[Problem] = []
    found: Counter[str] = Counter()
    num_rows = 0
    for raw, made in rows:
        num_rows += 1
        if isinstance(made, Problem):
            problems.append(made)
            continue
        try:
            parsed = [parse_row(row, config.cleaning) for row in made]
            found.update(type(record).__name__.lower() for record in parsed)
            records += [one for record in parsed for one in convert(record, kinds)]
        except ValueError as error:
            problems.append(raw.problem(str(error)))
        if source.limit is not None and len(records) >= source.limit:
            del records[source.limit :]
            break
    if num_rows == 0:
        raise UserError(f"{source.label}: is empty: it holds no rows")
    if not records or len(problems) > config.max_bad_fraction * num_rows:
        raise UserError(_too_bad(source, problems, num_rows, kinds, config))
    first = str(problems[0]) if problems else None
    made_report = SourceReport(
        source.label,
        source.path,
        format_name,
        role,
        num_rows,
        len(problems),
        dict(found),
        len(records),
        first,
    )
    hub = source.path.removeprefix("hub:") if found_at.files is None else None
    return SourceRows(records, problems, made_report, found_at.ref, hub)


def parse_row(row: Row, cleaning: Cleaning) -> Record:
    """The record that a row in our columns is, cleaned.

    Raises:
        ValueError: it is none; the text says why.
    """
    row = clean.clean_row(row, cleaning)
    # An optional column without a value is a column that is not there: tables have every column in every row.
    row = {name: value for name, value in row.items() if not (name in _OPTIONAL and (value is None or value == ""))}
    extra = {
        name: without_nan(as_json(value))
        for name, value in row.items()
        if name not in _REQUIRED and name not in _OPTIONAL and not isinstance(value, str)
    }
    return parse_record(row | extra)


def _reduce(pools: list[list[Record]], cleaning: Cleaning, removed: Counter[str]) -> list[list[Record]]:
    """Each pool without records of the wrong length and without those that came before, in any pool."""
    fitting = [_of_length(pool, cleaning, removed) for pool in pools]
    if cleaning.dedupe == "none":
        return fitting
    flat = [(place, record) for place, pool in enumerate(fitting) for record in pool]
    new = clean.first_of_each([clean.identity(record) for _, record in flat])
    removed["duplicate"] += new.count(False)
    flat = [one for one, is_new in zip(flat, new, strict=True) if is_new]
    if cleaning.dedupe == "near":
        from rlhf.datasets.near import first_of_near

        new = list(first_of_near([record for _, record in flat], cleaning.near_threshold))
        removed["near_duplicate"] += new.count(False)
        flat = [one for one, is_new in zip(flat, new, strict=True) if is_new]
    reduced: list[list[Record]] = [[] for _ in pools]
    for place, record in flat:
        reduced[place].append(record)
    return reduced


def _of_length(pool: list[Record], cleaning: Cleaning, removed: Counter[str]) -> list[Record]:
    if not cleaning.min_chars and cleaning.max_chars is None:
        return pool
    kept = []
    for record in pool:
        length = clean.num_chars(record)
        if length < cleaning.min_chars:
            removed["too_short"] += 1
        elif cleaning.max_chars is not None and length > cleaning.max_chars:
            removed["too_long"] += 1
        else:
            kept.append(record)
    return kept


def _without_leaks(
    pools: list[list[Record]], dev: list[Record], cleaning: Cleaning, keys: split.PromptKeys, removed: Counter[str]
) -> list[list[Record]]:
    """Training records whose prompt is held out are left out; with `dedupe: near`, nearly such prompts too."""
    if not dev:
        return pools
    held = {keys.whole(record) for record in dev}
    kept = [[record for record in pool if keys.whole(record) not in held] for pool in pools]
    removed["prompt_in_dev"] += sum(map(len, pools)) - sum(map(len, kept))
    if cleaning.dedupe != "near":
        return kept
    from rlhf.datasets.near import NearIndex

    index = NearIndex(cleaning.near_threshold)
    for record in dev:
        index.add_if_new([plain(split.prompt_of(record))])
    far = [[record for record in pool if not index.is_near([plain(split.prompt_of(record))])] for pool in kept]
    removed["near_dev"] += sum(map(len, kept)) - sum(map(len, far))
    return far


# What is said when it goes wrong


def _too_bad(
    source: DataSource,
    problems: list[Problem],
    num_rows: int,
    kinds: Sequence[type[Record]],
    config: DataConfig,
) -> list[str]:
    head = (
        f"{source.label}: {len(problems):,} of {num_rows:,} rows cannot be used as {name_kinds(kinds)}"
        + (f" (max_bad_fraction = {config.max_bad_fraction})" if len(problems) < num_rows else "")
        + "; the first:"
    )
    return [head, *report.problems_line(problems)]


def _nothing_left(config: DataConfig, sources: list[SourceRows], dev: list[Record], removed: Counter[str]) -> list[str]:
    names = ", ".join(source.label for source in config.sources)
    num_records = sum(len(source.records) for source in sources)
    lines = [f"{names}: nothing is left to train on of {num_records:,} records"]
    lines += [f"  {count:,} left out: {reason.replace('_', ' ')}" for reason, count in removed.items() if count]
    if removed["prompt_in_dev"]:
        lines.append("  every other prompt is also in `dev`: are the two the same file?")
    elif dev and config.dev_fraction:
        lines.append(f"  {len(dev):,} held out by dev_fraction = {config.dev_fraction}")
    return lines


def _notes(config: DataConfig, train: list[Record], dev: list[Record]) -> list[str]:
    notes = [] if (note := report.joint_note(train)) is None else [note]
    if config.dev_fraction and not dev:
        notes.append(f"nothing is held out: too few prompts for dev_fraction = {config.dev_fraction}")
    return notes


__all__ = ["Loaded", "SourceRows", "load", "parse_row", "read_source"]
