"""Giving memory back to the system.

Pictures come in every size, and glibc keeps the holes that their buffers leave between longer-lived
small ones: a process that needs 300 MB was seen to hold 2.6 GB after a few thousand pictures. Its
``malloc_trim`` (malloc_trim(3)) gives whole free pages back wherever they lie, within
milliseconds. Elsewhere (musl, macOS) there is nothing to do.
"""

from __future__ import annotations

import ctypes
import threading
import time
from functools import cache

EVERY_S = 10.0

_lock = threading.Lock()
_next = 0.0


@cache
def _trim() -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back_if_due() -> bool:
    """Give free memory back, at most every ``EVERY_S`` seconds; whether it did."""
    global _next
    now = time.monotonic()
    with _lock:
        if now < _next:
            return False
        _next = now + EVERY_S
    trim = _trim()
    if trim is None:
        return False
    trim(0)
    return True
