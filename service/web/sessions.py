"""Signed-in browsers: a random token in a cookie, and only its digest in the catalog."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session as Db

from indexer.audit.chain import record
from indexer.catalog import Catalog
from indexer.catalog.account_tables import User
from indexer.catalog.tables import ApiKey, WebSession
from indexer.ids import new_id
from indexer.times import utc_now
from service.accounts import people, signing_in
from service.accounts.keys import CONFIGURED, principal_of, usable
from service.accounts.principal import Principal
from service.accounts.roles import ALL_SCOPES
from service.errors import Unauthenticated

IDLE: Final = timedelta(minutes=30)
"""A session ends when nothing was asked with it for so long (CJIS AC-11: at most 30 minutes)."""
LONGEST: Final = timedelta(hours=12)
"""A session ends after this time whatever happens with it."""
_TOUCH: Final = timedelta(seconds=60)
"""Use is written down at most this often, so that reading a page writes nothing."""


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in browser. ``token`` is the text of its cookie; it is stored nowhere else.

    ``set_up``: false for a person who lacks a password or a second factor and sees nothing before
    having both. ``by_key``: begun with a key, which works as long as nobody has an account.
    """

    session_id: str
    principal: Principal
    token: str
    set_up: bool = True

    @property
    def by_key(self) -> bool:
        """Whether it was begun with a key."""
        return self.principal.kind != "user"

    @property
    def all_powers(self) -> bool:
        """Whether it holds every permission and works for all agencies."""
        return self.principal.agency is None and self.principal.scopes == ALL_SCOPES

    @property
    def csrf(self) -> str:
        """What each of its forms carries."""
        return form_token(self.token)

    def seal(self, text: str) -> str:
        """A word that only this session can show for ``text``."""
        return hmac.new(self.token.encode(), text.encode(), hashlib.sha256).hexdigest()

    def sealed(self, text: str, seal: str) -> bool:
        """Whether ``seal`` is the one of ``text``."""
        return hmac.compare_digest(self.seal(text).encode(), seal.encode())


def new_token() -> str:
    """256 random bits for a cookie."""
    return secrets.token_urlsafe(32)


def form_token(cookie: str) -> str:
    """What a form carries so that only pages of this site can send it: made from the cookie.

    Another site can neither read the cookie nor make a browser send it along with a form
    (OWASP CSRF prevention: HMAC-based token, with SameSite as the second line).
    """
    return hmac.new(cookie.encode(), b"homeward form", hashlib.sha256).hexdigest()


def form_token_valid(cookie: str, given: str) -> bool:
    """Whether ``given`` is the form token of ``cookie``, compared in constant time.

    Of no cookie there is no token: anybody could compute that one.
    """
    return bool(cookie) and hmac.compare_digest(form_token(cookie).encode(), given.encode())


def begin(catalog: Catalog, principal: Principal, now: datetime | None = None) -> Session:
    """Start a session for the holder of a key; sessions that have ended are cleared away.

    Raises :class:`Unauthenticated` once people have accounts.
    """
    now = now or utc_now()
    with catalog.write() as db:
        if people.any_accounts(db):
            raise Unauthenticated
        session_id, token = _add(db, now, key_id=principal.actor_id)
        record(db, "sign_in.done", subject=("key", principal.actor_id), details={"means": "key"})
    return Session(session_id, principal, token)


def begin_for_user(
    catalog: Catalog,
    user_id: str,
    *,
    address: str = "",
    user_agent: str = "",
    now: datetime | None = None,
) -> Session:
    """Start a session for a person who has proved who they are, here or elsewhere.

    Always with a fresh token, whatever cookie the browser sent. Raises :class:`Unauthenticated`
    where the person may not be let in (any more).
    """
    now = now or utc_now()
    with catalog.write() as db:
        user = _let_in(db, user_id)
        if user is None:
            raise Unauthenticated
        session_id, token = _add(
            db, now, user_id=user_id, address=address[:64], user_agent=user_agent[:200]
        )
        return Session(session_id, people.principal_of(user), token, people.is_set_up(user))


def rotate(catalog: Catalog, session: Session, *, alone: bool = False) -> Session:
    """The same session under a fresh token, as after a change of what it may do; the old token is
    worth nothing from then on. ``alone``: all other sessions of the person end.

    Raises :class:`Unauthenticated` where it has ended.
    """
    token = new_token()
    with catalog.write() as db:
        row = db.get(WebSession, session.session_id)
        if row is None:
            raise Unauthenticated
        row.token_sha256 = _digest(token)
        set_up = session.set_up
        if row.user_id is not None:
            user = _let_in(db, row.user_id)
            set_up = user is not None and people.is_set_up(user)
            if alone:
                others = delete(WebSession).where(
                    WebSession.user_id == row.user_id, WebSession.session_id != row.session_id
                )
                db.execute(others)
    return replace(session, token=token, set_up=set_up)


def find(
    catalog: Catalog, token: str, *, configured: bool, now: datetime | None = None
) -> Session | None:
    """The session of a cookie, or None where there is none or it has ended.

    What it may do is read anew each time, so that a change of roles holds at once. The person has
    to be let in still, or the key to be in force and nobody to have an account. ``configured``:
    whether a key is set by a setting; sessions made with such a key end when the setting is gone.
    """
    now = now or utc_now()
    with catalog.read() as db:
        stored = db.scalar(select(WebSession).where(WebSession.token_sha256 == _digest(token)))
        if stored is None or stored.expires_at <= now:
            return None
        session = _of_user(db, stored, token) or _of_key(db, stored, token, configured, now)
        if session is None:
            return None
        last_used, ends = stored.last_used_at, stored.created_at + LONGEST
    if now - last_used >= _TOUCH:
        with catalog.write() as db:
            again = db.get(WebSession, session.session_id)
            if again is None or again.token_sha256 != _digest(token):
                return None
            again.last_used_at = now
            again.expires_at = min(now + IDLE, ends)
    return session


def _of_user(db: Db, stored: WebSession, token: str) -> Session | None:
    user = None if stored.user_id is None else _let_in(db, stored.user_id)
    if user is None:
        return None
    principal = people.principal_of(user)
    return Session(stored.session_id, principal, token, people.is_set_up(user))


def _of_key(
    db: Db, stored: WebSession, token: str, configured: bool, now: datetime
) -> Session | None:
    key = None if stored.key_id is None else db.get(ApiKey, stored.key_id)
    if key is None or not usable(db, key, now) or people.any_accounts(db):
        return None
    if key.name == CONFIGURED and not configured:
        return None
    return Session(stored.session_id, principal_of(key), token)


def _let_in(db: Db, user_id: str) -> User | None:
    user = db.get(User, user_id)
    return user if user is not None and signing_in.may_enter(db, user) else None


def _add(db: Db, now: datetime, **values: str) -> tuple[str, str]:
    """A new row: its id and its token."""
    token, session_id = new_token(), new_id()
    db.execute(delete(WebSession).where(WebSession.expires_at <= now))
    db.add(
        WebSession(
            session_id=session_id,
            token_sha256=_digest(token),
            data={},
            created_at=now,
            last_used_at=now,
            expires_at=now + IDLE,
            **values,
        )
    )
    return session_id, token


def end(catalog: Catalog, session: Session) -> None:
    """Sign out."""
    with catalog.write() as db:
        db.execute(delete(WebSession).where(WebSession.session_id == session.session_id))
        kind = "key" if session.by_key else "user"
        record(db, "sign_out.done", subject=(kind, session.principal.actor_id))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
