"""What `rlhf label add`, `status` and `export` print."""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from rlhf.cli import output
from rlhf.cli.output import counted
from rlhf.errors import Interrupted, UserError

if TYPE_CHECKING:
    from labeling_app.importing import Outcome
    from labeling_app.store import QueueStatus
    from rlhf.pipeline.adding import Sampled

MOST_SHOWN = 50


@dataclass
class Total:
    """What all parts of one `add` came to."""

    num_tasks: int = 0
    num_responses: int = 0
    num_identical: int = 0
    num_votes: int = 0
    num_already: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gone: str | None = None

    def add_outcome(self, outcome: "Outcome") -> None:
        self.num_tasks += len(outcome.task_ids)
        self.num_responses += outcome.num_responses
        self.num_identical += outcome.num_identical
        self.num_votes += outcome.num_votes
        self.num_already += outcome.num_already
        self.problems += [str(problem) for problem in outcome.problems]
        self.notes += [str(note) for note in outcome.notes]

    def add_sampled(self, sampled: "Sampled") -> None:
        self.num_tasks += len(sampled.task_ids)
        self.num_responses += sampled.num_responses
        self.num_identical += sampled.num_identical
        self.num_already += sampled.num_already
        self.problems += sampled.problems
        self.gone = sampled.gone

    def report(self, queue: str, as_json: bool) -> None:
        """Say it; what was left out goes to stderr, a line each.

        Raises:
            UserError: nothing was added, and not because it is there already.
            Interrupted: who was to write stopped midway.
        """
        if not self.num_tasks and not self.num_already and self.gone != "stopped":
            raise UserError([*_first(self.problems), *([self.gone] if self.gone else []), "no task was added"])
        if as_json:
            output.as_json({"queue": queue, **asdict(self)})
        else:
            _say("left out", self.problems)
            _say("note", self.notes)
            typer.echo(self._in_words(queue))
        if self.gone:
            raise Interrupted(f"{self.gone}; the tasks so far are in the queue, and the same command goes on")

    def _in_words(self, queue: str) -> str:
        words = f"{counted(self.num_tasks, 'task')} added"
        if self.num_tasks:
            words += f" to the queue {queue} ({counted(self.num_responses, 'completion')}"
            words += f", {counted(self.num_identical, 'identical one')} merged)" if self.num_identical else ")"
        words += f", with {counted(self.num_votes, 'answer')}" if self.num_votes else ""
        were = "was" if self.num_already == 1 else "were"
        words += f"; {self.num_already:,} {were} in the queue already" if self.num_already else ""
        return words + (f"; {len(self.problems):,} left out" if self.problems else "")


def _say(word: str, lines: Sequence[str]) -> None:
    for line in _first(lines):
        sys.stderr.write(f"{word}: {line}\n")


def _first(lines: Sequence[str]) -> list[str]:
    more = len(lines) - MOST_SHOWN
    return [*lines[:MOST_SHOWN], *([f"and {more:,} more (--json has all of them)"] if more > 0 else [])]


def show_status(found: "QueueStatus") -> None:
    """A queue's state on the screen."""
    from rich.table import Table
    from rich.text import Text

    console = output.whole_console()
    console.print(Text(found.queue, style="bold"))
    for line in _state_in_words(found):
        console.print(Text(f"  {line}"))
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for name in ("  annotator", "answers", "skipped", "time", "last", ""):
        table.add_column(name, overflow="fold", justify="right" if name in ("answers", "skipped", "time") else "left")
    for one in found.by_annotator:
        states = {"simulated": one.simulated, "quarantined": one.quarantined}
        table.add_row(
            Text(f"  {one.name}"),
            f"{one.num_answers:,}",
            f"{one.num_skipped:,}",
            _duration(one.seconds),
            "" if one.last_at is None else f"{one.last_at:%Y-%m-%d %H:%M}",
            ", ".join(word for word, is_so in states.items() if is_so),
        )
    if found.by_annotator:
        console.print(table)


