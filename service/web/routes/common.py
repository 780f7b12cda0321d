"""What the page routes share: ids in addresses, redirects, and a problem beside its form."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import APIRouter, Path
from pydantic import AfterValidator
from starlette.responses import RedirectResponse

from indexer.acting import acting
from indexer.errors import CandidateNotFound, CaseNotFound, FaceNotFound, NotFound, PhotoNotFound
from models.errors import HomewardError
from service.deps import canonical_id
from service.errors import status_of
from service.web import texts
from service.web.texts.pages import TEXTS


def page_router() -> APIRouter:
    """A router whose routes are no part of the documented interface."""
    return APIRouter(include_in_schema=False)


def _id(not_found: type[NotFound]) -> AfterValidator:
    def check(text: str) -> str:
        found = canonical_id(text)
        if found is None:
            raise not_found(text[:60])
        return found

    return AfterValidator(check)


CaseId = Annotated[str, _id(CaseNotFound), Path()]
PhotoId = Annotated[str, _id(PhotoNotFound), Path()]
CandidateId = Annotated[str, _id(CandidateNotFound), Path()]
FaceId = Annotated[str, _id(FaceNotFound), Path()]
HeldId = Annotated[str, Path(max_length=60)]


HOME: Final = "/"
_OWN_PATH: Final = re.compile(r"/(?![/\\])[A-Za-z0-9/_.~%?=&+-]*")


def inside(there: str | None) -> str:
    """``there`` if it is an address of this site, else the first page."""
    return there if there and len(there) <= 500 and _OWN_PATH.fullmatch(there) else HOME


def go(address: str) -> RedirectResponse:
    """Answer a form that did its work: the browser then gets the page anew."""
    return RedirectResponse(address, status_code=303)


def beside(error: HomewardError) -> tuple[texts.Problem, int]:
    """The words and the status for an error that is shown beside the form that caused it."""
    acting().refused = error.code
    return texts.problem(error.code, error.detail, error.remedy), status_of(error)


def done_text(name: str | None) -> str:
    """The line after an action; only names from the list say anything."""
    return TEXTS.get(f"done.{name}", "") if name else ""
