"""What `rlhf data inspect` says about a source: what it holds, what is wrong with it, and a few of its records."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from rlhf.datasets import clean, report, split
from rlhf.datasets.config import Cleaning, DataConfig, DataSource
from rlhf.datasets.loading import Loaded, read_source
from rlhf.datasets.sources import OpenRef
from rlhf.records import write_jsonl

MOST_PROBLEMS = 5


def inspect_source(
    source: DataSource, cleaning: Cleaning, *, num_examples: int = 2, open_ref: OpenRef | None = None
) -> dict[str, Any]:
    """The facts about one source as JSON can say them; nothing is removed, duplicates are counted.

    `lengths` are characters; `judgements` is there for preferences and rankings (see `report.judgement_stats`).

    Raises:
        UserError: it is missing or unreadable, or none of its rows can be used.
    """
    found = read_source(
        source, DataConfig(sources=[source], cleaning=cleaning, max_bad_fraction=1.0), open_ref=open_ref
    )
    records = found.records
    keys = split.PromptKeys()
    is_new = clean.first_of_each([clean.identity(record) for record in records])
    facts: dict[str, Any] = {
        "path": source.path,
        "format": found.report.format,
        "rows": found.report.rows,
        "set_aside": found.report.set_aside,
        "problems": [str(problem) for problem in found.problems[:MOST_PROBLEMS]],
        "kinds": found.report.kinds,
        "records": len(records),
        "prompts": len({keys.whole(record) for record in records}),
        "duplicates": is_new.count(False),
    }
    if cleaning.dedupe == "near":
        from rlhf.datasets.near import first_of_near

        distinct = [record for record, new in zip(records, is_new, strict=True) if new]
        facts["near_duplicates"] = list(first_of_near(distinct, cleaning.near_threshold)).count(False)
    note = report.joint_note(records)
    return facts | {
        "lengths": report.length_stats(records),
        "judgements": report.judgement_stats(records),
        "notes": [] if note is None else [note],
        "examples": [record.row() for record in records[:num_examples]],
    }


def write_prepared(loaded: Loaded, folder: Path) -> None:
    """Write `train.jsonl`, `dev.jsonl` and `set_aside.jsonl` where there is something to write, and `report.json` last.

    A folder with a `report.json` is whole. `DataSource(path=folder, split="train")` reads it back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "train.jsonl", loaded.train)
    if loaded.dev:
        write_jsonl(folder / "dev.jsonl", loaded.dev)
    if loaded.problems:
        write_jsonl(folder / "set_aside.jsonl", [dataclasses.asdict(problem) for problem in loaded.problems])
    temporary = folder / ".report.json.tmp"
    temporary.write_text(json.dumps(loaded.report.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(folder / "report.json")
