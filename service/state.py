"""What one running service holds; built at start, closed at the end, passed to every route."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from indexer.audit import AuditWriter
from indexer.runner import Runner
from indexer.workspace import Workspace
from service.accounts.key_uses import KeyUses
from service.accounts.keys import KeyStore
from service.alerts.streams import EventStreams, NoPlace
from service.audit.recorder import Recorder
from service.compute import ComputePool
from service.config import Settings
from service.errors import Overloaded
from service.idempotency import IdempotencyGuard
from service.metrics import Metrics
from service.places import Places


@dataclass(slots=True)
class Service:
    """The parts that routes work with."""

    settings: Settings
    opened: Workspace
    looking: threading.Thread
    pool: ComputePool
    keys: KeyStore
    runner: Runner
    metrics: Metrics
    spool_dir: Path
    sign_ins: ComputePool
    key_uses: KeyUses
    audit: AuditWriter
    recorder: Recorder
    idempotency: IdempotencyGuard = field(default_factory=IdempotencyGuard)
    upload_places: asyncio.Semaphore = field(init=False)
    form_places: Places = field(default_factory=lambda: Places(64, 8))
    visitor_places: Places = field(default_factory=lambda: Places(32, 4))
    """For forms of those who are signed in, by session, and of those who are not, by address."""
    streams: EventStreams = field(init=False)

    def __post_init__(self) -> None:
        self.upload_places = asyncio.Semaphore(self.settings.max_uploads_in_flight)
        self.streams = EventStreams(self.opened, self.settings.max_event_streams)

    @property
    def workspace(self) -> Workspace:
        """The view of the generation in use, as of the last request that was let in."""
        return self.opened.views.current

    @property
    def sealed(self) -> bool:
        """Whether what waits on the disk for the end of a request is encrypted."""
        return self.opened.keyring is not None

    @asynccontextmanager
    async def upload_slot(self) -> AsyncIterator[None]:
        """One of a bounded number of bodies that are taken in and worked on at a time.

        Others wait a while, unread, before they are refused with :class:`Overloaded`.
        """
        try:
            async with asyncio.timeout(self.settings.upload_wait_seconds):
                await self.upload_places.acquire()
        except TimeoutError:
            raise Overloaded(
                "More uploads arrive than this service takes in at a time.",
                remedy="Wait a few seconds and send the request again.",
            ) from None
        try:
            yield
        finally:
            self.upload_places.release()

    @asynccontextmanager
    async def stream_place(self, key_id: str) -> AsyncIterator[None]:
        """A place for an event stream of a key. Raises :class:`Overloaded` where all, or those
        that one key may hold, are taken."""
        try:
            async with self.streams.place(key_id):
                yield
        except NoPlace:
            raise Overloaded(
                "More event streams are open than this service keeps in all or for one key.",
                remedy="Wait a few seconds and try again, or read the list instead.",
            ) from None
