"""Text that people or models wrote, made fit to be shown: nothing in it is invisible."""

import re
from collections.abc import Mapping
from typing import Any


def visible(text: str) -> str:
    """`text` with what HTML cannot hold, or what would not be seen, made visible: control characters, surrogates."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f]", lambda match: chr(0x2400 + ord(match[0])), text.replace("\r\n", "\n"))
    return text.replace("\x7f", "\u2421").encode("utf-8", "replace").decode("utf-8")


def one_line(text: str, limit: int) -> str:
    """`text` in one line of `limit` characters at most, for a place where there is no room for more."""
    text = visible(" ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def as_text(value: Any) -> str:
    """Text as it is; a conversation as one `role: content` paragraph a turn."""
    if isinstance(value, list) and all(isinstance(turn, Mapping) for turn in value):
        return "\n\n".join(f"{turn.get('role', '?')}: {turn.get('content', '')}" for turn in value)
    return str(value)
