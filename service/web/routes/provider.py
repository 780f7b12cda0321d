"""Signing in with a provider: off to it, back from it, and a code of ours where it proved none."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from service.accounts import elsewhere, signing_in
from service.accounts.elsewhere import NewPeople, Vouched
from service.accounts.errors import SignInRefused
from service.deps import ServiceDep
from service.errors import Forbidden
from service.netconfig import words
from service.signon import flow
from service.signon.errors import SignOnRefused
from service.signon.provider import Provider
from service.state import Service
from service.web import cookies, pending, sessions, texts
from service.web.cookies import CODE_COOKIE, PROVIDER_COOKIE
from service.web.forms import page_form
from service.web.routes.common import go, inside, page_router
from service.web.routes.signin import begin, let_in
from service.web.state import Web, WebDep, address_of

router = page_router()

Given = Annotated[str, Query(max_length=flow.MAX_CODE)]
_MAX_COOKIE: Final = 2_000


def _provider(web: Web) -> Provider:
    if web.provider is None:
        raise HTTPException(404)
    return web.provider


@router.get("/sign-in/provider")
async def to_provider(
    request: Request, web: WebDep, service: ServiceDep, next: str | None = None
) -> Response:
    """Send the browser to the provider. It changes nothing here; what comes back has to come back
    to this very browser."""
    secret = flow.new_secret()
    address = await flow.begin(_provider(web), secret, _back(service))
    answer = RedirectResponse(address, status_code=303)
    there = base64.urlsafe_b64encode(inside(next).encode()).decode()
    # The provider sends the browser here: only a cookie that is `lax` comes along then.
    cookies.put(
        request,
        answer,
        PROVIDER_COOKIE,
        f"{secret}.{there}",
        samesite="lax",
        max_age=flow.SECONDS,
    )
    return answer


@router.get(flow.CALLBACK)
async def from_provider(
    request: Request,
    web: WebDep,
    service: ServiceDep,
    code: Given = "",
    state: Given = "",
    iss: Given = "",
    error: Given = "",
) -> Response:
    """Take the browser back from the provider."""
    provider, catalog = _provider(web), service.workspace.catalog
    address = address_of(request)
    secret, there = _remembered(cookies.read(request, PROVIDER_COOKIE))
    if not secret:
        # Anybody can open this address: nothing was begun here, so nothing is on record either.
        raise SignOnRefused("state_wrong")
    try:
        proved = await flow.finish(
            provider,
            secret,
            _back(service),
            code=code,
            state=state,
            issuer=iss,
            error=error,
        )
    except SignOnRefused as refused:
        await run_in_threadpool(elsewhere.failed, catalog, refused.reason, address=address)
        raise
    signed_on = await run_in_threadpool(
        elsewhere.sign_in,
        catalog,
        Vouched(proved.issuer, proved.subject, proved.email, proved.name, proved.second_factor),
        newcomers=_newcomers(service),
        address=address,
    )
    if signed_on.code_needed:
        token = await run_in_threadpool(pending.begin, catalog, signed_on.user_id)
        answer = _code_page(web, token, there)
        cookies.put(request, answer, CODE_COOKIE, token)
    else:
        answer = await _let_in(request, web, service, signed_on.user_id, there)
    cookies.drop(request, answer, PROVIDER_COOKIE)
    return answer


@router.post("/sign-in/provider/code")
async def second_factor(request: Request, web: WebDep, service: ServiceDep) -> Response:
    """The code of a person for whom the provider proved none."""
    _provider(web)
    catalog = service.workspace.catalog
    token = cookies.read(request, CODE_COOKIE)
    async with page_form(request, service, token, ("code", "next")) as form:
        code, there = form.text("code") or "", inside(form.text("next"))
    user_id = await run_in_threadpool(pending.user_of, catalog, token)
    if user_id is None:
        raise Forbidden(texts.text("provider.code.over"))
    try:
        await run_in_threadpool(
            signing_in.second_step, catalog, user_id, code[:100], address=address_of(request)
        )
    except SignInRefused:
        problem = texts.text("provider.code.wrong")
        return _code_page(web, token, there, problem=problem, status=401)
    await run_in_threadpool(pending.end, catalog, token)
    session = await begin(request, service, user_id)
    answer = let_in(request, session, go(there))
    cookies.drop(request, answer, CODE_COOKIE)
    return answer


async def _let_in(
    request: Request, web: Web, service: Service, user_id: str, there: str
) -> Response:
    session = await begin(request, service, user_id)
    # A page and no redirect: a browser that comes from elsewhere would not send the cookie of the
    # session, which is `strict`, on to where a redirect leads.
    answer = web.pages.page("provider_done.html", session=None, there=there)
    answer.headers["refresh"] = f"0; url={there}"
    return let_in(request, session, answer)


def _code_page(
    web: Web, token: str, there: str, *, problem: str = "", status: int = 200
) -> Response:
    return web.pages.page(
        "provider_code.html",
        session=None,
        status=status,
        form_token=sessions.form_token(token),
        there=there,
        problem=problem,
    )


def _back(service: Service) -> str:
    assert service.settings.public_url is not None, "checked with the settings"
    return flow.redirect_uri(service.settings.public_url)


def _newcomers(service: Service) -> NewPeople | None:
    roles = words(service.settings.oidc_create_roles)
    return NewPeople(roles, service.settings.oidc_create_agency) if roles else None


def _remembered(cookie: str) -> tuple[str, str]:
    """The secret of a sign-in that was begun in this browser, and where to go after it."""
    secret, _, text = cookie[:_MAX_COOKIE].partition(".")
    try:
        there = base64.urlsafe_b64decode(text.encode("ascii")).decode("ascii")
    except (ValueError, binascii.Error):
        there = ""
    return secret, inside(there)
