"""The one check: may this caller do this, to this case?

The table is in ``roles``. A case of another agency is answered as if it were not there, so that
nobody learns of it by asking.
"""

from __future__ import annotations

from sqlalchemy import select

from indexer.catalog import Catalog
from indexer.catalog.tables import Case
from indexer.errors import CaseNotFound
from models.errors import HomewardError
from service.accounts.principal import Principal
from service.accounts.roles import PERMISSIONS


class Forbidden(HomewardError):
    """The caller is known but may not do this."""

    code = "forbidden"


def require(principal: Principal, permission: str) -> None:
    """Raises :class:`Forbidden` unless the caller holds the permission."""
    assert permission in PERMISSIONS, permission
    if not principal.may(permission):
        raise Forbidden(
            f"This key or account lacks the permission {permission!r}.",
            remedy="Ask an administrator for it.",
        )


def require_case(catalog: Catalog, principal: Principal, case_id: str) -> None:
    """Raises :class:`CaseNotFound` unless the case is there and of the caller's agency."""
    with catalog.read() as session:
        agency = session.scalar(select(Case.agency).where(Case.case_id == case_id))
    if agency is None or not sees(principal, agency):
        raise CaseNotFound(case_id)


def sees(principal: Principal, agency: str) -> bool:
    """Whether the caller sees cases of ``agency``."""
    return principal.agency is None or principal.agency == agency
