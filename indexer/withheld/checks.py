"""Comparing pictures with the lists of hashes, and with those that were flagged or listed.

A listed PDQ counts up to the distance at which two pictures are near-duplicates, whatever the
quality of the picture: a listed one that is missed is shown, one that is wrongly taken for it is
only hidden until somebody looks. Copies of a flagged picture, and of one that an exact hash names,
are told as near-duplicates are, quality and all, for nobody drew up a list of plain walls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from indexer import queue
from indexer.batches import chunks
from indexer.catalog.picture_tables import ListedHash, PictureDigest, WithheldImage
from indexer.catalog.tables import Image, ImageHash
from indexer.errors import BlobDamaged, BlobMissing
from indexer.hashes import MAX_DISTANCE, MIN_QUALITY
from indexer.records import JobRecord
from indexer.withheld import rows
from indexer.withheld.lists import CHECK_SUBJECT, Rules, ask_for_check, due, rules
from indexer.withheld.rows import Why
from models.decode import decode
from models.errors import ImageRejected
from models.pdq import HASH_BYTES, distances, pdq

if TYPE_CHECKING:
    from indexer.workspace import Workspace

_BATCH: Final = 64
_SLICE: Final = 2_000
"""Pictures that one job compares before it lets others go first."""
_PDQ_ROWS: Final = 100_000
_SYSTEM: Final = "system"

Hashes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Digests:
    """What lists may name a picture by; ``None`` where it was not needed or cannot be had."""

    md5: bytes | None = None
    sha1: bytes | None = None
    pdq: bytes | None = None
    pdq_quality: int | None = None


NO_DIGESTS: Final = Digests()


@dataclass(frozen=True, slots=True, eq=False)
class ListedPdq:
    """All listed PDQ hashes at one version of the lists: (n, 32) and the list of each."""

    version: int
    hashes: Hashes
    lists: tuple[str, ...]


def digests_of(ws: Workspace, data: bytes, needs: Rules, known: Digests = Digests()) -> Digests:
    """The digests of bytes as received; only those that are needed and not ``known``."""
    found = known
    if "md5" in needs.kinds and found.md5 is None:
        found = replace(found, md5=hashlib.md5(data, usedforsecurity=False).digest())
    if "sha1" in needs.kinds and found.sha1 is None:
        found = replace(found, sha1=hashlib.sha1(data, usedforsecurity=False).digest())
    if found.pdq is None:
        try:
            value, quality = pdq(decode(data, ws.limits).pixels)
        except ImageRejected:
            return found
        found = replace(found, pdq=value, pdq_quality=quality)
    return found


def listed_why(
    session: Session, ws: Workspace, sha256: str, digests: Digests, needs: Rules
) -> Why | None:
    """Which list names a picture, by which kind of hash; ``None`` where none does."""
    exact = {"sha256": bytes.fromhex(sha256), "sha1": digests.sha1, "md5": digests.md5}
    for kind, digest in exact.items():
        if digest is None or kind not in needs.kinds:
            continue
        named = session.scalar(
            select(ListedHash)
            .where(ListedHash.kind == kind, ListedHash.digest == digest)
            .order_by(ListedHash.added_at.desc(), ListedHash.list_name)
            .limit(1)
        )
        if named is not None:
            return Why(
                reason="listed",
                actor=_SYSTEM,
                list_name=named.list_name,
                hash_kind=kind,
                listed_at=named.added_at,
                pdq=digests.pdq,
                pdq_quality=digests.pdq_quality,
            )
    if digests.pdq is None or "pdq" not in needs.kinds:
        return None
    listed = _listed_pdq(session, ws, needs.version)
    near = np.flatnonzero(distances(digests.pdq, listed.hashes) <= MAX_DISTANCE)
    if not len(near):
        return None
    return Why(
        reason="listed", actor=_SYSTEM, list_name=listed.lists[int(near[0])], hash_kind="pdq"
    )


def _listed_pdq(session: Session, ws: Workspace, version: int) -> ListedPdq:
    """Kept in memory until the lists change: 32 bytes for each listed picture."""
    if ws.listed_pdq is None or ws.listed_pdq.version != version:
        found = session.execute(
            select(ListedHash.digest, ListedHash.list_name).where(ListedHash.kind == "pdq")
        ).all()
        ws.listed_pdq = ListedPdq(
            version, _matrix([row.digest for row in found]), tuple(row.list_name for row in found)
        )
    return ws.listed_pdq


def _matrix(hashes: Sequence[bytes]) -> Hashes:
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES)


def copy_why(
    session: Session, sha256: str, digests: Digests, *, pending: bool = False
) -> Why | None:
    """Of which picture this one is a copy, of those that were flagged or are listed by an exact
    hash. ``pending``: only of those that what is stored was not compared with yet."""
    if digests.pdq is None or (digests.pdq_quality or 0) < MIN_QUALITY:
        return None
    flagged = _flagged(session, pending=pending)
    if not flagged:
        return None
    near = np.flatnonzero(
        distances(digests.pdq, _matrix([row.pdq or b"" for row in flagged])) <= MAX_DISTANCE
    )
    source = next((flagged[int(i)] for i in near if flagged[int(i)].sha256 != sha256), None)
    return None if source is None else _copy_of(source)


def _copy_of(source: WithheldImage) -> Why:
    return Why(
        reason="copy", actor=source.actor, copy_of=source.sha256, flag_reason=source.flag_reason
    )


def _flagged(session: Session, *, pending: bool = False) -> Sequence[WithheldImage]:
    query = select(WithheldImage).where(
        # Of those that are listed only what an exact hash names has one.
        WithheldImage.reason.in_(("flagged", "listed")),
        WithheldImage.pdq.is_not(None),
        WithheldImage.pdq_quality >= MIN_QUALITY,
        rows.IN_FORCE,
    )
    if pending:
        query = query.where(WithheldImage.compared_at.is_(None))
    return session.scalars(query.order_by(WithheldImage.at)).all()


def anything_withheld(session: Session, needs: Rules) -> bool:
    """Whether there is anything to compare pictures with."""
    if needs.version:
        return True
    return (
        session.scalar(
            select(WithheldImage.sha256).where(WithheldImage.reason == "flagged").limit(1)
        )
        is not None
    )


# --- stored pictures -------------------------------------------------------------------------


def check(ws: Workspace, sha256s: Collection[str], data: bytes | None = None) -> int:
    """Compare stored pictures with the lists and the flagged ones, unless they were; withhold
    those that are named. Returns how many are withheld now that were not.

    ``data``: the bytes, where there is one picture and they are at hand. Raises the StorageError
    tree; a picture whose bytes are away stays unchecked.
    """
    while True:
        with ws.catalog.read() as session:
            needs = rules(session)
            if not anything_withheld(session, needs):
                return 0
            todo = _unchecked(session, sha256s, needs.version)
        if not todo:
            return 0
        found: dict[str, Digests] = {}
        for sha256, known in todo.items():
            try:
                found[sha256] = _completed(ws, sha256, known, needs, data)
            except (BlobMissing, BlobDamaged):
                continue
        with ws.catalog.read() as session:
            whys = {
                sha256: listed_why(session, ws, sha256, digests, needs)
                for sha256, digests in found.items()
            }
        with ws.catalog.write() as session:
            if rules(session).version != needs.version:
                continue  # a list was loaded meanwhile
            return _keep(session, ws, found, whys, needs.version)


def _completed(
    ws: Workspace, sha256: str, known: Digests, needs: Rules, data: bytes | None
) -> Digests:
    whole = known.pdq is not None and all(
        getattr(known, kind) is not None for kind in ("md5", "sha1") if kind in needs.kinds
    )
    if whole:
        return known
    return digests_of(ws, ws.blobs.get(sha256) if data is None else data, needs, known)


def _unchecked(session: Session, sha256s: Collection[str], version: int) -> dict[str, Digests]:
    found: dict[str, Digests] = {}
    for some in chunks(dict.fromkeys(sha256s)):
        query = (
            select(Image.sha256, PictureDigest, ImageHash.pdq, ImageHash.quality)
            .outerjoin(PictureDigest, PictureDigest.sha256 == Image.sha256)
            .outerjoin(ImageHash, ImageHash.sha256 == Image.sha256)
            .where(Image.sha256.in_(some), due(version))
        )
        for sha256, row, value, quality in session.execute(query):
            known = Digests(pdq=value, pdq_quality=quality)
            if row is not None:
                known = Digests(row.md5, row.sha1, row.pdq or value, row.pdq_quality or quality)
            found[sha256] = known
    return found


def _keep(
    session: Session,
    ws: Workspace,
    found: Mapping[str, Digests],
    whys: Mapping[str, Why | None],
    version: int,
) -> int:
    fresh = 0
    for some in chunks(found):
        there = set(session.scalars(select(Image.sha256).where(Image.sha256.in_(some))))
        for sha256 in some:
            if sha256 not in there:
                continue  # forgotten meanwhile
            digests = found[sha256]
            session.merge(
                PictureDigest(
                    sha256=sha256,
                    md5=digests.md5,
                    sha1=digests.sha1,
                    pdq=digests.pdq,
                    pdq_quality=digests.pdq_quality,
                    version=version,
                )
            )
            why = whys[sha256] or copy_why(session, sha256, digests)
            if why is not None:
                fresh += rows.withhold(session, ws, sha256, why)
    return fresh


def check_pending(ws: Workspace, sha256: str) -> None:
    """Compare one stored picture with those that were flagged a moment ago."""
    with ws.catalog.read() as session:
        if not _flagged(session, pending=True):
            return
        why = copy_why(session, sha256, _digests(session, sha256), pending=True)
    if why is not None:
        with ws.catalog.write() as session:
            rows.withhold(session, ws, sha256, why)


def why_still(session: Session, ws: Workspace, sha256: str) -> tuple[bool, Why | None]:
    """Whether a stored picture was compared with the lists as they are now, and why it is to be
    withheld, whatever was decided before."""
    needs = rules(session)
    row = session.get(PictureDigest, sha256)
    if needs.version and (row is None or row.version < needs.version):
        return False, None
    digests = _digests(session, sha256)
    listed = listed_why(session, ws, sha256, digests, needs)
    return True, listed or copy_why(session, sha256, digests)


def pdq_to_find_copies(ws: Workspace, sha256: str) -> Digests:
    """The PDQ of a stored picture, by the catalog or else by its bytes; empty where neither has
    it."""
    with ws.catalog.read() as session:
        known = _digests(session, sha256)
    if known.pdq is not None:
        return known
    try:
        return digests_of(ws, ws.blobs.get(sha256), Rules(0, frozenset()))
    except (BlobMissing, BlobDamaged):
        return Digests()


def _digests(session: Session, sha256: str) -> Digests:
    row = session.get(PictureDigest, sha256)
    found = Digests() if row is None else Digests(row.md5, row.sha1, row.pdq, row.pdq_quality)
    known = session.get(ImageHash, sha256)
    if found.pdq is None and known is not None:
        found = replace(found, pdq=known.pdq, pdq_quality=known.quality)
    return found


# --- the job ---------------------------------------------------------------------------------


def check_pictures(ws: Workspace, job: JobRecord) -> None:
    """Compare what is stored with the lists and with the pictures that were flagged. What was
    compared stays so when it is broken off; a long one lets other jobs go first now and then."""
    done = 0
    last = ""
    while done < _SLICE:
        with ws.catalog.read() as session:
            version = rules(session).version
            some = session.scalars(
                select(Image.sha256)
                .outerjoin(PictureDigest, PictureDigest.sha256 == Image.sha256)
                .where(due(version), Image.sha256 > last)
                .order_by(Image.sha256)
                .limit(_BATCH)
            ).all()
        if not some:
            break
        check(ws, some)
        # Past those whose bytes are away, too: they are looked at when they are to be shown.
        done, last = done + len(some), some[-1]
        with ws.catalog.write() as session:
            queue.advance(session, ws.runner_id, job.job_id, min(done, job.total))
    if job.subject_id != CHECK_SUBJECT and done < _SLICE:
        _compare_flagged(ws)
    with ws.catalog.write() as session:
        queue.finish(session, ws.runner_id, job.job_id)
        if done >= _SLICE:
            if job.subject_id == CHECK_SUBJECT:
                ask_for_check(session)
            else:
                queue.enqueue(session, "check_pictures", job.subject_id)


def _compare_flagged(ws: Workspace) -> None:
    """Withhold the copies of pictures that were flagged since everything was last compared."""
    with ws.catalog.read() as session:
        pending = [
            (row.sha256, row.pdq or b"", _copy_of(row)) for row in _flagged(session, pending=True)
        ]
    if not pending:
        return
    near: dict[str, Why] = {}
    for shas, hashes in _stored_hashes(ws):
        for own, value, why in pending:
            for place in np.flatnonzero(distances(value, hashes) <= MAX_DISTANCE):
                if shas[place] != own:
                    near.setdefault(shas[place], why)
    for some in chunks(near, _BATCH):
        with ws.catalog.write() as session:
            for sha256 in some:
                rows.withhold(session, ws, sha256, near[sha256])
    with ws.catalog.write() as session:
        for own, _, _ in pending:
            rows.compared(session, own)


def _stored_hashes(ws: Workspace) -> Iterator[tuple[list[str], Hashes]]:
    """The hashes of all stored pictures that have enough to see, a part at a time."""
    for table, quality in (
        (ImageHash, ImageHash.quality),
        (PictureDigest, PictureDigest.pdq_quality),
    ):
        last = ""
        while True:
            with ws.catalog.read() as session:
                found = session.execute(
                    select(table.sha256, table.pdq)
                    .where(table.sha256 > last, table.pdq.is_not(None), quality >= MIN_QUALITY)
                    .order_by(table.sha256)
                    .limit(_PDQ_ROWS)
                ).all()
            if not found:
                break
            yield [row.sha256 for row in found], _matrix([row.pdq for row in found])
            last = found[-1].sha256
