"""The people whom an administrator manages, and the agencies they are of."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated

from fastapi import Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from indexer.times import date_in_range
from models.errors import HomewardError
from service.accounts import agencies, browsers, people
from service.accounts.errors import TrainingDateInvalid, UserNotFound
from service.accounts.roles import ROLES
from service.deps import ServiceDep, canonical_id
from service.state import Service
from service.web import texts
from service.web.forms import Typed, page_form, typed
from service.web.routes.common import beside, done_text, go, page_router
from service.web.sessions import Session
from service.web.state import AccountManager, Web, WebDep

router = page_router()

Done = Annotated[str | None, Query(max_length=40)]
UserId = Annotated[str, Path(max_length=60)]
ROLE_FIELDS = tuple(f"role_{role}" for role in ROLES)


def _page(
    web: Web,
    service: Service,
    session: Session,
    *,
    done: str = "",
    found: Typed | None = None,
    error: HomewardError | None = None,
) -> Response:
    problem, status = beside(error) if error is not None else (None, 200)
    catalog, principal = service.workspace.catalog, session.principal
    return web.pages.page(
        "people.html",
        session=session,
        status=status,
        people=people.all_of(catalog, principal),
        agencies=agencies.all_of(catalog, principal),
        roles=ROLES,
        everywhere=principal.agency is None,
        typed=found or Typed(),
        done=done,
        problem=problem,
    )


@router.get("/people")
def people_page(
    web: WebDep, service: ServiceDep, session: AccountManager, done: Done = None
) -> Response:
    """The people and agencies, and the forms for new ones."""
    return _page(web, service, session, done=done_text(done))


@router.post("/people")
async def add_person(
    request: Request, web: WebDep, service: ServiceDep, session: AccountManager
) -> Response:
    """Make a person and show the set-up code, this once."""
    names = ("login", "display_name", "agency", *ROLE_FIELDS)
    async with page_form(request, service, session, names) as form:
        found = typed(form, names)

    def make() -> Response:
        roles = [role for role in ROLES if found.value(f"role_{role}")]
        agency = found.value("agency")
        try:
            made = people.create(
                service.workspace.catalog,
                session.principal,
                found.value("login"),
                roles,
                agency=None if agency == agencies.ALL else agency,
                display_name=found.value("display_name"),
            )
        except HomewardError as error:
            return _page(web, service, session, found=found, error=error)
        return _code_page(web, service, request, session, made)

    return await run_in_threadpool(make)


def _code_page(
    web: Web, service: Service, request: Request, session: Session, made: people.NewUser
) -> Response:
    here = f"{request.url.scheme}://{request.url.netloc}"
    base = (service.settings.public_url or here).rstrip("/")
    return web.pages.page(
        "set_up_code.html",
        session=session,
        person=made.record,
        code=made.code,
        expires=made.expires_at,
        address=f"{base}/welcome?code={made.code}",
    )


@router.post("/people/agencies")
async def add_agency(
    request: Request, web: WebDep, service: ServiceDep, session: AccountManager
) -> Response:
    """Make an agency."""
    names = ("agency_name", "agency_title")
    async with page_form(request, service, session, names) as form:
        found = typed(form, names)

    def make() -> Response:
        name, title = found.value("agency_name"), found.value("agency_title")
        try:
            agencies.create(service.workspace.catalog, session.principal, name, title)
        except HomewardError as error:
            return _page(web, service, session, found=found, error=error)
        return go("/people?done=agency_made")

    return await run_in_threadpool(make)


@router.post("/people/agencies/retire")
async def retire_agency(
    request: Request, web: WebDep, service: ServiceDep, session: AccountManager
) -> Response:
    """Retire an agency, or take it back into use."""
    async with page_form(request, service, session, ("name", "retired")) as form:
        name, retired = form.text("name") or "", form.text("retired") == "yes"

    def change() -> Response:
        try:
            agencies.change(service.workspace.catalog, session.principal, name, retired=retired)
        except HomewardError as error:
            return _page(web, service, session, error=error)
        return go("/people?done=changed")

    return await run_in_threadpool(change)


# --- one person ------------------------------------------------------------------------------


def _known(user_id: str) -> str:
    found = canonical_id(user_id)
    if found is None:
        raise UserNotFound(user_id)
    return found


def _person_page(
    web: Web,
    service: Service,
    session: Session,
    user_id: str,
    *,
    done: str = "",
    error: HomewardError | None = None,
) -> Response:
    problem, status = beside(error) if error is not None else (None, 200)
    catalog = service.workspace.catalog
    person = people.get(catalog, session.principal, _known(user_id))
    return web.pages.page(
        "person.html",
        session=session,
        status=status,
        person=person,
        browsers=browsers.sessions_of(catalog, person.user_id),
        roles=ROLES,
        done=done,
        problem=problem,
    )


@router.get("/people/{user_id}")
def person_page(
    web: WebDep, service: ServiceDep, session: AccountManager, user_id: UserId, done: Done = None
) -> Response:
    """One person: roles, training, sessions, and what ends them."""
    return _person_page(web, service, session, user_id, done=done_text(done))


@router.post("/people/{user_id}")
async def change_person(
    request: Request, web: WebDep, service: ServiceDep, session: AccountManager, user_id: UserId
) -> Response:
    """Change name, roles and training; it holds with the person's next request."""
    names = ("display_name", "trained_until", *ROLE_FIELDS)
    before = ("roles_shown", "trained_shown")
    async with page_form(request, service, session, (*names, *before)) as form:
        found = typed(form, names)
        roles_shown, trained_shown = (form.text(name) for name in before)

    def change() -> Response:
        try:
            shown = None
            if roles_shown is not None:
                shown = people.Shown(tuple(roles_shown.split()), _day(trained_shown or ""))
            people.change(
                service.workspace.catalog,
                session.principal,
                _known(user_id),
                roles=[role for role in ROLES if found.value(f"role_{role}")],
                display_name=found.value("display_name"),
                trained_until=_day(found.value("trained_until")),
                shown=shown,
            )
        except UserNotFound:
            raise
        except HomewardError as error:
            return _person_page(web, service, session, user_id, error=error)
        return go(f"/people/{user_id}?done=changed")

    return await run_in_threadpool(change)


