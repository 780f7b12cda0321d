"""What people do to their own account: the first set-up, password, second factor, codes."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.orm import Session

from indexer.audit.chain import record
from indexer.catalog import Catalog
from indexer.catalog.account_tables import User
from indexer.catalog.tables import WebSession
from indexer.times import utc_now
from service.accounts import authority, passwords, people, second_factor, signing_in
from service.accounts.errors import (
    AccountsExist,
    CodeRefused,
    CurrentPasswordWrong,
    UserNotFound,
)


def first_administrator(
    catalog: Catalog,
    login: str,
    display_name: str,
    password: str,
    secret: str,
    code: str,
    *,
    now: datetime | None = None,
) -> tuple[str, tuple[str, ...]]:
    """Make the first person, who works for all agencies: their id and recovery codes.

    Sessions that were begun with a key end. ``secret`` is what the authenticator was given,
    ``code`` what it shows. Raises AccountsExist, LoginInvalid, LoginTaken, PasswordRefused,
    CodeRefused.
    """
    login = people.normal_login(login)
    passwords.check(password, login, display_name)
    stored = passwords.hashed(password)
    step = _step(secret, code, now)
    with catalog.write() as session:
        if people.any_accounts(session):
            raise AccountsExist
        user = people.add(session, login, [authority.ADMINISTRATOR], None, display_name)
        user.password, user.totp_secret, user.totp_step = stored, secret, step
        people.mark_set_up(user)
        codes = second_factor.new_recovery_codes(user)
        session.execute(delete(WebSession).where(WebSession.user_id.is_(None)))
        record(
            session,
            "user.create",
            subject=("user", user.user_id),
            details={"roles": user.roles, "agency": None, "first": True},
        )
        return user.user_id, codes


def set_up(
    catalog: Catalog,
    user_id: str,
    password: str | None,
    secret: str,
    code: str,
    *,
    now: datetime | None = None,
) -> tuple[str, ...]:
    """Give an account that lacks them its password and second factor; the recovery codes.

    ``password`` is None for one that has a password and lacks the second factor only. All other
    sessions of the person are the caller's to end. Raises PasswordRefused, CodeRefused,
    UserNotFound.
    """
    with catalog.read() as session:
        user = _user(session, user_id)
        names = (user.login, user.display_name)
    stored = None
    if password is not None:
        passwords.check(password, *names)
        stored = passwords.hashed(password)
    step = _step(secret, code, now)
    with catalog.write() as session:
        user = _user(session, user_id)
        if people.is_set_up(user) or (user.password is None) != (stored is not None):
            # Set up in another window meanwhile, or taken back by an administrator.
            raise CodeRefused
        if stored is not None:
            user.password = stored
        user.totp_secret, user.totp_step = secret, step
        user.setup_sha256 = user.setup_expires_at = None
        people.mark_set_up(user)
        if people.any_accounts(session):
            session.execute(delete(WebSession).where(WebSession.user_id.is_(None)))
        codes = second_factor.new_recovery_codes(user)
        record(session, "user.set_up", subject=("user", user_id))
        return codes


def change_password(catalog: Catalog, user_id: str, current: str, password: str) -> None:
    """Replace the password. Raises CurrentPasswordWrong, PasswordRefused, UserNotFound."""
    before, names = _verified(catalog, user_id, current)
    passwords.check(password, *names)
    stored = passwords.hashed(password)
    with catalog.write() as session:
        user = _user(session, user_id)
        if user.password != before:
            raise CurrentPasswordWrong
        user.password = stored
        record(session, "user.change", subject=("user", user_id), details={"fields": ["password"]})


def change_second_factor(
    catalog: Catalog,
    user_id: str,
    current: str,
    secret: str,
    code: str,
    *,
    now: datetime | None = None,
) -> tuple[str, ...]:
    """Replace the second factor, and with it the recovery codes, which are returned.

    Raises CurrentPasswordWrong, CodeRefused, UserNotFound.
    """
    before, _ = _verified(catalog, user_id, current)
    step = _step(secret, code, now)
    with catalog.write() as session:
        user = _user(session, user_id)
        if user.password != before:
            raise CurrentPasswordWrong
        user.totp_secret, user.totp_step = secret, step
        codes = second_factor.new_recovery_codes(user)
        record(
            session,
            "user.change",
            subject=("user", user_id),
            details={"fields": ["totp_secret", "recovery_codes"]},
        )
        return codes


def renew_recovery_codes(catalog: Catalog, user_id: str, current: str) -> tuple[str, ...]:
    """Replace the recovery codes. Raises CurrentPasswordWrong, UserNotFound."""
    before, _ = _verified(catalog, user_id, current)
    with catalog.write() as session:
        user = _user(session, user_id)
        if user.password != before:
            raise CurrentPasswordWrong
        codes = second_factor.new_recovery_codes(user)
        record(
            session,
            "user.change",
            subject=("user", user_id),
            details={"fields": ["recovery_codes"]},
        )
        return codes


def lacks_password(catalog: Catalog, user_id: str) -> bool:
    """Whether the person still has to choose a password. Raises UserNotFound."""
    with catalog.read() as session:
        return _user(session, user_id).password is None


def record_of(catalog: Catalog, user_id: str) -> people.UserRecord:
    """The person as they see themselves. Raises UserNotFound."""
    with catalog.read() as session:
        return people.record_of(_user(session, user_id))


def _verified(catalog: Catalog, user_id: str, current: str) -> tuple[str, tuple[str, str]]:
    """The stored password that ``current`` is right for, and the person's names.

    A wrong one counts as a failed sign-in, so that a browser left open is no place to guess.
    """
    with catalog.read() as session:
        user = _user(session, user_id)
        stored, names = user.password, (user.login, user.display_name)
    digest = signing_in.login_digest(names[0])
    tried = signing_in.begin_try(catalog, digest, "", utc_now())
    if not passwords.verify(stored, current) or stored is None or tried.locked:
        raise CurrentPasswordWrong
    with catalog.write() as session:
        signing_in.take_back(session, tried)
    return stored, names


def _step(secret: str, code: str, now: datetime | None) -> int:
    step = second_factor.accepted_step(secret, code, None, now or utc_now())
    if step is None:
        raise CodeRefused
    return step


def _user(session: Session, user_id: str) -> User:
    user = session.get(User, user_id)
    if user is None:
        raise UserNotFound(user_id)
    return user
