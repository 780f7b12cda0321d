"""Jobs as rows: queued in the transaction that causes them, leased, finished, taken up again.

A runner (one process with an open workspace) owns the jobs that it claimed for as long as it
lives, and it proves that it lives in two ways. It holds a file lock, which the kernel frees the
moment it dies: whoever shares its machine knows at once. And a thread of it raises ``beat`` in
its row every few seconds: whoever sees that stand still for ``LEASE_S``, by a clock of its own,
takes it for dead. No time of day is ever compared, so a clock that jumps ends no lease.

What a runner writes for a job, it writes only while the job is still its own. A job that breaks
off is tried again after a growing, jittered pause; one at which a process died is done alone;
after ``MAX_ATTEMPTS`` it is failed and stays in the dead letters until somebody decides.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from indexer import audit
from indexer.catalog.tables import Job, RunnerRow
from indexer.errors import JobNotFound
from indexer.files import try_lock
from indexer.ids import new_id
from indexer.job_kinds import DELIVERIES as DELIVERIES
from indexer.job_kinds import EMBEDDING as EMBEDDING
from indexer.job_kinds import PRIORITIES as PRIORITIES
from indexer.job_kinds import WORK as WORK
from indexer.job_rows import failure_json, job_record
from indexer.records import Failure, JobKind, JobRecord, JobState
from indexer.times import utc_now

if TYPE_CHECKING:
    from indexer.workspace import Workspace

BEAT_S = 5.0
LEASE_S = 60.0
"""A runner whose beat stood still for so long, seen from another, is taken for dead."""

MAX_ATTEMPTS = 5
MAX_DELIVERIES = 12
"""Attempts before a job is failed: of work here, and of what is sent to others."""
DEATHS_PER_IMAGE = 3
"""Processes that one picture may kill before it is not tried again."""

CRASHED = "analysis_crashed"
"""Code of a picture at which processes died: it is not tried again by itself."""
PASSING = frozenset({"analysis_failed", "blob_damaged", "blob_missing"})
"""Codes of what may be over at the next attempt: a folder that was not mounted, a full GPU."""

_TAKEN = "taken"
_PAUSES: dict[bool, tuple[float, float]] = {False: (2.0, 900.0), True: (10.0, 3600.0)}
"""First and longest pause before another attempt, in seconds: of work, and of deliveries."""


def runner_lock_path(folder: Path, runner_id: str) -> Path:
    """The file whose lock says that a runner lives."""
    return folder / f"runner-{runner_id}.lock"


def enqueue(
    session: Session,
    kind: JobKind,
    subject_id: str,
    *,
    total: int = 1,
    contract_id: str | None = None,
    **payload: Any,
) -> str:
    """Queue a job in the caller's transaction; returns its id. ``contract_id``: under which it is
    to be done, where that is not the one in use then."""
    job_id = new_id()
    session.add(
        Job(
            job_id=job_id,
            kind=kind,
            subject_id=subject_id,
            contract_id=contract_id,
            payload=payload,
            state="queued",
            done=0,
            total=total,
            priority=PRIORITIES[kind],
            attempts=0,
            alone=False,
            failures=[],
            created_at=utc_now(),
        )
    )
    return job_id


def waiting_in(session: Session) -> int:
    """How many ads wait to be read. Nothing else, all at once after a switch say, keeps ads out."""
    query = select(func.count()).where(Job.state == "queued", Job.kind == "ingest_ad")
    return session.scalar(query) or 0


# --- taking ----------------------------------------------------------------------------------


def claim(
    ws: Workspace,
    limit: int,
    kinds: Sequence[JobKind] = WORK,
    *,
    without: Collection[str] = (),
    contract_id: str | None = None,
) -> list[JobRecord]:
    """Take the next jobs of ``kinds`` for this runner: up to ``limit`` ads, or one of the others.

    By priority, then the oldest first; one at which a process died comes alone. ``without``:
    subjects that are passed over for now; ``contract_id``: only jobs that name this contract.
    Jobs of a contract whose face pack is not here are left to others.
    """
    _put_back_stranded(ws)
    due = _due(ws, kinds)
    if contract_id is not None:
        due.append(Job.contract_id == contract_id)
    if without:
        due.append(Job.subject_id.not_in(without))
    with ws.catalog.read() as session:
        if session.scalar(select(Job.job_id).where(*due).limit(1)) is None:
            return []
    with _claiming(ws) as session:
        order = (Job.priority, Job.job_id)
        first = session.scalar(select(Job).where(*due).order_by(*order).limit(1))
        if first is None:
            return []
        jobs = [first]
        if first.kind == "ingest_ad" and not first.alone:
            together = (*due, Job.kind == "ingest_ad", ~Job.alone)
            jobs = list(session.scalars(select(Job).where(*together).order_by(*order).limit(limit)))
        return _take(ws, session, jobs)


@contextmanager
def _claiming(ws: Workspace) -> Generator[Session]:
    """A write that takes jobs: where it fails, none of them is in hand."""
    taken: list[str] = []
    try:
        with ws.catalog.write() as session:
            session.info[_TAKEN] = taken
            yield session
    except BaseException:
        ws.in_hand.difference_update(taken)
        raise


def claim_one(ws: Workspace, job_id: str) -> JobRecord | None:
    """Take this job if it is queued, even within its pause, else ``None``.

    Raises :class:`JobNotFound`.
    """
    with _claiming(ws) as session:
        job = session.get(Job, job_id)
        if job is None:
            raise JobNotFound(job_id)
        return _take(ws, session, [job])[0] if job.state == "queued" else None


def claim_these(ws: Workspace, job_ids: Sequence[str]) -> list[JobRecord]:
    """Take those of the jobs that are queued and due."""
    with _claiming(ws) as session:
        jobs = session.scalars(
            select(Job).where(*_due(ws), Job.job_id.in_(job_ids)).order_by(Job.job_id)
        ).all()
        return _take(ws, session, jobs)


def next_due_s(
    ws: Workspace, kinds: Sequence[JobKind] = WORK, contract_id: str | None = None
) -> float | None:
    """Seconds until a job may be done here (0: one may now); ``None`` if none is queued."""
    mine = _mine(ws)
    if contract_id is not None:
        mine = Job.contract_id == contract_id
    with ws.catalog.read() as session:
        rows = session.scalars(
            select(Job.run_after).where(Job.state == "queued", Job.kind.in_(kinds), mine).distinct()
        ).all()
    if not rows:
        return None
    now = utc_now()
    return min(_pause_left(moment, now) for moment in rows)


def _due(ws: Workspace, kinds: Sequence[JobKind] | None = None) -> list[Any]:
    now = utc_now()
    conditions: list[Any] = [
        Job.state == "queued",
        _mine(ws),
        or_(
            Job.run_after.is_(None),
            Job.run_after <= now,
            # Later than any pause can be: the clock was set back since.
            Job.run_after > now + _longest_pause(),
        ),
    ]
    if kinds is not None:
        conditions.append(Job.kind.in_(kinds))
    return conditions


def _mine(ws: Workspace) -> ColumnElement[bool]:
    """Jobs that this process can do: none for the one in use while it is behind that."""
    ws.views.refresh()
    named = Job.contract_id.in_(ws.views.able())
    return named if ws.views.behind is not None else or_(Job.contract_id.is_(None), named)


def _pause_left(run_after: datetime | None, now: datetime) -> float:
    if run_after is None or run_after <= now or run_after > now + _longest_pause():
        return 0.0
    return (run_after - now).total_seconds()


def _longest_pause() -> timedelta:
    return timedelta(seconds=2 * max(longest for _, longest in _PAUSES.values()))


def _take(ws: Workspace, session: Session, jobs: Sequence[Job]) -> list[JobRecord]:
    if jobs:
        _register(ws, session)
    for job in jobs:
        # Before the commit, so that upkeep never sees one that runs and is in no hand.
        ws.in_hand.add(job.job_id)
        session.info[_TAKEN].append(job.job_id)
        job.state = "running"
        job.runner = ws.runner_id
        job.attempts += 1
        job.started_at = job.started_at or utc_now()
        job.run_after = None
        job.done = 0
    return [job_record(job) for job in jobs]


# --- while at it -----------------------------------------------------------------------------


def _register(ws: Workspace, session: Session) -> None:
    if session.get(RunnerRow, ws.runner_id) is None:
        session.add(
            RunnerRow(
                runner_id=ws.runner_id,
                host=socket.gethostname()[:255],
                pid=os.getpid(),
                beat=0,
                started_at=utc_now(),
            )
        )
        session.flush()
    ws.heart.start()


def beat(ws: Workspace) -> None:
    """Say that this runner lives. Where it was taken for dead, its jobs are no longer its own."""
    with ws.catalog.write() as session:
        session.execute(
            update(RunnerRow)
            .where(RunnerRow.runner_id == ws.runner_id)
            .values(beat=RunnerRow.beat + 1)
        )


def resign(ws: Workspace) -> None:
    """Take this runner's row away, at its end."""
    with ws.catalog.write() as session:
        session.execute(delete(RunnerRow).where(RunnerRow.runner_id == ws.runner_id))


