"""Passwords: hashed with argon2id, a few at a time, and as slowly for a name that nobody has."""

import asyncio
import time
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

T = TypeVar("T")

MIN_CHARACTERS, MAX_CHARACTERS = 10, 200

MAX_WAITING = 32
"""Each one that waits is a person at a login form; more than that is somebody who floods it."""


class TooManyLogins(Exception):
    """Too many passwords are being checked just now."""


class Passwords:
    """Hashes and checks passwords in a thread of its own, one after the other: each takes 64 MiB and all cores."""

    def __init__(self, hasher: PasswordHasher | None = None, refused_after_seconds: float = 0.5) -> None:
        self._hasher = hasher or PasswordHasher()  # RFC 9106, second recommended option
        self._refused_after = refused_after_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="labels-passwords")
        self._num_waiting = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place among those who wait, to be had before anything is counted or looked at.

        Raises:
            TooManyLogins: there is none.
        """
        if self._num_waiting >= MAX_WAITING:
            raise TooManyLogins
        self._num_waiting += 1
        try:
            yield
        finally:
            self._num_waiting -= 1

    async def hash(self, password: str) -> str:
        """The hash to be stored."""
        return await self._run(partial(self._hasher.hash, _normal(password)))

    async def fits(self, password: str, stored: str | None) -> bool:
        """Whether this is the password; with None it takes as long, and is not."""
        return await self._run(partial(self._fits, _normal(password), stored))

    async def refusal(self, started: float) -> None:
        """Wait until a login that began at `started` (monotonic) may be refused: always after the same time.

        A database that had something to count, or nothing, would otherwise tell which names there are.
        """
        await asyncio.sleep(started + self._refused_after - time.monotonic())

    def is_outdated(self, stored: str) -> bool:
        """Whether the hash was made with weaker parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False)

    async def _run(self, work: partial[T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _fits(self, password: bytes, stored: str | None) -> bool:
        try:
            return self._hasher.verify(stored or self._of_nobody, password) and stored is not None
        except (VerificationError, InvalidHashError):
            return False

    @cached_property
    def _of_nobody(self) -> str:
        return self._hasher.hash(b"")


def problem_with(password: str, name: str) -> str | None:
    """Why this cannot be the password of `name`; None when it can."""
    if len(password) < MIN_CHARACTERS:
        return f"The password needs at least {MIN_CHARACTERS} characters; a few words make a good one."
    if len(password) > MAX_CHARACTERS:
        return f"The password has more than {MAX_CHARACTERS} characters."
    if len(set(password)) < 4 or password.casefold().strip("0123456789") == name:
        return "This password is too easy to guess: it repeats itself, or is the name."
    return None


def _normal(password: str) -> bytes:
    """The same bytes however a keyboard composes accents."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
