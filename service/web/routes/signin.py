"""Signing in and out: people with password and code; keys as long as nobody has an account."""

from __future__ import annotations

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from service.accounts import people, signing_in
from service.accounts.errors import SetUpRefused, SignInRefused
from service.deps import ServiceDep
from service.errors import Forbidden
from service.state import Service
from service.web import cookies, sessions, texts
from service.web.cookies import FORM_COOKIE, SESSION_COOKIE
from service.web.forms import page_form
from service.web.routes.common import HOME, go, inside, page_router
from service.web.sessions import Session
from service.web.state import (
    BegunSession,
    MaybeSession,
    Web,
    WebDep,
    address_of,
    home_of,
)

router = page_router()


def let_in(request: Request, session: Session, answer: Response) -> Response:
    """Give the browser the cookie of a session that was just begun or got a fresh token."""
    cookies.drop(request, answer, FORM_COOKIE)
    cookies.put(request, answer, SESSION_COOKIE, session.token)
    return answer


async def begin(request: Request, service: Service, user_id: str) -> Session:
    """Start a session for a person who proved who they are, as seen from this request."""
    return await run_in_threadpool(
        sessions.begin_for_user,
        service.workspace.catalog,
        user_id,
        address=address_of(request),
        user_agent=request.headers.get("user-agent", ""),
    )


async def _form_page(
    request: Request,
    web: Web,
    service: Service,
    there: str,
    *,
    problem: str = "",
    status: int = 200,
    note: str = "",
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
        accounts=await run_in_threadpool(people.accounts_exist, service.workspace.catalog),
    )
    cookies.put(request, answer, FORM_COOKIE, token)
    return answer


@router.get("/")
async def home(session: MaybeSession) -> Response:
    """The pages begin with the first that whoever asks may open."""
    return go(home_of(session))


@router.get("/sign-in")
async def sign_in_page(
    request: Request,
    web: WebDep,
    service: ServiceDep,
    session: MaybeSession,
    next: str | None = None,
    ended: bool = False,
) -> Response:
    """The form for name, password and code; for a key while nobody has an account."""
    there = inside(next)
    if session is not None:
        return go(there)
    note = texts.text("signin.ended") if ended else ""
    return await _form_page(request, web, service, there, note=note)


@router.post("/sign-in")
async def sign_in(request: Request, web: WebDep, service: ServiceDep) -> Response:
    """Exchange name, password and code, or a key, for a session."""
    names = ("login", "password", "code", "key", "next")
    try:
        cookie = cookies.read(request, FORM_COOKIE)
        async with page_form(request, service, cookie, names) as form:
            given = {name: form.text(name) or "" for name in names}
    except Forbidden:
        problem = texts.text("signin.expired")
        return await _form_page(request, web, service, HOME, problem=problem, status=403)
    there = inside(given["next"])
    catalog = service.workspace.catalog
    if not await run_in_threadpool(people.accounts_exist, catalog):
        return await _with_key(request, web, service, given["key"], there)
    try:
        user_id = await service.sign_ins.run(
            signing_in.sign_in,
            catalog,
            given["login"],
            given["password"],
            given["code"],
            address=address_of(request),
        )
    except SignInRefused:
        problem = texts.text("signin.refused")
        return await _form_page(request, web, service, there, problem=problem, status=401)
    session = await begin(request, service, user_id)
    return let_in(request, session, go(there))


async def _with_key(request: Request, web: Web, service: Service, key: str, there: str) -> Response:
    address = address_of(request)
    web.throttle.check(address)
    principal = None
    if 0 < len(key) <= 1024:
        principal = await run_in_threadpool(service.keys.authenticate, key)
    if principal is None:
        web.throttle.failed(address)
        await run_in_threadpool(
            signing_in.record_wrong_key, service.workspace.catalog, address=address
        )
        problem = texts.text("signin.wrong")
        return await _form_page(request, web, service, there, problem=problem, status=401)
    principal.acts()
    session = await run_in_threadpool(sessions.begin, service.workspace.catalog, principal)
    return let_in(request, session, go(there))


@router.get("/welcome")
async def welcome_page(
    request: Request, web: WebDep, session: MaybeSession, code: str = ""
) -> Response:
    """The form for a set-up code; a link brings it along, and opening the link uses nothing up."""
    if session is not None:
        return go("/")
    return _welcome(request, web, code[:200])


def _welcome(
    request: Request, web: Web, code: str, *, problem: str = "", status: int = 200
) -> Response:
    token = sessions.new_token()
    answer = web.pages.page(
        "welcome.html",
        session=None,
        status=status,
        form_token=sessions.form_token(token),
        code=code,
        problem=problem,
    )
    cookies.put(request, answer, FORM_COOKIE, token)
    return answer


@router.post("/welcome")
async def welcome(request: Request, web: WebDep, service: ServiceDep) -> Response:
    """Exchange a set-up code for a session in which an account can be set up, and nothing else."""
    try:
        cookie = cookies.read(request, FORM_COOKIE)
        async with page_form(request, service, cookie, ("code",)) as form:
            code = form.text("code") or ""
    except Forbidden:
        return _welcome(request, web, "", problem=texts.text("signin.expired"), status=403)
    try:
        user_id = await run_in_threadpool(
            signing_in.user_of_setup_code,
            service.workspace.catalog,
            code,
            address=address_of(request),
        )
    except SetUpRefused:
        return _welcome(request, web, "", problem=texts.text("welcome.refused"), status=401)
    session = await begin(request, service, user_id)
    return let_in(request, session, go("/account/set-up"))


@router.post("/sign-out")
async def sign_out(
    request: Request, web: WebDep, service: ServiceDep, session: BegunSession
) -> Response:
    """End the session, here and in the catalog."""
    async with page_form(request, service, session):
        pass
    web.held.drop_where(session_id=session.session_id)
    await run_in_threadpool(sessions.end, service.workspace.catalog, session)
    answer = go("/sign-in?ended=1")
    cookies.drop(request, answer, SESSION_COOKIE)
    return answer
