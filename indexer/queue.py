"""Jobs as rows: queued in the transaction that causes them, claimed, finished, taken up again.

A runner (one process with an open workspace) holds a file lock as long as it lives. A running job
whose runner's lock is free belongs to a dead process and is queued again; after ``MAX_ATTEMPTS``
it is failed, so that work which kills its process cannot do so for ever. This holds on one
machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from indexer.catalog.tables import Job
from indexer.errors import JobNotFound
from indexer.files import try_lock
from indexer.ids import new_id
from indexer.records import Failure, JobKind, JobRecord, JobState
from indexer.times import utc_now

if TYPE_CHECKING:
    from indexer.workspace import Workspace

MAX_ATTEMPTS = 3

PRIORITIES: dict[JobKind, int] = {
    "probe_case": 0,
    "enrol_case": 0,
    "deliver_webhook": 5,
    "deliver_email": 5,
    "ingest_ad": 10,
}
"""What goes first, lower before higher: a person is waiting for what is done for a case."""


def runner_lock_path(folder: Path, runner_id: str) -> Path:
    """The file whose lock says that a runner lives."""
    return folder / f"runner-{runner_id}.lock"


def enqueue(
    session: Session, kind: JobKind, subject_id: str, *, total: int = 1, **payload: Any
) -> str:
    """Queue a job in the caller's transaction; returns its id."""
    job_id = new_id()
    session.add(
        Job(
            job_id=job_id,
            kind=kind,
            subject_id=subject_id,
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
    """How many jobs are queued."""
    return session.scalar(select(func.count()).where(Job.state == "queued")) or 0


def claim(ws: Workspace, limit: int) -> list[JobRecord]:
    """Take the next jobs for this runner: one job of a case, or up to ``limit`` of ads.

    Cases go first: a person is waiting for them.
    """
    _put_back_stranded(ws)
    with ws.catalog.read() as session:
        if not waiting_in(session):
            return []
    with ws.catalog.write() as session:
        first = session.scalar(
            select(Job).where(Job.state == "queued").order_by(Job.priority, Job.job_id).limit(1)
        )
        if first is None:
            return []
        jobs = [first]
        if first.kind == "ingest_ad":
            jobs = list(
                session.scalars(
                    select(Job)
                    .where(Job.state == "queued", Job.kind == "ingest_ad")
                    .order_by(Job.job_id)
                    .limit(limit)
                )
            )
        return [_take(job, ws.runner_id) for job in jobs]


def claim_one(ws: Workspace, job_id: str) -> JobRecord | None:
    """Take this job if it is queued, else ``None``. Raises :class:`JobNotFound`."""
    with ws.catalog.write() as session:
        job = session.get(Job, job_id)
        if job is None:
            raise JobNotFound(job_id)
        return _take(job, ws.runner_id) if job.state == "queued" else None


def claim_these(ws: Workspace, job_ids: Sequence[str]) -> list[JobRecord]:
    """Take those of the jobs that are queued."""
    with ws.catalog.write() as session:
        jobs = session.scalars(
            select(Job).where(Job.job_id.in_(job_ids), Job.state == "queued").order_by(Job.job_id)
        ).all()
        return [_take(job, ws.runner_id) for job in jobs]


def _take(job: Job, runner_id: str) -> JobRecord:
    job.state = "running"
    job.runner = runner_id
    job.attempts += 1
    job.started_at = job.started_at or utc_now()
    job.done = 0
    return job_record(job)


def advance(session: Session, job_id: str, done: int) -> None:
    """Note progress, in the caller's transaction."""
    session.execute(update(Job).where(Job.job_id == job_id).values(done=done))


def finish(session: Session, job_id: str, failures: Sequence[Failure] = ()) -> None:
    """Mark a job done, in the caller's transaction; failures of items are kept with it."""
    job = session.get(Job, job_id)
    if job is None:
        return
    job.state = "done"
    job.done = job.total
    job.runner = None
    job.finished_at = utc_now()
    job.failures = [failure_json(failure) for failure in failures]


def put_back(
    ws: Workspace, job_id: str, failure: Failure, *, counts: bool = True
) -> JobState | None:
    """A job broke off: queue it again, or fail it after too many attempts.

    ``counts``: whether this one is counted as an attempt.
    """
    with ws.catalog.write() as session:
        job = session.get(Job, job_id)
        if job is None:
            return None
        return _put_back(job, failure) if counts else _queue_again(job)


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


def recover(ws: Workspace) -> int:
    """Queue the running jobs that nobody does: of processes that died, and of this one where it
    could not put them back. Returns how many were of dead processes."""
    _put_back_stranded(ws)
    with ws.catalog.read() as session:
        runners = session.scalars(select(Job.runner).where(Job.state == "running").distinct()).all()
    dead = [runner for runner in runners if runner is not None and not _lives(ws, runner)]
    if not dead:
        return 0
    with ws.catalog.write() as session:
        jobs = session.scalars(
            select(Job).where(Job.state == "running", Job.runner.in_(dead))
        ).all()
        for job in jobs:
            _put_back(job, Failure(item=job.job_id, code="runner_died", detail="The process died."))
    for runner in dead:
        runner_lock_path(ws.locks_dir, runner).unlink(missing_ok=True)
    return len(jobs)


def _lives(ws: Workspace, runner_id: str) -> bool:
    if runner_id == ws.runner_id:
        return True
    path = runner_lock_path(ws.locks_dir, runner_id)
    if not path.exists():
        return False
    lock = try_lock(path)
    if lock is None:
        return True
    lock.close()
    return False


def _queue_again(job: Job) -> JobState:
    """Queue it as if it had not been tried: what broke it off was not the job."""
    job.runner = None
    job.attempts -= 1
    job.state = "queued"
    return "queued"


def _put_back(job: Job, failure: Failure) -> JobState:
    job.runner = None
    if job.attempts < MAX_ATTEMPTS:
        job.state = "queued"
    else:
        job.state = "failed"
        job.finished_at = utc_now()
        job.failures = [*job.failures, failure_json(failure)]
    return cast("JobState", job.state)


def failure_json(failure: Failure) -> dict[str, str]:
    """A failure as the catalog keeps it."""
    return {"item": failure.item, "code": failure.code, "detail": failure.detail}


def job_record(job: Job) -> JobRecord:
    """The record of a row."""
    return JobRecord(
        job_id=job.job_id,
        kind=cast("JobKind", job.kind),
        subject_id=job.subject_id,
        state=cast("JobState", job.state),
        done=job.done,
        total=job.total,
        attempts=job.attempts,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        failures=tuple(Failure(**failure) for failure in job.failures),
    )
