"""The service's own errors, and the one table that turns every error into a problem document.

Problem documents follow RFC 9457 (``application/problem+json``): ``type``, ``title``,
``status``, ``detail``, plus ``code`` (stable, for programs), ``request_id``, ``remedy`` and,
for bad input, ``errors`` with every bad field. What a client sent is never echoed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError, ResponseValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from indexer.acting import acting
from indexer.errors import (
    DuplicateCaseNumber,
    FaceIndexInvalid,
    PhotoAlreadyEnrolled,
    SeveralFacesFound,
)
from models.errors import HomewardError, PackError, ProviderUnavailable
from service.accounts.access import Forbidden as Forbidden
from service.search.render import face_json

log = logging.getLogger("homeward.service")

PROBLEM_JSON = "application/problem+json"
MAX_REPORTED_ERRORS = 100
RETRY_AFTER_SECONDS = 5

STATUS_BY_CODE: Mapping[str, int] = {
    "unauthenticated": 401,
    "sign_on_refused": 401,
    "sign_in_elsewhere_refused": 403,
    "second_factor_missing": 403,
    "link_refused": 409,
    "sign_on_away": 503,
    "forbidden": 403,
    "sign_in_refused": 401,
    "set_up_refused": 401,
    "set_up_unfinished": 403,
    "training_expired": 403,
    "current_password_wrong": 403,
    "user_not_found": 404,
    "agency_not_found": 404,
    "session_not_found": 404,
    "key_not_found": 404,
    "accounts_exist": 409,
    "agency_taken": 409,
    "last_administrator": 409,
    "person_changed": 409,
    "login_taken": 409,
    "agency_invalid": 422,
    "code_refused": 422,
    "expiry_invalid": 422,
    "key_name_invalid": 422,
    "login_invalid": 422,
    "password_refused": 422,
    "role_unknown": 422,
    "training_date_invalid": 422,
    "cross_origin": 403,
    "host_refused": 421,
    "head_too_large": 431,
    "address_too_long": 414,
    "picture_withheld": 403,
    "not_found": 404,
    "agency_not_yours": 403,
    "case_not_found": 404,
    "generation_not_found": 404,
    "comparison_not_found": 404,
    "generation_state_invalid": 409,
    "generation_incomplete": 409,
    "generation_unavailable": 503,
    "photo_not_found": 404,
    "ad_not_found": 404,
    "job_not_found": 404,
    "image_not_found": 404,
    "face_not_found": 404,
    "candidate_not_found": 404,
    "alert_not_found": 404,
    "webhook_not_found": 404,
    "link_request_not_found": 404,
    "link_not_found": 404,
    "link_not_yours": 403,
    "link_state_invalid": 409,
    "withheld_not_found": 404,
    "hash_list_not_found": 404,
    "quarantine_item_not_found": 404,
    "method_not_allowed": 405,
    "upload_timeout": 408,
    "approval_not_found": 404,
    "year_not_over": 409,
    "approval_required": 409,
    "approval_state_invalid": 409,
    "approver_is_requester": 403,
    "hold_not_found": 404,
    "lifter_is_setter": 403,
    "case_closed": 409,
    "contract_mismatch": 409,
    "duplicate_case_number": 409,
    "idempotency_in_progress": 409,
    "legal_hold": 409,
    "second_person_needed": 409,
    "search_needs_enrolment": 409,
    "withheld_state_invalid": 409,
    "photo_already_enrolled": 409,
    "several_faces_found": 409,
    "too_many_webhooks": 409,
    "body_too_large": 413,
    "file_too_large": 413,
    "image_too_large": 413,
    "page_too_large": 413,
    "too_many_pixels": 413,
    "unsupported_format": 415,
    "unsupported_media_type": 415,
    "digest_mismatch": 422,
    "stamp_invalid": 422,
    "face_too_small": 422,
    "face_index_invalid": 422,
    "idempotency_key_reused": 422,
    "job_state_invalid": 409,
    "image_corrupt": 422,
    "image_dimensions": 422,
    "image_empty": 422,
    "image_truncated": 422,
    "image_unknown": 422,
    "invalid_cursor": 422,
    "malformed_body": 422,
    "no_face_found": 422,
    "purpose_required": 422,
    "too_many_files": 422,
    "validation_failed": 422,
    "webhook_address_refused": 422,
    "rate_limited": 429,
    "blob_damaged": 500,
    "blob_missing": 500,
    "internal_error": 500,
    "encryption_off": 409,
    "encryption_keys": 503,
    "seal_key_missing": 503,
    "seal_broken": 500,
    "catalog_absent": 503,
    "catalog_away": 503,
    "audit_damaged": 503,
    "audit_unavailable": 503,
    "backup_damaged": 503,
    "backup_failed": 503,
    "calibration_damaged": 503,
    "catalog_busy": 503,
    "catalog_unusable": 503,
    "heads_damaged": 503,
    "index_away": 503,
    "index_damaged": 503,
    "ledger_damaged": 503,
    "not_ready": 503,
    "overloaded": 503,
    "queue_full": 503,
    "restore_unfinished": 503,
    "extra_missing": 503,
    "storage_away": 503,
    "storage_denied": 503,
    "storage_error": 503,
    "storage_full": 507,
    "store_unusable": 503,
}
"""HTTP status of each error code. A code that is missing here is a 422, a pack error a 503."""

TITLES: Mapping[str, str] = {
    "unauthenticated": "A valid key is needed",
    "forbidden": "The key does not allow this",
    "picture_withheld": "The picture is shown to nobody",
    "not_found": "There is nothing at this address",
    "method_not_allowed": "This address does not take this method",
    "validation_failed": "Some fields cannot be used",
    "malformed_body": "The body cannot be read",
    "unsupported_media_type": "The body has the wrong content type",
    "internal_error": "Something failed inside Homeward",
}


class Unauthenticated(HomewardError):
    """No key, or none that is known."""

    code = "unauthenticated"

    def __init__(self) -> None:
        super().__init__(
            "The request carries no valid key.",
            remedy="Send the header 'Authorization: Bearer <key>'.",
        )


class RateLimited(HomewardError):
    """Too many requests with one key, or from one address."""

    code = "rate_limited"

    def __init__(self, limit: int, retry_after: int, *, detail: str = "") -> None:
        super().__init__(
            detail or f"This key may make {limit} requests a minute.",
            remedy=f"Wait {retry_after} seconds and go on more slowly.",
        )
        self.retry_after = retry_after


class Overloaded(HomewardError):
    """All places in a bounded queue are taken."""

    code = "overloaded"


class NotReady(HomewardError):
    """The service still starts, or one of its parts failed."""

    code = "not_ready"


class BadRequestBody(HomewardError):
    """The body as a whole cannot be read."""

    code = "malformed_body"


class InvalidFields(HomewardError):
    """Some fields of a request cannot be used; ``errors`` names all of them."""

    code = "validation_failed"

    def __init__(self, errors: Sequence[Mapping[str, str]]) -> None:
        super().__init__(_count_text(len(errors)), remedy="Correct the fields named in 'errors'.")
        self.errors = list(errors)


class ProblemHTTPException(HTTPException):
    """Carries a :class:`HomewardError` through code that lets only HTTP exceptions pass."""

    def __init__(self, error: HomewardError) -> None:
        super().__init__(status_code=status_of(error), detail=error.detail)
        self.error = error


class ProblemResponse(JSONResponse):
    """A problem document."""

    media_type = PROBLEM_JSON


def status_of(error: HomewardError) -> int:
    """HTTP status for an error of the tree."""
    if isinstance(error, (PackError, ProviderUnavailable)):
        return 503
    return STATUS_BY_CODE.get(error.code, 422)


def title_of(code: str) -> str:
    """Short text for a code, the same every time."""
    return TITLES.get(code) or code.replace("_", " ").capitalize()


def problem(
    scope: Scope,
    code: str,
    detail: str,
    *,
    status: int | None = None,
    remedy: str = "",
    errors: Iterable[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> ProblemResponse:
    """Build a problem document for the request in ``scope``."""
    status = STATUS_BY_CODE.get(code, 422) if status is None else status
    acting().refused = code
    body: dict[str, Any] = {
        "type": f"urn:homeward:problem:{code}",
        "title": title_of(code),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": scope.get("state", {}).get("request_id", ""),
    }
    if remedy:
        body["remedy"] = remedy
    if listed := list(errors)[:MAX_REPORTED_ERRORS]:
        body["errors"] = listed
    body.update(extra or {})
    sent = dict(headers or {})
    if status in (429, 503):
        sent.setdefault("retry-after", str(RETRY_AFTER_SECONDS))
    if status == 401:
        sent.setdefault("www-authenticate", 'Bearer realm="homeward"')
    return ProblemResponse(body, status_code=status, headers=sent)


def problem_for(scope: Scope, error: HomewardError) -> ProblemResponse:
    """The problem document of an error of the tree."""
    headers = {}
    if isinstance(error, RateLimited):
        headers["retry-after"] = str(error.retry_after)
    status = status_of(error)
    if status in (503, 507):
        log.warning("%s: %s", error.code, error.detail)
    elif status >= 500:
        log.error("%s: %s", error.code, error.detail, exc_info=error)
    return problem(
        scope,
        error.code,
        error.detail,
        status=status,
        remedy=error.remedy,
        errors=getattr(error, "errors", ()),
        headers=headers,
        extra=_members(error),
    )


def field_errors(items: Iterable[Mapping[str, Any]], prefix: str = "") -> list[dict[str, str]]:
    """``[{field, message}]`` from pydantic's error list, without the values that were sent."""
    found = []
    for item in items:
        loc = [str(part) for part in item["loc"]]
        if loc and loc[0] in ("body", "query", "path", "header", "cookie"):
            loc = loc[1:]
        name = ".".join([prefix, *loc] if prefix else loc) or "body"
        found.append({"field": name[:200], "message": str(item["msg"])[:300]})
    return found


