"""A data folder that holds very many faces, made quickly.

The originals are real pictures, and what the catalog says of them is what the analyser finds in
them; only the way in is shorter: rows are put into the tables many at a time, and files are not
synced one by one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import insert

from indexer.batches import chunks
from indexer.catalog.tables import (
    Ad,
    Capture,
    CaptureImage,
    Face,
    GalleryLog,
    GalleryMember,
    Image,
    ImageAnalysis,
    ImageHash,
    Job,
)
from indexer.faces import face_row
from indexer.galleries.members import _digest
from indexer.ids import new_id
from indexer.times import utc_now
from indexer.vectors.tags import Tag
from indexer.workspace import Workspace, open_workspace
from models.decode import decode
from models.pdq import pdq
from tests.endurance.drawn_packs import FIRST, analyser, calibration, load
from tests.indexer.small import Block, colour, picture

PEOPLE: Final = 14_000
PHOTOS: Final = 20
SITE: Final = "site-a.example"
_AT_ONCE = 500
_PLACES = ((8, 8), (108, 8), (8, 88), (108, 88))


class Crowd:
    """Endless pictures of ``PEOPLE`` people in ``PHOTOS`` photos each, 1 to 4 of them a picture;
    each picture has bytes of its own."""

    def __init__(self, seed: int, faces: int = 1) -> None:
        self.random = random.Random(seed)
        self.faces = faces
        self._salt = seed * 1_000_003

    def next(self, *people: int) -> bytes:
        """A picture of these people, or else of any."""
        draw = self.random
        shown = people or draw.sample(range(1, PEOPLE), self.faces)
        blocks: list[Block] = [
            (x, y, 40 + 2 * draw.randrange(12), colour(person, draw.randrange(PHOTOS)))
            for person, (x, y) in zip(shown, _PLACES, strict=False)
        ]
        # No two are the same: where they show the same, they do so before another wall.
        self._salt += 1
        return picture(*blocks, salt=self._salt % 60_000, scene=draw.randrange(2**31))


def portrait(person: int) -> bytes:
    """The photo with which a case is opened."""
    return picture((40, 30, 80, colour(person, 99)), scene=person)


def open_first(folder: Path, catalog_url: str | None = None) -> Workspace:
    """The data folder under the first pack, with the second one at hand."""
    return open_workspace(
        folder,
        analyser(FIRST),
        catalog_url=catalog_url,
        calibration=calibration(FIRST),
        pack=FIRST,
        load=load,
    )


def stock(ws: Workspace, pictures: int, faces: int, seed: int = 1) -> None:
    """Put so many ads with one picture each, of so many faces, into an empty folder."""
    crowd = Crowd(seed, faces)
    for numbers in chunks(range(pictures), _AT_ONCE):
        rows: dict[type[Any], list[dict[str, Any]]] = {}
        for number in numbers:
            for table, row in _ad(ws, number, crowd.next()):
                rows.setdefault(table, []).append(row)
        with ws.catalog.write() as session:
            for table in _ORDER:
                session.execute(insert(table), rows[table])


_ORDER: list[type[Any]] = [
    *(Image, ImageAnalysis, ImageHash, Face, GalleryMember, GalleryLog),
    *(Ad, Job, Capture, CaptureImage),
]


def _ad(ws: Workspace, number: int, data: bytes) -> Iterator[tuple[type[Any], dict[str, Any]]]:
    now = utc_now()
    sha256 = hashlib.sha256(data).hexdigest()
    path = ws.data_dir / "blobs" / sha256[:2] / sha256[2:4] / sha256
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_bytes(data)
    image = decode(data, ws.limits)
    size = {"width": image.width, "height": image.height}
    yield (
        Image,
        {
            **size,
            "sha256": sha256,
            "format": image.format,
            "size": len(data),
            "notes": [],
            "created_at": now,
        },
    )
    contract = {"contract_id": ws.contract_id}
    yield ImageAnalysis, {**contract, "sha256": sha256, "state": "done", "analysed_at": now}
    value, quality = pdq(image.pixels)
    yield ImageHash, {"sha256": sha256, "pdq": value, "quality": quality}
    tags = _digest([Tag(site=SITE, region="", posted_ms=None)])
    for index, face in enumerate(ws.analyser.analyse([image.pixels])[0]):
        row = face_row(sha256, ws.contract_id, index, face, vector=True)
        yield Face, {column.key: getattr(row, column.key) for column in Face.__table__.columns}
        member = {**contract, "gallery": "ads", "face_id": row.face_id}
        yield GalleryMember, {**member, "tags_digest": tags}
        yield GalleryLog, {**member, "op": "add"}
    ad_id, job_id, capture_id = new_id(), new_id(), new_id()
    yield (
        Ad,
        {
            "ad_id": ad_id,
            "site": SITE,
            "external_id": f"stock-{number}",
            "phones": [],
            "emails": [],
            "handles": [],
            "attributes": {},
            "legal_hold": False,
            "last_received_at": now,
            "created_at": now,
            "updated_at": now,
        },
    )
    yield (
        Job,
        {
            "job_id": job_id,
            "kind": "ingest_ad",
            "subject_id": ad_id,
            "state": "done",
            "payload": {"capture_id": capture_id},
            "done": 1,
            "total": 1,
            "priority": 10,
            "attempts": 1,
            "alone": False,
            "failures": [],
            "created_at": now,
            "started_at": now,
            "finished_at": now,
        },
    )
    yield (
        Capture,
        {
            "capture_id": capture_id,
            "ad_id": ad_id,
            "digest": sha256,
            "job_id": job_id,
            "received_at": now,
            "content": {},
        },
    )
    yield (
        CaptureImage,
        {
            "capture_id": capture_id,
            "position": 0,
            "upload_sha256": sha256,
            "sha256": sha256,
            "header_width": image.width,
            "header_height": image.height,
        },
    )
