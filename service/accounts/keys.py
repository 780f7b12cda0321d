"""API keys: 256 random bits each, shown once and kept only as a digest."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select

from indexer.catalog import Catalog
from indexer.catalog.tables import ApiKey, WebSession
from indexer.ids import new_id
from indexer.times import utc_now
from models.errors import HomewardError
from service.accounts.principal import Principal
from service.accounts.roles import ALL_SCOPES, ROLES, scopes_of

ADMINISTRATOR = "administrator"
CONFIGURED = "configured"
"""Name of the row that stands for the key given by a setting; its digest is never stored."""

ROLE_PREFIX = "role:"
"""Before the name of a role among the scopes of a key."""

KEY_PREFIX = "hw_"


class KeyNotFound(HomewardError):
    """No key has this id or prefix."""

    code = "key_not_found"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as it may be shown: never its text, never its digest."""

    key_id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A fresh key; ``text`` is shown once and cannot be had again."""

    record: KeyRecord
    text: str


class KeyStore:
    """The keys of one catalog, and the one that a setting may give."""

    def __init__(self, catalog: Catalog, configured: str | None = None) -> None:
        self._catalog = catalog
        self._configured: tuple[bytes, Principal] | None = None
        if configured is not None:
            principal = Principal(self._configured_row(), CONFIGURED, ALL_SCOPES)
            self._configured = (_digest(configured), principal)

    def authenticate(self, text: str) -> Principal | None:
        """Whose key ``text`` is; None where it is nobody's. Digests are compared in constant time.

        A key has 256 random bits, so one plain SHA-256 is enough and costs no request anything.
        """
        digest = _digest(text)
        with self._catalog.read() as session:
            row = session.scalar(select(ApiKey).where(ApiKey.sha256 == digest.hex()))
            found = None
            if row is not None and row.revoked_at is None:
                found = principal_of(row)
        if self._configured is not None and hmac.compare_digest(digest, self._configured[0]):
            return self._configured[1]
        return found

    def in_force(self, key_id: str) -> bool:
        """Whether the key that was presented as ``key_id`` would still be taken."""
        if self._configured is not None and key_id == self._configured[1].actor_id:
            return True
        with self._catalog.read() as session:
            row = session.get(ApiKey, key_id)
            return row is not None and row.revoked_at is None and row.name != CONFIGURED

    def create(self, name: str, scopes: tuple[str, ...] = (ADMINISTRATOR,)) -> NewKey:
        """Make a key and store its digest."""
        secret = secrets.token_urlsafe(32)
        text = KEY_PREFIX + secret
        row = ApiKey(
            key_id=new_id(),
            name=name,
            prefix=text[: len(KEY_PREFIX) + 4],
            sha256=_digest(text).hex(),
            scopes=list(scopes),
            created_at=utc_now(),
        )
        record = _record(row)
        with self._catalog.write() as session:
            session.add(row)
        return NewKey(record, text)

    def ensure_administrator(self) -> NewKey | None:
        """Make the first administrator key of an installation that has none at all."""
        if self._configured is not None or any(key.revoked_at is None for key in self.list()):
            return None
        return self.create("first administrator")

    def list(self) -> tuple[KeyRecord, ...]:
        """Every stored key, oldest first."""
        with self._catalog.read() as session:
            rows = session.scalars(
                select(ApiKey).where(ApiKey.name != CONFIGURED).order_by(ApiKey.key_id)
            )
            return tuple(_record(row) for row in rows)

    def revoke(self, key: str) -> KeyRecord:
        """Take back a key by id; raises :class:`KeyNotFound`."""
        with self._catalog.write() as session:
            row = session.get(ApiKey, key)
            if row is None or row.name == CONFIGURED:
                raise KeyNotFound(
                    f"There is no key {key[:60]!r}.", remedy="List them with `homeward keys list`."
                )
            if row.revoked_at is None:
                row.revoked_at = utc_now()
            session.execute(delete(WebSession).where(WebSession.key_id == row.key_id))
            return _record(row)

    def _configured_row(self) -> str:
        """The row that records hang on; its digest is of random bytes, so it opens nothing.

        Browser sessions made with an earlier configured key end here.
        """
        with self._catalog.write() as session:
            row = session.scalar(select(ApiKey).where(ApiKey.name == CONFIGURED))
            if row is None:
                row = ApiKey(
                    key_id=new_id(),
                    name=CONFIGURED,
                    prefix=CONFIGURED,
                    sha256=hashlib.sha256(secrets.token_bytes(32)).hexdigest(),
                    scopes=[ADMINISTRATOR],
                    created_at=utc_now(),
                )
                session.add(row)
            session.execute(delete(WebSession).where(WebSession.key_id == row.key_id))
            return row.key_id


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def expanded(scopes: list[str]) -> frozenset[str]:
    """The permissions that the scopes of a key stand for."""
    if ADMINISTRATOR in scopes:
        return ALL_SCOPES
    roles = [role for role in ROLES if ROLE_PREFIX + role in scopes]
    return (frozenset(scopes) & ALL_SCOPES) | scopes_of(roles)


def principal_of(row: ApiKey) -> Principal:
    """Whoever holds the key of ``row``."""
    return Principal(row.key_id, row.name, expanded(row.scopes), agency=row.agency)


def _record(row: ApiKey) -> KeyRecord:
    return KeyRecord(
        key_id=row.key_id,
        name=row.name,
        prefix=row.prefix,
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
