"""What routes ask for: the running service, whoever is calling, and the id of a record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from indexer.ids import canonical_id as canonical_id
from service.accounts.access import known, require, require_records
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


REQUIRED: Final[dict[Callable[..., object], str]] = {}
"""Which permission each dependency made by ``requires``, here and for the pages, is about."""

ServiceDep = Annotated[Service, Depends(get_service)]
PrincipalDep = Annotated[Principal, Depends(get_principal)]


def requires(scope: str) -> Callable[..., Principal]:
    """A dependency that lets only keys with ``scope`` pass, and only to records they may see:
    every id in the address is looked at here, so that a route cannot forget to."""
    known(scope)

    def check(request: Request, principal: PrincipalDep, service: ServiceDep) -> Principal:
        require(principal, scope)
        require_records(service.workspace.catalog, principal, scope, request.path_params)
        return principal

    REQUIRED[check] = scope
    return check
