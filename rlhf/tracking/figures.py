"""What a stage wants drawn: data that says itself how it is to be read, beside metrics.jsonl in the run's folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from rlhf.tracking.metrics import write_atomically

NAME = "figures.json"


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FigureSeries(_Plain):
    """One line, one row of bars or one cloud of points; `low` and `high` are an interval about each `y`."""

    name: str
    x: tuple[float | str, ...]
    """Texts are names of bars, in the order in which they are to stand."""
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    labels: tuple[str, ...] | None = None
    """What is written at each point."""

    @model_validator(mode="after")
    def _same_lengths(self) -> "FigureSeries":
        for name in ("y", "low", "high", "labels"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.x):
                raise ValueError(f"{self.name}: {len(values)} values in {name} for {len(self.x)} in x")
        return self


class Mark(_Plain):
    """A point on the x axis, or on the y axis, with what it means."""

    label: str
    x: float | None = None
    y: float | None = None


class Figure(_Plain):
    """One figure of a report."""

    name: str
    """Stable, for whoever reads the file: `reliability`."""
    title: str
    description: str
    """What is to be seen in it, for those who do not see it and those who were not there."""
    kind: Literal["lines", "bars", "points"]
    x: str
    """What the axis shows, with its unit."""
    y: str
    series: tuple[FigureSeries, ...]
    marks: tuple[Mark, ...] = ()
    diagonal: bool = False
    """Whether the line y = x is drawn, as that of perfect calibration."""


def write_figures(folder: Path, figures: Sequence[Figure]) -> None:
    """Write them to `folder`/figures.json, in the place of what was there."""
    text = json.dumps([figure.model_dump(exclude_none=True) for figure in figures], ensure_ascii=False, indent=1)
    write_atomically(folder / NAME, (text + "\n").encode())


def read_figures(folder: Path) -> list[Figure]:
    """Those of a run's folder; none where it has no such file. Raises ValueError where the file holds anything else."""
    path = folder / NAME
    if not path.is_file():
        return []
    rows: list[Mapping[str, object]] = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise ValueError(f"holds a JSON {type(rows).__name__}, not a list of figures")
    return [Figure.model_validate(row) for row in rows]