def advance(session: Session, runner_id: str, job_id: str, done: int) -> None:
    """Note progress, in the caller's transaction."""
    session.execute(
        update(Job).where(Job.job_id == job_id, Job.runner == runner_id).values(done=done)
    )


def finish(session: Session, runner_id: str, job_id: str, failures: Sequence[Failure] = ()) -> bool:
    """Mark a job done, in the caller's transaction; failures of items are kept with it. Returns
    whether that ended it.

    Where an item failed for a reason that may pass, the job is tried again later, and failed after
    too many attempts; so it is where an item killed the process again and again: somebody has to
    look at it. A job that is no longer this runner's is left alone.
    """
    job = session.get(Job, job_id)
    if job is None or job.runner != runner_id:
        return False
    passing = [failure for failure in failures if failure.code in PASSING]
    if passing and job.attempts < MAX_ATTEMPTS:
        job.failures = [failure_json(failure) for failure in failures]
        _put_back(job, passing[0])
        return False
    deadly = any(failure.code == CRASHED for failure in failures)
    job.state = "failed" if deadly or passing else "done"
    job.done = job.total
    job.runner = None
    job.finished_at = utc_now()
    job.failures = [failure_json(failure) for failure in failures]
    return True


# --- breaking off ----------------------------------------------------------------------------


