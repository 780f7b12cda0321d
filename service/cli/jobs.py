"""``homeward jobs``: look at queued work and decide about the dead letters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, cast, get_args

import typer
from rich.text import Text

from indexer import jobs as queued
from indexer.catalog import Catalog
from indexer.records import JobRecord, JobState
from indexer.times import moment_text, rfc3339
from service.cli.console import (
    AsJson,
    DataDir,
    catalog_for,
    columns,
    expected_errors,
    out,
    print_json,
    settings_for,
)
from service.config import Settings

app = typer.Typer(help="Queued work: list, retry and drop.", no_args_is_help=True)

STATES: tuple[str, ...] = get_args(JobState)
PAGE = 200

State = Annotated[
    str | None,
    typer.Option(
        "--state", metavar="STATE", help=f"Only these: {', '.join(STATES)}; failed: dead letters."
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="How many at most.")]
AllFailed = Annotated[bool, typer.Option("--all-failed", help="Every job of the dead letters.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="JOB_ID...", help="Ids of jobs.")]


@dataclass(frozen=True, slots=True)
class _CatalogOnly:
    catalog: Catalog


@app.command("list")
@expected_errors
def list_all(
    context: typer.Context,
    state: State = None,
    limit: Limit = 50,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """List jobs, newest first, with the reasons of those that failed."""
    if state is not None and state not in STATES:
        raise typer.BadParameter(f"give one of {', '.join(STATES)}", param_hint="--state")
    with _catalog(settings_for(context, data_dir)) as holder:
        counts = queued.counts(holder)
        records = _collect(holder, cast("JobState | None", state), limit)
    if as_json:
        print_json({"counts": counts, "items": [_values(record) for record in records]})
        return
    if records:
        rows = [("job", "kind", "state", "done", "attempts", "queued at", "reason")]
        rows += [_row(record) for record in records]
        out.print(Text(columns(rows)))
    out.print(Text(", ".join(f"{count} {name}" for name, count in counts.items())))


@app.command("retry")
@expected_errors
def retry(
    context: typer.Context,
    job_ids: Ids = None,
    every: AllFailed = False,
    data_dir: DataDir = None,
) -> None:
    """Queue jobs of the dead letters again, as if they had never been tried."""
    with _catalog(settings_for(context, data_dir)) as holder:
        for job_id in _chosen(holder, job_ids, every):
            queued.retry(holder, job_id)
            out.print(Text(f"Job {job_id} is queued again."))


@app.command("drop")
@expected_errors
def drop(
    context: typer.Context,
    job_ids: Ids = None,
    every: AllFailed = False,
    data_dir: DataDir = None,
) -> None:
    """Give jobs up: they are not done, and are no longer listed among the dead letters."""
    with _catalog(settings_for(context, data_dir)) as holder:
        for job_id in _chosen(holder, job_ids, every):
            queued.drop(holder, job_id)
            out.print(Text(f"Job {job_id} is dropped."))


@contextmanager
def _catalog(settings: Settings) -> Iterator[_CatalogOnly]:
    with catalog_for(settings) as catalog:
        yield _CatalogOnly(catalog)


def _chosen(holder: _CatalogOnly, job_ids: list[str] | None, every: bool) -> list[str]:
    if bool(job_ids) == every:
        raise typer.BadParameter("name jobs, or give --all-failed", param_hint="JOB_ID")
    if job_ids:
        return job_ids
    return [record.job_id for record in _collect(holder, "failed", None)]


def _collect(holder: _CatalogOnly, state: JobState | None, limit: int | None) -> list[JobRecord]:
    found: list[JobRecord] = []
    cursor: str | None = None
    while limit is None or len(found) < limit:
        size = PAGE if limit is None else min(PAGE, limit - len(found))
        page = queued.list_jobs(holder, state=state, limit=size, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


def _row(record: JobRecord) -> tuple[str, str, str, str, str, str, str]:
    reason = "; ".join(f"{f.code}: {f.detail}" for f in record.failures)
    return (
        record.job_id,
        record.kind,
        record.state,
        f"{record.done}/{record.total}",
        str(record.attempts),
        rfc3339(record.created_at),
        reason[:120],
    )


def _values(record: JobRecord) -> dict[str, Any]:
    return {
        "job_id": record.job_id,
        "kind": record.kind,
        "subject_id": record.subject_id,
        "state": record.state,
        "done": record.done,
        "total": record.total,
        "attempts": record.attempts,
        "created_at": rfc3339(record.created_at),
        "run_after": moment_text(record.run_after),
        "finished_at": moment_text(record.finished_at),
        "failures": [{"item": f.item, "code": f.code, "detail": f.detail} for f in record.failures],
    }
