"""Ads as scrapers send them, and the jobs that work on them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from indexer import ads, forget, jobs
from indexer.records import AdFilter, AdInput, AdReceipt, Upload
from indexer.workspace import Workspace
from service.accounts.principal import Principal
from service.api.common import (
    AdId,
    Cursor,
    IdempotencyHeader,
    JobId,
    Limit,
    answer,
    multipart,
    problems,
    router,
)
from service.api.forms import ad_form, ad_of
from service.api.schemas.ads import AdIn, AdList, AdOut, AdReceiptOut, JobOut
from service.api.schemas.common import QueryText, TimeIn
from service.deps import ServiceDep, requires
from service.errors import InvalidFields, field_errors
from service.idempotency import Answer, once
from service.jsonbody import parse_json
from service.uploads import Form, Part

api = router("ads")

Reader = Annotated[Principal, Depends(requires("ads:read"))]
Writer = Annotated[Principal, Depends(requires("ads:write"))]
Deleter = Annotated[Principal, Depends(requires("ads:delete"))]
JobReader = Annotated[Principal, Depends(requires("jobs:read"))]

Binary = Annotated[bytes, Field(json_schema_extra={"format": "binary"})]


class AdForm(BaseModel):
    """One ad with its pictures and the page it was read from."""

    ad: AdIn
    images: list[Binary] = Field(default_factory=list, max_length=20)
    page: list[Binary] = Field(
        default_factory=list,
        max_length=3,
        description="HTML, screenshot or WARC; kept as evidence, never rendered",
    )


@api.post(
    "/ads",
    status_code=202,
    response_model=AdReceiptOut,
    responses=problems(408, 409, 413, 415, 422, 507),
    openapi_extra=multipart(AdForm, {"ad": {"contentType": "application/json"}}),
)
async def receive_ad(
    request: Request,
    service: ServiceDep,
    principal: Writer,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Take in one ad. The same content again gives the same ids, and nothing is doubled.

    A picture that cannot be used is reported as `rejected` with its code; the rest is kept.
    """
    async with ad_form(request, service) as form:
        ad = await run_in_threadpool(_ad, form)

        async def work() -> Answer:
            receipt = await service.pool.run(
                _store, service.workspace, ad, form.files("images"), form.files("page")
            )
            service.runner.wake()
            return answer(202, AdReceiptOut.model_validate(receipt), receipt.ad_id)

        return await once(
            service.workspace,
            service.idempotency,
            request,
            principal.actor_id,
            form.fingerprint(),
            work,
        )


@api.get("/ads", response_model=AdList, responses=problems(422))
def list_ads(
    service: ServiceDep,
    principal: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    site: Annotated[QueryText | None, Query(max_length=200)] = None,
    phone: Annotated[QueryText | None, Query(max_length=60)] = None,
    place: Annotated[
        QueryText | None,
        Query(max_length=200, description="Looked for in city, region, country and location"),
    ] = None,
    posted_after: Annotated[TimeIn | None, Query(description="From this moment on")] = None,
    posted_before: Annotated[TimeIn | None, Query(description="Before this moment")] = None,
) -> AdList:
    """Ads, newest first."""
    filters = AdFilter(
        site=site,
        phone=phone,
        place=place,
        posted_after=posted_after,
        posted_before=posted_before,
    )
    page = ads.list_ads(service.workspace, filters, limit=limit, cursor=cursor)
    return AdList.model_validate(page)


@api.get("/ads/{ad_id}", response_model=AdOut, responses=problems(404))
def get_ad(service: ServiceDep, principal: Reader, ad_id: AdId) -> AdOut:
    """One ad with all its captures and images."""
    return AdOut.model_validate(ads.get_ad(service.workspace, ad_id))


@api.delete("/ads/{ad_id}", status_code=204, responses=problems(404, 409))
def forget_ad(service: ServiceDep, principal: Deleter, ad_id: AdId) -> None:
    """Forget an ad; bytes shared with a case or another ad stay for them."""
    forget.forget_ad(service.workspace, ad_id, actor=principal.actor_id)


@api.get("/jobs/{job_id}", response_model=JobOut, responses=problems(404), tags=["jobs"])
def get_job(service: ServiceDep, principal: JobReader, job_id: JobId) -> JobOut:
    """How far a piece of queued work is."""
    return JobOut.model_validate(jobs.get_job(service.workspace, job_id))


def _ad(form: Form) -> AdInput:
    """The part ``ad`` as the indexer takes it. Raises InvalidFields with every bad field."""
    try:
        body = AdIn.model_validate(parse_json(form.file("ad").read(), "ad"))
    except ValidationError as error:
        raise InvalidFields(field_errors(error.errors(include_url=False), "ad")) from None
    return ad_of(body)


def _store(workspace: Workspace, ad: AdInput, images: list[Part], pages: list[Part]) -> AdReceipt:
    return ads.receive_ad(workspace, ad, _uploads(images), _uploads(pages))


def _uploads(parts: list[Part]) -> list[Upload]:
    return [
        Upload(part.received, part.filename, part.content_type or None)
        for part in parts
        if part.received is not None
    ]
