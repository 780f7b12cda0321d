"""Signing in with login, password and code, and the count of what failed.

Each try is written down as failed before anything is checked and taken back when it succeeds, so
that tries at the same time cannot be more than the limit; the count is in the catalog and holds
across processes and restarts. Whatever is wrong, the same work is done and the same answer given.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from indexer.audit.chain import record
from indexer.catalog import Catalog
from indexer.catalog.account_tables import Agency, SignInFailure, User
from indexer.ids import new_id
from indexer.times import utc_now
from models.errors import HomewardError
from service.accounts import passwords, people, second_factor
from service.accounts.errors import SetUpRefused, SignInRefused
from service.networks import network_of

FAILURES: Final = 5
WINDOW: Final = timedelta(minutes=15)
"""So many failures within this time lock a login until the first of them is older (CJIS AC-7)."""
ADDRESS_FAILURES: Final = 30
"""So many from one address; more than for a login, since an agency may share one address."""
_ADDRESS: Final = 64


@dataclass(frozen=True, slots=True)
class Try:
    """A try that is written down; ``locked``: it cannot succeed."""

    failure_id: str
    locked: bool


class TooManyFailures(HomewardError):
    """One address has failed too often; told apart, since it says nothing about any login."""

    code = "rate_limited"

    def __init__(self) -> None:
        super().__init__(
            "Signing in failed too often from this address.",
            remedy="Wait some minutes before the next try.",
        )


def login_digest(login: str) -> str:
    """What stands for a typed login where it is counted and recorded."""
    return hashlib.sha256(f"login\n{people.folded(login)}".encode("utf-8", "replace")).hexdigest()


def sign_in(
    catalog: Catalog,
    login: str,
    password: str,
    code: str,
    *,
    address: str = "",
    now: datetime | None = None,
) -> str:
    """The id of the person who signs in; takes tens of milliseconds and 64 MiB.

    A person without a second factor is let in by the password alone and has to set one up first
    (see ``people.is_set_up``). Raises SignInRefused, TooManyFailures.
    """
    now = now or utc_now()
    tried = begin_try(catalog, login_digest(login), address, now)
    with catalog.read() as session:
        found = session.scalar(select(User).where(User.login == people.folded(login)[:400]))
        known = None if found is None else (found.user_id, found.password)
    right = passwords.verify(known[1] if known else None, password)
    fresh = None
    if right and known and known[1] is not None and passwords.outdated(known[1]):
        fresh = passwords.hashed(password)
    with catalog.write() as session:
        user = session.get(User, known[0]) if known else None
        means = None
        if right and known and user is not None and user.password == known[1] and not tried.locked:
            means = _admitted(session, user, code, now)
        if user is not None and means is not None:
            if fresh is not None:
                user.password = fresh
            session.execute(delete(SignInFailure).where(SignInFailure.name == login_digest(login)))
            people.principal_of(user).acts()
            record(
                session,
                "sign_in.done",
                subject=("user", user.user_id),
                details={"means": means, "address": address[:_ADDRESS]},
            )
            return user.user_id
        record(
            session,
            "sign_in.failed",
            subject=("user", user.user_id) if user is not None else None,
            outcome=SignInRefused.code,
            details={
                "login_sha256": login_digest(login),
                "address": address[:_ADDRESS],
                "locked": tried.locked,
            },
        )
    raise SignInRefused


def user_of_setup_code(
    catalog: Catalog, code: str, *, address: str = "", now: datetime | None = None
) -> str:
    """The id of the person whose set-up code this is; it stays good until the person has chosen a
    password. Raises SetUpRefused, TooManyFailures."""
    now = now or utc_now()
    tried = begin_try(catalog, "", address, now)
    with catalog.write() as session:
        user = session.scalar(select(User).where(User.setup_sha256 == people.setup_digest(code)))
        if user is not None and _takes_code(session, user, now):
            take_back(session, tried)
            people.principal_of(user).acts()
            record(
                session,
                "sign_in.done",
                subject=("user", user.user_id),
                details={"means": "set_up", "address": address[:_ADDRESS]},
            )
            return user.user_id
        record(
            session,
            "sign_in.failed",
            outcome=SetUpRefused.code,
            details={"address": address[:_ADDRESS]},
        )
    raise SetUpRefused


def record_wrong_key(catalog: Catalog, *, address: str) -> None:
    """Record that somebody tried to sign in to the pages with a key that is none."""
    with catalog.write() as session:
        record(
            session,
            "sign_in.failed",
            outcome=SignInRefused.code,
            details={"means": "key", "address": address[:_ADDRESS]},
        )


def _takes_code(session: Session, user: User, now: datetime) -> bool:
    """Whether a set-up code lets the person in: never beside what they sign in with already."""
    if people.is_set_up(user) or not may_enter(session, user):
        return False
    return user.setup_expires_at is not None and now < user.setup_expires_at


def begin_try(catalog: Catalog, name: str, address: str, now: datetime) -> Try:
    """Write a try down as failed. One of a locked login counts for its address only, so that
    going on does not keep the login locked. An address counts as its network
    (:func:`service.networks.network_of`); none at all is not counted."""
    network = network_of(address) if address else ""
    counted = SignInFailure.at > now - WINDOW
    count = select(func.count()).select_from(SignInFailure)
    with catalog.write() as session:
        session.execute(delete(SignInFailure).where(SignInFailure.at <= now - WINDOW))
        from_here = session.scalar(count.where(SignInFailure.address == network, counted))
        if network and (from_here or 0) >= ADDRESS_FAILURES:
            raise TooManyFailures
        before = session.scalar(count.where(SignInFailure.name == name, counted))
        locked = bool(name) and (before or 0) >= FAILURES
        row = SignInFailure(
            failure_id=new_id(),
            name="" if locked else name,
            address=network,
            at=now,
        )
        session.add(row)
        return Try(row.failure_id, locked)


def take_back(session: Session, tried: Try) -> None:
    """The try succeeded, in the caller's transaction."""
    session.execute(delete(SignInFailure).where(SignInFailure.failure_id == tried.failure_id))


