"""Cases and the enrolment of photos."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from indexer import cases, images, jobs
from indexer.catalog.tables import Face
from indexer.errors import (
    CaseClosed,
    CaseNotFound,
    DuplicateCaseNumber,
    FaceIndexInvalid,
    FaceTooSmall,
    InvalidCursor,
    NoFaceFound,
    PhotoAlreadyEnrolled,
    PhotoNotFound,
    SeveralFacesFound,
)
from indexer.ids import is_id, new_id
from indexer.records import CaseInput, LastSeen, Person
from indexer.workspace import Workspace
from models.errors import ImageRejected
from tests.indexer.small import SmallAnalyser, colour, face_picture, picture, vector_of

FULL = CaseInput(
    case_number="2026-0117",
    agency="north",
    person=Person(
        name="Jane Roe",
        aliases=("J.", "Janie"),
        date_of_birth=date(2008, 2, 29),
        height_cm=165.5,
        marks=("scar left wrist",),
    ),
    missing_since=date(2026, 1, 3),
    last_seen=LastSeen(
        place="Main station", lat=1.5, lon=-2.5, at=datetime(2026, 1, 3, 22, 5, tzinfo=UTC)
    ),
    default_purpose="locate_missing_person",
    notes="Called home at noon.",
)


def simple_case(ws: Workspace, number: str = "1") -> str:
    return cases.create_case(ws, CaseInput(case_number=number)).case_id


def test_what_is_stated_comes_back_as_stated(ws: Workspace) -> None:
    made = cases.create_case(ws, FULL)
    assert is_id(made.case_id)
    got = cases.get_case(ws, made.case_id)
    assert got == made
    assert got.status == "open"
    assert got.person == FULL.person
    assert got.last_seen == FULL.last_seen
    assert got.missing_since == date(2026, 1, 3)
    assert not isinstance(got.missing_since, datetime)
    assert got.created_at.tzinfo is UTC
    assert got.created_at.microsecond % 1000 == 0
    assert cases.find_case(ws, "2026-0117", "north") == got


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-03", date(2026, 1, 3)),
        ("2026-01-03T00:00:00Z", datetime(2026, 1, 3, tzinfo=UTC)),
        ("2026-01-03T23:30:00-08:00", datetime(2026, 1, 4, 7, 30, tzinfo=UTC)),
    ],
)
def test_a_date_stays_a_date_and_a_time_a_time(
    ws: Workspace, text: str, expected: date | datetime
) -> None:
    stated = {"case_number": "1", "missing_since": text, "last_seen": {"at": text}}
    made = cases.create_case(ws, TypeAdapter(CaseInput).validate_python(stated))
    got = cases.get_case(ws, made.case_id)
    assert got.last_seen is not None
    for value in (got.missing_since, got.last_seen.at):
        assert value == expected
        assert type(value) is type(expected)
    with pytest.raises(ValidationError):
        TypeAdapter(CaseInput).validate_python({**stated, "missing_since": "2026-01-03T10:00:00"})


def test_what_is_not_known_is_null(ws: Workspace) -> None:
    got = cases.get_case(ws, simple_case(ws))
    assert (got.last_seen, got.missing_since, got.notes, got.default_purpose) == (None,) * 4
    assert got.person == Person()


def test_a_case_number_is_unique_in_its_agency(ws: Workspace) -> None:
    first = cases.create_case(ws, FULL)
    with pytest.raises(DuplicateCaseNumber) as caught:
        cases.create_case(ws, FULL)
    assert caught.value.case_id == first.case_id
    assert caught.value.code == "duplicate_case_number"
    other = cases.create_case(ws, CaseInput(case_number="2026-0117", agency="south"))
    with pytest.raises(DuplicateCaseNumber):
        cases.update_case(ws, other.case_id, {"agency": "north"})
    assert cases.get_case(ws, other.case_id).agency == "south"


def test_unknown_case(ws: Workspace) -> None:
    for act in (
        lambda: cases.get_case(ws, new_id()),
        lambda: cases.find_case(ws, "nobody"),
        lambda: cases.update_case(ws, new_id(), {"notes": "x"}),
        lambda: cases.add_photo(ws, new_id(), face_picture(1)),
        lambda: cases.get_photo(ws, new_id(), new_id()),
    ):
        with pytest.raises(CaseNotFound):
            act()
    with pytest.raises(PhotoNotFound):
        cases.get_photo(ws, simple_case(ws), new_id())


def test_update(ws: Workspace) -> None:
    made = cases.create_case(ws, FULL)
    got = cases.update_case(
        ws, made.case_id, {"person": Person(name="Jane Doe"), "last_seen": None, "notes": "n"}
    )
    assert got.person == Person(name="Jane Doe")
    assert got.last_seen is None
    assert got.notes == "n"
    assert got.missing_since == made.missing_since
    assert got.updated_at >= made.updated_at
    for bad in ({"colour": 1}, {"status": "lost"}):
        with pytest.raises(ValueError, match=r"field|status"):
            cases.update_case(ws, made.case_id, bad)


def test_lists_in_pages(ws: Workspace) -> None:
    made = [simple_case(ws, f"n-{i}") for i in range(7)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = cases.list_cases(ws, limit=3, cursor=cursor)
        seen += [item.case_id for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == made[::-1]
    assert [c.case_number for c in cases.list_cases(ws, text="N-3").items] == ["n-3"]
    assert cases.list_cases(ws, status="found").items == ()
    assert cases.list_cases(ws, agency="north").items == ()
    for bad in ("x", "", "AAAA", "ünicode", "djE6eA"):
        with pytest.raises(InvalidCursor):
            cases.list_cases(ws, cursor=bad)


def test_a_photo_is_enrolled(ws: Workspace) -> None:
    case_id = simple_case(ws)
    data = face_picture(1)
    receipt = cases.add_photo(ws, case_id, data, filename="a.png", taken_on=date(2025, 5, 1))
    assert receipt.created
    assert receipt.enrolled_face_index == 0
    assert (receipt.width, receipt.height) == (200, 160)
    (face,) = receipt.faces
    assert face.box.width == 80
    assert face.quality.reasons == ("small",)
    assert images.original(ws, receipt.sha256)[0] == data
    (photo,) = cases.get_case(ws, case_id).photos
    assert photo.enrolled
    assert (photo.photo_id, photo.face_id) == (receipt.photo_id, face.face_id)
    assert photo.taken_on == date(2025, 5, 1)
    assert cases.get_photo(ws, case_id, photo.photo_id) == photo
    found = ws.cases.search(vector_of(colour(1))[None], 3)[0]
    assert found.ids == (face.face_id,)
    assert found.scores[0] == pytest.approx(1, abs=1e-6)
    assert jobs.get_job(ws, receipt.job_id).state == "queued"


def test_the_same_photo_again_is_the_same_photo(
    ws: Workspace, small_analyser: SmallAnalyser
) -> None:
    case_id = simple_case(ws)
    first = cases.add_photo(ws, case_id, face_picture(1))
    analysed = small_analyser.images
    again = cases.add_photo(ws, case_id, face_picture(1), face_index=0)
    assert not again.created
    assert (again.photo_id, again.job_id, again.faces[0].face_id) == (
        first.photo_id,
        first.job_id,
        first.faces[0].face_id,
    )
    assert small_analyser.images == analysed
    assert len(cases.get_case(ws, case_id).photos) == 1
    assert ws.cases.count() == 1


def test_several_faces_need_a_choice(ws: Workspace) -> None:
    case_id = simple_case(ws)
    group = picture((5, 5, 40, colour(1)), (60, 60, 80, colour(2)), (150, 10, 40, colour(3)))
    with pytest.raises(SeveralFacesFound) as caught:
        cases.add_photo(ws, case_id, group)
    assert [(f.face_index, f.box.width, f.box.x) for f in caught.value.faces] == [
        (0, 80, 60),
        (1, 40, 5),
        (2, 40, 150),
    ]
    _assert_nothing_kept(ws, case_id)
    receipt = cases.add_photo(ws, case_id, group, face_index=2)
    assert receipt.enrolled_face_index == 2
    assert len(receipt.faces) == 3
    assert ws.cases.search(vector_of(colour(3))[None], 1)[0].ids == (receipt.faces[2].face_id,)
    with pytest.raises(PhotoAlreadyEnrolled):
        cases.add_photo(ws, case_id, group, face_index=1)
    with ws.catalog.read() as session:
        kept = [session.get_one(Face, f.face_id).vector is not None for f in receipt.faces]
    assert kept == [False, False, True], "bystanders leave no vector"


@pytest.mark.parametrize(
    ("data", "options", "error", "code"),
    [
        (picture(), {}, NoFaceFound, "no_face_found"),
        (face_picture(1), {"face_index": 1}, FaceIndexInvalid, "face_index_invalid"),
        (face_picture(1), {"face_index": -1}, FaceIndexInvalid, "face_index_invalid"),
        (picture((9, 9, 19, colour(1))), {}, FaceTooSmall, "face_too_small"),
        (b"", {}, ImageRejected, "image_empty"),
        (b"GIF89a but no", {}, ImageRejected, None),
        (b"%PDF-1.7 " * 50, {}, ImageRejected, "unsupported_format"),
        (face_picture(1)[:300], {}, ImageRejected, None),
    ],
)
def test_bad_photos_are_refused_and_not_kept(
    ws: Workspace, data: bytes, options: dict[str, Any], error: type[Exception], code: str | None
) -> None:
    case_id = simple_case(ws)
    with pytest.raises(error) as caught:
        cases.add_photo(ws, case_id, data, **options)
    if code is not None:
        assert caught.value.code == code  # type: ignore[attr-defined]
    _assert_nothing_kept(ws, case_id)


def _assert_nothing_kept(ws: Workspace, case_id: str) -> None:
    assert cases.get_case(ws, case_id).photos == ()
    assert ws.cases.count() == 0
    assert list(ws.blobs.digests()) == []
    assert jobs.waiting(ws) == 0


def test_a_case_that_is_found_leaves_every_search_at_once(ws: Workspace) -> None:
    case_id = simple_case(ws)
    receipt = cases.add_photo(ws, case_id, face_picture(1))
    jobs.run_pending(ws)
    cases.update_case(ws, case_id, {"status": "found"})
    assert ws.cases.count() == 0
    assert len(ws.cases.search(vector_of(colour(1))[None], 5)[0]) == 0
    with ws.catalog.read() as session:
        assert session.get_one(Face, receipt.faces[0].face_id).vector is None
    (photo,) = cases.get_case(ws, case_id).photos
    assert not photo.enrolled
    with pytest.raises(CaseClosed):
        cases.add_photo(ws, case_id, face_picture(1, 2))
    cases.update_case(ws, case_id, {"status": "closed"})
    assert ws.cases.count() == 0


def test_a_case_opened_again_is_enrolled_again(ws: Workspace) -> None:
    case_id = simple_case(ws)
    group = picture((5, 5, 40, colour(1)), (60, 60, 80, colour(2)))
    receipt = cases.add_photo(ws, case_id, group, face_index=1)
    second = cases.add_photo(ws, case_id, face_picture(1, 3))
    cases.update_case(ws, case_id, {"status": "closed"})
    cases.update_case(ws, case_id, {"status": "open"})
    jobs.run_pending(ws)
    photos = cases.get_case(ws, case_id).photos
    assert [photo.enrolled for photo in photos] == [True, True]
    assert [photo.face_id for photo in photos] == [
        receipt.faces[1].face_id,
        second.faces[0].face_id,
    ]
    found = ws.cases.search(vector_of(colour(1))[None], 2)[0]
    assert set(found.ids) == {receipt.faces[1].face_id, second.faces[0].face_id}


def test_one_photo_in_two_cases(ws: Workspace) -> None:
    one, other = simple_case(ws, "1"), simple_case(ws, "2")
    data = face_picture(1)
    first = cases.add_photo(ws, one, data)
    second = cases.add_photo(ws, other, data)
    assert first.photo_id != second.photo_id
    assert first.faces[0].face_id == second.faces[0].face_id
    cases.update_case(ws, one, {"status": "found"})
    assert ws.cases.count() == 1, "the other case still looks for the person"
    cases.update_case(ws, other, {"status": "found"})
    assert ws.cases.count() == 0


def test_crops_come_from_the_original(ws: Workspace) -> None:
    receipt = cases.add_photo(ws, simple_case(ws), face_picture(1))
    crop = images.crop(ws, receipt.faces[0].face_id, 64)
    assert crop.shape == (64, 64, 3)
    assert np.array_equal(crop[32, 32], colour(1))
