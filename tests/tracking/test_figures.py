"""Figures on disk: what is written is what is read, and what does not fit together is refused."""

from pathlib import Path

import pytest

from rlhf.tracking import Figure, FigureSeries, Mark, read_figures, write_figures


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    figure = Figure(
        name="reliability",
        title="Reliability",
        description="How often it is right where it says that it is.",
        kind="points",
        x="predicted probability",
        y="share that is right",
        series=(FigureSeries(name="after scaling", x=(0.6, 0.9), y=(0.58, 0.93), low=(0.5, 0.9), high=(0.66, 0.96)),),
        marks=(Mark(label="people", y=0.7),),
        diagonal=True,
    )
    assert read_figures(tmp_path) == []
    write_figures(tmp_path, [figure])
    assert read_figures(tmp_path) == [figure]


def test_a_series_of_unequal_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="scores: 2 values in y for 3 in x"):
        FigureSeries(name="scores", x=(1, 2, 3), y=(1, 2))
