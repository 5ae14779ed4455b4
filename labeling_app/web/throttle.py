"""Counting failures in this process: of addresses, and of names that nobody has."""

import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

MAX_KEYS = 50_000


class Throttle:
    """Whoever fails `max_failures` times has to wait until `seconds` have passed since the last failure.

    `of` says whose password it was, where one key tries several: who then gets their own right is forgiven what failed
    at their own, and at nobody else's.
    """

    def __init__(self, max_failures: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max, self._seconds, self._clock = max_failures, seconds, clock
        self._failures: OrderedDict[str, tuple[Counter[str], float]] = OrderedDict()

    def is_closed(self, key: str) -> bool:
        """Whether `key` has to wait."""
        return self._recent(key).total() >= self._max

    def fail(self, key: str, of: str = "") -> None:
        """Count a failure."""
        self._failures[key] = (self._recent(key) + Counter([of]), self._clock())
        self._failures.move_to_end(key)
        while len(self._failures) > MAX_KEYS:
            self._failures.popitem(last=False)

    def forgive(self, key: str, of: str = "") -> None:
        """Forget what `key` has failed at of this one's."""
        self._recent(key).pop(of, None)

    def _recent(self, key: str) -> Counter[str]:
        failures, at = self._failures.get(key, (Counter(), 0.0))
        return failures if at + self._seconds > self._clock() else Counter()


def address_key(host: str | None) -> str:
    """One key for what one machine can easily have: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return host or "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
