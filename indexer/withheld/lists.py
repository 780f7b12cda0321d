"""Lists of hashes that name pictures: supplied by agencies, never by Homeward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.orm import Session

from indexer import queue
from indexer.audit import chain
from indexer.batches import chunks
from indexer.catalog import Catalog
from indexer.catalog.picture_tables import HashList, ListedHash, PictureDigest, PictureRules
from indexer.catalog.tables import Image, Job
from indexer.errors import HashListNotFound
from indexer.records import Failure
from indexer.times import utc_now

if TYPE_CHECKING:
    from indexer.workspace import Workspace

KINDS: Final = {"md5": 16, "sha1": 20, "sha256": 32, "pdq": 32}
"""Kind of hash and its length in bytes. A bare line of 64 digits is a SHA-256."""

_BY_LENGTH: Final = {32: "md5", 40: "sha1", 64: "sha256"}
_AT_ONCE: Final = 500
_LONGEST_LINE: Final = 200
_RULES: Final = 1
CHECK_SUBJECT: Final = "lists"
"""The subject of the job that compares what is stored with the lists."""

MAX_LISTED: Final = 1_000
"""Bad lines that a report lists; all are counted."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """``added`` hashes are new in the list, ``known`` were in it; ``refused`` lines are no hash,
    the first of them listed with their number."""

    added: int
    known: int
    refused: tuple[Failure, ...]
    refused_total: int


@dataclass(frozen=True, slots=True)
class ListRecord:
    """A list, how many hashes of each kind it holds."""

    list_name: str
    actor: str
    loaded_at: datetime
    hashes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Rules:
    """The state of all lists: their version, 0 where none was ever loaded, and which kinds of
    hash they hold."""

    version: int
    kinds: frozenset[str]


def rules(session: Session) -> Rules:
    """The state of the lists now."""
    row = session.get(PictureRules, _RULES, populate_existing=True)
    if row is None:
        return Rules(0, frozenset())
    kinds = {
        kind
        for kind in KINDS
        if session.scalar(select(ListedHash.kind).where(ListedHash.kind == kind).limit(1))
    }
    return Rules(row.version, frozenset(kinds))


def load(ws: Workspace, lines: Iterable[bytes], list_name: str, *, actor: str) -> LoadReport:
    """Add hashes to a list, and have what is stored compared with it; the file is read as a
    stream, and may be loaded again.

    A line holds one hash in hexadecimal, alone or after its kind and a colon or comma (``pdq:``
    has to be said); empty lines and those that begin with ``#`` are passed over.
    """
    refused: list[Failure] = []
    counts = {"added": 0, "known": 0, "refused": 0}

    def good() -> Iterator[tuple[str, bytes]]:
        for number, line in enumerate(lines, start=1):
            try:
                found = parsed(line)
            except ValueError as error:
                counts["refused"] += 1
                if len(refused) < MAX_LISTED:
                    refused.append(Failure(f"line {number}", "hash_invalid", str(error)))
            else:
                if found is not None:
                    yield found

    for some in chunks(good(), _AT_ONCE):
        with ws.catalog.write() as session:
            added = _add(session, list_name, dict.fromkeys(some), actor)
            counts["added"] += added
            counts["known"] += len(some) - added
    with ws.catalog.write() as session:
        row = session.get(HashList, list_name)
        if row is not None:
            row.actor, row.loaded_at = actor, utc_now()
        _changed(session)
        chain.record(
            session,
            "hashes.load",
            subject=("hash_list", list_name),
            details={"added": counts["added"], "refused": counts["refused"]},
        )
        if counts["added"]:
            ask_for_check(session)
    return LoadReport(counts["added"], counts["known"], tuple(refused), counts["refused"])


def parsed(line: bytes) -> tuple[str, bytes] | None:
    """The kind and the digest of a line, ``None`` for an empty one or a remark. Raises
    ``ValueError`` for anything else; its words never hold the line."""
    if len(line) > _LONGEST_LINE:
        raise ValueError("the line is too long for a hash")
    text = line.decode("ascii", "replace").strip().lower()
    if not text or text.startswith("#"):
        return None
    kind, separator, value = text.replace(",", ":").partition(":")
    if not separator:
        kind, value = _BY_LENGTH.get(len(text), ""), text
    kind, value = kind.strip(), value.strip()
    if kind not in KINDS or len(value) != 2 * KINDS[kind]:
        raise ValueError("no MD5, SHA-1, SHA-256 or PDQ in hexadecimal")
    try:
        return kind, bytes.fromhex(value)
    except ValueError:
        raise ValueError("a character that is no hexadecimal digit") from None


def _add(session: Session, list_name: str, hashes: Iterable[tuple[str, bytes]], actor: str) -> int:
    now = utc_now()
    if session.get(HashList, list_name) is None:
        session.add(HashList(list_name=list_name, actor=actor, loaded_at=now))
    by_kind: dict[str, list[bytes]] = {}
    for kind, digest in hashes:
        by_kind.setdefault(kind, []).append(digest)
    added = 0
    for kind, digests in by_kind.items():
        there = set(
            session.scalars(
                select(ListedHash.digest).where(
                    ListedHash.kind == kind,
                    ListedHash.digest.in_(digests),
                    ListedHash.list_name == list_name,
                )
            )
        )
        fresh = [digest for digest in digests if digest not in there]
        session.add_all(
            ListedHash(kind=kind, digest=digest, list_name=list_name, added_at=now)
            for digest in fresh
        )
        added += len(fresh)
    if added:
        # With each part: one that stands is in force, whatever becomes of the rest.
        _changed(session)
    return added


def _changed(session: Session) -> None:
    row = session.get(PictureRules, _RULES, populate_existing=True)
    if row is None:
        session.add(PictureRules(rules_id=_RULES, version=1))
    else:
        row.version += 1
    session.flush()


def ask_for_check(session: Session) -> None:
    """Queue, in the caller's transaction, the comparison of what is stored with the lists."""
    waits = session.scalar(
        select(Job.job_id).where(
            Job.kind == "check_pictures",
            Job.subject_id == CHECK_SUBJECT,
            Job.state == "queued",
        )
    )
    if waits is None:
        queue.enqueue(session, "check_pictures", CHECK_SUBJECT, total=max(1, unchecked(session)))


