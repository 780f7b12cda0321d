"""The hand-over of records to the writer, and the bound on those of refusals.

Whoever has no key can be refused as often as they like, and must not fill the disk with that. Of
refusals without a key, and of those for asking too often, ``PER_ADDRESS`` from one address and
``IN_ALL`` from all are recorded one by one each minute; the rest is counted, and the count is
recorded at the end of the minute with the addresses that were refused most.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Final

from indexer.acting import Acting
from indexer.audit import AuditWriter, Entry, entry_of

PER_ADDRESS: Final = 10
IN_ALL: Final = 60
WINDOW_S: Final = 60.0
NAMED: Final = 20
"""Addresses that a count names."""
MOST_COUNTED: Final = 10_000
"""Addresses that are told apart in a minute; more are counted together."""

MANY: Final = "access.refuse_many"


class Recorder:
    """What the layer records with. Safe to use from several threads."""

    def __init__(self, writer: AuditWriter, clock: Callable[[], float] = time.monotonic) -> None:
        self._writer = writer
        self._clock = clock
        self._lock = threading.Lock()
        self._since = clock()
        self._seen: Counter[str] = Counter()
        self._recorded = 0
        self._over: Counter[str] = Counter()
        self._timer: threading.Timer | None = None

    def submit(self, entry: Entry) -> Future[None]:
        """As :meth:`AuditWriter.submit`."""
        return self._writer.submit(entry)

    def refused(self, entry: Entry, address: str) -> Future[None] | None:
        """Record a refusal with the address it was asked from; ``None`` where it is only
        counted."""
        with self._lock:
            if self._clock() - self._since >= WINDOW_S:
                self._count_out()
            seen = address if address in self._seen or len(self._seen) < MOST_COUNTED else "other"
            self._seen[seen] += 1
            if self._seen[seen] > PER_ADDRESS or self._recorded >= IN_ALL:
                self._over[seen] += 1
                if self._timer is None:
                    # The minute may end with nobody asking any more.
                    self._timer = threading.Timer(WINDOW_S, self.count_out)
                    self._timer.daemon = True
                    self._timer.start()
                return None
            self._recorded += 1
        return self.submit(replace(entry, details={**entry.details, "address": address}))

    def count_out(self) -> None:
        """Record what was only counted so far, and begin a new minute."""
        with self._lock:
            self._count_out()

    def close(self) -> None:
        """Record what was counted; then the writer may be closed."""
        self.count_out()

    def _count_out(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        over, self._over = self._over, Counter()
        self._seen.clear()
        self._recorded = 0
        self._since = self._clock()
        if over:
            most = [f"{address}: {count}" for address, count in over.most_common(NAMED)]
            self._writer.submit(
                entry_of(
                    Acting("system", "nobody", "nobody"),
                    MANY,
                    outcome="refused",
                    details={
                        "refusals": over.total(),
                        "addresses": len(over),
                        "most": most,
                    },
                )
            )
