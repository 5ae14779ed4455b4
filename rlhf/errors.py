"""The three ways a command can end early, and the exit code each one stands for."""

from collections.abc import Sequence


class UserError(Exception):
    """The user's input is wrong (exit code 2).

    `problems` are complete lines; each names the file, key or row, says what was found and what to do. All that is
    known to be wrong is reported at once, so that a bad file costs one read.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class StoppedByMonitor(Exception):
    """A monitor stopped training (exit code 3); the last good state has been published as such."""

    exit_code = 3


class Interrupted(Exception):
    """The run was interrupted and can be resumed (exit code 75); the message says with which command."""

    exit_code = 75