def unchecked(session: Session) -> int:
    """How many stored pictures were not compared with the lists as they are now."""
    version = rules(session).version
    return (
        session.scalar(
            select(func.count())
            .select_from(Image)
            .outerjoin(PictureDigest, PictureDigest.sha256 == Image.sha256)
            .where(due(version))
        )
        or 0
    )


def due(version: int) -> ColumnElement[bool]:
    """The condition that a picture, joined to its digests, is to be compared."""
    return or_(PictureDigest.version.is_(None), PictureDigest.version < version)


def drop(catalog: Catalog, list_name: str) -> int:
    """Take a list away; returns how many hashes went. What it had withheld stays withheld until
    somebody settles it. Raises :class:`HashListNotFound`."""
    with catalog.write() as session:
        row = session.get(HashList, list_name)
        if row is None:
            raise HashListNotFound(list_name)
        gone = session.scalar(select(func.count()).where(ListedHash.list_name == list_name)) or 0
        session.execute(delete(ListedHash).where(ListedHash.list_name == list_name))
        session.delete(row)
        # Every process keeps the listed PDQ hashes of one version in memory.
        _changed(session)
        ask_for_check(session)
        chain.record(
            session, "hashes.drop", subject=("hash_list", list_name), details={"hashes": gone}
        )
    return gone


def list_lists(catalog: Catalog) -> tuple[list[ListRecord], int]:
    """The lists by name, and how many stored pictures still wait to be compared with them."""
    with catalog.read() as session:
        counts: dict[str, dict[str, int]] = {}
        for name, kind, count in session.execute(
            select(ListedHash.list_name, ListedHash.kind, func.count()).group_by(
                ListedHash.list_name, ListedHash.kind
            )
        ):
            counts.setdefault(name, {})[kind] = count
        found = [
            ListRecord(row.list_name, row.actor, row.loaded_at, counts.get(row.list_name, {}))
            for row in session.scalars(select(HashList).order_by(HashList.list_name))
        ]
        return found, unchecked(session) if rules(session).version else 0
