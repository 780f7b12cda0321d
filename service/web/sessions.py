"""Signed-in browsers: a random token in a cookie, and only its digest in the catalog."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select

from indexer.catalog import Catalog
from indexer.catalog.tables import ApiKey, WebSession
from indexer.ids import new_id
from indexer.times import utc_now
from service.accounts.keys import CONFIGURED, principal_of
from service.accounts.principal import Principal

IDLE: Final = timedelta(minutes=30)
"""A session ends when nothing was asked with it for so long (CJIS AC-11: at most 30 minutes)."""
LONGEST: Final = timedelta(hours=12)
"""A session ends after this time whatever happens with it."""
_TOUCH: Final = timedelta(seconds=60)
"""Use is written down at most this often, so that reading a page writes nothing."""


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in browser. ``token`` is the text of its cookie; it is stored nowhere else."""

    session_id: str
    principal: Principal
    token: str

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
    """Start a session for the holder of a key; sessions that have ended are cleared away."""
    now = now or utc_now()
    token = new_token()
    session_id = new_id()
    with catalog.write() as db:
        db.execute(delete(WebSession).where(WebSession.expires_at <= now))
        db.add(
            WebSession(
                session_id=session_id,
                token_sha256=_digest(token),
                key_id=principal.actor_id,
                data={},
                created_at=now,
                last_used_at=now,
                expires_at=now + IDLE,
            )
        )
    return Session(session_id, principal, token)


def find(
    catalog: Catalog, token: str, *, configured: bool, now: datetime | None = None
) -> Session | None:
    """The session of a cookie, or None where there is none or it has ended.

    Its key has to be in force still. ``configured``: whether a key is set by a setting; sessions
    made with such a key end when the setting is gone.
    """
    now = now or utc_now()
    with catalog.read() as db:
        row = db.execute(
            select(WebSession, ApiKey)
            .join(ApiKey, ApiKey.key_id == WebSession.key_id)
            .where(WebSession.token_sha256 == _digest(token))
        ).one_or_none()
        if row is None:
            return None
        stored, key = row
        if stored.expires_at <= now or key.revoked_at is not None:
            return None
        if key.name == CONFIGURED and not configured:
            return None
        principal = principal_of(key)
        session = Session(stored.session_id, principal, token)
        last_used, ends = stored.last_used_at, stored.created_at + LONGEST
    if now - last_used >= _TOUCH:
        with catalog.write() as db:
            again = db.get(WebSession, session.session_id)
            if again is None:
                return None
            again.last_used_at = now
            again.expires_at = min(now + IDLE, ends)
    return session


def end(catalog: Catalog, session: Session) -> None:
    """Sign out."""
    with catalog.write() as db:
        db.execute(delete(WebSession).where(WebSession.session_id == session.session_id))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
