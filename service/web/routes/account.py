"""One's own account: the first set-up, password, second factor, recovery codes, sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from models.errors import HomewardError
from service.accounts import browsers, own, people, second_factor
from service.accounts.access import Forbidden
from service.accounts.errors import AccountsExist
from service.deps import ServiceDep
from service.state import Service
from service.web import sessions
from service.web.forms import Typed, page_form, typed
from service.web.render import PAGE_HEADERS
from service.web.routes.common import beside, done_text, go, page_router
from service.web.routes.signin import begin, let_in
from service.web.sessions import Session
from service.web.state import BegunSession, PersonSession, SessionDep, Web, WebDep, home_of

router = page_router()

Done = Annotated[str | None, Query(max_length=40)]


def _secret(session: Session) -> str:
    """What the authenticator is given; another one with each token of the session."""
    return second_factor.secret_of(session.token, session.principal.actor_id)


def _spaced(secret: str) -> str:
    return " ".join(secret[i : i + 4] for i in range(0, len(secret), 4))


@router.get("/account/second-factor.svg")
def second_factor_picture(session: BegunSession) -> Response:
    """The picture that an authenticator scans."""
    name = "administrator" if session.by_key else session.principal.name
    svg = second_factor.qr_svg(_secret(session), name)
    return Response(svg, media_type="image/svg+xml", headers=PAGE_HEADERS)


def _codes_page(
    request: Request, web: Web, session: Session, codes: tuple[str, ...], there: str
) -> Response:
    """The recovery codes, this once."""
    page = web.pages.page("recovery_codes.html", session=session, codes=codes, there=there)
    return let_in(request, session, page)


# --- the first set-up ------------------------------------------------------------------------


def _set_up_page(
    web: Web,
    session: Session,
    found: Typed,
    *,
    first: bool,
    password: bool,
    error: HomewardError | None = None,
) -> Response:
    problem, status = beside(error) if error is not None else (None, 200)
    return web.pages.page(
        "set_up.html",
        session=session,
        status=status,
        typed=found,
        first=first,
        password=password,
        secret=_spaced(_secret(session)),
        problem=problem,
    )


@router.get("/setup")
def first_page(web: WebDep, service: ServiceDep, session: SessionDep) -> Response:
    """The form that makes the first administrator, for whoever holds the administrator key."""
    if not _may_set_up(service, session):
        return go("/account")
    return _set_up_page(web, session, Typed(), first=True, password=True)


def _may_set_up(service: Service, session: Session) -> bool:
    if not session.by_key:
        return False
    if not session.all_powers:
        # An administrator gives any role: a lesser key would gain by making one.
        raise Forbidden(
            "The first administrator is made with a key that holds every permission and works "
            "for all agencies.",
            remedy="Sign in with the administrator key, or use the command line.",
        )
    return not people.accounts_exist(service.workspace.catalog)


@router.post("/setup")
async def first_administrator(
    request: Request, web: WebDep, service: ServiceDep, session: SessionDep
) -> Response:
    """Make the first administrator; sessions of keys end with that, this one too."""
    names = ("login", "display_name", "password", "code")
    async with page_form(request, service, session, names) as form:
        found = typed(form, ("login", "display_name"))
        password, code = form.text("password") or "", form.text("code") or ""
    if not await run_in_threadpool(_may_set_up, service, session):
        raise AccountsExist
    try:
        user_id, codes = await service.sign_ins.run(
            own.first_administrator,
            service.workspace.catalog,
            found.value("login"),
            found.value("display_name"),
            password,
            _secret(session),
            code,
        )
    except HomewardError as error:
        return _set_up_page(web, session, found, first=True, password=True, error=error)
    begun = await begin(request, service, user_id)
    return _codes_page(request, web, begun, codes, home_of(begun))


def _lacks_password(service: Service, session: Session) -> bool:
    return own.lacks_password(service.workspace.catalog, session.principal.actor_id)


@router.get("/account/set-up")
def set_up_page(web: WebDep, service: ServiceDep, session: BegunSession) -> Response:
    """The form for password and second factor of an account that lacks them."""
    if session.set_up:
        return go("/account")
    password = _lacks_password(service, session)
    return _set_up_page(web, session, Typed(), first=False, password=password)


@router.post("/account/set-up")
async def set_up(
    request: Request, web: WebDep, service: ServiceDep, session: BegunSession
) -> Response:
    """Set up the account; the session goes on under a fresh token and opens every page."""
    async with page_form(request, service, session, ("password", "code")) as form:
        password, code = form.text("password") or "", form.text("code") or ""
    if session.set_up:
        return go("/account")
    lacks = await run_in_threadpool(_lacks_password, service, session)
    try:
        codes = await service.sign_ins.run(
            own.set_up,
            service.workspace.catalog,
            session.principal.actor_id,
            password if lacks else None,
            _secret(session),
            code,
        )
    except HomewardError as error:
        return _set_up_page(web, session, Typed(), first=False, password=lacks, error=error)
    fresh = await _fresh(service, session)
    return _codes_page(request, web, fresh, codes, home_of(fresh))


async def _fresh(service: Service, session: Session) -> Session:
    """The session under a fresh token; every other one of the person ends."""
    catalog = service.workspace.catalog
    return await run_in_threadpool(sessions.rotate, catalog, session, alone=True)


# --- later -----------------------------------------------------------------------------------


@router.get("/account")
def account(web: WebDep, service: ServiceDep, session: SessionDep, done: Done = None) -> Response:
    """What a person can change about how they sign in, and where they are signed in."""
    if session.by_key:
        return go("/setup")
    return _account_page(web, service, session, done=done_text(done))


def _account_page(
    web: Web,
    service: Service,
    session: Session,
    *,
    done: str = "",
    error: HomewardError | None = None,
) -> Response:
    problem, status = beside(error) if error is not None else (None, 200)
    catalog = service.workspace.catalog
    return web.pages.page(
        "account.html",
        session=session,
        status=status,
        person=own.record_of(catalog, session.principal.actor_id),
        browsers=browsers.sessions_of(catalog, session.principal.actor_id),
        done=done,
        problem=problem,
    )


async def _own_form(
    request: Request,
    web: Web,
    service: Service,
    session: Session,
    names: tuple[str, ...],
    change: Callable[..., Any],
) -> tuple[Any, Response | None]:
    """What ``change`` made of the form's fields, or the page with the problem beside it."""
    async with page_form(request, service, session, names) as form:
        given = [form.text(name) or "" for name in names]
    try:
        return await service.sign_ins.run(change, *given), None
    except HomewardError as error:
        page = await run_in_threadpool(_account_page, web, service, session, error=error)
        return None, page


