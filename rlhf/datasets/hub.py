"""Data sets of the `datasets` library: saved in a folder, or on the Hub. It is imported when one is opened."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf.datasets.config import DataSource
from rlhf.datasets.rows import RawRow, as_json
from rlhf.errors import UserError


def saved_rows(folder: Path, source: DataSource) -> Iterator[RawRow]:
    """The rows of a folder that `save_to_disk` wrote."""
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: is not a whole saved data set: {error}") from None
    if isinstance(found, datasets.DatasetDict):
        split = source.split or "train"
        if split not in found:
            raise UserError(f"{folder}: no split {split!r}; there are {', '.join(map(str, found))}")
        found = found[split]
    return _dataset_rows(found, str(folder))


def hub_rows(source: DataSource) -> Iterator[RawRow]:
    """The rows of one split of a data set on the Hub, or in the Hub's cache."""
    name = source.path.removeprefix("hub:")
    return _dataset_rows(_load_hub(source, name), name)


def _load_hub(source: DataSource, name: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(
            name,
            source.subset,
            data_dir=source.data_dir,
            split=source.split or "train",
            revision=source.revision,
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name}: is no file, folder or artefact here, and could not be had from the Hub "
            f"({type(error).__name__}: {first}); give the path of a local copy, or check name and network"
            + (" (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else "")
        ) from None


def _dataset_rows(found: Any, path: str) -> Iterator[RawRow]:
    line = 0
    for batch in found.with_format(None).iter(batch_size=1000):
        names = list(batch)
        for values in zip(*batch.values(), strict=True):
            line += 1
            yield RawRow(path, line, {name: as_json(value) for name, value in zip(names, values, strict=True)})
