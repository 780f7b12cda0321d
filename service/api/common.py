"""What the routers share: ids in paths, documented errors, lists and finished answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query
from pydantic import AfterValidator, BaseModel, WithJsonSchema

from indexer.errors import (
    AdNotFound,
    AlertNotFound,
    ApprovalNotFound,
    CandidateNotFound,
    CaseNotFound,
    FaceNotFound,
    ImageNotFound,
    JobNotFound,
    PhotoNotFound,
    WebhookNotFound,
)
from models.errors import HomewardError
from service.accounts.errors import KeyNotFound, SessionNotFound, UserNotFound
from service.api.schemas.common import SHA256_PATTERN, QueryText
from service.deps import bearer, canonical_id
from service.errors import PROBLEM_JSON
from service.idempotency import Answer
from service.jsonbody import JsonRoute

STANDARD_PROBLEMS = (401, 403, 414, 422, 429, 500, 503)
DESCRIPTIONS = {
    401: "No valid key",
    403: "The key lacks the scope",
    404: "No such record",
    408: "The body took too long",
    409: "Conflict with the state of the record; see `code`",
    413: "Larger than a limit; see `code`",
    414: "The address is longer than any that this service has",
    415: "A type or format that is not taken",
    422: "The request cannot be used; see `code` and `errors`",
    429: "Too many requests with this key; wait for `Retry-After` seconds",
    500: "An unexpected error",
    503: "Busy, full or starting; wait for `Retry-After` seconds",
    507: "The disk is full",
}

IdempotencyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 visible ASCII characters; the same key repeats the first answer",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
    ),
]
RequestIdHeader = Annotated[
    str | None,
    Header(alias="X-Request-Id", description="Returned as it is if well-formed, else replaced"),
]


def _request_id(_x_request_id: RequestIdHeader = None) -> None:
    """Only documents the header; the middleware works with it."""


def router(tag: str) -> APIRouter:
    """A router under ``/v1`` whose calls need a key."""
    return APIRouter(
        prefix="/v1",
        tags=[tag],
        route_class=JsonRoute,
        dependencies=[Depends(bearer), Depends(_request_id)],
        responses=problems(*STANDARD_PROBLEMS),
    )


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documented problem answers for a route."""
    schema = {"$ref": "#/components/schemas/Problem"}
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        found[status] = {
            "description": DESCRIPTIONS[status],
            "content": {PROBLEM_JSON: {"schema": schema}},
        }
        if status in (429, 503):
            found[status]["headers"] = {
                "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}
            }
    return found


def multipart(model: type[BaseModel], encoding: dict[str, Any] | None = None) -> dict[str, Any]:
    """OpenAPI text for a body that is read part by part and described by ``model``."""
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    if encoding:
        content["encoding"] = encoding
    DESCRIBED.add(model)
    return {"requestBody": {"required": True, "content": {"multipart/form-data": content}}}


DESCRIBED: set[type[BaseModel]] = set()
"""Models that only the OpenAPI document uses: the forms of the routes."""
LINES: set[type[BaseModel]] = set()
"""Likewise: what one line of a body holds."""


def _id(not_found: Callable[[str], HomewardError]) -> AfterValidator:
    def check(text: str) -> str:
        found = canonical_id(text)
        if found is None:
            raise not_found(text[:60])
        return found

    return AfterValidator(check)


_UUID = WithJsonSchema({"type": "string", "format": "uuid"})
CaseId = Annotated[str, _id(CaseNotFound), _UUID, Path()]
PhotoId = Annotated[str, _id(PhotoNotFound), _UUID, Path()]
AdId = Annotated[str, _id(AdNotFound), _UUID, Path()]
JobId = Annotated[str, _id(JobNotFound), _UUID, Path()]
CandidateId = Annotated[str, _id(CandidateNotFound), _UUID, Path()]
AlertId = Annotated[str, _id(AlertNotFound), _UUID, Path()]
ApprovalId = Annotated[str, _id(ApprovalNotFound), _UUID, Path()]
WebhookId = Annotated[str, _id(WebhookNotFound), _UUID, Path()]
UserId = Annotated[str, _id(UserNotFound), _UUID, Path()]
KeyId = Annotated[str, _id(KeyNotFound), _UUID, Path()]
SessionId = Annotated[str, _id(lambda _: SessionNotFound()), _UUID, Path()]
FaceId = Annotated[str, _id(FaceNotFound), _UUID, Path()]


def _sha256(text: str) -> str:
    lowered = text.lower()
    if len(lowered) != 64 or not all(c in "0123456789abcdef" for c in lowered):
        raise ImageNotFound(text[:70])
    return lowered


ImageSha = Annotated[
    str,
    AfterValidator(_sha256),
    WithJsonSchema({"type": "string", "pattern": SHA256_PATTERN}),
    Path(),
]

Limit = Annotated[int, Query(ge=1, le=200, description="Items on a page")]
Cursor = Annotated[
    QueryText | None, Query(max_length=200, description="next_cursor of the page before")
]


def answer(status: int, body: BaseModel, subject_id: str | None) -> Answer:
    """A finished JSON answer that can be stored under an Idempotency-Key."""
    return Answer(status, body.model_dump_json().encode(), subject_id)
