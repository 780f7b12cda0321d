"""Whether a face in a new ad is the very picture of a face that a case has as a candidate already.

Reposts are the same picture again: in another size, another encoding, a little cropped. Such a
copy is no new sighting of anybody, and it raises no alert of its own. What is taken for a copy is
therefore never told twice, so all has to agree: the picture, the place in it, and the face. A
template that many ads share, with another face on it, is not a copy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, aliased

from indexer.batches import chunks
from indexer.catalog.tables import Alert, Candidate, Face, Image, ImageHash
from indexer.faces import box_of, overlap, same_place
from indexer.hashes import MIN_QUALITY, NearHashes
from indexer.ids import new_id
from indexer.vectors.base import exact_scores
from models.calibration import Calibration
from models.types import Box, FloatArray

SAME_PLACE: Final = 0.35
"""Intersection over union of two boxes, each as a share of its picture. The detector's boxes jump
in size between copies: the lowest that was seen is 0.38, of two faces in one picture none."""

COPY_SHARE: Final = 0.5
"""How far between the calibration's highest score and 1 the cosine of a copy has to lie."""

_UNCALIBRATED: Final = 0.985
_AT_ONCE: Final = 32


def copy_threshold(calibration: Calibration | None) -> float:
    """The cosine from which a face in a near-duplicate picture counts as the same picture of it."""
    if calibration is None:
        return _UNCALIBRATED
    highest = max(float(curve.score[-1]) for curve in calibration.curves.values())
    return highest + COPY_SHARE * (1.0 - highest)


def sighting_of(
    session: Session,
    case_id: str,
    contract_id: str,
    face_id: str,
    calibration: Calibration | None = None,
) -> str | None:
    """The sighting of the oldest candidate of a case of which this face is a copy, or ``None``.

    Two faces are copies where they are the same place of the very same image, whatever contract
    they were read under; or where their images are near-duplicates, their boxes, each as a share
    of its image, overlap by ``SAME_PLACE`` or more, and the cosine of their vectors under
    ``contract_id`` is at least :func:`copy_threshold`.
    """
    return _Sightings(session, case_id, contract_id, calibration).find(face_id)


def sightings_of(
    session: Session,
    case_id: str,
    contract_id: str,
    fresh: Mapping[str, str],
    calibration: Calibration | None = None,
) -> dict[str, str]:
    """The sightings of faces that become candidates of one case, for each face id.

    ``fresh``: face id to the id that its candidate will have, oldest first. A face that is a copy
    (see :func:`sighting_of`) of a candidate, or of a face before it in ``fresh``, has that one's
    sighting; any other starts its own, named by its candidate, or has the one that was told.
    """
    seen = _Sightings(session, case_id, contract_id, calibration)
    seen.load(fresh)
    told = _told(session, case_id, fresh)
    found: dict[str, str] = {}
    for face_id, candidate_id in fresh.items():
        found[face_id] = seen.find(face_id) or candidate_id
        seen.note(face_id, candidate_id, found[face_id])
    # Where one was told before, its copies keep to what was told, and are not told again.
    again = {found[face_id]: sighting_id for face_id, (_, sighting_id) in told.items()}
    return {face_id: again.get(sighting_id, sighting_id) for face_id, sighting_id in found.items()}


def candidate_ids(session: Session, case_id: str, face_ids: Collection[str]) -> dict[str, str]:
    """Ids for faces that become candidates of one case: the one under which a face was told
    before, so that its alert leads to it again; else a new one."""
    told = _told(session, case_id, face_ids)
    wanted = {candidate_id for candidate_id, _ in told.values()}
    taken: set[str] = set()
    for some in chunks(wanted):
        # Read again under another contract, a face is told of by the candidate it was before.
        rows = select(Candidate.candidate_id).where(Candidate.candidate_id.in_(some))
        taken.update(session.scalars(rows))
    found: dict[str, str] = {}
    for face_id in face_ids:
        before = told[face_id][0] if face_id in told else None
        found[face_id] = new_id() if before is None or before in taken else before
        taken.add(found[face_id])
    return found


