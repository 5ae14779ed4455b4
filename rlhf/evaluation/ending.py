"""How an evaluation ends early. It trains nothing: whatever is not finite in it came with the user's input."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rlhf.errors import StoppedByMonitor, UserError
from rlhf.scoring import NonFiniteError


class RequirementsNotMet(StoppedByMonitor):
    """What was evaluated falls short of the config's thresholds; `summary` has been written and published all the same.

    The message has one line for each threshold.
    """

    def __init__(self, lines: Sequence[str], summary: Mapping[str, Any]) -> None:
        super().__init__("\n".join(lines))
        self.summary = dict(summary)


@contextmanager
def finite_or_named() -> Iterator[None]:
    """Raise UserError where a judge or a model gives numbers that are not finite: no monitor of training stops here."""
    try:
        yield
    except NonFiniteError as error:
        raise UserError(f"{error}; nothing can be measured with that: mend it or name another one") from error
