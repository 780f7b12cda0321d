"""How often somebody may ask, counted in this process and in bounded memory."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from service.errors import RateLimited
from service.networks import network_of as network_of

MAX_ADDRESSES: Final = 16_384
"""Counters that are kept at once; the oldest goes when there are more."""
MAX_KNOWN: Final = 4_096
MINUTE: Final = 60.0
KNOWN_SECONDS: Final = 3_600.0
"""So long after its last use a key is known to be right at an address."""


class RateLimiter:
    """A sliding window of one minute for each key; only keys that exist are counted."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._item = RateLimitItemPerMinute(per_minute)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def check(self, key_id: str) -> None:
        """Count one request; raises :class:`RateLimited` when the key has none left."""
        if self._limiter.hit(self._item, key_id):
            return
        reset = self._limiter.get_window_stats(self._item, key_id).reset_time
        wait = max(1, min(60, math.ceil(reset - time.time())))
        raise RateLimited(self.per_minute, wait)


class BoundedWindow:
    """At most ``limit`` events in ``seconds`` for each name, for ``most`` names at a time.

    Names come from outside, so whoever has many of them must not fill the memory: the counter
    that began first goes when there are more. That forgives its holder some tries and costs
    nobody else anything.
    """

    def __init__(
        self,
        limit: int,
        seconds: float,
        most: int = MAX_ADDRESSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self.seconds = seconds
        self._most = most
        self._clock = clock
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._counts)

    def used_up(self, name: str) -> bool:
        """Whether ``name`` has no event left; counts nothing."""
        with self._lock:
            return self._current(name)[1] >= self.limit

    def count(self, name: str) -> bool:
        """Count one event; whether it was one of those allowed."""
        with self._lock:
            began, seen = self._current(name)
            if not seen:
                # Counters stand in the order in which they began.
                self._counts.pop(name, None)
                while len(self._counts) >= self._most:
                    self._counts.popitem(last=False)
            self._counts[name] = (began, seen + 1)
            return seen < self.limit

    def wait(self, name: str) -> int:
        """Seconds until ``name`` has events left, at least 1."""
        with self._lock:
            began, _ = self._current(name)
            return max(1, math.ceil(began + self.seconds - self._clock()))

    def forget(self, name: str) -> None:
        """Begin anew with ``name``."""
        with self._lock:
            self._counts.pop(name, None)

    def _current(self, name: str) -> tuple[float, int]:
        now = self._clock()
        began, seen = self._counts.get(name, (now, 0))
        return (began, seen) if now - began < self.seconds else (now, 0)


class AddressLimits:
    """What one address may do before it has shown who it is.

    ``failures``: wrong keys a minute. Once they are used up, no key that is new at this address
    is even looked at, or guessing would go on; a key that was right here within the last hour
    still is, so that a stranger behind the same proxy locks nobody out. ``anonymous``: requests
    a minute without any key, or session that was found at this address before.
    """

    def __init__(
        self, failures: int, anonymous: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._failures = BoundedWindow(failures, MINUTE, clock=clock)
        self._anonymous = BoundedWindow(anonymous, MINUTE, clock=clock)
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._clock = clock
        self._lock = threading.Lock()

    def before_key(self, address: str, key: str) -> None:
        """Raises :class:`RateLimited` where ``key`` may not be tried from ``address`` now."""
        network = network_of(address)
        if self._failures.used_up(network) and not self.was_right(address, key):
            raise RateLimited(
                self._failures.limit,
                self._failures.wait(network),
                detail=f"From this address {self._failures.limit} wrong keys came in a minute.",
            )

    def after_key(self, address: str, key: str, right: bool) -> None:
        """Take note of how it ended."""
        if not right:
            self._failures.count(network_of(address))
            return
        self.after_session(address, key, right)

    def after_session(self, address: str, shown: str, right: bool) -> None:
        """Take note of whether a session, or key, was one; one that has ended is none."""
        with self._lock:
            mark = self._mark(network_of(address), shown)
            if not right:
                self._known.pop(mark, None)
                return
            self._known.pop(mark, None)
            self._known[mark] = self._clock()
            while len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)

    def anonymous(self, address: str) -> None:
        """Count one request without key and session; raises :class:`RateLimited`."""
        network = network_of(address)
        if not self._anonymous.count(network):
            raise RateLimited(
                self._anonymous.limit,
                self._anonymous.wait(network),
                detail=f"One address may make {self._anonymous.limit} requests a minute without "
                "a key.",
            )

    def was_right(self, address: str, key: str) -> bool:
        """Whether the key or session was right at this address not long ago."""
        with self._lock:
            at = self._known.get(self._mark(network_of(address), key))
        return at is not None and self._clock() - at < KNOWN_SECONDS

    def _mark(self, network: str, key: str) -> bytes:
        text = f"{network}\n{key}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
