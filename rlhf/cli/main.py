"""`rlhf`: what the commands are called, and how each way of ending becomes an exit code.

Nothing heavy is imported before a command has read its config: `--help` and a typo answer at once.
"""

import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from rlhf.cli import data, evaluate, label, models, stages, tools
from rlhf.errors import Interrupted, StoppedByMonitor, UserError

KILLED_BY_SIGINT = 130
_interrupts: list[int] = []
"""Signals that came while no stage was listening: some imports answer a KeyboardInterrupt with another error."""

AT_ONCE = "at once, without saving"

app = typer.Typer(
    name="rlhf",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    home: Annotated[
        Path | None, typer.Option("--home", help="Where artefacts and runs are kept: $RLHF_HOME, else ./.rlhf.")
    ] = None,
) -> None:
    """From human judgement to an aligned checkpoint: SFT, rankings, reward model, PPO, evaluation, export."""
    if home is not None:
        os.environ["RLHF_HOME"] = str(home)


stages.register(app)
app.add_typer(evaluate.app, name="eval")
app.add_typer(label.app, name="label")
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
tools.register(app)


def main() -> None:
    """Run the command line and exit: 0 done, 2 wrong input, 3 stopped by a monitor, 75 interrupted, 1 our bug."""
    # No usage statistics leave the machine unless the user has said so.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app(standalone_mode=True)
    except UserError as error:
        _say(error.problems, "error")
        raise SystemExit(UserError.exit_code) from None
    except StoppedByMonitor as error:
        _say(str(error).splitlines(), "stopped")
        raise SystemExit(StoppedByMonitor.exit_code) from None
    except Interrupted as error:
        _say([str(error)], "interrupted")
        raise SystemExit(Interrupted.exit_code) from None
    except SystemExit as ended:
        if ended.code == KILLED_BY_SIGINT:  # what typer makes of a KeyboardInterrupt
            _say([AT_ONCE], "interrupted")
        raise
    except Exception:
        if _interrupts:
            _say([AT_ONCE], "interrupted")
            raise SystemExit(KILLED_BY_SIGINT) from None
        traceback.print_exc()
        _say(["this is a bug in rlhf, not in your input: please report it with the lines above"], "error")
        raise SystemExit(1) from None


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupts.append(number)
    raise KeyboardInterrupt


def _say(lines: "tuple[str, ...] | list[str]", word: str) -> None:
    for line in lines:
        sys.stderr.write(f"{word}: {line}\n")
