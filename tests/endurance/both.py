"""What has to hold of several generations beside each other, found out picture by picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from indexer.alerting import LEAST_GALLERY
from indexer.blobs import LocalBlobStore
from indexer.catalog import Catalog
from indexer.catalog.tables import (
    Ad,
    Alert,
    Candidate,
    Capture,
    CaptureImage,
    Case,
    Enrolment,
    Face,
    GalleryLog,
    GalleryMember,
    ImageAnalysis,
    Job,
    Photo,
)
from indexer.catalog.types import stacked
from indexer.faces import overlap
from indexer.galleries.opening import LOCAL, open_gallery
from indexer.generations import missing, rows
from indexer.vectors.base import exact_scores
from models.decode import DEFAULT_LIMITS, decode
from models.types import Box
from tests.endurance.drawn_packs import CONTRACTS, FIRST, analyser, calibration
from tests.indexer.small import DIMENSION

Place = tuple[float, float, float, float]

_SAME = 0.5


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted while checking."""

    ads: int
    images: int
    faces: Mapping[str, int]
    enrolled: Mapping[str, int]
    candidates: int
    alerts: int


def check_all(
    folder: Path,
    catalog: Catalog,
    *,
    read_originals: bool = True,
    complete: bool = True,
    jobs: Sequence[str] = ("done",),
) -> Counted:
    """Under every contract in use, being built or kept: each image that an ad shows has exactly
    its faces, each of them once in the gallery of ads, and nothing else is in it; the same for
    the photos of open cases; galleries on disk equal the catalog; no vector is left of what is in
    no gallery or in no generation; nothing was told twice.

    ``read_originals``: find the faces once more in the stored bytes, instead of trusting that the
    contracts agree. ``complete``: every face that is rare enough was told, which is certain in a
    gallery of up to 1,000 faces, since its size does not count there.
    """
    with catalog.read() as session:
        states = Counter(session.scalars(select(Job.state)))
        assert set(states) <= set(jobs), f"jobs are left: {dict(states)}"
        live = [one.contract_id for one in rows.live(session)]
        shown = {
            sha256
            for sha256 in session.scalars(select(CaptureImage.sha256).distinct())
            if sha256 is not None
        }
        ads = session.scalar(select(func.count()).select_from(Ad)) or 0
        _captures_once(session)
        expected = _faces_of(folder, shown) if read_originals else None
        faces, enrolled = {}, {}
        for contract_id in live:
            left = missing.look(session, contract_id)
            assert not left, f"{left} under {contract_id}"
            found = _places(session, contract_id, shown)
            expected = expected if expected is not None else found
            _compare(expected, found, contract_id)
            faces[contract_id] = _ads_gallery(session, contract_id, shown)
            enrolled[contract_id] = _cases_gallery(session, contract_id)
        _no_remains(session, live)
        candidates, alerts = _told_once(session)
        active = rows.active_id(session)
        if complete and active is not None and faces[active]:
            assert faces[active] <= LEAST_GALLERY, "the limit would have changed on the way"
            _told_all(session, active)
    for contract_id in live:
        _files_agree(folder, catalog, contract_id)
    return Counted(ads, len(shown), faces, enrolled, candidates, alerts)


def _captures_once(session: Session) -> None:
    doubled = session.execute(
        select(Capture.ad_id, Capture.digest)
        .group_by(Capture.ad_id, Capture.digest)
        .having(func.count() > 1)
    ).all()
    assert doubled == [], "a capture is doubled"


def _faces_of(folder: Path, shown: set[str]) -> dict[str, list[Place]]:
    """The faces in the stored originals, found anew."""
    blobs = LocalBlobStore(folder / "blobs")
    eyes = analyser(FIRST)
    found = {}
    for sha256 in shown:
        pixels = decode(blobs.get(sha256), DEFAULT_LIMITS).pixels
        found[sha256] = sorted(_place(face.box) for face in eyes.analyse([pixels])[0])
    return found


