"""Copies of a picture are one sighting; anything that differs in the face is another."""

from __future__ import annotations

import io
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import delete, select, update

from indexer import candidates, jobs
from indexer.blobs import sha256_hex
from indexer.catalog.tables import Candidate, ImageHash, Lead
from indexer.catalog.tables import Face as FaceRow
from indexer.hashes import MAX_DISTANCE
from indexer.ids import new_id
from indexer.sightings import copy_threshold, sighting_of, sightings_of
from indexer.times import utc_now
from indexer.workspace import Workspace, open_workspace
from models.pdq import distances
from models.pipeline import Analyser
from models.types import Box, RgbImage
from tests.indexer.small import Block, colour, face_picture, picture
from tests.indexer.test_candidates import make_case, send
from tests.indexer.test_leads import face_of, touched

SCENE = 77
HERS: Block = (40, 30, 80, colour(1, 9))


def on_template(block: Block) -> bytes:
    return picture(block, scene=SCENE)


def sighting(ws: Workspace, case_id: str, data: bytes) -> str | None:
    with ws.catalog.read() as session:
        return sighting_of(session, case_id, ws.contract_id, face_of(ws, data), ws.calibration)


def only_candidate(ws: Workspace, case_id: str, data: bytes) -> str:
    """Leave the case with this picture's face as its one candidate; returns its id."""
    face_id = face_of(ws, data)
    with ws.catalog.write() as session:
        session.execute(
            delete(Candidate).where(Candidate.case_id == case_id, Candidate.face_id != face_id)
        )
        return session.scalars(select(Candidate.candidate_id)).one()


def distance(ws: Workspace, one: bytes, other: bytes) -> int:
    with ws.catalog.read() as session:
        rows = [session.get_one(ImageHash, sha256_hex(data)) for data in (one, other)]
    return int(distances(rows[0].pdq, np.frombuffer(rows[1].pdq, np.uint8)[None])[0])


@pytest.fixture
def known(ws: Workspace) -> tuple[str, str]:
    """A case with one candidate, the face on the template, and that candidate's id."""
    case_id = make_case(ws, face_picture(1))
    send(ws, "first", on_template(HERS))
    jobs.run_pending(ws)
    return case_id, only_candidate(ws, case_id, on_template(HERS))


def test_a_copy_is_the_same_sighting(ws: Workspace, known: tuple[str, str]) -> None:
    case_id, candidate_id = known
    copy = touched(on_template(HERS), 8)
    send(ws, "copy", copy)
    jobs.run_pending(ws)
    only_candidate(ws, case_id, on_template(HERS))
    assert distance(ws, on_template(HERS), copy) <= MAX_DISTANCE
    assert sighting(ws, case_id, copy) == candidate_id
    assert sighting(ws, case_id, on_template(HERS)) == candidate_id
    other = make_case(ws, face_picture(1), number="other")
    assert sighting(ws, other, copy) is None, "what one case knows says nothing about another"


@pytest.mark.parametrize(
    "block",
    [(40, 30, 80, colour(2, 9)), (40, 30, 80, colour(1, 10))],
    ids=["another person", "the person in another photo"],
)
def test_what_differs_on_the_template_is_not(
    ws: Workspace, known: tuple[str, str], block: Block
) -> None:
    case_id, _ = known
    other = on_template(block)
    send(ws, "template", other)
    jobs.run_pending(ws)
    only_candidate(ws, case_id, on_template(HERS))
    assert distance(ws, on_template(HERS), other) <= MAX_DISTANCE, "the pictures look alike"
    assert sighting(ws, case_id, other) is None


@pytest.mark.parametrize(("x", "same"), [(61, True), (66, False), (90, False)])
def test_the_place_in_the_picture_counts(ws: Workspace, x: int, same: bool) -> None:
    """A small face, so that the pictures look alike wherever it is."""
    case_id = make_case(ws, face_picture(1))
    first, other = (on_template((left, 60, 6, colour(1, 9))) for left in (60, x))
    for name, data in (("first", first), ("other", other)):
        # One after the other: done together, either may become the first candidate.
        send(ws, name, data)
        jobs.run_pending(ws)
    candidate_id = only_candidate(ws, case_id, first)
    assert distance(ws, first, other) <= MAX_DISTANCE
    assert sighting(ws, case_id, other) == (candidate_id if same else None)


