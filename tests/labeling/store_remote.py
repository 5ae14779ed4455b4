"""A store in a process of its own, told what to do through a pipe; its clock stands where the caller's does."""

import subprocess
import sys
from datetime import datetime
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from label_tools import Clock

from labeling_app.store import Store, StoreSettings


class RemoteStore:
    """A process that can open one store after another."""

    def __init__(self, socket: Path, clock: Clock) -> None:
        self._clock = clock
        with Listener(str(socket)) as listener:
            self._process = subprocess.Popen([sys.executable, __file__, str(socket)])
            self._connection = listener.accept()

    def start(self, name: str, *args: Any) -> None:
        """Send a request; `finish` gets the answer. `open` and `close` open and close a store."""
        self._connection.send((self._clock.now, name, args))

    def finish(self) -> Any:
        """The result of what was started, or its exception, raised."""
        result = self._connection.recv()
        if isinstance(result, Exception):
            raise result
        return result

    def call(self, name: str, *args: Any) -> Any:
        """Run an operation there."""
        self.start(name, *args)
        return self.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.wait(timeout=30)


def serve(connection: Connection) -> None:
    clock = Clock()
    store: Store | None = None
    while True:
        try:
            request: tuple[datetime, str, tuple[Any, ...]] = connection.recv()
        except EOFError:
            return
        clock.now, name, args = request
        try:
            if name == "open":
                home, url, settings = args
                assert isinstance(settings, StoreSettings)
                store, result = Store.open(home, url, settings, clock), None
            else:
                assert store is not None
                result = getattr(store, name)(*args)
        except Exception as error:
            error.__cause__ = None
            result = error
        connection.send(result)


if __name__ == "__main__":
    with Client(sys.argv[1]) as connection:
        serve(connection)
