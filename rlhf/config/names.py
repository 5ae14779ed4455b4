"""What artefacts and their aliases may be called.

The registry asks here too, so that a config is refused for what publishing would refuse, before anything is trained.
"""

import re

LATEST = "latest"
"""The alias that always stands at a name's newest version."""

MAX_NAME_CHARACTERS = 200
MAX_ALIAS_CHARACTERS = 100

_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(f"{_WORD}/{_WORD}")
_ALIAS = re.compile(_WORD)
_LIKE_A_VERSION = re.compile(r"[vV][0-9]+")


def name_problem(name: str) -> str | None:
    """Why no artefact may be called `name`; None where it may."""
    if _NAME.fullmatch(name) and len(name) <= MAX_NAME_CHARACTERS:
        return None
    return (
        "not a registry name; write group/name (for example support/sft) out of letters, digits, '.', '_' and '-', "
        f"each part starting with a letter or digit, {MAX_NAME_CHARACTERS} characters at most"
    )


def alias_problem(alias: str) -> str | None:
    """Why no alias may be called `alias`; None where it may."""
    if alias == LATEST:
        return "always stands at the newest version; choose another alias, or none"
    if _LIKE_A_VERSION.fullmatch(alias):
        return "not a version (v1, v2, ...), and an alias must not look like one"
    if _ALIAS.fullmatch(alias) and len(alias) <= MAX_ALIAS_CHARACTERS:
        return None
    return (
        "not a version (v1, v2, ...) nor an alias; an alias has letters, digits, '.', '_' and '-', starts with a "
        f"letter or digit, and has {MAX_ALIAS_CHARACTERS} characters at most"
    )
