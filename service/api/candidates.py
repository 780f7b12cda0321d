"""Ranked candidates of a case, and searches with a photo that is not enrolled."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import Depends, Query, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from indexer import judgements
from indexer.records import SearchFilter
from service.accounts import people
from service.accounts.principal import Principal
from service.api.common import (
    CandidateId,
    CaseId,
    IdempotencyHeader,
    answer,
    multipart,
    problems,
    router,
)
from service.api.forms import fields_of, photo_form
from service.api.schemas.candidates import CandidatesOut, JudgementIn, JudgementOut, SearchOut
from service.api.schemas.common import In, Purpose, QueryText, TimeIn
from service.deps import ServiceDep, requires
from service.idempotency import Answer, once
from service.search.rank import (
    MAX_CANDIDATES,
    case_candidates,
    photo_candidates,
    require_purpose,
)

api = router("candidates")

Reader = Annotated[Principal, Depends(requires("scores:read"))]
Reviewer = Annotated[Principal, Depends(requires("candidates:judge"))]
Searcher = Annotated[Principal, Depends(requires("search"))]

K = Annotated[int, Query(ge=1, le=MAX_CANDIDATES, description="How many leads at most, best first")]


AskedPurpose = Annotated[Purpose | None, Query(description="Why the list is asked for; recorded")]
PurposeNote = Annotated[
    QueryText | None, Query(max_length=2_000, description="More on the purpose; recorded")
]


class SearchFields(In):
    """The text fields beside the photo of a search."""

    purpose: Purpose = Field(description="Why the search is made; recorded")
    purpose_note: QueryText | None = Field(None, max_length=2_000)
    face_index: int | None = Field(None, ge=0, le=9_999)
    k: int = Field(20, ge=1, le=MAX_CANDIDATES)
    site: QueryText | None = Field(None, max_length=200)
    region: QueryText | None = Field(None, max_length=500)
    posted_after: TimeIn | None = None
    posted_before: TimeIn | None = None


class SearchForm(SearchFields):
    """A photo to search the ads with; it is not enrolled and not kept."""

    file: Annotated[bytes, Field(json_schema_extra={"format": "binary"})]


@api.get(
    "/cases/{case_id}/candidates",
    response_model=CandidatesOut,
    responses=problems(404, 409, 422),
)
async def list_candidates(
    service: ServiceDep,
    principal: Reader,
    case_id: CaseId,
    k: K = 20,
    purpose: AskedPurpose = None,
    purpose_note: PurposeNote = None,
) -> CandidatesOut:
    """The k best candidates for the photos of a case, whatever the alert threshold.

    The search is recorded under its purpose; without one under that of the case, or else as
    `locate_missing_person`. The same answer to the same question is recorded once a minute.
    """
    found = await service.pool.run(
        case_candidates,
        service.workspace,
        case_id,
        k,
        purpose=purpose,
        purpose_note=purpose_note,
    )
    return CandidatesOut.model_validate(found)


@api.post(
    "/candidates/{candidate_id}/judgements",
    status_code=201,
    response_model=JudgementOut,
    responses=problems(404, 409, 413, 415, 422),
)
async def judge(
    request: Request,
    service: ServiceDep,
    principal: Reviewer,
    candidate_id: CandidateId,
    judgement: JudgementIn,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Record what a person concluded about a candidate; kept for good, superseded by a later one.

    The pair of case and face stays decided: it raises no further alert, also when the picture is
    seen again in another ad.
    """

    async def work() -> Answer:
        await run_in_threadpool(people.require_trained, service.workspace.catalog, principal)
        record = await run_in_threadpool(
            judgements.judge,
            service.workspace,
            candidate_id,
            judgement.conclusion,
            judgement.reason,
            components=judgement.components,
            actor=principal.actor_id,
        )
        return answer(201, JudgementOut.model_validate(record), record.case_id)

    content = hashlib.sha256(judgement.model_dump_json().encode()).hexdigest()
    return await once(
        service.workspace, service.idempotency, request, principal.actor_id, content, work
    )


@api.post(
    "/cases/{case_id}/search",
    response_model=SearchOut,
    responses=problems(404, 408, 409, 413, 415, 422, 507),
    openapi_extra=multipart(SearchForm),
)
async def search(
    request: Request,
    service: ServiceDep,
    principal: Searcher,
    case_id: CaseId,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Search the ads with a photo that is not enrolled. The search and its purpose are recorded.

    An Idempotency-Key guards against using it for another photo; the search itself is made anew,
    so that an ad forgotten since is not in the answer.
    """
    async with photo_form(request, service, tuple(SearchFields.model_fields)) as form:
        require_purpose(form.text("purpose"))
        given = fields_of(form, SearchFields)
        part = form.file("file")

        async def work() -> Answer:
            found = await service.pool.run(
                photo_candidates,
                service.workspace,
                case_id,
                part.read(),
                purpose=given.purpose,
                purpose_note=given.purpose_note,
                actor=principal.actor_id,
                face_index=given.face_index,
                k=given.k,
                filters=SearchFilter(
                    site=given.site,
                    region=given.region,
                    posted_after=given.posted_after,
                    posted_before=given.posted_before,
                ),
            )
            service.metrics.searches.inc()
            return answer(200, SearchOut.model_validate(found), case_id)

        return await once(
            service.workspace,
            service.idempotency,
            request,
            principal.actor_id,
            form.fingerprint(),
            work,
            replay=False,
        )
