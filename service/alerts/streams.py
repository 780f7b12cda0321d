"""Event streams: what is new, for as long as someone listens.

Other processes raise alerts and do jobs too, so a stream looks into the catalog again and again;
all streams of a process share one look at the alerts. Nothing here keeps the loop busy: the
catalog is read in threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal

from indexer import alerts, jobs
from indexer.alerts import AlertPage
from indexer.errors import JobNotFound
from indexer.records import JobRecord
from indexer.workspace import Workspace
from models.errors import HomewardError

_log = logging.getLogger(__name__)

POLL_S: Final = 0.5
RECHECK_S: Final = 5.0
"""A stream whose key was revoked ends within this time, and sends nothing more till then."""
BATCH: Final = 50
LEAST_PER_KEY: Final = 4
"""One key may hold a quarter of the places, and so many at least."""

Allowed = Callable[[], bool]
"""Whether who listens may still do so; asked in a thread."""
JobStep = tuple[Literal["progress", "end"], JobRecord | None]


class NoPlace(Exception):
    """All places for streams are taken, or those of one key, or the service stops."""


class EventStreams:
    """The open streams of one process: at most ``limit``, a part of them for each key so that
    none keeps the others out; all end when the service stops."""

    def __init__(self, workspace: Workspace, limit: int) -> None:
        self._ws = workspace
        self._limit = limit
        self._limit_per_key = max(LEAST_PER_KEY, limit // 4)
        self._held: Counter[str] = Counter()
        self._stopping = asyncio.Event()
        self._looking = asyncio.Lock()
        self._seen = 0
        self._seen_at: float | None = None
        self.open = 0

    @asynccontextmanager
    async def place(self, key_id: str) -> AsyncIterator[None]:
        """A place for one stream of a key. Raises :class:`NoPlace`."""
        full = self.open >= self._limit or self._held[key_id] >= self._limit_per_key
        if full or self._stopping.is_set():
            raise NoPlace
        self.open += 1
        self._held[key_id] += 1
        try:
            yield
        finally:
            self.open -= 1
            self._held[key_id] -= 1
            if not self._held[key_id]:
                del self._held[key_id]

    def close(self) -> None:
        """End every stream. Call it in the loop that they run in."""
        self._stopping.set()

    async def alerts(
        self,
        after: int,
        allowed: Allowed,
        *,
        case_id: str | None = None,
        agency: str | None = None,
    ) -> AsyncIterator[AlertPage]:
        """Pages of the alerts of open cases (``agency``: of its own) raised after the one numbered
        ``after``, each once and in order, until the service stops or the listener is no longer
        ``allowed``."""
        loop = asyncio.get_running_loop()
        checked = loop.time()
        try:
            while True:
                news = await self._latest() > after
                if news or loop.time() - checked >= RECHECK_S:
                    if not await asyncio.to_thread(allowed):
                        return
                    checked = loop.time()
                if news:
                    page = await asyncio.to_thread(
                        alerts.list_alerts,
                        self._ws,
                        after=after,
                        limit=BATCH,
                        case_id=case_id,
                        agency=agency,
                    )
                    after = page.resume_after
                    if page.items:
                        yield page
                    if page.next_after is not None:
                        continue
                if await self._pause():
                    return
        except HomewardError as error:
            # The listener comes back to where it was; the catalog may be well again by then.
            _log.warning("a stream of alerts ended: %s: %s", error.code, error.detail)

    async def job(self, job_id: str, allowed: Allowed) -> AsyncIterator[JobStep]:
        """``progress`` whenever the record of a job has changed, the first at once, and ``end``
        once it is over: with the record, or without one where it was forgotten meanwhile."""
        loop = asyncio.get_running_loop()
        checked = loop.time()
        last: JobRecord | None = None
        try:
            while True:
                job = await asyncio.to_thread(jobs.get_job, self._ws, job_id)
                if job.state not in ("queued", "running"):
                    yield "end", job
                    return
                if job != last:
                    yield "progress", job
                    last = job
                if loop.time() - checked >= RECHECK_S:
                    if not await asyncio.to_thread(allowed):
                        return
                    checked = loop.time()
                if await self._pause():
                    return
        except JobNotFound:
            yield "end", None
        except HomewardError as error:
            _log.warning("a stream of a job ended: %s: %s", error.code, error.detail)

    async def _latest(self) -> int:
        """The number of the newest alert, at most ``POLL_S`` old."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if self._seen_at is None or now - self._seen_at >= POLL_S:
                self._seen = await asyncio.to_thread(alerts.latest_seq, self._ws)
                self._seen_at = asyncio.get_running_loop().time()
            return self._seen

    async def _pause(self) -> bool:
        """Wait a moment; true once the service stops."""
        try:
            async with asyncio.timeout(POLL_S):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True
