"""What a run leaves behind: folder, metrics, environment, and the same on Weights & Biases when it can."""

from rlhf.tracking.environment import environment, redact
from rlhf.tracking.metrics import read_metrics, read_samples
from rlhf.tracking.resuming import Named, begun_with, check_resumable
from rlhf.tracking.run import Run, TrackingConfig

__all__ = [
    "Named",
    "Run",
    "TrackingConfig",
    "begun_with",
    "check_resumable",
    "environment",
    "read_metrics",
    "read_samples",
    "redact",
]