def put_back(
    ws: Workspace,
    job_id: str,
    failure: Failure,
    *,
    counts: bool = True,
    again: bool = True,
    after_s: float | None = None,
) -> JobState | None:
    """A job of this runner broke off: queue it again after a pause, or fail it.

    ``counts``: whether this one is counted as an attempt. Without ``again`` it is failed at once.
    ``after_s``: a longer pause that somebody asked for.
    """
    with ws.catalog.write() as session:
        job = session.get(Job, job_id)
        if job is None or job.runner != ws.runner_id:
            return None
        if not counts:
            return _queue_again(job)
        state = _put_back(job, failure, again=again, after_s=after_s)
        if state == "failed":
            audit.record(
                session,
                "job.fail",
                subject=("job", job_id),
                outcome=failure.code[:60],
                details={"kind": job.kind, "about": job.subject_id, "attempts": job.attempts},
            )
        return state


def _put_back_stranded(ws: Workspace) -> None:
    """Put back the jobs of this runner that broke off while the catalog could not be written."""
    while True:
        try:
            # Taken out first: another thread may claim the job as soon as it is queued.
            job_id = ws.stranded.pop()
        except KeyError:
            return
        try:
            with ws.catalog.write() as session:
                job = session.get(Job, job_id)
                if job is not None and job.state == "running" and job.runner == ws.runner_id:
                    _queue_again(job)
        except BaseException:
            ws.stranded.add(job_id)
            raise


def let_go(ws: Workspace, jobs: Iterable[JobRecord]) -> None:
    """Say that no thread of this process holds these jobs any more."""
    ws.in_hand.difference_update(job.job_id for job in jobs)


