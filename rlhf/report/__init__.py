"""What a run amounts to, for people: curves, and one self-contained page that anyone can open."""

from rlhf.report.collect import (
    lineage,
    reference_lines,
    report_from_run,
    samples_from_run,
    stage_report,
    stage_report_from_run,
)
from rlhf.report.figures import figures_of_run, save_figures
from rlhf.report.findings import comparison, headlines, warnings
from rlhf.report.html import render, write_report
from rlhf.report.metrics import METRICS, Metric, describe, format_value
from rlhf.report.model import (
    Comparison,
    Curve,
    Headline,
    LineageNode,
    MetricRow,
    Report,
    Sample,
    StageReport,
)
from rlhf.report.plots import ReferenceLine, save_pngs

__all__ = [
    "METRICS",
    "Comparison",
    "Curve",
    "Headline",
    "LineageNode",
    "Metric",
    "MetricRow",
    "ReferenceLine",
    "Report",
    "Sample",
    "StageReport",
    "comparison",
    "describe",
    "figures_of_run",
    "format_value",
    "headlines",
    "lineage",
    "reference_lines",
    "render",
    "report_from_run",
    "samples_from_run",
    "save_figures",
    "save_pngs",
    "stage_report",
    "stage_report_from_run",
    "warnings",
    "write_report",
]