def test_the_same_face_in_another_picture_is_not(ws: Workspace, known: tuple[str, str]) -> None:
    case_id, _ = known
    other = picture(HERS, scene=SCENE + 1)
    send(ws, "elsewhere", other)
    jobs.run_pending(ws)
    only_candidate(ws, case_id, on_template(HERS))
    assert distance(ws, on_template(HERS), other) > MAX_DISTANCE
    assert sighting(ws, case_id, other) is None


def test_poor_pictures_and_faces_without_a_vector_are_not_compared(
    ws: Workspace, known: tuple[str, str]
) -> None:
    case_id, candidate_id = known
    copy = touched(on_template(HERS), 8)
    send(ws, "copy", copy)
    jobs.run_pending(ws)
    only_candidate(ws, case_id, on_template(HERS))
    with ws.catalog.write() as session:
        session.execute(update(ImageHash).values(quality=49))
    assert sighting(ws, case_id, copy) is None
    with ws.catalog.write() as session:
        session.execute(update(ImageHash).values(quality=50))
    assert sighting(ws, case_id, copy) == candidate_id
    with ws.catalog.write() as session:
        own = face_of(ws, copy)
        session.execute(update(FaceRow).where(FaceRow.face_id == own).values(vector=None))
    assert sighting(ws, case_id, copy) is None
    assert sighting(ws, case_id, on_template(HERS)) == candidate_id, "the image itself needs none"


def test_the_same_image_under_another_contract(ws: Workspace, known: tuple[str, str]) -> None:
    case_id, candidate_id = known
    copy = touched(on_template(HERS), 8)
    send(ws, "copy", copy)
    jobs.run_pending(ws)
    only_candidate(ws, case_id, on_template(HERS))
    with ws.catalog.write() as session:
        old = face_of(ws, on_template(HERS))
        session.execute(
            update(FaceRow).where(FaceRow.face_id == old).values(contract_id="older-000000000000")
        )
        session.execute(update(Candidate).values(contract_id="older-000000000000"))
        row = session.get_one(FaceRow, face_of(ws, copy))
        again = FaceRow(
            **{
                column.key: getattr(row, column.key)
                for column in FaceRow.__table__.columns
                if column.key not in ("face_id", "sha256")
            },
            face_id=new_id(),
            sha256=sha256_hex(on_template(HERS)),
        )
        session.add(again)
        session.flush()
        found = sighting_of(session, case_id, ws.contract_id, again.face_id)
    assert found == candidate_id
    # Vectors of two contracts are never compared, so a copy of it is not recognised.
    assert sighting(ws, case_id, copy) is None


def test_a_batch_finds_what_is_there_and_what_came_before_in_it(
    ws: Workspace, known: tuple[str, str]
) -> None:
    case_id, candidate_id = known
    stranger = on_template((40, 30, 80, colour(2, 9)))
    pictures = {
        "copy": touched(on_template(HERS), 8),
        "stranger": stranger,
        "stranger again": touched(stranger, 8),
        "elsewhere": picture(HERS, scene=SCENE + 1),
    }
    for name, data in pictures.items():
        send(ws, name, data)
    jobs.run_pending(ws)
    only_candidate(ws, case_id, on_template(HERS))
    fresh = {face_of(ws, data): new_id() for data in pictures.values()}
    copy, first, again, elsewhere = fresh
    with ws.catalog.read() as session:
        found = sightings_of(session, case_id, ws.contract_id, fresh)
    assert found == {
        copy: candidate_id,
        first: fresh[first],
        again: fresh[first],
        elsewhere: fresh[elsewhere],
    }