@router.post("/account/password")
async def change_password(
    request: Request, web: WebDep, service: ServiceDep, session: PersonSession
) -> Response:
    """Change the password; every other session ends, this one goes on under a fresh token."""

    def change(current: str, password: str) -> None:
        own.change_password(
            service.workspace.catalog, session.principal.actor_id, current, password
        )

    names = ("current", "password")
    _, problem = await _own_form(request, web, service, session, names, change)
    if problem is not None:
        return problem
    fresh = await _fresh(service, session)
    return let_in(request, fresh, go("/account?done=password_changed"))


@router.get("/account/second-factor")
def second_factor_page(web: WebDep, session: PersonSession) -> Response:
    """The form for another second factor."""
    return _second_factor_page(web, session)


def _second_factor_page(web: Web, session: Session, error: HomewardError | None = None) -> Response:
    problem, status = beside(error) if error is not None else (None, 200)
    return web.pages.page(
        "second_factor.html",
        session=session,
        status=status,
        secret=_spaced(_secret(session)),
        problem=problem,
    )


@router.post("/account/second-factor")
async def change_second_factor(
    request: Request, web: WebDep, service: ServiceDep, session: PersonSession
) -> Response:
    """Replace the second factor and the recovery codes; every other session ends."""
    async with page_form(request, service, session, ("current", "code")) as form:
        current, code = form.text("current") or "", form.text("code") or ""
    try:
        codes = await service.sign_ins.run(
            own.change_second_factor,
            service.workspace.catalog,
            session.principal.actor_id,
            current,
            _secret(session),
            code,
        )
    except HomewardError as error:
        return _second_factor_page(web, session, error)
    fresh = await _fresh(service, session)
    return _codes_page(request, web, fresh, codes, "/account")


@router.post("/account/recovery-codes")
async def renew_recovery_codes(
    request: Request, web: WebDep, service: ServiceDep, session: PersonSession
) -> Response:
    """Replace the recovery codes and show the new ones, this once."""

    def change(current: str) -> tuple[str, ...]:
        return own.renew_recovery_codes(
            service.workspace.catalog, session.principal.actor_id, current
        )

    codes, problem = await _own_form(request, web, service, session, ("current",), change)
    if problem is not None:
        return problem
    return _codes_page(request, web, session, codes, "/account")


@router.post("/account/sessions/end")
async def end_others(
    request: Request, service: ServiceDep, session: PersonSession
) -> RedirectResponse:
    """End every other session of one's own."""
    async with page_form(request, service, session):
        pass
    await run_in_threadpool(
        browsers.end_all,
        service.workspace.catalog,
        session.principal.actor_id,
        but=session.session_id,
    )
    return go("/account?done=sessions_ended")


@router.post("/account/sessions/{session_id}/end")
async def end_one(
    request: Request,
    service: ServiceDep,
    session: PersonSession,
    session_id: Annotated[str, Path(max_length=36)],
) -> RedirectResponse:
    """End one session of one's own."""
    async with page_form(request, service, session):
        pass
    await run_in_threadpool(
        browsers.end, service.workspace.catalog, session.principal.actor_id, session_id
    )
    return go("/account?done=sessions_ended")
