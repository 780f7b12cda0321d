"""Measuring: seconds, threads and memory of this process."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
from threadpoolctl import threadpool_limits


def limited(threads: int) -> threadpool_limits:
    """Numerical libraries held to ``threads``; OpenCV has a pool of its own."""
    cv2.setNumThreads(threads)
    return threadpool_limits(limits=threads)


def seconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


class Taken(NamedTuple):
    """Seconds on the wall, and seconds of processors in this process. What else the machine does
    lengthens the first far more than the second."""

    wall: float
    processor: float


def took(step: Callable[[], object]) -> Taken:
    wall, processor = time.perf_counter(), time.process_time()
    step()
    return Taken(time.perf_counter() - wall, time.process_time() - processor)


def times(step: Callable[[], object], count: int) -> list[float]:
    """Seconds of ``count`` runs, after one that is not counted."""
    step()
    return [seconds(step) for _ in range(count)]


def high_water() -> float:
    """Largest resident size of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, where the system says (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return free[0] if free else None


def resident() -> int | None:
    """Bytes of this process that are in memory now, shared ones too, where the system says."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    held = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")]
    return held[0] if held else None
