"""Names, versions, aliases, and the refs made of them: `group/name`, `group/name@v3`, `group/name@alias`."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from rlhf.config.names import LATEST, alias_problem, name_problem
from rlhf.errors import UserError

__all__ = ["LATEST", "Ref", "check_alias", "check_name", "did_you_mean", "parse_version"]

_VERSION = re.compile(r"v([1-9][0-9]{0,8})")


@dataclass(frozen=True)
class Ref:
    """A ref taken apart: a name, and which of its versions; without either, the newest."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a ref apart.

        Raises:
            UserError: `text` is none.
        """
        name, at, which = text.partition("@")
        check_name(name)
        if not at or which == LATEST:
            return cls(name)
        version = parse_version(which)
        if version is not None:
            return cls(name, version=version)
        check_alias(which)
        return cls(name, alias=which)

    def __str__(self) -> str:
        which = f"v{self.version}" if self.version is not None else self.alias
        return self.name if which is None else f"{self.name}@{which}"


def check_name(name: str) -> str:
    """`name`, if artefacts may be called that.

    Raises:
        UserError: it is not `group/name` out of letters, digits, dot, dash and underscore.
    """
    problem = name_problem(name)
    if problem is not None:
        raise UserError(f"{name!r}: {problem}")
    return name


def check_alias(alias: str) -> str:
    """`alias`, if an alias may be called that.

    Raises:
        UserError: it is `latest`, looks like a version, or has characters other than letters, digits, dot,
            dash and underscore.
    """
    problem = alias_problem(alias)
    if problem is not None:
        raise UserError(f"{alias!r}: {problem}")
    return alias


def parse_version(text: str) -> int | None:
    """3 for `v3`; None where `text` is no version."""
    match = _VERSION.fullmatch(text)
    return int(match.group(1)) if match else None


def did_you_mean(wrong: str, known: Iterable[str], what: str) -> str:
    """The end of a message about an unknown word: the nearest known ones, or else what there is."""
    known = list(known)
    near = difflib.get_close_matches(wrong, known, n=3, cutoff=0.75)
    if near:
        return f"did you mean {' or '.join(near)}?"
    if not known:
        return f"there are no {what} yet"
    shown = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
    return f"known {what}: {shown}"
