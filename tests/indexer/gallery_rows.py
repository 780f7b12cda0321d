"""Faces put straight into a gallery, many at once, as an ingest would leave them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy import insert
from sqlalchemy.orm import Session

from indexer.catalog.tables import Ad, Capture, CaptureImage, Face, Image
from indexer.galleries import add_faces
from indexer.ids import new_id, random_id
from indexer.records import AdInput
from indexer.times import utc_now
from indexer.workspace import Workspace
from models.types import FloatArray
from tests.indexer.small import CONTRACT


def put_faces(ws: Workspace, vectors: FloatArray, ads: Sequence[AdInput] = ()) -> list[str]:
    """One image with one face for each of ``vectors`` (n, dimension), and for each of ``ads``, if
    there are any, one ad that shows the image of the same number; returns the ids of the faces."""
    with ws.catalog.write() as session:
        ids, shas = _faces(session, vectors)
        for ad, sha256 in zip(ads, shas, strict=bool(ads)):
            show(session, ad, sha256)
        session.flush()
        add_faces(session, "ads", CONTRACT, ids)
    return ids


def _faces(session: Session, vectors: FloatArray) -> tuple[list[str], list[str]]:
    now = utc_now()
    ids = [random_id() for _ in vectors]
    shas = [hashlib.sha256(face_id.encode()).hexdigest() for face_id in ids]
    session.execute(
        insert(Image),
        [
            {
                "sha256": sha256,
                "format": "png",
                "width": 64,
                "height": 64,
                "size": 1,
                "notes": [],
                "created_at": now,
            }
            for sha256 in shas
        ],
    )
    session.execute(
        insert(Face),
        [
            {
                "face_id": face_id,
                "sha256": sha256,
                "contract_id": CONTRACT,
                "face_index": 0,
                "x": 0.0,
                "y": 0.0,
                "width": 50.0,
                "height": 50.0,
                "landmarks": [],
                "scheme": "none",
                "turn": 0,
                "detection_score": 1.0,
                "quality": {"score": 0.5, "components": []},
                "vector": vector,
            }
            for face_id, sha256, vector in zip(ids, shas, vectors, strict=True)
        ],
    )
    return ids, shas


def show(session: Session, ad: AdInput, sha256: str) -> str:
    """A new ad that shows one image; returns its id."""
    ad_id, capture_id, now = new_id(), new_id(), utc_now()
    session.add(
        Ad(
            ad_id=ad_id,
            site=ad.site,
            external_id=ad.external_id,
            region=ad.region,
            posted_at=ad.posted_at,
            phones=[],
            emails=[],
            handles=[],
            attributes={},
            created_at=now,
            updated_at=now,
            last_received_at=now,
        )
    )
    session.flush()
    session.add(
        Capture(
            capture_id=capture_id,
            ad_id=ad_id,
            digest=hashlib.sha256(capture_id.encode()).hexdigest(),
            received_at=now,
            job_id=new_id(),
            content={},
        )
    )
    session.flush()
    session.add(
        CaptureImage(capture_id=capture_id, position=0, upload_sha256=sha256, sha256=sha256)
    )
    session.flush()
    return ad_id
