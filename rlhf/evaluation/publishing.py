"""An evaluation's figures and samples as a `report` artefact."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rlhf.evaluation.config import IntervalSection
from rlhf.records import write_jsonl
from rlhf.registry import Artefact, Registry
from rlhf.tracking import Run

FIGURES = "evaluation.json"
SAMPLES = "samples.jsonl"


def rounded(figures: dict[str, Any]) -> dict[str, Any]:
    """`figures` with six significant digits, in lists too."""

    def of(value: Any) -> Any:
        if isinstance(value, list):
            return [of(inner) for inner in value]
        return float(f"{value:.6g}") if isinstance(value, float) else value

    return {key: of(value) for key, value in figures.items()}


def publish_report(
    config: IntervalSection,
    registry: Registry,
    run: Run,
    what: str,
    parents: Sequence[tuple[str, Artefact]],
    figures: dict[str, Any],
    samples: Sequence[dict[str, Any]],
) -> str:
    """Publish under `config.output`; returns the ref.

    Args:
        config: names the output; artefacts among its data sources become parents.
        registry: where it goes.
        run: whose evaluation it is.
        what: `policy` or `reward`, what was evaluated.
        parents: models, by role.
        figures: what the summary says; also kept as the artefact's metadata.
        samples: rows for `samples.jsonl`.
    """
    assert config.output is not None
    data = [registry.find(source.path) for source in (*config.data.sources, *config.data.dev)]
    with TemporaryDirectory(dir=run.folder) as scratch:
        folder = Path(scratch)
        text = json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / FIGURES).write_text(text, encoding="utf-8")
        write_jsonl(folder / SAMPLES, samples)
        artefact = registry.publish(
            folder,
            kind="report",
            name=config.output.name,
            parents=[*parents, *(("data", found) for found in data if found is not None)],
            metadata={"evaluation": what, "metrics": figures, "confidence": config.confidence, "seed": config.seed},
            alias=config.output.alias,
            run_id=run.id,
        )
    return artefact.ref
