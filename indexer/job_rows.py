"""Between the rows of jobs and their records."""

from __future__ import annotations

from typing import cast

from indexer.catalog.tables import Job
from indexer.records import Failure, JobKind, JobRecord, JobState


def failure_json(failure: Failure) -> dict[str, str]:
    """A failure as the catalog keeps it."""
    return {"item": failure.item, "code": failure.code, "detail": failure.detail}


def job_record(job: Job) -> JobRecord:
    """The record of a row."""
    return JobRecord(
        job_id=job.job_id,
        kind=cast("JobKind", job.kind),
        subject_id=job.subject_id,
        contract_id=job.contract_id,
        state=cast("JobState", job.state),
        done=job.done,
        total=job.total,
        attempts=job.attempts,
        alone=job.alone,
        run_after=job.run_after,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        failures=tuple(Failure(**failure) for failure in job.failures),
    )
