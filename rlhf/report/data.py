"""A report as JSON, beside the page: the same stages, the same figures, as numbers. Results stand in summary.json."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rlhf.report.model import Curve, Report


def as_json(report: Report) -> str:
    """`report` without its pictures, samples and lineage, which lie in files of their own; what is NaN is null."""
    value = {
        "title": report.title,
        "status": report.status,
        "command": report.command,
        "seed": report.seed,
        "seconds": report.seconds,
        "warnings": report.all_warnings,
        "notes": report.notes,
        "headlines": [asdict(headline) for headline in report.headlines],
        "comparisons": [asdict(comparison) for comparison in report.comparisons],
        "figures": _figures(report.figures),
        "stages": [
            {
                "name": stage.name,
                "title": stage.title,
                "status": stage.status,
                "result": stage.result,
                "ref": stage.ref,
                "seconds": stage.seconds,
                "notes": stage.notes,
                "figures": _figures(stage.curves),
                "tables": [asdict(table) for table in stage.tables if not table.texts],
            }
            for stage in report.stages
        ],
    }
    return json.dumps(value, ensure_ascii=True, indent=1, allow_nan=False) + "\n"


def _figures(curves: Sequence[Curve]) -> list[Any]:
    # pydantic writes what JSON has no number for as null
    return [json.loads(curve.data.model_dump_json(exclude_none=True)) for curve in curves if curve.data is not None]
