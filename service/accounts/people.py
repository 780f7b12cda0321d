"""People: who they are, what they may do, and how an account begins, changes and ends.

Nobody but the person ever knows their password: whoever makes or resets an account gets a one-time
code, with which the person chooses one and sets up the second factor.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from indexer.audit.chain import record
from indexer.catalog import Catalog
from indexer.catalog.account_tables import User
from indexer.catalog.tables import WebSession
from indexer.ids import decode_cursor, encode_cursor, new_id
from indexer.persons import makers
from indexer.records import Page
from indexer.times import utc_now
from service.accounts import authority, made_keys
from service.accounts.errors import (
    LoginInvalid,
    LoginTaken,
    PersonChanged,
    TrainingExpired,
    UserNotFound,
)
from service.accounts.principal import Principal
from service.accounts.roles import scopes_of

SETUP_HOURS: Final = 72
SETUP_PREFIX: Final = "hws_"
MAX_LOGIN: Final = 100
_LOGIN: Final = re.compile(r"[^\W_](?:[\w.@+-]*[\w])?")
_ID: Final = re.compile(r"[0-9a-f-]{36}")
MAX_DISPLAY_NAME: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRecord:
    """A person as administrators see them: no secret, no digest.

    ``agency`` is None for people who work for all agencies. ``set_up``: whether the person has
    chosen a password and a second factor, or signs in elsewhere.
    """

    user_id: str
    login: str
    display_name: str
    agency: str | None
    roles: tuple[str, ...]
    trained_until: date | None
    set_up: bool
    elsewhere: bool
    recovery_codes_left: int
    created_at: datetime
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewUser:
    """A person and their set-up code, which is shown once and cannot be had again."""

    record: UserRecord
    code: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Shown:
    """What a form showed of a person: what it sends unchanged is not meant as a change."""

    roles: tuple[str, ...]
    trained_until: date | None


class Unchanged:
    """What stands for a value that is not to be changed, where None is a value."""


UNCHANGED: Final = Unchanged()


def normal_login(text: str) -> str:
    """A login as it is stored and compared. Raises :class:`LoginInvalid`."""
    login = folded(text)
    if len(login) > MAX_LOGIN or not _LOGIN.fullmatch(login) or _ID.fullmatch(login):
        raise LoginInvalid
    return login


def folded(text: str) -> str:
    """What was typed as a login, in the form in which logins are stored; any text is taken."""
    plain = unicodedata.normalize("NFKC", text).strip()
    return unicodedata.normalize("NFKC", plain.lower())


def principal_of(user: User) -> Principal:
    """The person with the permissions that their roles give them now."""
    return Principal(
        user.user_id,
        user.login,
        scopes_of(user.roles),
        kind="user",
        agency=user.agency,
        roles=tuple(user.roles),
    )


def is_set_up(user: User) -> bool:
    """Whether the person has both factors, or proves them elsewhere."""
    return user.issuer is not None or (user.password is not None and user.totp_secret is not None)


def any_accounts(session: Session) -> bool:
    """Whether somebody has, or ever had, an account that can be signed in to; keys open no pages
    from the first one on, also where it was reset or disabled since."""
    was_set_up = select(User.user_id).where(User.set_up_at.is_not(None)).limit(1)
    return session.scalar(was_set_up) is not None


def mark_set_up(user: User) -> None:
    """The account can be signed in to; the first time stays."""
    if user.set_up_at is None:
        user.set_up_at = utc_now()


def accounts_exist(catalog: Catalog) -> bool:
    """:func:`any_accounts`, read now."""
    with catalog.read() as session:
        return any_accounts(session)


# --- making and finding ----------------------------------------------------------------------


def create(
    catalog: Catalog,
    principal: Principal,
    login: str,
    roles: Iterable[str],
    *,
    agency: str | None,
    display_name: str = "",
) -> NewUser:
    """Make a person who still has to choose a password; ``agency`` None: works for all agencies.

    Raises LoginInvalid, LoginTaken, RoleUnknown, Forbidden, AgencyNotFound.
    """
    chosen = authority.known_roles(roles)
    authority.require_may_give(principal, chosen)
    login = normal_login(login)
    with catalog.write() as session:
        authority.require_agency(session, principal, agency)
        user = add(session, login, chosen, agency, display_name)
        code = _give_code(user)
        session.flush()
        record(
            session,
            "user.create",
            subject=("user", user.user_id),
            details={"roles": chosen, "agency": agency},
        )
        assert user.setup_expires_at is not None
        return NewUser(record_of(user), code, user.setup_expires_at)


def add(
    session: Session, login: str, roles: Iterable[str], agency: str | None, display_name: str = ""
) -> User:
    """The row of a person, in the caller's transaction. ``login`` is in its normal form.

    Raises :class:`LoginTaken`.
    """
    if session.scalar(select(User.user_id).where(User.login == login)) is not None:
        raise LoginTaken
    user = User(
        user_id=new_id(),
        agency=agency,
        login=login,
        display_name=display_name.strip()[:MAX_DISPLAY_NAME],
        roles=list(roles),
        recovery_codes=[],
        created_at=utc_now(),
    )
    session.add(user)
    session.flush()
    return user


def all_of(catalog: Catalog, principal: Principal) -> tuple[UserRecord, ...]:
    """The people whom the caller manages, by login."""
    query = select(User).order_by(User.login)
    if principal.agency is not None:
        query = query.where(User.agency == principal.agency)
    with catalog.read() as session:
        return tuple(record_of(user) for user in session.scalars(query))


def page(
    catalog: Catalog, principal: Principal, *, limit: int = 50, cursor: str | None = None
) -> Page[UserRecord]:
    """The people whom the caller manages, oldest account first. Raises :class:`InvalidCursor`."""
    query = select(User).order_by(User.user_id)
    if principal.agency is not None:
        query = query.where(User.agency == principal.agency)
    if cursor is not None:
        query = query.where(User.user_id > decode_cursor(cursor))
    with catalog.read() as session:
        rows = session.scalars(query.limit(limit + 1)).all()
        items = tuple(record_of(user) for user in rows[:limit])
    return Page(items, encode_cursor(items[-1].user_id) if len(rows) > limit else None)


def get(catalog: Catalog, principal: Principal, user: str) -> UserRecord:
    """One person by id or login. Raises :class:`UserNotFound`, also for those of others."""
    with catalog.read() as session:
        return record_of(_managed(session, principal, user))


# --- changing --------------------------------------------------------------------------------


def change(
    catalog: Catalog,
    principal: Principal,
    user_id: str,
    *,
    roles: Iterable[str] | None = None,
    display_name: str | None = None,
    trained_until: date | Unchanged | None = UNCHANGED,
    disabled: bool | None = None,
    shown: Shown | None = None,
) -> UserRecord:
    """Change what is named; it holds with the person's next request. Disabling revokes the keys
    that the person made, which enabling does not bring back. ``shown``: what a form showed, so
    that an old one gives nothing back that was taken away since.

    Raises UserNotFound, RoleUnknown, Forbidden, LastAdministrator, PersonChanged.
    """
    if shown is not None and roles is not None and set(roles) == set(shown.roles):
        roles = None
    if shown is not None and trained_until == shown.trained_until:
        trained_until = UNCHANGED
    with catalog.write() as session:
        gives = roles is not None or disabled is False
        user = _managed(session, principal, user_id, changing=gives)
        before = list(user.roles)
        if shown is not None:
            other_roles = roles is not None and set(before) != set(shown.roles)
            training = not isinstance(trained_until, Unchanged)
            if other_roles or (training and user.trained_until != shown.trained_until):
                raise PersonChanged
        if roles is not None:
            chosen = authority.known_roles(roles)
            authority.require_may_give(principal, chosen)
            if authority.ADMINISTRATOR not in chosen:
                require_other(session, principal, user)
            user.roles = chosen
            if chosen != before:
                record(
                    session,
                    "user.roles",
                    subject=("user", user.user_id),
                    details={"roles": chosen, "before": before},
                )
        fields = []
        if display_name is not None and display_name.strip() != user.display_name:
            user.display_name = display_name.strip()[:MAX_DISPLAY_NAME]
            fields.append("display_name")
        if not isinstance(trained_until, Unchanged) and trained_until != user.trained_until:
            user.trained_until = trained_until
            fields.append("trained_until")
        if fields:
            record(
                session, "user.change", subject=("user", user.user_id), details={"fields": fields}
            )
        if disabled is not None and disabled != (user.disabled_at is not None):
            if disabled:
                require_other(session, principal, user)
                session.execute(delete(WebSession).where(WebSession.user_id == user.user_id))
                made_keys.revoke_made_by(session, user.user_id)
            user.disabled_at = utc_now() if disabled else None
            verb = "user.disable" if disabled else "user.enable"
            record(session, verb, subject=("user", user.user_id))
        session.flush()
        return record_of(user)


def reset(catalog: Catalog, principal: Principal, user_id: str) -> NewUser:
    """Take back password, second factor and recovery codes, end all sessions, and give a fresh
    set-up code. A link to a provider is taken back too: the code is there to begin anew, and must
    never be a way in beside the provider. Raises UserNotFound, Forbidden, LastAdministrator."""
    with catalog.write() as session:
        user = _managed(session, principal, user_id, changing=True)
        linked = user.issuer is not None
        if is_set_up(user):
            require_other(session, principal, user)
        user.issuer = user.subject = None
        user.password = user.totp_secret = user.totp_step = None
        user.recovery_codes = []
        code = _give_code(user)
        session.execute(delete(WebSession).where(WebSession.user_id == user.user_id))
        record(
            session,
            "user.reset",
            subject=("user", user.user_id),
            details={"unlinked": True} if linked else {},
        )
        session.flush()
        assert user.setup_expires_at is not None
        return NewUser(record_of(user), code, user.setup_expires_at)


# --- training --------------------------------------------------------------------------------


def require_trained(catalog: Catalog, principal: Principal, today: date | None = None) -> None:
    """Raises :class:`TrainingExpired` for a person whose training has passed or was never recorded,
    and for the keys that the person made; keys that no person made are not asked."""
    if principal.kind == "cli":
        return
    with catalog.read() as session:
        first = makers(session, principal.actor_id)[-1]
        person = session.get(User, first)
        if person is None and principal.kind != "user":
            return
        until = None if person is None else person.trained_until
    if until is None or until < (today or utc_now().date()):
        raise TrainingExpired


# --- inside ----------------------------------------------------------------------------------


def require_other(session: Session, principal: Principal, user: User) -> None:
    """Raises LastAdministrator, except at the command line, which can make another one."""
    if principal.kind != "cli":
        authority.require_other_administrator(session, user)


def _managed(session: Session, principal: Principal, user: str, *, changing: bool = False) -> User:
    """A person by id or login whom the caller manages. ``changing``: in a way that may give the
    caller, or the person, all that the person's roles allow."""
    found = session.scalar(
        select(User).where(or_(User.user_id == user, User.login == folded(user))).limit(1)
    )
    if found is None or not authority.manages(principal, found.agency):
        raise UserNotFound(user[:60])
    if changing:
        authority.require_may_give(principal, found.roles)
    return found


def setup_digest(code: str) -> str:
    """What is stored of a set-up code."""
    return hashlib.sha256(code.strip().encode("utf-8", "surrogatepass")).hexdigest()


def _give_code(user: User) -> str:
    code = SETUP_PREFIX + secrets.token_urlsafe(24)
    user.setup_sha256 = setup_digest(code)
    user.setup_expires_at = utc_now() + timedelta(hours=SETUP_HOURS)
    return code


def record_of(user: User) -> UserRecord:
    """What may be shown of a person."""
    return UserRecord(
        user_id=user.user_id,
        login=user.login,
        display_name=user.display_name,
        agency=user.agency,
        roles=tuple(user.roles),
        trained_until=user.trained_until,
        set_up=is_set_up(user),
        elsewhere=user.issuer is not None,
        recovery_codes_left=len(user.recovery_codes),
        created_at=user.created_at,
        disabled_at=user.disabled_at,
    )
