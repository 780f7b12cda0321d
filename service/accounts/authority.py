"""Who may give what to whom: nobody gives a permission they do not hold.

A person with the role administrator gives any role, within their agency if they have one. Keys give
what they hold. Whoever is at the command line owns the data folder and may do everything.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from indexer.catalog.account_tables import Agency, User
from service.accounts.access import Forbidden
from service.accounts.errors import AgencyNotFound, LastAdministrator, RoleUnknown
from service.accounts.principal import Principal
from service.accounts.roles import ROLES, Role, scopes_of

ADMINISTRATOR: Role = "administrator"


def known_roles(roles: Iterable[str]) -> list[str]:
    """The roles in the order of the table. Raises :class:`RoleUnknown` for others, and for none."""
    wanted = set(roles)
    if not wanted or not wanted <= set(ROLES):
        raise RoleUnknown(
            "A person has at least one role, of those in the list.",
            remedy=f"The roles are {', '.join(ROLES)}.",
        )
    return [role for role in ROLES if role in wanted]


def _any_role(giver: Principal) -> bool:
    return giver.kind == "cli" or (giver.kind == "user" and ADMINISTRATOR in giver.roles)


def require_may_give(giver: Principal, roles: Iterable[str], scopes: Iterable[str] = ()) -> None:
    """Raises :class:`Forbidden` where ``giver`` would hand on more than they hold."""
    given = scopes_of(roles)
    if not (_any_role(giver) or given <= giver.scopes) or not set(scopes) <= giver.scopes:
        raise Forbidden(
            "Nobody gives a permission that they do not hold.",
            remedy="Give less, or ask an administrator who holds it.",
        )


def manages(manager: Principal, agency: str | None) -> bool:
    """Whether people and keys of ``agency`` (None: of all agencies) are the manager's affair."""
    return manager.agency is None or (agency is not None and manager.agency == agency)


def require_agency(session: Session, manager: Principal, agency: str | None) -> None:
    """Raises :class:`AgencyNotFound` unless ``agency`` is in use and the manager's affair."""
    if not manages(manager, agency):
        raise AgencyNotFound(agency or "all agencies")
    if agency is not None:
        row = session.get(Agency, agency)
        if row is None or row.retired_at is not None:
            raise AgencyNotFound(agency)


def chosen_agency(manager: Principal, roles: Iterable[str]) -> str | None:
    """The agency of a person or key for whom none was named: the manager's own; from a manager of
    all agencies the unnamed one for roles that work on cases, and all agencies for the others."""
    if manager.agency is not None:
        return manager.agency
    return "" if "cases:read" in scopes_of(roles) else None


def require_other_administrator(session: Session, user: User) -> None:
    """Raises :class:`LastAdministrator` where nobody but ``user``, who stops being administrator,
    can manage what they manage and sign in."""
    if ADMINISTRATOR not in user.roles or user.disabled_at is not None:
        return
    agency = Agency.__table__.c
    query = (
        select(User)
        .outerjoin(Agency, agency.name == User.agency)
        .where(
            User.user_id != user.user_id,
            User.disabled_at.is_(None),
            agency.retired_at.is_(None),
            or_(User.password.is_not(None), User.issuer.is_not(None)),
        )
    )
    for other in session.scalars(query):
        if ADMINISTRATOR in other.roles and other.agency in (None, user.agency):
            return
    raise LastAdministrator
