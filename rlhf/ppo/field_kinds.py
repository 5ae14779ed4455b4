"""Whether the fields of a config hold what they are declared to hold, as nobody checks for a dataclass."""

import math
from collections.abc import Iterable, Iterator
from numbers import Integral, Real
from typing import Any, get_args, get_type_hints


def wrong_kinds(config: Any, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Of the fields `names` those with another kind of value than their type says, with what was found and is needed.

    It looks at numbers, switches, and lists of numbers or of texts. NaN and infinity are no numbers.
    """
    hints = get_type_hints(type(config))
    for name in names:
        value, kinds = getattr(config, name), get_args(hints[name]) or (hints[name],)
        if value is None and type(None) in kinds:
            continue
        if bool in kinds:
            ok, needed = isinstance(value, bool), "true or false"
        elif float in kinds:
            ok, needed = _is_number(value), "a number"
        elif int in kinds:
            ok, needed = isinstance(value, Integral) and not isinstance(value, bool), "a whole number"
        elif list[float] in kinds:
            ok, needed = isinstance(value, list | tuple) and all(map(_is_number, value)), "a list of numbers"
        elif list[str] in kinds:
            ok = isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)
            needed = "a list of texts"
        else:
            continue
        if not ok:
            yield name, f"found {value!r}; give {needed}"


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
