"""Which faces a gallery holds, changed in the caller's transaction together with its log.

A face is logged anew when what it may be filtered by has changed, so that the views of all
processes follow that as well: an image that a second ad shows, an ad that was moved, a case that
went to another agency.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import astuple

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.orm import Session

from indexer.batches import chunks
from indexer.catalog.tables import Capture, CaptureImage, Face, GalleryLog, GalleryMember
from indexer.galleries import log
from indexer.records import GalleryName
from indexer.vectors.tags import Tag


def add_faces(
    session: Session, gallery: GalleryName, contract_id: str, face_ids: Collection[str]
) -> list[str]:
    """Put faces into a gallery; returns those that were not in it.

    Those that were in it already are brought up to date, as by :func:`refresh_faces`.
    """
    wanted = list(dict.fromkeys(face_ids))
    present = log.present(session, gallery, contract_id, wanted)
    digests = _digests(session, gallery, contract_id, wanted)
    fresh = [face_id for face_id in wanted if face_id not in present]
    if fresh:
        session.execute(
            insert(GalleryMember),
            [
                {
                    "gallery": gallery,
                    "contract_id": contract_id,
                    "face_id": face_id,
                    "tags_digest": digests[face_id],
                }
                for face_id in fresh
            ],
        )
    moved = _note(session, gallery, contract_id, present, digests)
    _log(session, gallery, contract_id, [*fresh, *moved], "add")
    return fresh


def refresh_faces(
    session: Session, gallery: GalleryName, contract_id: str, face_ids: Collection[str]
) -> list[str]:
    """Log those members anew whose tags have changed; returns them. Others are left alone."""
    present = log.present(session, gallery, contract_id, face_ids)
    digests = _digests(session, gallery, contract_id, list(present))
    moved = _note(session, gallery, contract_id, present, digests)
    _log(session, gallery, contract_id, moved, "add")
    return moved


def refresh_ad(session: Session, ad_id: str) -> list[str]:
    """As :func:`refresh_faces`, for all faces that this ad ever showed, under every contract."""
    shown = session.execute(
        select(Face.contract_id, Face.face_id)
        .join(CaptureImage, CaptureImage.sha256 == Face.sha256)
        .join(Capture, Capture.capture_id == CaptureImage.capture_id)
        .where(Capture.ad_id == ad_id)
        .distinct()
    )
    by_contract: dict[str, list[str]] = {}
    for contract_id, face_id in shown:
        by_contract.setdefault(contract_id, []).append(face_id)
    return [
        face_id
        for contract_id, face_ids in by_contract.items()
        for face_id in refresh_faces(session, "ads", contract_id, face_ids)
    ]


def remove_faces(
    session: Session, gallery: GalleryName, contract_id: str, face_ids: Collection[str]
) -> list[str]:
    """Take faces out of a gallery; returns those that were in it."""
    present = log.present(session, gallery, contract_id, face_ids)
    gone = [face_id for face_id in dict.fromkeys(face_ids) if face_id in present]
    for some in chunks(gone):
        session.execute(
            delete(GalleryMember).where(
                GalleryMember.gallery == gallery,
                GalleryMember.contract_id == contract_id,
                GalleryMember.face_id.in_(some),
            )
        )
    _log(session, gallery, contract_id, gone, "remove")
    return gone


def drop_idle_vectors(session: Session, face_ids: Iterable[str]) -> int:
    """Erase the vectors of those faces that are in no gallery; returns how many were erased."""
    erased = 0
    for some in chunks(face_ids):
        idle = list(
            session.scalars(
                select(Face.face_id).where(
                    Face.face_id.in_(some),
                    Face.vector.is_not(None),
                    ~select(GalleryMember.face_id)
                    .where(GalleryMember.face_id == Face.face_id)
                    .exists(),
                )
            )
        )
        session.execute(update(Face).where(Face.face_id.in_(idle)).values(vector=None))
        erased += len(idle)
    return erased


def _digests(
    session: Session, gallery: GalleryName, contract_id: str, face_ids: Collection[str]
) -> dict[str, str]:
    tags = log.tags_of(session, gallery, face_ids)
    return {face_id: _digest(tags.get(face_id, ())) for face_id in face_ids}


def _digest(tags: Iterable[Tag]) -> str:
    text = json.dumps(sorted(json.dumps(astuple(tag)) for tag in tags))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _note(
    session: Session,
    gallery: str,
    contract_id: str,
    present: dict[str, str | None],
    digests: dict[str, str],
) -> list[str]:
    """Keep the digests of members that changed; returns those."""
    moved = [face_id for face_id, digest in present.items() if digests[face_id] != digest]
    if moved:
        session.connection().execute(
            update(GalleryMember)
            .where(
                GalleryMember.gallery == gallery,
                GalleryMember.contract_id == contract_id,
                GalleryMember.face_id == bindparam("member"),
            )
            .values(tags_digest=bindparam("digest")),
            [{"member": face_id, "digest": digests[face_id]} for face_id in moved],
        )
    return moved


def _log(
    session: Session, gallery: str, contract_id: str, face_ids: Collection[str], op: str
) -> None:
    if face_ids:
        session.execute(
            insert(GalleryLog),
            [
                {"gallery": gallery, "contract_id": contract_id, "face_id": face_id, "op": op}
                for face_id in face_ids
            ],
        )
