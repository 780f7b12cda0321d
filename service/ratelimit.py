"""So many requests a minute for each key, counted in this process."""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from service.errors import RateLimited


class RateLimiter:
    """A sliding window of one minute for each key."""

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
