"""People who sign in with a provider: whose account it is, and linking one to the other.

An account is found by issuer and subject, which the provider never gives to anybody else. An
administrator links it beforehand, by the subject or by an e-mail address; the address serves once,
to learn the subject, and only a digest of it is kept until then.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from indexer.audit.chain import record
from indexer.catalog import Catalog
from indexer.catalog.account_tables import User
from indexer.catalog.tables import WebSession
from indexer.times import utc_now
from models.errors import HomewardError
from service.accounts import authority, people, signing_in
from service.accounts.errors import LoginInvalid, LoginTaken
from service.accounts.principal import Principal

BY_EMAIL: Final = "email:"
"""Before the digest of an address that stands in for a subject that is not known yet."""
MAX_ISSUER: Final = 300
MAX_SUBJECT: Final = 255
_ADDRESS: Final = 64


class ElsewhereRefused(HomewardError):
    """The provider vouches for a person who may not come in here; one answer for every reason."""

    code = "sign_in_elsewhere_refused"

    def __init__(self) -> None:
        super().__init__(
            "You are signed in at the provider, but no account here may be used with that.",
            remedy="Ask an administrator to link your account, or to look at why it is closed.",
        )


class SecondFactorMissing(HomewardError):
    """Neither the provider nor the account has a second factor."""

    code = "second_factor_missing"

    def __init__(self) -> None:
        super().__init__(
            "The provider did not prove a second factor, and this account has none here.",
            remedy="Sign in at the provider with its second factor, or ask an administrator.",
        )


class LinkRefused(HomewardError):
    """The account cannot be linked so."""

    code = "link_refused"


@dataclass(frozen=True, slots=True)
class Vouched:
    """What a provider says of a person. ``email``: only where it says that it is verified;
    ``second_factor``: whether it proved one in the way that the settings ask for."""

    issuer: str
    subject: str
    email: str | None = None
    name: str | None = None
    second_factor: bool = False


@dataclass(frozen=True, slots=True)
class NewPeople:
    """What people get whom the provider knows and Homeward does not; never an administrator."""

    roles: Sequence[str]
    agency: str


@dataclass(frozen=True, slots=True)
class SignedOn:
    """Who it is, and whether a code of ours has to follow."""

    user_id: str
    code_needed: bool


def sign_in(
    catalog: Catalog,
    vouched: Vouched,
    *,
    newcomers: NewPeople | None = None,
    address: str = "",
) -> SignedOn:
    """Whose account it is. Raises ElsewhereRefused and SecondFactorMissing, both on record."""
    with catalog.write() as session:
        user, reason = _account(session, vouched, newcomers)
        if user is not None and not signing_in.may_enter(session, user):
            reason = "closed"
        elif user is not None and not vouched.second_factor and user.totp_secret is None:
            reason = SecondFactorMissing.code
        if user is not None and not reason:
            if vouched.second_factor:
                people.principal_of(user).acts()
                record(
                    session,
                    "sign_in.done",
                    subject=("user", user.user_id),
                    details={"means": "provider", "address": address[:_ADDRESS]},
                )
            return SignedOn(user.user_id, code_needed=not vouched.second_factor)
        record(
            session,
            "sign_in.failed",
            subject=("user", user.user_id) if user is not None else None,
            outcome=ElsewhereRefused.code,
            details={"means": "provider", "reason": reason, "address": address[:_ADDRESS]},
        )
    raise SecondFactorMissing if reason == SecondFactorMissing.code else ElsewhereRefused


def failed(catalog: Catalog, reason: str, *, address: str = "") -> None:
    """Put on record that what came back from the provider proved nothing; counted as a failed
    sign-in of the address. Raises TooManyFailures, and then nothing is on record."""
    signing_in.begin_try(catalog, "", address, utc_now())
    with catalog.write() as session:
        record(
            session,
            "sign_in.failed",
            outcome="sign_on_refused",
            details={"means": "provider", "reason": reason, "address": address[:_ADDRESS]},
        )


def link(
    catalog: Catalog,
    principal: Principal,
    user: str,
    issuer: str,
    *,
    subject: str | None = None,
    email: str | None = None,
) -> people.UserRecord:
    """Have a person sign in with a provider from now on, and no longer with a password.

    ``user``: id or login; exactly one of ``subject`` and ``email``. Raises UserNotFound, Forbidden,
    LinkRefused.
    """
    if (subject is None) == (email is None):
        raise LinkRefused(
            "Either the subject or the e-mail address at the provider is needed.",
            remedy="Give one of them.",
        )
    if not 0 < len(issuer) <= MAX_ISSUER or not 0 < len(subject or email or "") <= MAX_SUBJECT:
        raise LinkRefused(
            "This issuer, subject or address cannot be one.", remedy="Check what was typed."
        )
    if subject is not None and subject.startswith(BY_EMAIL):
        raise LinkRefused(
            f"A subject that begins with {BY_EMAIL!r} is not taken.", remedy="Link by the address."
        )
    issuer = plain_issuer(issuer)
    found = people.get(catalog, principal, user)
    authority.require_may_give(principal, found.roles)
    stands = subject if subject is not None else by_email(email or "")
    with catalog.write() as session:
        taken = session.scalar(
            select(User.user_id).where(User.issuer == issuer, User.subject == stands)
        )
        if taken is not None and taken != found.user_id:
            raise LinkRefused(
                "Another person is linked to that.", remedy="Unlink the other person first."
            )
        row = session.get_one(User, found.user_id)
        row.issuer, row.subject, row.password = issuer, stands, None
        people.mark_set_up(row)
        row.setup_sha256 = row.setup_expires_at = None
        session.execute(delete(WebSession).where(WebSession.user_id == row.user_id))
        by = "subject" if subject is not None else "email"
        record(session, "user.link", subject=("user", row.user_id), details={"by": by})
    return people.get(catalog, principal, found.user_id)


def unlink(catalog: Catalog, principal: Principal, user: str) -> people.UserRecord:
    """Take the link back; the person needs a reset to sign in here. Raises UserNotFound,
    Forbidden, LastAdministrator."""
    found = people.get(catalog, principal, user)
    authority.require_may_give(principal, found.roles)
    with catalog.write() as session:
        row = session.get_one(User, found.user_id)
        if row.issuer is not None:
            people.require_other(session, principal, row)
        row.issuer = row.subject = None
        session.execute(delete(WebSession).where(WebSession.user_id == row.user_id))
        record(session, "user.unlink", subject=("user", row.user_id))
    return people.get(catalog, principal, found.user_id)


def plain_issuer(issuer: str) -> str:
    """An issuer as it is stored and compared: settings, documents and tokens differ in nothing so
    often as in the slash at the end, and nobody else can own the same name with one."""
    return issuer.rstrip("/")


def by_email(email: str) -> str:
    """What stands in for a subject until the person with this address comes."""
    plain = unicodedata.normalize("NFKC", email).strip().casefold()
    return BY_EMAIL + hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()


def _account(
    session: Session, vouched: Vouched, newcomers: NewPeople | None
) -> tuple[User | None, str]:
    """The account, or None and why there is none."""
    if vouched.subject.startswith(BY_EMAIL):
        # Or a provider could name the stand-in of an address that it does not vouch for.
        return None, "subject_refused"
    user = _linked(session, vouched.issuer, vouched.subject)
    if user is not None:
        return user, ""
    if vouched.email is not None:
        user = _linked(session, vouched.issuer, by_email(vouched.email))
        if user is not None:
            user.subject = vouched.subject
            record(session, "user.link", subject=("user", user.user_id), details={"by": "sign_in"})
            return user, ""
    if newcomers is None or not newcomers.roles or not vouched.second_factor:
        return None, "person_unknown"
    return _newcomer(session, vouched, newcomers)


def _linked(session: Session, issuer: str, subject: str) -> User | None:
    linked = (User.issuer == plain_issuer(issuer), User.subject == subject)
    return session.scalar(select(User).where(*linked))


def _newcomer(session: Session, vouched: Vouched, newcomers: NewPeople) -> tuple[User | None, str]:
    """A fresh account; one that is there already is never taken over by its name."""
    roles = [role for role in newcomers.roles if role != authority.ADMINISTRATOR]
    try:
        login = people.normal_login(vouched.name or vouched.email or "")
        user = people.add(session, login, authority.known_roles(roles), newcomers.agency)
    except LoginInvalid:
        return None, "name_unusable"
    except LoginTaken:
        return None, "name_taken"
    user.issuer, user.subject = plain_issuer(vouched.issuer), vouched.subject
    people.mark_set_up(user)
    session.flush()
    record(
        session,
        "user.create",
        subject=("user", user.user_id),
        details={"roles": roles, "agency": newcomers.agency, "by": "provider"},
    )
    return user, ""
