"""Jobs: looking at them, and doing them.

``ingest_ad`` analyses the images of one capture, puts their faces into the gallery of ads and
compares them with the open cases. ``probe_case`` compares a case with the ads. ``enrol_case``
enrols the stored photos of a case that was opened again, then probes. ``embed_images`` and
``embed_case`` do as much under a contract that they name, for another generation.
``check_pictures`` compares what is stored with lists of hashes. Each can be broken off anywhere and
done again; a failure of one item is recorded and does not stop the others.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol, cast, get_args

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from indexer import audit, enrolling, queue, reading, transient
from indexer.ad_faces import images_of_job
from indexer.catalog import Catalog
from indexer.catalog.tables import Case, Job, Photo, Webhook
from indexer.errors import (
    CalibrationDamaged,
    CatalogAway,
    CatalogBusy,
    CatalogUnusable,
    GenerationUnavailable,
    IndexAway,
    JobNotFound,
    JobStateInvalid,
    StorageAway,
    StorageDenied,
    StorageFull,
    StoreUnusable,
)
from indexer.ids import decode_cursor, encode_cursor
from indexer.job_rows import job_record
from indexer.memory import give_back_if_due
from indexer.records import Failure, JobKind, JobRecord, JobState, Page, Progress
from indexer.times import utc_now
from indexer.trials import try_again
from indexer.withheld import checks
from indexer.workspace import Workspace
from models.errors import ContractMismatch, GpuLost, HomewardError

_log = logging.getLogger(__name__)

ADS_AT_ONCE = 16

OF_ADS: Final[frozenset[JobKind]] = frozenset({"ingest_ad", "embed_images"})
OF_CASES: Final[frozenset[JobKind]] = frozenset(
    {"probe_case", "enrol_case", "embed_case", "read_again", "deliver_email"}
)
OF_WEBHOOKS: Final[frozenset[JobKind]] = frozenset({"deliver_webhook"})
"""Whose the subjects of jobs are."""

_COMMON = (
    *(StorageFull, StorageDenied, StorageAway, StoreUnusable),
    *(CatalogAway, CatalogBusy, CatalogUnusable, IndexAway, GpuLost, GenerationUnavailable),
    *(CalibrationDamaged, ContractMismatch),
)
"""What breaks off any job alike: it is no fault of a job's, and trying each by itself would tell
nothing."""


# --- looking ---------------------------------------------------------------------------------


class HasCatalog(Protocol):
    """Whatever has an open catalog: looking at jobs needs no face pack."""

    @property
    def catalog(self) -> Catalog: ...


def get_job(ws: HasCatalog, job_id: str) -> JobRecord:
    """One job. Raises :class:`JobNotFound`."""
    with ws.catalog.read() as session:
        row = session.get(Job, job_id)
        if row is None:
            raise JobNotFound(job_id)
        return job_record(row)


def visible(kinds: Collection[JobKind], agency: str | None) -> ColumnElement[bool]:
    """SQL that is true of jobs of these kinds that concern nobody but ``agency`` (None: all)."""
    if agency is None:
        return Job.kind.in_(kinds)
    cases = select(Case.case_id).where(Case.agency == agency)
    webhooks = select(Webhook.webhook_id).where(Webhook.agency == agency)
    return or_(
        Job.kind.in_(OF_ADS & set(kinds)),
        Job.kind.in_(OF_CASES & set(kinds)) & Job.subject_id.in_(cases),
        Job.kind.in_(OF_WEBHOOKS & set(kinds)) & Job.subject_id.in_(webhooks),
    )


def list_jobs(
    ws: HasCatalog,
    *,
    state: JobState | None = None,
    limit: int = 50,
    cursor: str | None = None,
    only: ColumnElement[bool] | None = None,
) -> Page[JobRecord]:
    """Jobs, newest first; ``only``: of those that are :func:`visible` to somebody.

    Raises :class:`InvalidCursor`.
    """
    query = select(Job).order_by(Job.job_id.desc()).limit(limit + 1)
    if only is not None:
        query = query.where(only)
    if state is not None:
        query = query.where(Job.state == state)
    if cursor is not None:
        query = query.where(Job.job_id < decode_cursor(cursor))
    with ws.catalog.read() as session:
        rows = session.scalars(query).all()
    items = tuple(job_record(row) for row in rows[:limit])
    return Page(items, encode_cursor(items[-1].job_id) if len(rows) > limit else None)


def waiting(ws: HasCatalog) -> int:
    """How many jobs are queued, deliveries left out."""
    with ws.catalog.read() as session:
        query = select(func.count()).where(Job.state == "queued", Job.kind.in_(queue.WORK))
        return session.scalar(query) or 0


def counts(ws: HasCatalog) -> dict[JobState, int]:
    """How many jobs are in each state."""
    found: dict[JobState, int] = dict.fromkeys(get_args(JobState), 0)
    with ws.catalog.read() as session:
        for state, count in session.execute(select(Job.state, func.count()).group_by(Job.state)):
            found[cast("JobState", state)] = count
    return found


# --- deciding --------------------------------------------------------------------------------


def retry(ws: HasCatalog, job_id: str) -> JobRecord:
    """Queue a job of the dead letters again, as if it had never been tried.

    Its pictures that could not be analysed are tried again too. Raises :class:`JobNotFound`,
    :class:`JobStateInvalid` for one that is not failed or dropped.
    """
    with ws.catalog.write() as session:
        job = _in_state(session, job_id, ("failed", "dropped"))
        try_again(session, _images_of(session, job))
        job.state = "queued"
        job.attempts = job.done = 0
        job.run_after = job.started_at = job.finished_at = None
        job.failures = []
        audit.record(session, "job.retry", subject=("job", job_id), details={"kind": job.kind})
        return job_record(job)


def drop(ws: HasCatalog, job_id: str) -> JobRecord:
    """Give a job up: it is not done, and no longer listed among the dead letters.

    Raises :class:`JobNotFound`, :class:`JobStateInvalid` for one that runs or is done.
    """
    with ws.catalog.write() as session:
        job = _in_state(session, job_id, ("queued", "failed"))
        job.state = "dropped"
        job.finished_at = utc_now()
        audit.record(session, "job.drop", subject=("job", job_id), details={"kind": job.kind})
        return job_record(job)


def _images_of(session: Session, job: Job) -> list[str]:
    if job.kind in ("ingest_ad", "embed_images"):
        return images_of_job(session, job.job_id)
    if job.kind == "read_again":
        return [failure["item"] for failure in job.failures]
    return list(session.scalars(select(Photo.sha256).where(Photo.case_id == job.subject_id)))


def _in_state(session: Session, job_id: str, states: Sequence[JobState]) -> Job:
    job = session.get(Job, job_id)
    if job is None:
        raise JobNotFound(job_id)
    if job.state not in states:
        raise JobStateInvalid(job_id, job.state, states)
    return job


# --- doing -----------------------------------------------------------------------------------


def run_job(ws: Workspace, job_id: str) -> JobRecord:
    """Do this job now if it waits; returns it as it is then. Raises :class:`JobNotFound`."""
    job = queue.claim_one(ws, job_id)
    if job is not None:
        run_claimed(ws, [job])
    return get_job(ws, job_id)


def run_pending(
    ws: Workspace,
    limit: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    *,
    patient: bool = False,
    kinds: Sequence[JobKind] = queue.WORK,
    contract_id: str | None = None,
) -> int:
    """Do queued jobs in this thread until none is due (or ``limit`` are done); returns how many.

    ``kinds``, ``contract_id``: only jobs of these kinds, and that name this contract. ``patient``:
    also wait for those that pause before another attempt. Jobs that a full disk
    breaks off again and again stay queued for a later call.
    """
    ran = 0
    broken: Counter[str] = Counter()
    while limit is None or ran < limit:
        room = ADS_AT_ONCE if limit is None else min(ADS_AT_ONCE, limit - ran)
        jobs = queue.claim(ws, room, kinds, contract_id=contract_id)
        if not jobs:
            pause = queue.next_due_s(ws, kinds, contract_id) if patient else None
            if pause is None:
                break
            time.sleep(min(max(pause, 0.05), 1.0))
            continue
        if not run_claimed(ws, jobs):
            broken.update(job.job_id for job in jobs)
            # Only the storage breaks off a job more often than that: it costs no attempt.
            if any(broken[job.job_id] > queue.MAX_ATTEMPTS for job in jobs):
                _log.error("the storage fails; jobs stay queued")
                break
        ran += len(jobs)
        if progress is not None:
            progress(Progress(stage="jobs", done=ran, total=limit))
    return ran


def run_claimed(ws: Workspace, jobs: Sequence[JobRecord]) -> bool:
    """Do jobs that were claimed together. Returns false where they broke off.

    A job that breaks off is put back, and is failed with the reason after too many attempts; one
    that a full disk or an absent catalog broke off is not, since that says nothing about the job.
    """
    try:
        return _run(ws, jobs)
    finally:
        queue.let_go(ws, jobs)
        give_back_if_due()


def _run(ws: Workspace, jobs: Sequence[JobRecord]) -> bool:
    try:
        ads = [job for job in jobs if job.kind == "ingest_ad"]
        if ads:
            reading.ingest_ads(ws.views.of(None), ads)
        for job in jobs:
            if job.kind in _DOING:
                _DOING[job.kind](ws.views.of(job.contract_id), job)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is kept with the job
        _log.exception("%d job(s) broke off", len(jobs))
        code = error.code if isinstance(error, HomewardError) else "internal_error"
        for job in jobs:
            if len(jobs) > 1 and not isinstance(error, _COMMON):
                # One of them is the cause; alone, each shows whether it is.
                _run(ws, [job])
            else:
                failure = Failure(item=job.job_id, code=code, detail=str(error))
                _give_up(ws, job, failure, counts=not isinstance(error, _COMMON))
        return False
    return True


_DOING: dict[JobKind, Callable[[Workspace, JobRecord], None]] = {
    "probe_case": enrolling.probe_case,
    "enrol_case": enrolling.enrol_case,
    "embed_case": enrolling.enrol_case,
    "embed_images": reading.embed_images,
    "check_pictures": checks.check_pictures,
    "read_again": transient.read_again,
    "tidy_faces": transient.tidy_faces,
}


def _give_up(ws: Workspace, job: JobRecord, failure: Failure, *, counts: bool) -> None:
    try:
        state = queue.put_back(ws, job.job_id, failure, counts=counts)
    except Exception:  # noqa: BLE001 - whatever it is, the job must not be lost
        # Mostly the catalog itself is away. It is put back as soon as the catalog can be written
        # again; if this process ends before, its free lock tells the next one that nobody has it.
        ws.stranded.add(job.job_id)
        _log.exception("job %s could not be put back; it is tried again", job.job_id)
        return
    if state == "failed":
        _log.error("job %s is failed: %s", job.job_id, failure.detail)
