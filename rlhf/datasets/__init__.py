"""Load, clean, deduplicate, split and mix: from the `data:` section to the records a stage asked for."""

from rlhf.datasets.config import Cleaning, DataConfig, DataSource, Mixing
from rlhf.datasets.loading import Loaded, load
from rlhf.datasets.report import DataReport, SourceReport
from rlhf.datasets.sources import Found, find_source

__all__ = [
    "Cleaning",
    "DataConfig",
    "DataReport",
    "DataSource",
    "Found",
    "Loaded",
    "Mixing",
    "SourceReport",
    "find_source",
    "load",
]
