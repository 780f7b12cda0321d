"""What the catalog says of a gallery: its log, and the vectors and tags of its faces.

Numbers of the log rise in the order of commits, so whoever has followed it up to one number has
seen everything that was committed before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from indexer.batches import chunks
from indexer.catalog import Catalog
from indexer.catalog.tables import (
    Ad,
    Capture,
    CaptureImage,
    Case,
    Enrolment,
    Face,
    GalleryLog,
    GalleryMember,
    Photo,
)
from indexer.catalog.types import stacked
from indexer.records import GalleryName, SearchFilter
from indexer.vectors.segment import History
from indexer.vectors.tags import Filter, Tag
from models.types import FloatArray

_LOG_ROWS = 20_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

BEGINNING = History(0, "")
"""Before the first entry of a log."""


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """Faces to be indexed: ``vectors`` float32 (n, dimension), ``tags`` one tuple for each."""

    ids: list[str]
    vectors: FloatArray
    tags: list[tuple[Tag, ...]]


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened to each face last, up to and with the entry ``upto``; ``entries`` in all."""

    removed: list[str]
    added: list[str]
    upto: History
    entries: int


def last_entry(session: Session, gallery: str, contract_id: str) -> History:
    """The newest entry of the log."""
    row = session.execute(
        select(GalleryLog.seq, GalleryLog.face_id)
        .where(GalleryLog.gallery == gallery, GalleryLog.contract_id == contract_id)
        .order_by(GalleryLog.seq.desc())
        .limit(1)
    ).first()
    return BEGINNING if row is None else History(row.seq, row.face_id)


def knows(session: Session, gallery: str, contract_id: str, history: History) -> bool:
    """Whether the log has this entry: what was made from another catalog, say one that was
    restored from a back-up, has another history."""
    if history.seq == 0:
        return True
    face_id = session.scalar(
        select(GalleryLog.face_id).where(
            GalleryLog.seq == history.seq,
            GalleryLog.gallery == gallery,
            GalleryLog.contract_id == contract_id,
        )
    )
    return bool(face_id == history.seq_face_id)


def changes(session: Session, gallery: str, contract_id: str, after: int) -> Changes | None:
    """The next entries after number ``after``; ``None`` where there are none."""
    entries = session.execute(
        select(GalleryLog.seq, GalleryLog.face_id, GalleryLog.op)
        .where(
            GalleryLog.gallery == gallery,
            GalleryLog.contract_id == contract_id,
            GalleryLog.seq > after,
        )
        .order_by(GalleryLog.seq)
        .limit(_LOG_ROWS)
    ).all()
    if not entries:
        return None
    last = {face_id: op for _, face_id, op in entries}
    return Changes(
        [face_id for face_id, op in last.items() if op == "remove"],
        [face_id for face_id, op in last.items() if op == "add"],
        History(entries[-1][0], entries[-1][1]),
        len(entries),
    )


def faces(
    session: Session, gallery: GalleryName, contract_id: str, face_ids: Collection[str]
) -> Iterator[Faces]:
    """Those of the faces that are still in the gallery, some at a time.

    One that has left it since it was logged is not among them: its removal comes later in the log,
    and until then a view that follows must not find it again.
    """
    for some in chunks(face_ids):
        rows = session.execute(
            select(Face.face_id, Face.vector)
            .join(GalleryMember, GalleryMember.face_id == Face.face_id)
            .where(
                Face.face_id.in_(some),
                GalleryMember.gallery == gallery,
                GalleryMember.contract_id == contract_id,
                Face.vector.is_not(None),
            )
        ).all()
        if rows:
            yield _faces(session, gallery, [(row[0], row[1]) for row in rows])


def all_faces(
    catalog: Catalog, gallery: GalleryName, contract_id: str, block: int
) -> Iterator[Faces]:
    """Everything in the gallery, ordered by id, ``block`` faces at a time, each read by itself.

    What changes meanwhile may be in it or not; it is in the log after what was its last entry
    before.
    """
    after = ""
    while True:
        with catalog.read() as session:
            rows = session.execute(
                select(Face.face_id, Face.vector)
                .join(GalleryMember, GalleryMember.face_id == Face.face_id)
                .where(
                    GalleryMember.gallery == gallery,
                    GalleryMember.contract_id == contract_id,
                    GalleryMember.face_id > after,
                    Face.vector.is_not(None),
                )
                .order_by(GalleryMember.face_id)
                .limit(block)
            ).all()
            if not rows:
                return
            some = _faces(session, gallery, [(row[0], row[1]) for row in rows])
        after = some.ids[-1]
        yield some


