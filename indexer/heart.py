"""The thread that says, every few seconds, that this process lives and still owns its jobs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Heart:
    """Calls ``beat`` every ``every_s`` seconds from the first :meth:`start` to :meth:`stop`."""

    def __init__(self, beat: Callable[[], None], every_s: float) -> None:
        self._beat = beat
        self._every_s = every_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        """Whether it ever beat."""
        return self._thread is not None

    def start(self) -> None:
        """Start beating, unless it does."""
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="heart", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Stop for good."""
        self._stop.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._beat()
            except Exception:  # noqa: BLE001 - a catalog that is away must not end the heart
                _log.exception("this process could not say that it lives; trying again")
