"""Records of reads and refusals, many in one transaction.

A read changes nothing, so it has no transaction of its own to be recorded in. Whoever answers it
hands its record to one thread, which takes all that wait and writes them together: a hundred reads
at once cost a handful of commits. An answer leaves once its record is in the catalog for good.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from sqlalchemy.exc import InterfaceError, OperationalError

from indexer.audit.chain import Entry, append
from indexer.catalog import Catalog
from indexer.errors import AuditUnavailable, StorageError

_log = logging.getLogger(__name__)

_Awaited = tuple[Entry, Future[None] | None]

AT_ONCE = 500
"""Records in one transaction at most, so that others get their turn at the write lock."""
MOST_WAITING = 10_000
"""Records that may wait; who comes then is refused at once."""


class AuditWriter:
    """One thread that appends to the audit log of a catalog. Safe to use from many threads."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._waiting: list[tuple[Entry, Future[None]]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def submit(self, entry: Entry) -> Future[None]:
        """Queue a record; the future is done once it is in the catalog, and fails with
        :class:`AuditUnavailable` where it cannot be."""
        future: Future[None] = Future()
        with self._changed:
            if self._closed or len(self._waiting) >= MOST_WAITING:
                future.set_exception(AuditUnavailable())
                return future
            self._waiting.append((entry, future))
            self._changed.notify()
        return future

    def write(self, entry: Entry) -> None:
        """Like :meth:`submit`, and wait for it. Raises :class:`AuditUnavailable`."""
        self.submit(entry).result()

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                some, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            self._write(some)

    def _write(self, some: Sequence[tuple[Entry, Future[None]]]) -> None:
        # One that was given up before its turn is written all the same: it was asked for.
        all_of_them = [
            (entry, future if future.set_running_or_notify_cancel() else None)
            for entry, future in some
        ]
        error = self._append(all_of_them)
        if error is None or len(all_of_them) == 1 or _of_the_storage(error):
            _settle(all_of_them, error)
            return
        # One of them cannot be written: the others must not go unanswered for it.
        away: Exception | None = None
        for one in all_of_them:
            error = away or self._append([one])
            away = error if error is not None and _of_the_storage(error) else None
            _settle([one], error)

    def _append(self, some: Sequence[_Awaited]) -> Exception | None:
        try:
            with self._catalog.write() as session:
                append(session, [entry for entry, _ in some])
        except Exception as error:  # noqa: BLE001 - the thread goes on and nothing is shown
            _log.exception("%d records of the audit log could not be written", len(some))
            return error
        return None


def _of_the_storage(error: Exception) -> bool:
    return isinstance(error, StorageError | OperationalError | InterfaceError)


def _settle(some: Sequence[_Awaited], error: Exception | None) -> None:
    for _, future in some:
        if future is None:
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(AuditUnavailable())
