"""What a report says, as plain data: `html` writes it, `collect` reads it back from run folders."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhf.tracking import Figure

SIMULATED = "The annotators were simulated: no person judged anything here."


@dataclass(frozen=True)
class Headline:
    """One big figure on top.

    Attributes:
        label: what it is.
        value: as it is to be read ("94.0%").
        note: what stands under it: the interval, a comparison.
    """

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class MetricRow:
    """One line of a stage's table of results; `whole` is the value where it is shown shortened."""

    label: str
    value: str
    explanation: str = ""
    whole: str = ""


@dataclass(frozen=True)
class Curve:
    """One drawn figure.

    Attributes:
        title: its heading.
        svg: inline SVG as `canvas.inline_svg` makes it; the only thing in a report that is not escaped.
        description: the same in words, for those who do not see it.
        primary: shown at once; the others wait behind a fold.
        reading: how it is to be read, for those who were not there; stands under its title.
        table: its numbers, the names of the columns first; empty where they are too many to be read.
        data: what is drawn.
    """

    title: str
    svg: str
    description: str
    primary: bool = True
    reading: str = ""
    table: tuple[tuple[str, ...], ...] = ()
    data: Figure | None = None


@dataclass(frozen=True)
class Table:
    """Things side by side, one a row.

    Attributes:
        title: its heading.
        columns: their names; the first column names the rows.
        rows: texts, as many in each as there are columns.
        reading: how it is to be read, for those who were not there.
        folded: waits behind a fold.
        texts: the cells hold texts of people or models, to be shown as they were written.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    reading: str = ""
    folded: bool = False
    texts: bool = False


@dataclass(frozen=True)
class StageReport:
    """One stage: how it ended, how long it took, what it published, what came of it.

    Attributes:
        name: sft, reward, ppo, dpo, rloo, eval, eval_reward, export.
        status: done, failed, stopped, interrupted, or that it has not finished.
        title: what people call it; its name when empty.
        result: the one result by which it is known.
        seconds: how long it took.
        ref: what it published.
        metrics: all its results.
        curves: its figures, those that say what came of it first.
        notes: what else a reader should know, such as the error that ended it.
        tables: what stands side by side: candidates, annotators, the answers that a model got most wrong.
    """

    name: str
    status: str
    title: str = ""
    result: str = ""
    seconds: float | None = None
    ref: str | None = None
    metrics: tuple[MetricRow, ...] = ()
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One prompt answered before and after training; `held_out` is None where nobody has said whether it was."""

    prompt: str
    before: str
    after: str
    score_before: float | None = None
    score_after: float | None = None
    held_out: bool | None = None


@dataclass(frozen=True)
class LineageNode:
    """One artefact and, below it, what it was made from.

    Attributes:
        ref: `group/name@v3`.
        kind: base, dataset, preferences, sft, reward, policy or report.
        role: what it was to the artefact above it; empty for the root.
        digest: sha256 of its content, or the beginning of it.
        created: when, as text.
        children: what it was made from.
        repeated: its ancestors stand elsewhere in the tree.
        note: what else is worth knowing, such as who annotated.
        simulated: no person annotated, a program did.
    """

    ref: str
    kind: str
    role: str = ""
    digest: str = ""
    created: str = ""
    children: tuple["LineageNode", ...] = ()
    repeated: bool = False
    note: str = ""
    simulated: bool = False

    def rests_on_simulation(self) -> bool:
        """Whether it, or anything that it was made from, was annotated by a program."""
        return self.simulated or any(child.rests_on_simulation() for child in self.children)


@dataclass(frozen=True)
class Comparison:
    """Who wins, how often, and how sure that is.

    Attributes:
        left: the one whose wins are counted.
        right: what it was compared with.
        judge: who or what decided.
        win_rate: share of wins of `left`, ties counted half, in [0, 1].
        interval: where the true rate may lie.
        interval_name: what that is called ("95% interval").
        num_prompts: how many held-out prompts were compared.
    """

    left: str
    right: str
    judge: str
    win_rate: float
    interval: tuple[float, float]
    num_prompts: int | None = None
    interval_name: str = "interval"


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        title: its heading.
        status: done, failed, stopped or interrupted.
        command: the command line that made the run.
        seed: where all random draws come from.
        environment: what `rlhf.tracking.environment` found.
        figures: those that belong to no stage alone, such as what each round of a loop has gained.
        warnings: what nobody may overlook, such as that the annotators were simulated.
        notes: what else a reader should know.
        created: when, as text.
    """

    title: str
    status: str
    command: str = ""
    seed: int | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    headlines: tuple[Headline, ...] = ()
    figures: tuple[Curve, ...] = ()
    stages: tuple[StageReport, ...] = ()
    samples: tuple[Sample, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    lineage: LineageNode | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    created: str = ""
    seconds: float | None = None

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """The warnings, and what lineage adds to them."""
        known = SIMULATED in self.warnings or self.lineage is None or not self.lineage.rests_on_simulation()
        return self.warnings if known else (SIMULATED, *self.warnings)
