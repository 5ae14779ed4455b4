"""Strings that remember where they were written, so that a relative path means what its writer meant.

A path in a file is relative to that file; a path on the command line is relative to where one stands. Both meet in
one config, so the string itself carries its base folder.
"""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator


class Located(str):
    """A string from a config file or the command line, with the folder that relative paths in it start from."""

    base: Path

    def __new__(cls, value: str, base: Path) -> Self:
        self = super().__new__(cls, value)
        self.base = base
        return self

    def __getnewargs__(self) -> tuple[str, Path]:  # type: ignore[override]
        """What a copy is made from."""
        return str(self), self.base


def is_explicit_path(value: str) -> bool:
    """Whether `value` can only be meant as a path: it starts with `/`, `./`, `../` or `~`."""
    return value in (".", "..") or value.startswith(("/", "./", "../", "~"))


def resolve_path(value: Any) -> Any:
    """`value` as an absolute path; what is no string is left for pydantic to judge."""
    if not isinstance(value, str):
        return value
    base = value.base if isinstance(value, Located) else Path.cwd()
    return str((base / Path(value).expanduser()).resolve())


def resolve_model(value: Any) -> Any:
    """A model given as a folder becomes an absolute path; a registry ref or a Hub id stays as it is.

    `support/sft` may be either. It is taken for a folder only if a model lies there.
    """
    if not isinstance(value, str):
        return value
    if is_explicit_path(value):
        return resolve_path(value)
    base = value.base if isinstance(value, Located) else Path.cwd()
    if any((base / value / name).is_file() for name in ("config.json", "adapter_config.json")):
        return resolve_path(value)
    return str(value)


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty: give a registry ref, a folder or a Hub id")
    return value


LocalPath = Annotated[Path, BeforeValidator(resolve_path)]
"""A file or folder; absolute once validated."""

ModelRef = Annotated[str, BeforeValidator(resolve_model), AfterValidator(_not_blank)]
"""A registry ref (`name`, `name@v3`, `name@alias`), a local folder or a Hub id."""
