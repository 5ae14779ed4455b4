"""How operations are run: what the two databases have in common."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from sqlalchemy.exc import DBAPIError

from labeling_app.settings import StoreSettings
from labeling_app.store.errors import NotStored
from labeling_app.store.transaction import Tx

T = TypeVar("T")

Work = Callable[[Tx], Any]
"""An operation with its arguments."""


class Runner(Protocol):
    """Runs operations, each in a transaction; a future is resolved once its transaction is on the disk."""

    def write(self, work: Callable[[Tx], T]) -> "Future[T]":
        """Run something that changes the store."""
        ...

    def read(self, work: Callable[[Tx], T]) -> "Future[T]":
        """Run something that does not; it sees one moment of the store and waits for no writer."""
        ...

    def close(self) -> None:
        """Finish what was begun, then close all connections."""
        ...


@dataclass(frozen=True)
class Setup:
    """What a runner gives to operations besides the connection."""

    clock: Callable[[], datetime]
    settings: StoreSettings


def not_stored(error: DBAPIError) -> NotStored:
    """The driver's complaint as the store's."""
    reason = " ".join(str(error.orig).split())
    return NotStored(f"The database could not be written ({reason}). Nothing was saved; please try again.")
