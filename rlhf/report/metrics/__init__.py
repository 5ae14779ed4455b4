"""Every metric a run can show: what people call it, what it means, how it is written, which figure it is in."""

from rlhf.report.metrics.describing import METRICS, describe, duration, format_value, interval_name, signed
from rlhf.report.metrics.families import FAMILIES, STAGES, Family
from rlhf.report.metrics.metric import Metric

__all__ = [
    "FAMILIES",
    "METRICS",
    "STAGES",
    "Family",
    "Metric",
    "describe",
    "duration",
    "format_value",
    "interval_name",
    "signed",
]