def _take_up_own(ws: Workspace) -> None:
    with ws.catalog.read() as session:
        held = session.scalars(
            select(Job.job_id).where(Job.state == "running", Job.runner == ws.runner_id)
        ).all()
    ws.stranded.update(job_id for job_id in held if job_id not in ws.in_hand)
    _put_back_stranded(ws)


def recover(ws: Workspace) -> int:
    """Queue the running jobs that nobody does: of processes that died, and of this one where it
    could not put them back or never knew of them. Returns how many were of dead processes."""
    _take_up_own(ws)
    with ws.catalog.read() as session:
        rows = {row.runner_id: row for row in session.scalars(select(RunnerRow))}
        busy = session.scalars(select(Job.runner).where(Job.state == "running").distinct()).all()
    known = {*rows, *(runner for runner in busy if runner is not None)} - {ws.runner_id}
    for gone in set(ws.beats_seen) - set(rows):
        del ws.beats_seen[gone]
    if not (dead := [runner for runner in known if not _lives(ws, runner, rows.get(runner))]):
        return 0
    died = 0
    with ws.catalog.write() as session:
        for runner in dead:
            row = session.get(RunnerRow, runner, populate_existing=True)
            seen = ws.beats_seen.get(runner)
            if row is not None and seen is not None and row.beat != seen[0]:
                continue  # it beat since
            jobs = session.scalars(
                select(Job).where(Job.state == "running", Job.runner == runner)
            ).all()
            died += len(jobs)
            for job in jobs:
                job.alone = True
                _put_back(
                    job,
                    Failure(item=job.job_id, code="runner_died", detail="The process died."),
                    after_s=0.0,
                    # Each of its pictures may kill a few processes before it is passed over.
                    most=MAX_ATTEMPTS + DEATHS_PER_IMAGE * job.total,
                )
            session.execute(delete(RunnerRow).where(RunnerRow.runner_id == runner))
    for runner in dead:
        runner_lock_path(ws.locks_dir, runner).unlink(missing_ok=True)
    return died


def _lives(ws: Workspace, runner_id: str, row: RunnerRow | None) -> bool:
    if row is None or row.host == socket.gethostname()[:255]:
        path = runner_lock_path(ws.locks_dir, runner_id)
        if path.exists():
            lock = try_lock(path)
            if lock is None:
                return True
            lock.close()
            return False
        if row is None:
            return False
    # On another machine, or in another folder of this one: only its beat tells.
    now = time.monotonic()
    seen = ws.beats_seen.get(runner_id)
    if seen is None or seen[0] != row.beat:
        ws.beats_seen[runner_id] = (row.beat, now)
        return True
    return now - seen[1] < LEASE_S


def _queue_again(job: Job) -> JobState:
    """Queue it as if it had not been tried: what broke it off was not the job."""
    job.runner = None
    job.attempts -= 1
    job.state = "queued"
    return "queued"


def _put_back(
    job: Job,
    failure: Failure,
    *,
    again: bool = True,
    after_s: float | None = None,
    most: int = MAX_ATTEMPTS,
) -> JobState:
    sends = job.kind in DELIVERIES
    job.runner = None
    if again and job.attempts < (MAX_DELIVERIES if sends else most):
        job.state = "queued"
        pause = _pause(job.attempts, sends)
        if after_s is not None:
            pause = 0.0 if after_s <= 0 else min(max(pause, after_s), _PAUSES[sends][1])
        job.run_after = utc_now() + timedelta(seconds=pause) if pause else None
    else:
        job.state = "failed"
        job.finished_at = utc_now()
        job.failures = [*job.failures, failure_json(failure)]
    return cast("JobState", job.state)


def _pause(attempts: int, sends: bool) -> float:
    """Seconds before the next attempt: doubled each time, spread by half so that what broke off
    together does not come back together."""
    first, longest = _PAUSES[sends]
    return min(longest, first * 2.0 ** (attempts - 1)) * random.uniform(0.5, 1.5)  # noqa: S311