def test_the_oldest_copy_names_the_sighting(ws: Workspace, known: tuple[str, str]) -> None:
    case_id, candidate_id = known
    copies = [touched(on_template(HERS), level) for level in (4, 8)]
    for number, copy in enumerate(copies):
        send(ws, str(number), copy)
    jobs.run_pending(ws)
    candidates.ranked(ws, case_id, 20)
    with ws.catalog.write() as session:
        # Candidates made before there were sightings, each with its own.
        session.execute(update(Candidate).values(sighting_id=Candidate.candidate_id))
        first = session.scalars(select(Candidate.candidate_id).order_by(Candidate.candidate_id))
        assert first.first() == candidate_id
    assert sighting(ws, case_id, copies[1]) == candidate_id
    with ws.catalog.read() as session:
        assert sighting_of(session, case_id, ws.contract_id, new_id()) is None


# --- with real faces --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, analyser: Analyser) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("sightings")
    calibration = analyser.pack.calibration
    with open_workspace(folder, analyser, calibration=calibration) as ws:
        yield ws


def png(pixels: RgbImage) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def faces_in(ws: Workspace, data: bytes) -> list[tuple[str, Box]]:
    with ws.catalog.read() as session:
        rows = session.scalars(
            select(FaceRow)
            .where(FaceRow.sha256 == sha256_hex(data))
            .order_by(FaceRow.x + FaceRow.width / 2)
        )
        return [(row.face_id, Box(row.x, row.y, row.width, row.height)) for row in rows]


def with_another_head(pixels: RgbImage, place: Box, head: Box) -> RgbImage:
    """The picture with the head at one box drawn over the one at another."""
    changed = pixels.copy()
    (x, y, side), (left, top, size) = (
        (*(round(c - 0.65 * box.width) for c in box.centre), round(1.3 * box.width))
        for box in (place, head)
    )
    part = np.ascontiguousarray(pixels[top : top + size, left : left + size])
    changed[y : y + side, x : x + side] = cv2.resize(part, (side, side))
    return changed


def test_real_copies_and_a_real_face_put_in_the_place_of_another(
    real: Workspace, group_photo: RgbImage, group_photo_bytes: bytes
) -> None:
    """Six people: their copies are known again; where one has another's head, that one is not."""
    send(real, "group", group_photo_bytes)
    jobs.run_pending(real)
    people = faces_in(real, group_photo_bytes)
    assert len(people) == 6
    swapped = png(with_another_head(group_photo, people[1][1], people[4][1]))
    smaller = cv2.resize(group_photo, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    out = io.BytesIO()
    Image.fromarray(np.asarray(smaller, np.uint8)).save(out, "JPEG", quality=70)
    send(real, "swapped", swapped)
    send(real, "smaller", out.getvalue())
    jobs.run_pending(real)
    case_id = make_case(real)
    known = {face_id: new_id() for face_id, _ in people}
    with real.catalog.write() as session:
        lead = Lead(lead_id=new_id(), case_id=case_id, created_at=utc_now())
        session.add(lead)
        session.flush()
        session.add_all(
            Candidate(
                candidate_id=candidate_id,
                sighting_id=candidate_id,
                case_id=case_id,
                lead_id=lead.lead_id,
                face_id=face_id,
                contract_id=real.contract_id,
                score=0.5,
                photos_fused=1,
                origin="watchlist",
                created_at=utc_now(),
            )
            for face_id, candidate_id in known.items()
        )
    assert distance(real, group_photo_bytes, swapped) <= MAX_DISTANCE
    assert distance(real, group_photo_bytes, out.getvalue()) <= MAX_DISTANCE
    expected = list(known.values())
    assert sightings_in(real, case_id, out.getvalue()) == expected
    changed = sightings_in(real, case_id, swapped)
    assert changed[1] not in expected
    assert [*changed[:1], *changed[2:]] == [*expected[:1], *expected[2:]]


def sightings_in(ws: Workspace, case_id: str, data: bytes) -> list[str]:
    """The sightings of the faces of a picture, from left to right."""
    fresh = {face_id: new_id() for face_id, _ in faces_in(ws, data)}
    with ws.catalog.read() as session:
        found = sightings_of(session, case_id, ws.contract_id, fresh, ws.calibration)
    return [found[face_id] for face_id in fresh]


def test_the_threshold_is_above_every_measured_score(analyser: Analyser) -> None:
    calibration = analyser.pack.calibration
    assert calibration is not None
    assert calibration.curves[1].score[-1] < copy_threshold(calibration) < 1.0
    assert copy_threshold(None) < 1.0
