"""The API keys that an administrator manages."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from indexer.times import utc_now
from models.errors import HomewardError
from service.accounts import agencies
from service.accounts.keys import checked_scopes, expiry_in_days
from service.accounts.roles import PERMISSIONS, ROLES
from service.deps import ServiceDep
from service.state import Service
from service.web.forms import Typed, page_form, typed
from service.web.routes.common import beside, done_text, go, page_router
from service.web.sessions import Session
from service.web.state import AccountManager, Web, WebDep

router = page_router()

SCOPE_FIELDS = {f"scope_{scope.replace(':', '_')}": scope for scope in PERMISSIONS}
ROLE_FIELDS = {f"role_{role}": role for role in ROLES}


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
        "keys.html",
        session=session,
        status=status,
        keys=service.keys.list(principal),
        agencies=agencies.all_of(catalog, principal),
        everywhere=principal.agency is None,
        role_fields=ROLE_FIELDS,
        scope_fields={
            name: (scope, PERMISSIONS[scope].about)
            for name, scope in SCOPE_FIELDS.items()
            if principal.may(scope)
        },
        now=utc_now(),
        typed=found or Typed(),
        done=done,
        problem=problem,
    )


@router.get("/keys")
def key_list(
    web: WebDep,
    service: ServiceDep,
    session: AccountManager,
    done: Annotated[str | None, Query(max_length=40)] = None,
) -> Response:
    """The keys and the form for a new one."""
    return _page(web, service, session, done=done_text(done))


@router.post("/keys")
async def add_key(
    request: Request, web: WebDep, service: ServiceDep, session: AccountManager
) -> Response:
    """Make a key and show it, this once."""
    names = ("name", "agency", "expires_days", *ROLE_FIELDS, *SCOPE_FIELDS)
    async with page_form(request, service, session, names) as form:
        found = typed(form, names)

    def make() -> Response:
        roles = [role for name, role in ROLE_FIELDS.items() if found.value(name)]
        scopes = [scope for name, scope in SCOPE_FIELDS.items() if found.value(name)]
        agency = found.value("agency")
        try:
            made = service.keys.create(
                found.value("name"),
                checked_scopes(roles, scopes, all_where_none=False),
                agency=None if agency == agencies.ALL else agency,
                expires_at=expiry_in_days(found.value("expires_days")),
                by=session.principal,
            )
        except HomewardError as error:
            return _page(web, service, session, found=found, error=error)
        return web.pages.page("key_made.html", session=session, key=made.record, text=made.text)

    return await run_in_threadpool(make)


@router.post("/keys/{key_id}/revoke")
async def revoke_key(
    request: Request,
    service: ServiceDep,
    session: AccountManager,
    key_id: Annotated[str, Path(max_length=36)],
) -> Response:
    """Take a key back; whoever uses it is refused from now on."""
    async with page_form(request, service, session):
        pass
    await run_in_threadpool(service.keys.revoke, key_id, session.principal)
    return go("/keys?done=key_revoked")