def _day(text: str) -> date | None:
    if not text:
        return None
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        try:
            return date_in_range(date.fromisoformat(text))
        except ValueError:
            pass
    raise TrainingDateInvalid(texts.text("field.date"), remedy="Nothing was changed.")


@router.post("/people/{user_id}/disabled")
async def disable_person(
    request: Request, web: WebDep, service: ServiceDep, session: AccountManager, user_id: UserId
) -> Response:
    """Let a person in no more, and end their sessions; or let them in again."""
    async with page_form(request, service, session, ("disabled",)) as form:
        disabled = form.text("disabled") == "yes"

    def change() -> Response:
        catalog, person = service.workspace.catalog, _known(user_id)
        try:
            people.change(catalog, session.principal, person, disabled=disabled)
        except UserNotFound:
            raise
        except HomewardError as error:
            return _person_page(web, service, session, user_id, error=error)
        return go(f"/people/{user_id}?done=changed")

    return await run_in_threadpool(change)


@router.post("/people/{user_id}/reset")
async def reset_person(
    request: Request, web: WebDep, service: ServiceDep, session: AccountManager, user_id: UserId
) -> Response:
    """Take back password and second factor, and show a fresh set-up code, this once."""
    async with page_form(request, service, session):
        pass

    def change() -> Response:
        made = people.reset(service.workspace.catalog, session.principal, _known(user_id))
        return _code_page(web, service, request, session, made)

    return await run_in_threadpool(change)


@router.post("/people/{user_id}/sessions/end")
async def end_sessions(
    request: Request, service: ServiceDep, session: AccountManager, user_id: UserId
) -> Response:
    """End every session of a person."""
    async with page_form(request, service, session):
        pass

    def change() -> Response:
        catalog = service.workspace.catalog
        person = people.get(catalog, session.principal, _known(user_id))
        browsers.end_all(catalog, person.user_id)
        return go(f"/people/{user_id}?done=sessions_ended")

    return await run_in_threadpool(change)
