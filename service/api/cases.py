"""Cases and their photos."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from indexer import cases, forget
from indexer.records import CaseInput, LastSeen, Person
from service.accounts.access import own_agency
from service.accounts.principal import Principal
from service.api.common import (
    CaseId,
    Cursor,
    IdempotencyHeader,
    Limit,
    PhotoId,
    answer,
    multipart,
    problems,
    router,
)
from service.api.forms import fields_of, photo_form
from service.api.schemas.cases import (
    CaseIn,
    CaseList,
    CaseOut,
    CasePatch,
    CaseStatus,
    LastSeenIn,
    PersonIn,
    PhotoReceiptOut,
)
from service.api.schemas.common import DateIn, In, QueryText
from service.deps import ServiceDep, requires
from service.idempotency import Answer, once

api = router("cases")

Reader = Annotated[Principal, Depends(requires("cases:read"))]
Writer = Annotated[Principal, Depends(requires("cases:write"))]
Deleter = Annotated[Principal, Depends(requires("cases:delete"))]


class PhotoFields(In):
    """The text fields beside the photo."""

    face_index: int | None = Field(None, ge=0, le=9_999)
    taken_on: DateIn | None = None


class PhotoForm(PhotoFields):
    """A photo of the missing person."""

    file: Annotated[bytes, Field(json_schema_extra={"format": "binary"})]


@api.post("/cases", status_code=201, response_model=CaseOut, responses=problems(409, 413, 415, 422))
async def create_case(
    request: Request,
    case: CaseIn,
    service: ServiceDep,
    principal: Writer,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Open a case for one missing person, in the caller's agency."""
    asked = case.agency if "agency" in case.model_fields_set else None
    values = {**_values(case), "agency": own_agency(principal, asked)}

    async def work() -> Answer:
        record = await run_in_threadpool(cases.create_case, service.workspace, CaseInput(**values))
        return answer(201, CaseOut.model_validate(record), record.case_id)

    content = hashlib.sha256(case.model_dump_json().encode()).hexdigest()
    return await once(
        service.workspace, service.idempotency, request, principal.actor_id, content, work
    )


@api.get("/cases", response_model=CaseList, responses=problems(422))
def list_cases(
    service: ServiceDep,
    principal: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    status: CaseStatus | None = None,
    agency: Annotated[QueryText | None, Query(max_length=100)] = None,
    text: Annotated[
        QueryText | None, Query(max_length=200, description="Part of the case number")
    ] = None,
) -> CaseList:
    """Cases, newest first."""
    page = cases.list_cases(
        service.workspace,
        limit=limit,
        cursor=cursor,
        status=status,
        agency=agency,
        text=text,
        within=principal.agency,
    )
    return CaseList.model_validate(page)


@api.get("/cases/{case_id}", response_model=CaseOut, responses=problems(404))
def get_case(service: ServiceDep, principal: Reader, case_id: CaseId) -> CaseOut:
    """One case with its photos."""
    return CaseOut.model_validate(cases.get_case(service.workspace, case_id))


@api.patch("/cases/{case_id}", response_model=CaseOut, responses=problems(404, 409, 413, 415, 422))
def change_case(
    service: ServiceDep, principal: Writer, case_id: CaseId, change: CasePatch
) -> CaseOut:
    """Change the fields that are sent. `found` and `closed` end every search for the person."""
    if "agency" in change.model_fields_set:
        own_agency(principal, change.agency)
    record = cases.update_case(
        service.workspace, case_id, _values(change, only_set=True), actor=principal.actor_id
    )
    return CaseOut.model_validate(record)


@api.delete("/cases/{case_id}", status_code=204, responses=problems(404, 409))
def forget_case(service: ServiceDep, principal: Deleter, case_id: CaseId) -> None:
    """Forget a case: out of every search at once, bytes and rows within a minute."""
    forget.forget_case(service.workspace, case_id, actor=principal.actor_id)


@api.post(
    "/cases/{case_id}/photos",
    status_code=201,
    response_model=PhotoReceiptOut,
    responses=problems(404, 408, 409, 413, 415, 422, 507),
    openapi_extra=multipart(PhotoForm),
)
async def add_photo(
    request: Request,
    service: ServiceDep,
    principal: Writer,
    case_id: CaseId,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Enrol a face of the missing person and search the ads for it.

    More than one face and no `face_index`: 409 `several_faces_found` with a member `faces`.
    """
    async with photo_form(request, service, ("face_index", "taken_on")) as form:
        given = fields_of(form, PhotoFields)
        part = form.file("file")

        async def work() -> Answer:
            receipt = await service.pool.run(
                cases.add_photo,
                service.workspace,
                case_id,
                part.read(),
                filename=part.filename,
                face_index=given.face_index,
                taken_on=given.taken_on,
            )
            service.runner.wake()
            return answer(201, PhotoReceiptOut.model_validate(receipt), case_id)

        return await once(
            service.workspace,
            service.idempotency,
            request,
            principal.actor_id,
            form.fingerprint(),
            work,
        )


@api.delete("/cases/{case_id}/photos/{photo_id}", status_code=204, responses=problems(404, 409))
def forget_photo(
    service: ServiceDep, principal: Deleter, case_id: CaseId, photo_id: PhotoId
) -> None:
    """Forget a photo: its face is out of every search at once, its bytes within a minute."""
    forget.forget_photo(service.workspace, case_id, photo_id, actor=principal.actor_id)


def _values(body: CaseIn | CasePatch, *, only_set: bool = False) -> dict[str, Any]:
    """The fields of a case as the indexer takes them."""
    names = body.model_fields_set if only_set else set(type(body).model_fields)
    values = {name: getattr(body, name) for name in names}
    if isinstance(values.get("person"), PersonIn):
        values["person"] = Person(**_plain(values["person"], Person))
    if isinstance(values.get("last_seen"), LastSeenIn):
        values["last_seen"] = LastSeen(**_plain(values["last_seen"], LastSeen))
    return values


def _plain(body: BaseModel, kind: type[Person] | type[LastSeen]) -> dict[str, Any]:
    values = {item.name: getattr(body, item.name) for item in fields(kind)}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
