"""Server-sent events: alerts as they are raised, and the progress of a job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from indexer import alerts, jobs
from indexer.acting import acting
from indexer.audit import entry_of
from indexer.records import JobRecord
from service.accounts.principal import Principal
from service.alerts import feed
from service.api.alerts import CaseFilter, FeedCursor
from service.api.common import JobId, problems, router
from service.api.schemas.ads import JobOut
from service.api.schemas.alerts import AlertOut
from service.api.schemas.common import QueryText
from service.deps import PrincipalDep, ServiceDep, requires
from service.state import Service

api = router("alerts")

AlertReader = Annotated[Principal, Depends(requires("alerts:read"))]
JobReader = Annotated[Principal, Depends(requires("jobs:read"))]


def _stream(text: str) -> dict[int | str, dict[str, Any]]:
    return {
        200: {
            "description": text,
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    }


async def _place(service: ServiceDep, principal: PrincipalDep) -> AsyncIterator[None]:
    """Held until the stream has ended."""
    async with service.stream_place(principal.actor_id):
        yield


Place = Annotated[None, Depends(_place)]


def _start(
    service: ServiceDep,
    cursor: FeedCursor = None,
    last_event_id: Annotated[
        QueryText | None,
        Header(
            alias="Last-Event-ID",
            max_length=200,
            description="The id of the last event that was seen; goes before `cursor`",
        ),
    ] = None,
) -> int:
    """The place in the list of alerts that a stream begins after: now, where none is given."""
    given = last_event_id or cursor
    return alerts.alert_seq(given) if given else alerts.latest_seq(service.workspace)


Start = Annotated[int, Depends(_start)]


def _job(service: ServiceDep, job_id: JobId) -> JobRecord:
    """Before the stream begins: a job that is not there is a 404."""
    return jobs.get_job(service.workspace, job_id)


@api.get(
    "/alerts/events",
    response_class=EventSourceResponse,
    responses={**problems(422), **_stream("Events `alert`; `data` is the alert")},
)
async def alert_events(
    service: ServiceDep,
    principal: AlertReader,
    start: Start,
    place: Place,
    case_id: CaseFilter = None,
) -> AsyncIterator[ServerSentEvent]:
    """Alerts of open cases as they are raised, from now on or from where a cursor says.

    The id of an event is a cursor. A client that comes back with `Last-Event-ID` misses none and
    gets none twice. A comment every 15 seconds keeps the connection alive.
    """
    # An id without data: the client knows where it is before the first alert.
    yield ServerSentEvent(id=alerts.alert_cursor(start), comment="open")
    scores = principal.may("scores:read")
    pages = service.streams.alerts(
        start, _allowed(service, principal), case_id=case_id, agency=principal.agency
    )
    async for page in pages:
        # The view of now: a stream lives through changes of the model and its calibration.
        show = partial(feed.shown, service.workspace, page, scores=scores)
        items = await run_in_threadpool(show)
        for item in items:
            await delivered(service, item.alert_id, item.case_id)
            yield ServerSentEvent(
                event="alert",
                id=alerts.alert_cursor(item.seq),
                data=AlertOut.model_validate(item),
            )


@api.get(
    "/jobs/{job_id}/events",
    response_class=EventSourceResponse,
    tags=["jobs"],
    responses={**problems(404), **_stream("Events `progress` and `end`; `data` is the job")},
)
async def job_events(
    service: ServiceDep,
    principal: JobReader,
    job: Annotated[JobRecord, Depends(_job)],
    place: Place,
) -> AsyncIterator[ServerSentEvent]:
    """How far a job is, whenever that changes; `end` once it is over, then the stream closes.

    The data of `end` is null where the job was forgotten together with what it was for.
    """
    async for name, record in service.streams.job(job.job_id, _allowed(service, principal)):
        if record is None:
            yield ServerSentEvent(event=name, raw_data="null")
        else:
            yield ServerSentEvent(event=name, data=JobOut.model_validate(record))


async def delivered(service: Service, alert_id: str, case_id: str) -> None:
    """Record an alert before it is sent down a stream; the stream ends where that fails."""
    entry = entry_of(acting(), "alert.deliver", subject=("alert", alert_id), case_id=case_id)
    await asyncio.wrap_future(service.recorder.submit(entry))


def _allowed(service: Service, principal: Principal) -> Any:
    return partial(service.keys.in_force, principal.actor_id)
