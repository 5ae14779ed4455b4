"""How an evaluation ends early. It trains nothing: whatever is not finite in it came with the user's input."""

from collections.abc import Iterator
from contextlib import contextmanager

from rlhf.errors import UserError
from rlhf.scoring import NonFiniteError


@contextmanager
def finite_or_named() -> Iterator[None]:
    """Raise UserError where a judge or a model gives numbers that are not finite: no monitor of training stops here."""
    try:
        yield
    except NonFiniteError as error:
        raise UserError(f"{error}; nothing can be measured with that: mend it or name another one") from error