def _members(error: HomewardError) -> dict[str, Any]:
    """Further members that an error brings along, such as the faces to choose from."""
    if isinstance(error, (SeveralFacesFound, FaceIndexInvalid)):
        return {"faces": [face_json(face) for face in error.faces]}
    if isinstance(error, DuplicateCaseNumber):
        return {"case_id": error.case_id}
    if isinstance(error, PhotoAlreadyEnrolled):
        return {"photo_id": error.photo_id}
    return {}


def _count_text(count: int) -> str:
    return "One field cannot be used." if count == 1 else f"{count} fields cannot be used."


async def _on_homeward(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HomewardError)
    return problem_for(request.scope, error)


async def _on_http(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error, ProblemHTTPException):
        return problem_for(request.scope, error.error)
    known = {
        401: "unauthenticated",
        403: "forbidden",
        404: "not_found",
        405: "method_not_allowed",
        413: "body_too_large",
        415: "unsupported_media_type",
    }
    status = 422 if error.status_code == 400 else error.status_code
    code = known.get(status, "malformed_body" if status == 422 else "http_error")
    details = {
        404: "There is nothing at this address.",
        405: "This address does not take this method; the header 'Allow' lists those it takes.",
        413: "The body is larger than this address takes.",
        422: "The body cannot be read.",
    }
    headers = dict(error.headers or {})
    if status == 405:
        headers = {"allow": _allowed(request) or headers.get("Allow", "")}
    return problem(
        request.scope,
        code,
        details.get(status, str(error.detail)),
        status=status,
        headers=headers,
    )