def _state_in_words(found: "QueueStatus") -> list[str]:
    states = {"done": found.num_done, "in progress": found.num_in_progress, "open": found.num_open}
    tasks = counted(found.num_tasks, "task")
    if found.num_tasks:
        tasks += f": {', '.join(f'{number:,} {state}' for state, number in states.items() if number)}"
    if found.num_skipped_by_all:
        tasks += f" ({found.num_skipped_by_all:,} of them skipped by all who were given it)"
    answers = counted(found.num_answers, "answer")
    lines = [f"{tasks}; {answers}"]
    if found.num_gold:
        lines.append(f"besides {counted(found.num_gold, 'gold task')}, whose answers are counted above")
    if found.num_withdrawn:
        lines.append(f"{counted(found.num_withdrawn, 'task')} withdrawn")
    return lines


def _duration(seconds: float) -> str:
    """Nothing for those who were not timed: votes from a file, programs."""
    if seconds < 60:
        return f"{math.ceil(seconds)} s" if seconds else ""
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def status_as_dict(found: "QueueStatus") -> dict[str, Any]:
    """A queue's state as JSON can say it."""
    status = asdict(found)
    for one in status["by_annotator"]:
        one["last_at"] = None if one["last_at"] is None else one["last_at"].isoformat()
    return status


def show_results(found: dict[str, Any]) -> None:
    """What came of a blind A/B, on the screen."""
    from rich.table import Table
    from rich.text import Text

    if found["simulated"]:
        typer.echo("SIMULATED: programs are among those who judged")
    for one in found["comparisons"]:
        typer.echo(_comparison(one))
        table = Table(box=None, pad_edge=False, padding=(0, 2))
        for name in ("  annotator", "answers", "ties", "prefers it", "agrees with others"):
            table.add_column(name, overflow="fold", justify="left" if "annotator" in name else "right")
        for name, own in one["by_annotator"].items():
            shares = (own["win_rate"], own["agreement_with_others"])
            shown = ("" if share is None else f"{share:.1%}" for share in shares)
            table.add_row(Text(f"  {name}"), f"{own['num_judgements']:,}", f"{own['num_ties']:,}", *shown)
        output.whole_console().print(table)
    if found["agreement"] is not None:
        interval = " to ".join(f"{end:.1%}" for end in found["agreement_ci"])
        typer.echo(f"two people agree on a pair in {found['agreement']:.1%} ({interval})")


def _comparison(one: dict[str, Any]) -> str:
    interval = " to ".join(f"{end:.1%}" for end in one["win_rate_ci"])
    return (
        f"blind A/B: {one['preferred']} preferred to {one['to']} in {one['win_rate']:.1%} ({interval}) "
        f"of {one['num_judgements']:,}, {counted(one['num_ties'], 'tie')} counting half"
    )


def show_export(summary: dict[str, Any]) -> None:
    """What was exported, on the screen."""
    for part, counts in summary["parts"].items():
        named = {name.removeprefix("num_").replace("_", " "): count for name, count in counts.items() if count}
        shown = ", ".join(
            counted(count, name.removesuffix("s")) if name.endswith("s") else f"{count:,} {name}"
            for name, count in named.items()
        )
        typer.echo(f"{part}: {shown or 'nothing'}")
    people = ", ".join(f"{one['name']} ({one['num_judgements']:,})" for one in summary["annotators"])
    typer.echo(f"annotators: {people}")
    for one in summary["comparisons"]:
        typer.echo(_comparison(one))
    if summary["quarantined"]:
        typer.echo(f"left out, quarantined: {', '.join(summary['quarantined'])}")
    if summary["num_gold_left_out"]:
        typer.echo(f"left out, of gold tasks: {counted(summary['num_gold_left_out'], 'answer')}")
    if summary["num_repeated_left_out"]:
        again = counted(summary["num_repeated_left_out"], "answer")
        typer.echo(f"left out, the same question answered again by the same annotator: {again}; the last one counts")
    weightless = [name for name, weight in (summary["reliability_weights"] or {}).items() if weight == 0]
    if weightless:
        typer.echo(f"left out, of weight 0: {', '.join(weightless)}")
    typer.echo(f"published as {summary['artefact']}" if "artefact" in summary else f"written to {summary['path']}")
