"""Withholding a picture, and the list of those that wait for a decision. No page shows pixels."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from indexer import images
from indexer.errors import CaseNotFound, ImageNotFound
from indexer.withheld.rows import FLAG_REASONS, OUTCOMES
from models.errors import HomewardError
from service import withheld
from service.accounts.access import require_case
from service.deps import ServiceDep, canonical_id
from service.web import forms
from service.web.routes.common import FaceId, beside, done_text, go, page_router
from service.web.state import Flagger, Settler, WebDep

router = page_router()

PictureSha = Annotated[str, Path(max_length=70)]
Short = Annotated[str | None, Query(max_length=200)]
CaseQuery = Annotated[str, Query(max_length=60)]


def _sha256(text: str) -> str:
    if len(text) != 64 or not all(one in "0123456789abcdef" for one in text):
        raise ImageNotFound(text)
    return text


def _case_id(text: str) -> str:
    found = canonical_id(text)
    if found is None:
        raise CaseNotFound(text)
    return found


@router.get("/faces/{face_id}/flag")
def of_face(
    service: ServiceDep, _session: Flagger, face_id: FaceId, case_id: CaseQuery
) -> Response:
    """The picture that a face is in."""
    sha256 = images.get_face(service.workspace, face_id).sha256
    return go(f"/pictures/{sha256}/flag?case_id={_case_id(case_id)}")


@router.get("/pictures/{sha256}/flag")
def ask(
    web: WebDep, service: ServiceDep, session: Flagger, sha256: PictureSha, case_id: CaseQuery
) -> Response:
    """Why is it to be withheld?"""
    sha256, case_id = _sha256(sha256), _case_id(case_id)
    require_case(service.workspace.catalog, session.principal, case_id)
    withheld.require_seen(service.workspace, session.principal, sha256)
    return web.pages.page(
        "flag.html",
        session=session,
        sha256=sha256,
        case_id=case_id,
        reasons=FLAG_REASONS,
        missing=False,
    )


@router.post("/pictures/{sha256}/flag")
async def flag(
    request: Request, web: WebDep, service: ServiceDep, session: Flagger, sha256: PictureSha
) -> Response:
    """Withhold it, in every process at once."""
    fields = ("case_id", "reason")
    async with forms.page_form(request, service, session, fields) as form:
        typed = forms.typed(form, fields)
    sha256, case_id = _sha256(sha256), _case_id(typed.value("case_id"))
    reason = typed.value("reason")
    if reason not in FLAG_REASONS:
        return web.pages.page(
            "flag.html",
            session=session,
            status=422,
            sha256=sha256,
            case_id=case_id,
            reasons=FLAG_REASONS,
            missing=True,
        )
    await run_in_threadpool(
        withheld.flag, service.workspace, session.principal, sha256, case_id, reason
    )
    service.runner.wake()
    return go(f"/cases/{case_id}?done=flagged")


@router.get("/withheld")
def withheld_list(
    web: WebDep,
    service: ServiceDep,
    session: Settler,
    show: Short = None,
    cursor: Short = None,
    done: Short = None,
) -> Response:
    """What waits for a decision, or all of it."""
    page = withheld.listed(
        service.workspace, session.principal, settled=show == "all", cursor=cursor
    )
    return web.pages.page(
        "withheld.html",
        session=session,
        page=page,
        show="all" if show == "all" else "open",
        outcomes=OUTCOMES,
        first=cursor is None,
        done=done_text(done),
        problem=None,
    )


@router.post("/withheld/{withheld_sha256}/settle")
async def settle(
    request: Request,
    web: WebDep,
    service: ServiceDep,
    session: Settler,
    withheld_sha256: PictureSha,
) -> Response:
    """Write down what was decided."""
    async with forms.page_form(request, service, session, ("outcome",)) as form:
        outcome = forms.typed(form, ("outcome",)).value("outcome")
    workspace = service.workspace
    try:
        await run_in_threadpool(
            withheld.settle, workspace, session.principal, _sha256(withheld_sha256), outcome
        )
    except HomewardError as error:
        problem, status = beside(error)
        page = await run_in_threadpool(withheld.listed, workspace, session.principal, settled=True)
        return web.pages.page(
            "withheld.html",
            session=session,
            status=status,
            page=page,
            show="all",
            outcomes=OUTCOMES,
            first=True,
            done="",
            problem=problem,
        )
    return go("/withheld?done=settled")