def _told(session: Session, case_id: str, face_ids: Collection[str]) -> dict[str, tuple[str, str]]:
    """Candidate and sighting of the alerts that were raised for these faces, or for what was read
    at the same place of the same picture under another contract."""
    found: dict[str, tuple[str, str]] = {}
    told = aliased(Face)
    for some in chunks(face_ids):
        rows = session.execute(
            select(Face, told, Alert.candidate_id, Alert.sighting_id)
            .join(told, told.sha256 == Face.sha256)
            .join(Alert, Alert.face_id == told.face_id)
            .where(Alert.case_id == case_id, Face.face_id.in_(some))
            .order_by(Alert.seq)
        )
        for face, other, candidate_id, sighting_id in rows:
            same = face.face_id == other.face_id
            again = face.contract_id != other.contract_id
            if again and same_place(box_of(face), box_of(other)):
                found.setdefault(face.face_id, (candidate_id, sighting_id))
            elif same:
                found[face.face_id] = candidate_id, sighting_id
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Shown:
    """A face in its picture: ``place`` in pixels, ``box`` as a share of its width and height."""

    sha256: str
    contract_id: str
    place: Box
    box: Box
    vector: FloatArray | None
    pdq: bytes | None


class _Sightings:
    """The candidates of one case, by what their pictures look like; vectors only as needed."""

    def __init__(
        self,
        session: Session,
        case_id: str,
        contract_id: str,
        calibration: Calibration | None,
    ) -> None:
        self._session = session
        self._contract_id = contract_id
        self._threshold = copy_threshold(calibration)
        self._faces: dict[str, _Shown] = {}
        self._held: dict[str, tuple[str, str]] = {}  # candidate to its face and sighting
        self._by_image: dict[str, list[str]] = {}
        self._by_look = NearHashes()
        rows = session.execute(
            select(
                Candidate.candidate_id,
                Candidate.face_id,
                Candidate.sighting_id,
                Face.sha256,
                ImageHash.pdq,
            )
            .join(Face, Face.face_id == Candidate.face_id)
            .outerjoin(ImageHash, _usable_hash())
            .where(Candidate.case_id == case_id)
        )
        for candidate_id, face_id, sighting_id, sha256, pdq in rows:
            self._add(candidate_id, face_id, sighting_id, sha256, pdq)

    def find(self, face_id: str) -> str | None:
        """The sighting that shows this face's picture first."""
        self.load([face_id])
        face = self._faces.get(face_id)
        if face is None:
            return None
        alike = set(self._by_image.get(face.sha256, ()))
        if face.pdq is not None:
            alike |= self._by_look.near(face.pdq)
        # Oldest first, and a few at a time: the first copy is mostly the first of all.
        for some in chunks(sorted(alike), _AT_ONCE):
            self.load(self._held[candidate_id][0] for candidate_id in some)
            for candidate_id in some:
                other_id, sighting_id = self._held[candidate_id]
                if other_id == face_id:
                    return sighting_id
                other = self._faces.get(other_id)
                if other is not None and self._is_copy(face, other):
                    return sighting_id
        return None

    def note(self, face_id: str, candidate_id: str, sighting_id: str) -> None:
        """Count a face among the candidates from now on."""
        face = self._faces.get(face_id)
        if face is not None:
            self._add(candidate_id, face_id, sighting_id, face.sha256, face.pdq)

    def load(self, face_ids: Iterable[str]) -> None:
        """Read faces that were not read yet."""
        missing = dict.fromkeys(one for one in face_ids if one not in self._faces)
        for some in chunks(missing):
            rows = self._session.execute(
                select(Face, Image.width, Image.height, ImageHash.pdq)
                .join(Image, Image.sha256 == Face.sha256)
                .outerjoin(ImageHash, _usable_hash())
                .where(Face.face_id.in_(some))
            )
            for row, width, height, pdq in rows:
                share = Box(row.x / width, row.y / height, row.width / width, row.height / height)
                self._faces[row.face_id] = _Shown(
                    row.sha256, row.contract_id, box_of(row), share, row.vector, pdq
                )

    def _add(
        self, candidate_id: str, face_id: str, sighting_id: str, sha256: str, pdq: bytes | None
    ) -> None:
        self._held[candidate_id] = face_id, sighting_id
        self._by_image.setdefault(sha256, []).append(candidate_id)
        if pdq is not None:
            self._by_look.add(pdq, candidate_id)

    def _is_copy(self, one: _Shown, other: _Shown) -> bool:
        if one.sha256 == other.sha256:
            # Two faces in one picture are two faces, however near; read again, they are the same.
            again = one.contract_id != other.contract_id
            return again and same_place(one.place, other.place)
        if overlap(one.box, other.box) < SAME_PLACE:
            return False
        if one.vector is None or other.vector is None:
            return False
        if {one.contract_id, other.contract_id} != {self._contract_id}:
            return False
        return float(exact_scores(one.vector, other.vector[None])[0]) >= self._threshold


def _usable_hash() -> ColumnElement[bool]:
    return (ImageHash.sha256 == Face.sha256) & (ImageHash.quality >= MIN_QUALITY)