def may_enter(session: Session, user: User) -> bool:
    """Whether the person may be let in at all: neither disabled nor of a retired agency."""
    if user.disabled_at is not None:
        return False
    if user.agency is None:
        return True
    agency = session.get(Agency, user.agency)
    return agency is not None and agency.retired_at is None


def _admitted(session: Session, user: User, code: str, now: datetime) -> str | None:
    """By what the person is let in, given the right password; the code is used up."""
    if not may_enter(session, user) or user.issuer is not None:
        return None
    if user.totp_secret is None:
        return "password"
    return second_factor.take(user, code, now)


def second_step(
    catalog: Catalog, user_id: str, code: str, *, address: str = "", now: datetime | None = None
) -> None:
    """The code of a person who has proved the first factor elsewhere; counted as other tries are.

    Raises SignInRefused, TooManyFailures.
    """
    now = now or utc_now()
    with catalog.read() as session:
        found = session.get(User, user_id)
        name = login_digest(found.login if found is not None else "")
    tried = begin_try(catalog, name, address, now)
    with catalog.write() as session:
        user = session.get(User, user_id)
        means = None
        linked = user is not None and user.issuer is not None
        if user is not None and linked and may_enter(session, user) and not tried.locked:
            means = second_factor.take(user, code, now)
        if user is not None and means is not None:
            session.execute(delete(SignInFailure).where(SignInFailure.name == name))
            people.principal_of(user).acts()
            record(
                session,
                "sign_in.done",
                subject=("user", user.user_id),
                details={"means": f"provider_and_{means}", "address": address[:_ADDRESS]},
            )
            return
        record(
            session,
            "sign_in.failed",
            subject=("user", user_id) if user is not None else None,
            outcome=SignInRefused.code,
            details={
                "login_sha256": name,
                "address": address[:_ADDRESS],
                "locked": tried.locked,
            },
        )
    raise SignInRefused
