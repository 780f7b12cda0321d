"""API keys: 256 random bits each, shown once and kept only as a digest."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from indexer.audit.chain import record
from indexer.catalog import Catalog
from indexer.catalog.account_tables import Agency
from indexer.catalog.tables import ApiKey, WebSession
from indexer.ids import decode_cursor, encode_cursor, new_id
from indexer.records import Page
from indexer.times import utc_now
from service.accounts import authority, made_keys, people
from service.accounts.errors import ExpiryInvalid, KeyNameInvalid, RoleUnknown
from service.accounts.errors import KeyNotFound as KeyNotFound
from service.accounts.key_uses import KeyUses
from service.accounts.principal import Principal
from service.accounts.roles import ALL_SCOPES, PERMISSIONS, ROLES, scopes_of

ADMINISTRATOR = "administrator"
CONFIGURED = "configured"
"""Name of the row that stands for the key given by a setting; its digest is never stored."""

ROLE_PREFIX = "role:"
"""Before the name of a role among the scopes of a key."""

KEY_PREFIX = "hw_"
LONGEST_DAYS = 3650


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as it may be shown: never its text, never its digest."""

    key_id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime
    revoked_at: datetime | None
    agency: str | None = None
    created_by: str | None = None
    expires_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A fresh key; ``text`` is shown once and cannot be had again."""

    record: KeyRecord
    text: str


class KeyStore:
    """The keys of one catalog, and the one that a setting may give."""

    def __init__(
        self, catalog: Catalog, configured: str | None = None, uses: KeyUses | None = None
    ) -> None:
        """``uses`` is told of each use of a key."""
        self._catalog = catalog
        self._uses = uses
        self._configured: tuple[bytes, Principal] | None = None
        if configured is not None:
            principal = Principal(self._configured_row(), CONFIGURED, ALL_SCOPES)
            self._configured = (_digest(configured), principal)

    def authenticate(self, text: str) -> Principal | None:
        """Whose key ``text`` is; None where it is nobody's. Digests are compared in constant time.

        A key has 256 random bits, so one plain SHA-256 is enough and costs no request anything.
        """
        digest = _digest(text)
        now = utc_now()
        with self._catalog.read() as session:
            # The agency comes along, so that it is one query.
            both = session.execute(
                select(ApiKey, Agency)
                .outerjoin(Agency, Agency.name == ApiKey.agency)
                .where(ApiKey.sha256 == digest.hex())
            ).one_or_none()
            row = both[0] if both is not None else None
            found = None
            if row is not None and usable(session, row, now):
                found = principal_of(row)
        if self._configured is not None and hmac.compare_digest(digest, self._configured[0]):
            return self._configured[1]
        if row is not None and found is not None and self._uses is not None:
            self._uses.note(row.key_id, row.last_used_at, now)
        return found

    def in_force(self, key_id: str) -> bool:
        """Whether the key that was presented as ``key_id`` would still be taken."""
        if self._configured is not None and key_id == self._configured[1].actor_id:
            return True
        with self._catalog.read() as session:
            row = session.get(ApiKey, key_id)
            return row is not None and row.name != CONFIGURED and usable(session, row, utc_now())

    def create(
        self,
        name: str,
        scopes: tuple[str, ...] = (ADMINISTRATOR,),
        *,
        agency: str | None = None,
        expires_at: datetime | None = None,
        by: Principal | None = None,
    ) -> NewKey:
        """Make a key and store its digest; ``agency`` None: it works for all agencies.

        ``by``: who makes it and gives no more than they hold; None stands for Homeward itself.
        Raises KeyNameInvalid, ExpiryInvalid, AgencyNotFound, Forbidden.
        """
        if by is not None:
            _require_may_give(by, scopes)
            name = _checked_name(name)
        if expires_at is not None and expires_at <= utc_now():
            raise ExpiryInvalid("This moment has passed.", remedy="Give a later one, or none.")
        text = KEY_PREFIX + secrets.token_urlsafe(32)
        row = ApiKey(
            key_id=new_id(),
            name=name,
            prefix=text[: len(KEY_PREFIX) + 4],
            sha256=_digest(text).hex(),
            scopes=list(scopes),
            agency=agency,
            created_by=by.actor_id if by is not None else None,
            created_at=utc_now(),
            expires_at=expires_at,
        )
        with self._catalog.write() as session:
            if by is not None:
                authority.require_agency(session, by, agency)
            session.add(row)
            record(
                session,
                "key.create",
                subject=("key", row.key_id),
                details={"scopes": list(scopes), "agency": agency, "expires": bool(expires_at)},
            )
            return NewKey(_record(row), text)

    def ensure_administrator(self) -> NewKey | None:
        """Make the first administrator key of an installation that has none at all; never where
        people have accounts, who may have revoked the others on purpose."""
        if self._configured is not None or any(key.revoked_at is None for key in self.list()):
            return None
        if people.accounts_exist(self._catalog):
            return None
        return self.create("first administrator")

    def list(self, by: Principal | None = None) -> tuple[KeyRecord, ...]:
        """Every stored key, oldest first; of those that ``by`` manages where it is given."""
        query = select(ApiKey).where(ApiKey.name != CONFIGURED).order_by(ApiKey.key_id)
        if by is not None and by.agency is not None:
            query = query.where(ApiKey.agency == by.agency)
        with self._catalog.read() as session:
            return tuple(_record(row) for row in session.scalars(query))

    def page(self, by: Principal, *, limit: int = 50, cursor: str | None = None) -> Page[KeyRecord]:
        """The keys that ``by`` manages, oldest first. Raises :class:`InvalidCursor`."""
        query = select(ApiKey).where(ApiKey.name != CONFIGURED).order_by(ApiKey.key_id)
        if by.agency is not None:
            query = query.where(ApiKey.agency == by.agency)
        if cursor is not None:
            query = query.where(ApiKey.key_id > decode_cursor(cursor))
        with self._catalog.read() as session:
            rows = session.scalars(query.limit(limit + 1)).all()
            items = tuple(_record(row) for row in rows[:limit])
        return Page(items, encode_cursor(items[-1].key_id) if len(rows) > limit else None)

    def revoke(self, key: str, by: Principal | None = None) -> KeyRecord:
        """Take back a key by id; raises :class:`KeyNotFound`, also for one that ``by`` does not
        manage."""
        with self._catalog.write() as session:
            row = session.get(ApiKey, key)
            managed = row is not None and (by is None or authority.manages(by, row.agency))
            if row is None or row.name == CONFIGURED or not managed:
                raise KeyNotFound(key[:60])
            made_keys.revoke(session, row)
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


def usable(session: Session, row: ApiKey, now: datetime) -> bool:
    """Whether a key is in force: not taken back, not expired, its agency in use."""
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        return False
    if row.agency is None:
        return True
    agency = session.get(Agency, row.agency)
    return agency is not None and agency.retired_at is None


def checked_scopes(
    roles: Iterable[str], scopes: Iterable[str], *, all_where_none: bool = True
) -> tuple[str, ...]:
    """What a key stores for these roles and single permissions, in the order of the table.

    Where none is named it is every scope, or with ``all_where_none`` false an error. Raises
    :class:`RoleUnknown`.
    """
    roles, scopes = set(roles), set(scopes)
    if not roles and not scopes and all_where_none:
        return (ADMINISTRATOR,)
    if not (roles or scopes) or not roles <= set(ROLES) or not scopes <= ALL_SCOPES:
        raise RoleUnknown(
            "A key has at least one role or permission, of those in the lists.",
            remedy=f"The roles are {', '.join(ROLES)}; the permissions {', '.join(PERMISSIONS)}.",
        )
    found = [ROLE_PREFIX + role for role in ROLES if role in roles]
    return (*found, *(scope for scope in PERMISSIONS if scope in scopes))


def expiry_in_days(days: str | int | None, now: datetime | None = None) -> datetime | None:
    """The moment so many days from now; None for no days at all. Raises
    :class:`ExpiryInvalid`."""
    if days is None or days == "":
        return None
    text = str(days)
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= LONGEST_DAYS:
        raise ExpiryInvalid(
            f"A key ends after 1 to {LONGEST_DAYS} days.", remedy="Give a whole number of days."
        )
    return (now or utc_now()) + timedelta(days=int(text))


def _checked_name(name: str) -> str:
    name = name.strip()
    if not name or len(name) > 100 or name == CONFIGURED:
        raise KeyNameInvalid(
            f"The name of a key has 1 to 100 characters and is not {CONFIGURED!r}.",
            remedy="Say what or whom the key is for.",
        )
    return name


def _require_may_give(by: Principal, scopes: tuple[str, ...]) -> None:
    if ADMINISTRATOR in scopes:
        authority.require_may_give(by, (), ALL_SCOPES)
        return
    roles = [scope.removeprefix(ROLE_PREFIX) for scope in scopes if scope.startswith(ROLE_PREFIX)]
    single = [scope for scope in scopes if not scope.startswith(ROLE_PREFIX)]
    authority.require_may_give(by, roles, single)


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
        agency=row.agency,
        created_by=row.created_by,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )
