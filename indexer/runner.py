"""Doing jobs in the background of a process that serves or works."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from indexer import audit, jobs, queue
from indexer.alerting import release_held
from indexer.errors import DeliveryFailed
from indexer.records import Failure, JobRecord
from indexer.room import room_left
from indexer.workspace import Workspace

_log = logging.getLogger(__name__)

_POLL_S = 1.0
_MAINTAIN_S = 10.0
_PAUSE_S = 2.0
_REST_S = 30.0
STUCK_S = 1800.0
"""A batch is a few dozen pictures: one that takes half an hour hangs in native code."""

Deliver = Callable[[JobRecord], None]
"""Sends what a job is to send; raises :class:`DeliveryFailed`."""


class Runner:
    """A few threads that do queued jobs, and one that keeps the workspace in order.

    ``threads`` bounds how many batches are analysed at once. Jobs queued by other processes are
    found within a second; :meth:`wake` says that there is work now. ``deliver`` sends alerts to
    others, in a thread of its own: a receiver that is slow keeps nothing else waiting. Without
    it such jobs are left to other processes.
    """

    def __init__(self, ws: Workspace, threads: int = 1, deliver: Deliver | None = None) -> None:
        self._ws = ws
        self._stop = threading.Event()
        self._work = threading.Condition()
        self._wakes = 0
        self._deliver = deliver
        self._resting: dict[str, float] = {}
        self._busy_since: dict[str, float] = {}
        loops = [(f"jobs-{n}", lambda: self._loop(self._do_jobs)) for n in range(threads)]
        if deliver is not None:
            loops.append(("deliveries", lambda: self._loop(self._do_deliveries)))
        loops.append(("upkeep", self._maintain))
        self._threads = [
            threading.Thread(target=loop, name=name, daemon=True) for name, loop in loops
        ]

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
        """Whether every thread runs, and none has stood at one batch for ``STUCK_S``."""
        return all(thread.is_alive() for thread in self._threads) and not self.stuck()

    def stuck(self) -> bool:
        """Whether a thread has stood at one batch for so long that it will not come back."""
        now = time.monotonic()
        return any(now - since > STUCK_S for since in list(self._busy_since.values()))

    def _loop(self, do_some: Callable[[], bool]) -> None:
        """Call ``do_some`` as long as it finds work; else wait to be woken, or a second."""
        while not self._stop.is_set():
            with self._work:
                seen = self._wakes
            try:
                if do_some():
                    continue
            except Exception:  # noqa: BLE001 - the thread has to outlive any failure
                _log.exception("jobs could not be taken; trying again")
                self._stop.wait(_PAUSE_S)
            with self._work:
                if self._wakes == seen and not self._stop.is_set():
                    self._work.wait(_POLL_S)

    def _do_jobs(self) -> bool:
        if not room_left(self._ws):
            return False
        claimed = queue.claim(self._ws, jobs.ADS_AT_ONCE)
        if claimed:
            me = threading.current_thread().name
            self._busy_since[me] = time.monotonic()
            try:
                done = jobs.run_claimed(self._ws, claimed)
            finally:
                del self._busy_since[me]
            if not done:
                self._stop.wait(_PAUSE_S)
        return bool(claimed)

    def _do_deliveries(self) -> bool:
        now = time.monotonic()
        self._resting = {who: until for who, until in self._resting.items() if until > now}
        claimed = queue.claim(self._ws, 1, queue.DELIVERIES, without=list(self._resting))
        for job in claimed:
            try:
                self._send(job)
            except Exception:
                # Not even put back: it is taken up as soon as the catalog can be written again.
                self._ws.stranded.add(job.job_id)
                raise
            finally:
                queue.let_go(self._ws, claimed)
        return bool(claimed)

    def _send(self, job: JobRecord) -> None:
        assert self._deliver is not None
        try:
            self._deliver(job)
        except DeliveryFailed as error:
            _log.warning("%s of job %s failed: %s", job.kind, job.job_id, error.detail)
            # Others go first for a while: one that does not answer must not keep them waiting.
            self._resting[job.subject_id] = time.monotonic() + _REST_S
            failure = Failure(item=job.job_id, code=error.code, detail=error.detail)
            queue.put_back(
                self._ws, job.job_id, failure, again=error.retry, after_s=error.retry_after
            )
            return
        except Exception as error:
            failure = Failure(item=job.job_id, code="internal_error", detail=str(error))
            queue.put_back(self._ws, job.job_id, failure)
            raise
        with self._ws.catalog.write() as session:
            if queue.finish(session, self._ws.runner_id, job.job_id):
                audit.record(
                    session,
                    "delivery.send",
                    subject=("job", job.job_id),
                    details={"kind": job.kind, "to": job.subject_id, "attempts": job.attempts},
                )

    def _maintain(self) -> None:
        while not self._stop.wait(_MAINTAIN_S):
            self._ws.maintain()
            try:
                view = self._ws.views.refresh()
                if self._ws.views.behind is None:
                    release_held(view)
            except Exception:  # noqa: BLE001 - tried again at the next turn
                _log.exception("alerts that were held back stay so for now")
