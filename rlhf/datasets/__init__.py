"""Load, clean, deduplicate, split and mix: from the `data:` section to the records a stage asked for."""

from rlhf.datasets.config import Cleaning, DataConfig, DataSource, Mixing
from rlhf.datasets.loading import Loaded, load
from rlhf.datasets.report import DataReport, SourceReport

__all__ = ["Cleaning", "DataConfig", "DataReport", "DataSource", "Loaded", "Mixing", "SourceReport", "load"]