def _place(box: Box) -> Place:
    return box.x, box.y, box.width, box.height


def _places(session: Session, contract_id: str, shown: set[str]) -> dict[str, list[Place]]:
    """The faces of shown images as the catalog has them under a contract."""
    analysed = set(
        session.scalars(
            select(ImageAnalysis.sha256).where(
                ImageAnalysis.contract_id == contract_id, ImageAnalysis.state == "done"
            )
        )
    )
    assert shown <= analysed, f"{len(shown - analysed)} images were not read under {contract_id}"
    found: dict[str, list[Place]] = {sha256: [] for sha256 in shown}
    columns = (Face.sha256, Face.x, Face.y, Face.width, Face.height)
    for sha256, *place in session.execute(select(*columns).where(Face.contract_id == contract_id)):
        if sha256 in found:
            found[sha256].append((place[0], place[1], place[2], place[3]))
    return {sha256: sorted(places) for sha256, places in found.items()}


def _compare(
    expected: Mapping[str, list[Place]], found: Mapping[str, list[Place]], contract_id: str
) -> None:
    wrong = [sha256 for sha256, places in expected.items() if found[sha256] != places]
    assert wrong == [], f"{len(wrong)} images have other faces under {contract_id}: {wrong[:3]}"


def _ads_gallery(session: Session, contract_id: str, shown: set[str]) -> int:
    """Each face of a shown image is a member with a vector, and nothing else is."""
    own = {
        face_id: (sha256, vector is not None)
        for face_id, sha256, vector in session.execute(
            select(Face.face_id, Face.sha256, Face.vector).where(Face.contract_id == contract_id)
        )
    }
    wanted = {face_id for face_id, (sha256, _) in own.items() if sha256 in shown}
    members = _members(session, "ads", contract_id)
    assert members == wanted, (
        f"{contract_id}: {len(wanted - members)} faces are lost, {len(members - wanted)} too many"
    )
    assert all(own[face_id][1] for face_id in members), "a member has no vector"
    return len(members)


def _cases_gallery(session: Session, contract_id: str) -> int:
    wanted = set(
        session.scalars(
            select(Enrolment.face_id)
            .join(Photo, Photo.photo_id == Enrolment.photo_id)
            .join(Case, Case.case_id == Photo.case_id)
            .where(Case.status == "open", Enrolment.contract_id == contract_id)
        )
    )
    photos = session.scalar(
        select(func.count())
        .select_from(Photo)
        .join(Case, Case.case_id == Photo.case_id)
        .where(Case.status == "open")
    )
    assert None not in wanted, "a photo could not be enrolled"
    members = _members(session, "cases", contract_id)
    assert members == wanted, (
        f"{contract_id}: {len(wanted - members)} photos are lost, {len(members - wanted)} too many"
    )
    assert len(members) == photos, f"{photos} photos, {len(members)} enrolled under {contract_id}"
    return len(members)


def _members(session: Session, gallery: str, contract_id: str) -> set[str]:
    """The members; the log, played through, comes to the same."""
    columns = GalleryLog.face_id, GalleryLog.op
    conditions = GalleryLog.gallery == gallery, GalleryLog.contract_id == contract_id
    played: set[str] = set()
    for face_id, op in session.execute(
        select(*columns).where(*conditions).order_by(GalleryLog.seq)
    ):
        if op == "add":
            played.add(face_id)
        else:
            played.discard(face_id)
    members = set(
        session.scalars(
            select(GalleryMember.face_id).where(
                GalleryMember.gallery == gallery, GalleryMember.contract_id == contract_id
            )
        )
    )
    assert played == members, f"log and members of {gallery} differ under {contract_id}"
    return members


