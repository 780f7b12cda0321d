"""What the pages hold in this process, and what their routes ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Final

from fastapi import Depends, Request

from service.accounts.access import Forbidden, known, require, require_records
from service.accounts.errors import SetUpUnfinished
from service.deps import REQUIRED, ServiceDep
from service.errors import RateLimited, Unauthenticated
from service.networks import client_of
from service.ratelimit import AddressLimits, BoundedWindow, RateLimiter, network_of
from service.signon.provider import Provider
from service.web import cookies, sessions
from service.web.cookies import SESSION_COOKIE as SESSION_COOKIE
from service.web.held import Held
from service.web.render import Pages
from service.web.sessions import Session

FAILURES: Final = 5
FAILURE_MINUTES: Final = 15


class SignInThrottle:
    """At most five wrong keys in fifteen minutes from one address (CJIS AC-7)."""

    def __init__(self, failures: int = FAILURES, minutes: int = FAILURE_MINUTES) -> None:
        self._window = BoundedWindow(failures, 60.0 * minutes)

    def check(self, address: str) -> None:
        """Raises :class:`RateLimited` while the address has used up its tries."""
        network = network_of(address)
        if self._window.used_up(network):
            raise RateLimited(self._window.limit, self._window.wait(network))

    def failed(self, address: str) -> None:
        """Count one wrong key."""
        self._window.count(network_of(address))


@dataclass(slots=True)
class Web:
    """The parts of the pages."""

    pages: Pages = field(default_factory=Pages)
    held: Held = field(default_factory=Held)
    throttle: SignInThrottle = field(default_factory=SignInThrottle)
    provider: Provider | None = None


def get_web(request: Request) -> Web:
    """The parts of the pages, put there when they were installed."""
    web = request.app.state.web
    assert isinstance(web, Web)
    return web


WebDep = Annotated[Web, Depends(get_web)]


def current_session(request: Request, service: ServiceDep) -> Session | None:
    """The session of the browser that asks, if it is signed in. Raises :class:`RateLimited` where
    its holder has asked too often."""
    token = cookies.read(request, SESSION_COOKIE)
    if not 20 <= len(token) <= 100:
        return None
    service.opened.views.refresh()
    found = sessions.find(
        service.workspace.catalog, token, configured=service.settings.api_key is not None
    )
    request.state.web_session = found
    addresses: AddressLimits = request.app.state.addresses
    limiter: RateLimiter = request.app.state.limiter
    addresses.after_session(address_of(request), token, found is not None)
    if found is not None:
        limiter.check(found.principal.actor_id)
        found.principal.acts()
    return found


MaybeSession = Annotated[Session | None, Depends(current_session)]


def begun(session: MaybeSession) -> Session:
    """The session, also of a person whose account is not set up yet; raises
    :class:`Unauthenticated`, which browsers see as the sign-in page."""
    if session is None:
        raise Unauthenticated
    return session


BegunSession = Annotated[Session, Depends(begun)]


def signed_in(session: BegunSession) -> Session:
    """The session; raises :class:`SetUpUnfinished`, which browsers see as the page to set up."""
    if not session.set_up:
        raise SetUpUnfinished
    return session


SessionDep = Annotated[Session, Depends(signed_in)]


def of_person(session: SessionDep) -> Session:
    """The session of a person; raises :class:`Forbidden` for one that was begun with a key."""
    if session.by_key:
        raise Forbidden("A key has no account of its own.", remedy="Sign in as a person.")
    return session


PersonSession = Annotated[Session, Depends(of_person)]


def requires(scope: str) -> Callable[..., Session]:
    """A dependency that lets only sessions with ``scope`` pass, and only to records they may see:
    every id in the address is looked at here, so that a page cannot forget to."""
    known(scope)

    def check(request: Request, session: SessionDep, service: ServiceDep) -> Session:
        require(session.principal, scope)
        require_records(service.workspace.catalog, session.principal, scope, request.path_params)
        return session

    REQUIRED[check] = scope
    return check


CaseReader = Annotated[Session, Depends(requires("cases:read"))]
CaseWriter = Annotated[Session, Depends(requires("cases:write"))]
CaseDeleter = Annotated[Session, Depends(requires("cases:delete"))]
Searcher = Annotated[Session, Depends(requires("search"))]
Viewer = Annotated[Session, Depends(requires("images:read"))]
AlertReader = Annotated[Session, Depends(requires("alerts:read"))]
Administrator = Annotated[Session, Depends(requires("generations:write"))]
ScoreReader = Annotated[Session, Depends(requires("scores:read"))]
Auditor = Annotated[Session, Depends(requires("audit:read"))]
JobReader = Annotated[Session, Depends(requires("jobs:read"))]
AccountManager = Annotated[Session, Depends(requires("accounts:write"))]
Flagger = Annotated[Session, Depends(requires("images:flag"))]
Settler = Annotated[Session, Depends(requires("withheld:settle"))]


def address_of(request: Request) -> str:
    """Where the request comes from, for counting what failed from there."""
    return client_of(request.scope)


def home_of(session: Session | None) -> str:
    """The page to begin with: the first that the session may open."""
    if session is None or session.principal.may("cases:read"):
        return "/cases"
    return "/people" if session.principal.may("accounts:write") else "/about"
