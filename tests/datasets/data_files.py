"""Small files for the tests of data sets, and the place of the real ones."""

import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from rlhf.datasets import DataConfig, DataSource, Loaded, load
from rlhf.records import KINDS, Record


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """One JSON value a line; `.gz` is compressed."""
    return write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_text(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def load_one(path: Path | str, kinds: Iterable[type[Record]] = KINDS, seed: int = 0, **options: Any) -> Loaded:
    """Load one source in its own order; options of DataConfig and of DataSource alike."""
    of_config = {name: options.pop(name) for name in list(options) if name in DataConfig.model_fields}
    of_config.setdefault("mixing", {"shuffle": False})
    source = DataSource(path=str(path), **options)
    return load(DataConfig(sources=[source], **of_config), tuple(kinds), seed=seed)


def rows_of(loaded: Loaded) -> list[dict[str, Any]]:
    return [record.row() for record in loaded.train]


def shared_data() -> Path:
    """The real data: `$RLHF_SHARED`, or the folder `shared` beside the repository; the test is skipped without."""
    root = Path(os.environ.get("RLHF_SHARED") or Path(__file__).parents[3] / "shared")
    if not (root / "data").is_dir():
        pytest.skip(f"no data under {root}: RLHF_SHARED names another place")
    return root / "data"
