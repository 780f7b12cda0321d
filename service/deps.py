"""What routes ask for: the running service, whoever is calling, and the id of a record."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from service.accounts.access import require
from service.accounts.principal import Principal
from service.errors import NotReady, Unauthenticated
from service.state import Service

bearer = HTTPBearer(
    scheme_name="key",
    description="An API key; it is checked before a byte of the body is read.",
    auto_error=False,
)


def get_service(request: Request) -> Service:
    """The running service; raises :class:`NotReady` before it has started."""
    service = getattr(request.app.state, "service", None)
    if service is None:
        raise NotReady("The service is still starting.", remedy="Try again in a few seconds.")
    assert isinstance(service, Service)
    return service


def get_principal(request: Request) -> Principal:
    """Whose key came with the request; the gate in front of the routes has put it there."""
    principal = getattr(request.state, "principal", None)
    if not isinstance(principal, Principal):
        raise Unauthenticated
    return principal


ServiceDep = Annotated[Service, Depends(get_service)]
PrincipalDep = Annotated[Principal, Depends(get_principal)]


def requires(scope: str) -> Callable[[Principal], Principal]:
    """A dependency that lets only keys with ``scope`` pass."""

    def check(principal: PrincipalDep) -> Principal:
        require(principal, scope)
        return principal

    return check


def canonical_id(text: str) -> str | None:
    """``text`` as an id in its one form, or None where it cannot be one."""
    try:
        return str(uuid.UUID(text)) if len(text) == 36 else None
    except ValueError:
        return None