def _no_remains(session: Session, live: Sequence[str]) -> None:
    """No vector of what is in no gallery; nothing at all of contracts without a generation, but
    for boxes of faces that somebody may have judged."""
    member = select(GalleryMember.face_id).where(GalleryMember.face_id == Face.face_id).exists()
    idle = session.scalar(select(func.count()).where(Face.vector.is_not(None), ~member))
    assert not idle, f"{idle} vectors are left of faces in no gallery"
    dropping = {one.contract_id for one in rows.all_generations(session)} - set(live)
    gone = set(CONTRACTS.values()) - set(live) - dropping
    for table in (GalleryMember, GalleryLog, ImageAnalysis, Enrolment, Job):
        column = table.contract_id
        left = session.scalar(select(func.count()).where(column.in_(gone)))
        assert not left, f"{left} rows of {table.__tablename__} are left of {gone}"
    candidate = select(Candidate.face_id).where(Candidate.face_id == Face.face_id).exists()
    left = session.scalar(select(func.count()).where(Face.contract_id.in_(gone), ~candidate))
    assert not left, f"{left} faces are left of {gone}"


def _told_once(session: Session) -> tuple[int, int]:
    """One candidate for a case and a face, one alert for a case and a place in a picture."""
    candidates = session.execute(select(Candidate.case_id, Candidate.face_id)).all()
    assert len(set(candidates)) == len(candidates), "a candidate is doubled"
    told: dict[tuple[str, str], list[Box]] = {}
    alerts = 0
    for case_id, sha256, x, y, width, height in session.execute(
        select(Alert.case_id, Face.sha256, Face.x, Face.y, Face.width, Face.height).join(
            Face, Face.face_id == Alert.face_id
        )
    ):
        box = Box(x, y, width, height)
        before = told.setdefault((case_id, sha256), [])
        assert all(overlap(box, one) < _SAME for one in before), "a face was told twice"
        before.append(box)
        alerts += 1
    return len(candidates), alerts


def _told_all(session: Session, contract_id: str) -> None:
    """Every face that is rare enough for an open case is a candidate of it, and it or the picture
    of which it is a copy was told."""
    scale = calibration(next(name for name, one in CONTRACTS.items() if one == contract_id))
    found = session.execute(
        select(Face.face_id, Face.vector)
        .join(GalleryMember, GalleryMember.face_id == Face.face_id)
        .where(GalleryMember.gallery == "ads", GalleryMember.contract_id == contract_id)
    ).all()
    face_ids = [face_id for face_id, _ in found]
    matrix = np.asarray(stacked(vector for _, vector in found)).reshape(-1, DIMENSION)
    for case_id, probe in session.execute(
        select(Photo.case_id, Face.vector)
        .join(Case, Case.case_id == Photo.case_id)
        .join(Enrolment, Enrolment.photo_id == Photo.photo_id)
        .join(Face, Face.face_id == Enrolment.face_id)
        .where(Case.status == "open", Enrolment.contract_id == contract_id)
    ):
        assert probe is not None
        scores = exact_scores(probe, matrix)
        rare = {
            face_id
            for face_id, score in zip(face_ids, scores, strict=True)
            if scale.fmr(min(1.0, float(score)), 1).upper * LEAST_GALLERY <= 1.0
        }
        kept = {
            row.face_id: row.sighting_id
            for row in session.scalars(select(Candidate).where(Candidate.case_id == case_id))
        }
        assert rare <= set(kept), f"{len(rare - set(kept))} faces were not compared with a case"
        told = set(session.scalars(select(Alert.sighting_id).where(Alert.case_id == case_id)))
        assert {kept[face_id] for face_id in rare} <= told, "an alert is lost"


def _files_agree(folder: Path, catalog: Catalog, contract_id: str) -> None:
    for name in ("cases", "ads"):
        gallery = open_gallery(
            catalog,
            name,
            contract_id,
            DIMENSION,
            folder / "index",
            LOCAL,
        )
        try:
            wrong = gallery.health()
            assert wrong is None, f"gallery of {name} under {contract_id}: {wrong}"
        finally:
            gallery.close()
