"""Questions between agencies about a lead that both have."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from fastapi import Depends, Path, Request, Response
from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema
from starlette.concurrency import run_in_threadpool

from indexer import links
from indexer.errors import LinkRequestNotFound
from indexer.links import LinkDecision, LinkKind, LinkState
from service.accounts.principal import Principal
from service.api.common import (
    CandidateId,
    Cursor,
    IdempotencyHeader,
    Limit,
    answer,
    problems,
    router,
)
from service.api.schemas.common import Id, In, Out, TimeOut
from service.deps import ServiceDep, canonical_id, requires
from service.idempotency import Answer, once

api = router("links")

Asker = Annotated[Principal, Depends(requires("links:ask"))]
Answerer = Annotated[Principal, Depends(requires("links:answer"))]
Text = Annotated[str, StringConstraints(max_length=2_000)]


def _canonical(text: str) -> str:
    found = canonical_id(text)
    if found is None:
        raise LinkRequestNotFound(text[:60])
    return found


LinkRequestId = Annotated[
    str,
    AfterValidator(_canonical),
    WithJsonSchema({"type": "string", "format": "uuid"}),
    Path(),
]


class LinkRequestIn(In):
    """A question to the agency that has the lead too."""

    link_id: Id | None = Field(None, description="Of the candidate's `links`; else the strongest")
    note: Text | None = Field(None, description="What the other agency is told")


class LinkAnswerIn(In):
    """The owner's answer. `share` discloses the case number and `answer`, and gives no access."""

    decision: LinkDecision
    answer: Text | None = None


class LinkRequestOut(Out):
    """A question as the caller's agency sees it; case and candidate are its own."""

    link_request_id: Id
    side: Literal["asked", "received"]
    kind: LinkKind
    state: LinkState
    agency: str = Field(description="The other agency")
    case_id: Id
    case_number: str
    candidate_id: Id | None
    note: str | None
    asked_at: TimeOut
    answer: str | None
    answered_at: TimeOut | None
    shared_case_number: str | None = Field(description="For who asked, once it is shared")


class LinkRequestList(Out):
    items: list[LinkRequestOut]
    next_cursor: str | None


@api.post(
    "/candidates/{candidate_id}/link-requests",
    status_code=201,
    response_model=LinkRequestOut,
    responses=problems(404, 409, 413, 415, 422),
)
async def ask_about_link(
    request: Request,
    service: ServiceDep,
    principal: Asker,
    candidate_id: CandidateId,
    question: LinkRequestIn,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Ask the other agency about a lead that both have."""

    def ask() -> links.LinkQuestion:
        return links.ask(
            service.workspace, candidate_id, link_id=question.link_id, note=question.note
        )

    async def work() -> Answer:
        made = await run_in_threadpool(ask)
        return answer(201, LinkRequestOut.model_validate(made), made.case_id)

    content = hashlib.sha256(question.model_dump_json().encode()).hexdigest()
    return await once(
        service.workspace, service.idempotency, request, principal.actor_id, content, work
    )


@api.get("/link-requests", response_model=LinkRequestList, responses=problems(422))
def list_link_requests(
    service: ServiceDep, principal: Asker, limit: Limit = 50, cursor: Cursor = None
) -> LinkRequestList:
    """What the caller's agency asked and was asked, newest first."""
    page = links.list_questions(
        service.workspace, agency=principal.agency, limit=limit, cursor=cursor
    )
    return LinkRequestList.model_validate(page)


@api.post(
    "/link-requests/{link_request_id}/answer",
    response_model=LinkRequestOut,
    responses=problems(404, 409, 413, 415, 422),
)
def answer_link_request(
    service: ServiceDep,
    principal: Answerer,
    link_request_id: LinkRequestId,
    given: LinkAnswerIn,
) -> LinkRequestOut:
    """Answer for the agency that was asked."""
    found = links.answer(
        service.workspace,
        link_request_id,
        given.decision,
        text=given.answer,
        agency=principal.agency,
    )
    return LinkRequestOut.model_validate(found)