def _allowed(request: Request) -> str:
    """Every method of this path: routing itself only names those of the first route it finds."""
    path = getattr(request.scope.get("route"), "path", "")
    operations = request.app.openapi()["paths"].get(path, {})
    return ", ".join(sorted(method.upper() for method in operations))


async def _on_validation(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    errors = field_errors(error.errors())
    return problem(
        request.scope,
        "validation_failed",
        _count_text(len(errors)),
        remedy="Correct the fields named in 'errors'.",
        errors=errors,
    )


async def _on_disconnect(request: Request, error: Exception) -> ProblemResponse:
    return problem(request.scope, "malformed_body", "The connection closed before the body ended.")


async def _on_unexpected(request: Request, error: Exception) -> ProblemResponse:
    return unexpected(request.scope, error)


def unexpected(scope: Scope, error: Exception) -> ProblemResponse:
    """The answer to an error nobody foresaw: logged in full, told without its text."""
    route = getattr(scope.get("route"), "path", "an unknown address")
    log.error("unexpected error at %s %s", scope.get("method"), route, exc_info=error)
    return problem(
        scope,
        "internal_error",
        "Something failed inside Homeward.",
        remedy="Try again; if it stays, give the request_id to whoever runs this service.",
        status=500,
    )


HANDLERS = {
    HomewardError: _on_homeward,
    HTTPException: _on_http,
    RequestValidationError: _on_validation,
    ClientDisconnect: _on_disconnect,
    ResponseValidationError: _on_unexpected,
    ValidationError: _on_unexpected,
}
"""The one handler table. Anything else is caught by the outermost middleware as a 500."""


def install(app: FastAPI) -> None:
    """Give ``app`` the handler table."""
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
