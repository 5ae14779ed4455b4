"""What a run leaves behind: folder, metrics, environment, and the same on Weights & Biases when it can."""

from rlhf.tracking.environment import environment, redact
from rlhf.tracking.figures import Figure, FigureSeries, Mark, read_figures, write_figures
from rlhf.tracking.metrics import read_metrics, read_samples
from rlhf.tracking.resuming import Named, begun_with, check_resumable
from rlhf.tracking.run import Run, TrackingConfig

__all__ = [
    "Figure",
    "FigureSeries",
    "Mark",
    "Named",
    "Run",
    "TrackingConfig",
    "begun_with",
    "check_resumable",
    "environment",
    "read_figures",
    "read_metrics",
    "read_samples",
    "redact",
    "write_figures",
]
