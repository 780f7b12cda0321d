"""Doing jobs in the background of a process that serves."""

from __future__ import annotations

import logging
import threading

from indexer import jobs, queue
from indexer.workspace import Workspace

_log = logging.getLogger(__name__)

_POLL_S = 1.0
_MAINTAIN_S = 10.0
_PAUSE_S = 2.0


class Runner:
    """A few threads that do queued jobs, and one that keeps the workspace in order.

    ``threads`` bounds how many batches are analysed at once. Jobs queued by other processes are
    found within a second; :meth:`wake` says that there is work now.
    """

    def __init__(self, ws: Workspace, threads: int = 1) -> None:
        self._ws = ws
        self._stop = threading.Event()
        self._work = threading.Condition()
        self._wakes = 0
        self._threads = [
            threading.Thread(target=self._do_jobs, name=f"jobs-{n}", daemon=True)
            for n in range(threads)
        ]
        self._threads.append(threading.Thread(target=self._maintain, name="upkeep", daemon=True))

    def start(self) -> None:
        """Start working."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Look for jobs now instead of at the next turn."""
        with self._work:
            self._wakes += 1
            self._work.notify_all()

    def close(self, timeout_s: float = 30.0) -> None:
        """Finish the batches that are being done, start no more, and wait for that."""
        self._stop.set()
        self.wake()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout_s)

    def alive(self) -> bool:
        """Whether every thread runs."""
        return all(thread.is_alive() for thread in self._threads)

    def _do_jobs(self) -> None:
        while not self._stop.is_set():
            with self._work:
                seen = self._wakes
            try:
                claimed = queue.claim(self._ws, jobs.ADS_AT_ONCE)
                if claimed:
                    if not jobs.run_claimed(self._ws, claimed):
                        self._stop.wait(_PAUSE_S)
                    continue
            except Exception:  # noqa: BLE001 - the thread has to outlive any failure
                _log.exception("jobs could not be taken; trying again")
                self._stop.wait(_PAUSE_S)
            with self._work:
                if self._wakes == seen and not self._stop.is_set():
                    self._work.wait(_POLL_S)

    def _maintain(self) -> None:
        while not self._stop.wait(_MAINTAIN_S):
            self._ws.maintain()
