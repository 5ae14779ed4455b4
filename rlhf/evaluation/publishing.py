"""An evaluation's figures and samples as a `report` artefact."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlhf.datasets import Loaded
from rlhf.evaluation.config import IntervalSection
from rlhf.records import write_jsonl
from rlhf.registry import Artefact, Kind, Registry
from rlhf.tracking import Run

FIGURES = "evaluation.json"
SAMPLES = "samples.jsonl"


def rounded(figures: dict[str, Any]) -> dict[str, Any]:
    """`figures` with six significant digits, in lists and in mappings too."""

    def of(value: Any) -> Any:
        if isinstance(value, list):
            return [of(inner) for inner in value]
        if isinstance(value, dict):
            return rounded(value)
        return float(f"{value:.6g}") if isinstance(value, float) else value

    return {key: of(value) for key, value in figures.items()}


def published_names(config: IntervalSection) -> dict[str, Kind]:
    """What `publish_report` will publish, by name."""
    return {config.output.name: "report"} if config.output else {}


def publish_report(
    config: IntervalSection,
    registry: Registry,
    run: Run,
    what: str,
    parents: Sequence[tuple[str, Artefact]],
    data: Loaded,
    figures: dict[str, Any],
    samples: Sequence[dict[str, Any]],
    more: Mapping[str, Sequence[dict[str, Any]]] | None = None,
) -> str:
    """Publish under `config.output`; returns the ref.

    Args:
        config: names the output.
        registry: where it goes.
        run: whose evaluation it is.
        what: `policy` or `reward`, what was evaluated.
        parents: models, by role.
        data: what was measured on; the artefacts that it was read from become parents too.
        figures: what the summary says; also kept as the artefact's metadata.
        samples: rows for `samples.jsonl`.
        more: rows for further files, by their names.
    """
    assert config.output is not None
    with TemporaryDirectory(dir=run.folder) as scratch:
        folder = Path(scratch)
        text = json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / FIGURES).write_text(text, encoding="utf-8")
        for name, rows in {SAMPLES: samples, **(more or {})}.items():
            write_jsonl(folder / name, rows)
        artefact = registry.publish(
            folder,
            kind="report",
            name=config.output.name,
            parents=[*parents, *(("data", ref) for ref in data.refs)],
            metadata={"evaluation": what, "metrics": figures, "confidence": config.confidence, "seed": config.seed},
            alias=config.output.alias,
            run_id=run.id,
        )
    return artefact.ref
