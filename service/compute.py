"""The one pool for work that keeps a core busy: bounded in threads and in waiting work."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from service.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")


class ComputePool:
    """``threads`` run at a time, at most ``backlog`` more wait, anything beyond is refused."""

    def __init__(self, threads: int, backlog: int) -> None:
        self.threads = threads
        self.limit = threads + backlog
        self._pending = 0
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="homeward-compute")

    @property
    def pending(self) -> int:
        """Work that runs or waits."""
        return self._pending

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue ``work``; raises :class:`Overloaded` when every place is taken."""
        with self._lock:
            if self._pending >= self.limit:
                raise Overloaded(
                    "More work waits than this service takes on at a time.",
                    remedy="Wait a few seconds and send the request again.",
                )
            self._pending += 1
        context = contextvars.copy_context()
        try:
            future = self._executor.submit(context.run, functools.partial(work, *args, **kwargs))
        except BaseException:
            self._release()
            raise
        future.add_done_callback(self._release)
        return future

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` in the pool and wait for it.

        Work that has begun is not abandoned when the caller goes away: it ends in its own time.
        """
        return await asyncio.shield(asyncio.wrap_future(self.submit(work, *args, **kwargs)))

    def close(self) -> None:
        """Let running work end, drop what still waits."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _release(self, _future: object = None) -> None:
        with self._lock:
            self._pending -= 1