def count_members(session: Session, gallery: str, contract_id: str) -> int:
    """How many faces are in the gallery."""
    found = session.scalar(
        select(func.count()).where(
            GalleryMember.gallery == gallery, GalleryMember.contract_id == contract_id
        )
    )
    return found or 0


def members(session: Session, gallery: str, contract_id: str) -> set[str]:
    """The ids of all faces in the gallery."""
    return set(
        session.scalars(
            select(GalleryMember.face_id).where(
                GalleryMember.gallery == gallery, GalleryMember.contract_id == contract_id
            )
        )
    )


def present(
    session: Session, gallery: str, contract_id: str, face_ids: Collection[str]
) -> dict[str, str | None]:
    """Those of the faces that are in the gallery, with the digest of the tags last logged."""
    found: dict[str, str | None] = {}
    for some in chunks(face_ids):
        rows = session.execute(
            select(GalleryMember.face_id, GalleryMember.tags_digest).where(
                GalleryMember.gallery == gallery,
                GalleryMember.contract_id == contract_id,
                GalleryMember.face_id.in_(some),
            )
        )
        found.update((row.face_id, row.tags_digest) for row in rows)
    return found


def strangers(
    session: Session, gallery: str, contract_id: str, face_ids: Collection[str]
) -> set[str]:
    """Those of the faces that are not in the gallery."""
    return set(face_ids) - present(session, gallery, contract_id, face_ids).keys()


def difference(expected: set[str], held: set[str], where: str) -> str | None:
    """How what is held ``where`` differs from what the catalog expects, or ``None``."""
    if held == expected:
        return None
    missing, extra = len(expected - held), len(held - expected)
    return f"{missing} faces are missing in {where}, {extra} extra"


def tags_of(
    session: Session, gallery: GalleryName, face_ids: Collection[str]
) -> dict[str, tuple[Tag, ...]]:
    """What each face may be filtered by: the ads that show it, or the cases that look for it."""
    found: dict[str, set[Tag]] = {}
    for some in chunks(face_ids):
        if gallery == "ads":
            shown = session.execute(
                select(Face.face_id, Ad.site, Ad.region, Ad.posted_at)
                .join(CaptureImage, CaptureImage.sha256 == Face.sha256)
                .join(Capture, Capture.capture_id == CaptureImage.capture_id)
                .join(Ad, Ad.ad_id == Capture.ad_id)
                .where(Face.face_id.in_(some))
                .distinct()
            )
            for face_id, site, region, posted_at in shown:
                tag = Tag(site=site, region=region or "", posted_ms=_ms(posted_at))
                found.setdefault(face_id, set()).add(tag)
        else:
            enrolled = session.execute(
                select(Enrolment.face_id, Case.agency, Case.status)
                .join(Photo, Photo.photo_id == Enrolment.photo_id)
                .join(Case, Case.case_id == Photo.case_id)
                .where(Enrolment.face_id.in_(some))
                .distinct()
            )
            for enrolled_id, agency, status in enrolled:
                if enrolled_id is not None:
                    tag = Tag(agency=agency, status=status)
                    found.setdefault(enrolled_id, set()).add(tag)
    return {face_id: tuple(sorted(tags, key=repr)) for face_id, tags in found.items()}


def index_filter(filters: SearchFilter) -> Filter:
    """The filter of a search as the index takes it."""
    return Filter(
        site=filters.site,
        region=filters.region,
        posted_from_ms=_bound(filters.posted_after),
        posted_before_ms=_bound(filters.posted_before),
    )


def _faces(
    session: Session, gallery: GalleryName, rows: Sequence[tuple[str, FloatArray | None]]
) -> Faces:
    ids = [face_id for face_id, _ in rows]
    tags = tags_of(session, gallery, ids)
    return Faces(
        ids,
        np.ascontiguousarray(stacked(vector for _, vector in rows)),
        [tags.get(face_id, ()) for face_id in ids],
    )


def _bound(moment: datetime | None) -> int | None:
    # Rounded up: of times in whole milliseconds the same ones lie before it.
    return None if moment is None else -((_EPOCH - moment) // timedelta(milliseconds=1))


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // timedelta(milliseconds=1)
