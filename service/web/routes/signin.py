"""Signing in and out."""

from __future__ import annotations

import re
from typing import Final

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.deps import ServiceDep
from service.errors import Forbidden
from service.web import cookies, sessions, texts
from service.web.cookies import FORM_COOKIE, SESSION_COOKIE
from service.web.forms import page_form
from service.web.routes.common import go, page_router
from service.web.state import MaybeSession, SessionDep, Web, WebDep

router = page_router()

HOME: Final = "/cases"
_OWN_PATH: Final = re.compile(r"/(?![/\\])[A-Za-z0-9/_.~%?=&+-]*")


def _inside(there: str | None) -> str:
    """``there`` if it is an address of this site, else the list of cases."""
    return there if there and len(there) <= 500 and _OWN_PATH.fullmatch(there) else HOME


def _form_page(
    request: Request, web: Web, there: str, *, problem: str = "", status: int = 200, note: str = ""
) -> Response:
    token = sessions.new_token()
    answer = web.pages.page(
        "sign_in.html",
        session=None,
        status=status,
        form_token=sessions.form_token(token),
        there=there,
        problem=problem,
        note=note,
    )
    cookies.put(request, answer, FORM_COOKIE, token)
    return answer


@router.get("/")
async def home() -> Response:
    """The pages begin with the list of cases."""
    return go(HOME)


@router.get("/sign-in")
async def sign_in_page(
    request: Request,
    web: WebDep,
    session: MaybeSession,
    next: str | None = None,
    ended: bool = False,
) -> Response:
    """The form for the access key."""
    there = _inside(next)
    if session is not None:
        return go(there)
    return _form_page(request, web, there, note=texts.text("signin.ended") if ended else "")


@router.post("/sign-in")
async def sign_in(request: Request, web: WebDep, service: ServiceDep) -> Response:
    """Exchange a key for a session."""
    address = request.client.host if request.client else "unknown"
    web.throttle.check(address)
    try:
        cookie = cookies.read(request, FORM_COOKIE)
        async with page_form(request, service, cookie, ("key", "next")) as form:
            key, there = form.text("key") or "", _inside(form.text("next"))
    except Forbidden:
        return _form_page(request, web, HOME, problem=texts.text("signin.expired"), status=403)
    principal = None
    if 0 < len(key) <= 1024:
        principal = await run_in_threadpool(service.keys.authenticate, key)
    if principal is None:
        web.throttle.failed(address)
        return _form_page(request, web, there, problem=texts.text("signin.wrong"), status=401)
    session = await run_in_threadpool(sessions.begin, service.workspace.catalog, principal)
    answer = go(there)
    cookies.drop(request, answer, FORM_COOKIE)
    cookies.put(request, answer, SESSION_COOKIE, session.token)
    return answer


@router.post("/sign-out")
async def sign_out(
    request: Request, web: WebDep, service: ServiceDep, session: SessionDep
) -> Response:
    """End the session, here and in the catalog."""
    async with page_form(request, service, session):
        pass
    web.held.drop_where(session_id=session.session_id)
    await run_in_threadpool(sessions.end, service.workspace.catalog, session)
    answer = go("/sign-in?ended=1")
    cookies.drop(request, answer, SESSION_COOKIE)
    return answer
