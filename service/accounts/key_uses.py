"""When keys were last used: a thread of its own writes it, so that no request waits for it."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import update

from indexer.catalog import Catalog
from indexer.catalog.tables import ApiKey
from models.errors import HomewardError

_log = logging.getLogger(__name__)

EVERY: Final = timedelta(seconds=60)
"""The use of a key is written down at most this often."""


class KeyUses:
    """Collects uses and writes them; closed with the service."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._noted: dict[str, datetime] = {}
        self._waiting: dict[str, datetime] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def note(self, key_id: str, written: datetime | None, now: datetime) -> None:
        """A key was used; ``written`` is what the catalog says of its last use."""
        if written is not None and now - written < EVERY:
            return
        with self._changed:
            noted = self._noted.get(key_id)
            if self._closed or (noted is not None and now - noted < EVERY):
                return
            self._noted[key_id] = self._waiting[key_id] = now
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="homeward-key-uses")
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Write what waits and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                uses, self._waiting = self._waiting, {}
                closed = self._closed
            if uses:
                self._write(uses)
            if closed:
                return

    def _write(self, uses: dict[str, datetime]) -> None:
        try:
            with self._catalog.write() as session:
                for key_id, at in uses.items():
                    session.execute(
                        update(ApiKey).where(ApiKey.key_id == key_id).values(last_used_at=at)
                    )
        except HomewardError as error:
            _log.warning("when keys were used could not be written down: %s", error.code)
