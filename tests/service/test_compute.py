"""The compute pool is bounded: what does not fit is refused, and running work ends."""

from __future__ import annotations

import threading

import pytest

from service.compute import ComputePool
from service.errors import Overloaded


def test_work_runs_in_named_threads() -> None:
    pool = ComputePool(1, 1)
    try:
        assert (
            pool.submit(lambda: threading.current_thread().name)
            .result(10)
            .startswith("homeward-compute")
        )
    finally:
        pool.close()


def test_more_than_the_bound_is_refused_and_room_comes_back() -> None:
    pool = ComputePool(threads=1, backlog=1)
    gate = threading.Event()
    try:
        first = pool.submit(gate.wait, 10)
        second = pool.submit(gate.wait, 10)
        with pytest.raises(Overloaded) as caught:
            pool.submit(gate.wait, 10)
        assert caught.value.code == "overloaded"
        gate.set()
        assert first.result(10) and second.result(10)
        assert pool.submit(lambda: 7).result(10) == 7
    finally:
        gate.set()
        pool.close()


def test_an_error_reaches_the_caller_and_frees_its_place() -> None:
    pool = ComputePool(1, 1)

    def fail() -> None:
        raise ValueError("reason")

    try:
        with pytest.raises(ValueError, match="reason"):
            pool.submit(fail).result(10)
        assert pool.pending == 0
    finally:
        pool.close()
