"""Cases and photos over HTTP, with real pictures and the real pack."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.config import Settings
from tests.service.conftest import post_case, post_photo, problem, wait_for_job

FULL: dict[str, Any] = {
    "case_number": "A-17/2026",
    "agency": "Sample Agency",
    "person": {
        "name": "Sample Person",
        "aliases": ["S. P."],
        "date_of_birth": "2004-02-29",
        "sex": "F",
        "race": "U",
        "height_cm": 165.5,
        "weight_kg": 58,
        "eye_color": "BRO",
        "hair_color": "BLK",
        "marks": ["scar, left hand"],
    },
    "missing_since": "2026-01-31",
    "last_seen": {
        "place": "Bus station",
        "lat": -89.9,
        "lon": 179.9,
        "at": "2026-01-30T23:15:00+02:00",
    },
    "default_purpose": "locate_missing_person",
    "notes": "Grüße \U0001f600",
}


def test_a_case_comes_back_as_it_was_given(client: TestClient) -> None:
    made = client.post("/v1/cases", json=FULL)
    assert made.status_code == 201, made.text
    body = made.json()
    assert body["status"] == "open"
    assert body["person"] == FULL["person"]
    assert body["missing_since"] == "2026-01-31"
    assert body["last_seen"]["at"] == "2026-01-30T21:15:00.000Z"
    assert body["notes"] == FULL["notes"]
    assert body["photos"] == []
    assert client.get(f"/v1/cases/{body['case_id']}").json() == body
    listed = client.get("/v1/cases", params={"agency": "Sample Agency"}).json()
    assert [item["case_id"] for item in listed["items"]] == [body["case_id"]]
    assert client.get("/v1/cases", params={"agency": "Other"}).json()["items"] == []


def test_the_number_is_unique_within_its_agency(client: TestClient) -> None:
    case_id = post_case(client, "7")
    answer = client.post("/v1/cases", json={"case_number": "7", "person": {}})
    assert problem(answer, 409, "duplicate_case_number")["case_id"] == case_id
    assert post_case(client, "7", agency="Other") != case_id


def test_all_bad_fields_are_named_and_none_is_repeated(client: TestClient) -> None:
    answer = client.post(
        "/v1/cases",
        json={
            "case_number": "",
            "person": {"height_cm": -3, "secret_name": "do not echo me"},
            "last_seen": {"lat": 91, "lon": -181, "at": "2026-01-30T23:15:00"},
            "missing_since": 1_700_000_000,
            "default_purpose": "curiosity",
            "notes": "x" * 100_001,
        },
    )
    body = problem(answer, 422, "validation_failed")
    fields = {error["field"] for error in body["errors"]}
    assert {
        "case_number",
        "person.height_cm",
        "person.secret_name",
        "last_seen.lat",
        "last_seen.lon",
        "last_seen.at",
        "missing_since",
        "default_purpose",
        "notes",
    } <= fields
    assert "do not echo me" not in answer.text


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"", "application/json", 422, "validation_failed"),
        (b"[]", "application/json", 422, "validation_failed"),
        (b"null", "application/json", 422, "validation_failed"),
        (b"{", "application/json", 422, "malformed_body"),
        (b'{"case_number": "\\ud800"}', "application/json", 422, "malformed_body"),
        (b'{"case_number": "a\\u0000"}', "application/json", 422, "validation_failed"),
        (b'{"case_number": "1", "person": {"height_cm": 1e999}}', "application/json", 422, "*"),
        (b'{"case_number": "1", "person": {"height_cm": NaN}}', "application/json", 422, "*"),
        (b'{"case_number": "1"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"case_number": "1"}', "application/x-www-form-urlencoded", 415, "*"),
        (b"[" * 10_000, "application/json", 422, "malformed_body"),
        (b'{"case_number": "' + b"x" * 1_100_000 + b'"}', "application/json", 413, "*"),
    ],
)
def test_bad_bodies_are_told_apart(
    client: TestClient, content: bytes, kind: str, status: int, code: str
) -> None:
    answer = client.post("/v1/cases", content=content, headers={"content-type": kind})
    problem(answer, status, answer.json()["code"] if code == "*" else code)
    assert client.get("/v1/cases").json()["items"] == []


BAD_MOMENTS = [
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "0999-05-05T00:00:00Z",
    "0999-05-05",
    "2020",
    "20200131",
    "2020-W01-1",
    2020,
    20200131,
    True,
]


@pytest.mark.parametrize("value", BAD_MOMENTS)
def test_a_time_out_of_range_or_from_a_number_is_refused(client: TestClient, value: Any) -> None:
    body = {"case_number": "1", "missing_since": value, "person": {"date_of_birth": value}}
    answer = client.post("/v1/cases", json={**body, "last_seen": {"at": value}})
    found = {e["field"] for e in problem(answer, 422, "validation_failed")["errors"]}
    assert found == {"missing_since", "last_seen.at", "person.date_of_birth"}
    assert client.get("/v1/cases").json()["items"] == []


def test_a_body_with_thousands_of_unknown_fields_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/cases", json={f"x{n}": 0 for n in range(80_000)})
    assert len(problem(answer, 422, "validation_failed")["errors"]) == 1


def test_a_patch_changes_only_what_it_names(client: TestClient) -> None:
    case_id = client.post("/v1/cases", json=FULL).json()["case_id"]
    before = client.get(f"/v1/cases/{case_id}").json()
    after = client.patch(f"/v1/cases/{case_id}", json={"notes": None, "status": "found"}).json()
    assert after["notes"] is None
    assert after["status"] == "found"
    unchanged = set(before) - {"notes", "status", "updated_at"}
    assert {k: before[k] for k in unchanged} == {k: after[k] for k in unchanged}
    answer = client.patch(f"/v1/cases/{case_id}", json={"status": None, "case_id": "x"})
    fields = {error["field"] for error in problem(answer, 422, "validation_failed")["errors"]}
    assert fields == {"status", "case_id"}


@pytest.mark.parametrize(
    "case_id", ["00000000-0000-0000-0000-000000000000", "nonsense", "%00", "x" * 3_000, "a'b"]
)
def test_an_unknown_case_is_not_found(client: TestClient, case_id: str) -> None:
    problem(client.get(f"/v1/cases/{case_id}"), 404, "case_not_found")
    problem(client.delete(f"/v1/cases/{case_id}"), 404, "case_not_found")
    problem(client.patch(f"/v1/cases/{case_id}", json={}), 404, "case_not_found")
    problem(client.get(f"/v1/cases/{case_id}/candidates"), 404, "case_not_found")


def test_lists_go_page_by_page(client: TestClient) -> None:
    ids = [post_case(client, str(number)) for number in range(5)]
    seen: list[str] = []
    cursor = None
    for _ in range(5):
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = client.get("/v1/cases", params=params).json()
        seen += [item["case_id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]
    problem(client.get("/v1/cases", params={"cursor": "rubbish"}), 422, "invalid_cursor")
    problem(client.get("/v1/cases", params={"limit": 0}), 422, "validation_failed")
    problem(client.get("/v1/cases", params={"text": "a\0b"}), 422, "validation_failed")


def test_a_photo_is_enrolled_and_starts_a_search(client: TestClient, portrait_bytes: bytes) -> None:
    case_id = post_case(client)
    answer = post_photo(client, case_id, portrait_bytes, taken_on="2025-12-24")
    assert answer.status_code == 201, answer.text
    receipt = answer.json()
    assert receipt["sha256"] == hashlib.sha256(portrait_bytes).hexdigest()
    assert (receipt["width"], receipt["height"]) == (340, 340)
    assert receipt["enrolled_face_index"] == 0
    assert len(receipt["faces"]) == 1
    assert set(receipt["faces"][0]) == {"face_index", "box", "detection_score", "quality"}
    assert 0 < receipt["faces"][0]["quality"]["score"] <= 1
    assert wait_for_job(client, receipt["job_id"])["state"] == "done"
    photo = client.get(f"/v1/cases/{case_id}").json()["photos"][0]
    assert photo["photo_id"] == receipt["photo_id"]
    assert photo["taken_on"] == "2025-12-24"
    assert photo["enrolled"] is True
    again = post_photo(client, case_id, portrait_bytes)
    assert again.status_code == 201
    assert again.json()["photo_id"] == receipt["photo_id"]
    assert again.json()["created"] is False


def test_several_faces_need_a_choice(client: TestClient, group_photo_bytes: bytes) -> None:
    case_id = post_case(client)
    answer = post_photo(client, case_id, group_photo_bytes)
    faces = problem(answer, 409, "several_faces_found")["faces"]
    assert [face["face_index"] for face in faces] == list(range(len(faces)))
    assert len(faces) == 6
    areas = [face["box"]["width"] * face["box"]["height"] for face in faces]
    assert areas == sorted(areas, reverse=True)
    chosen = post_photo(client, case_id, group_photo_bytes, face_index="2")
    assert chosen.status_code == 201, chosen.text
    assert chosen.json()["enrolled_face_index"] == 2
    other = post_case(client, "another")
    problem(post_photo(client, other, group_photo_bytes, face_index="6"), 422, "face_index_invalid")
    problem(post_photo(client, other, group_photo_bytes, face_index="-1"), 422, "validation_failed")
    problem(
        post_photo(client, other, group_photo_bytes, face_index="one"), 422, "validation_failed"
    )
    assert client.get(f"/v1/cases/{other}").json()["photos"] == []


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "image_empty"),
        (b"this is no image at all, only text " * 10, 415, "unsupported_format"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 200, 422, "image_corrupt"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_format"),
    ],
)
def test_what_is_no_picture_is_refused(
    client: TestClient, data: bytes, status: int, code: str
) -> None:
    case_id = post_case(client)
    body = problem(post_photo(client, case_id, data), status, code)
    assert body["remedy"]


def test_pictures_that_cannot_be_enrolled(
    client: TestClient, nobody_bytes: bytes, portrait_bytes: bytes
) -> None:
    case_id = post_case(client)
    problem(post_photo(client, case_id, nobody_bytes), 422, "no_face_found")
    cut = post_photo(client, case_id, portrait_bytes[: len(portrait_bytes) // 2])
    problem(cut, 422, "image_truncated")
    large = post_photo(client, case_id, b"\xff\xd8" + b"x" * 25_000_000)
    problem(large, 413, "image_too_large")
    wrong = client.post(f"/v1/cases/{case_id}/photos", files={"picture": ("p.jpg", portrait_bytes)})
    fields = {error["field"] for error in problem(wrong, 422, "validation_failed")["errors"]}
    assert fields == {"picture", "file"}
    problem(client.post(f"/v1/cases/{case_id}/photos"), 415, "unsupported_media_type")
    bad_date = post_photo(client, case_id, portrait_bytes, taken_on="yesterday")
    problem(bad_date, 422, "validation_failed")
    missing = post_photo(client, "00000000-0000-7000-8000-000000000000", portrait_bytes)
    problem(missing, 404, "case_not_found")
    assert client.get(f"/v1/cases/{case_id}").json()["photos"] == []


def test_a_closed_case_takes_no_photo_and_no_search(
    client: TestClient, portrait_bytes: bytes
) -> None:
    case_id = post_case(client)
    client.patch(f"/v1/cases/{case_id}", json={"status": "closed"})
    problem(post_photo(client, case_id, portrait_bytes), 409, "case_closed")
    problem(client.get(f"/v1/cases/{case_id}/candidates"), 409, "case_closed")
    searched = client.post(
        f"/v1/cases/{case_id}/search",
        files={"file": portrait_bytes},
        data={"purpose": "training"},
    )
    problem(searched, 409, "case_closed")


def test_forgetting_removes_photo_case_and_bytes(
    client: TestClient, settings: Settings, portrait_bytes: bytes, mirrored_bytes: bytes
) -> None:
    case_id = post_case(client)
    first = post_photo(client, case_id, portrait_bytes).json()
    second = post_photo(client, case_id, mirrored_bytes).json()
    gone = client.delete(f"/v1/cases/{case_id}/photos/{first['photo_id']}")
    assert gone.status_code == 204
    assert gone.content == b""
    left = client.get(f"/v1/cases/{case_id}").json()["photos"]
    assert [photo["photo_id"] for photo in left] == [second["photo_id"]]
    again = client.delete(f"/v1/cases/{case_id}/photos/{first['photo_id']}")
    problem(again, 404, "photo_not_found")
    assert client.delete(f"/v1/cases/{case_id}").status_code == 204
    problem(client.get(f"/v1/cases/{case_id}"), 404, "case_not_found")
    for photo in (first, second):
        problem(client.get(f"/v1/images/{photo['sha256']}"), 404, "image_not_found")
    deadline = time.monotonic() + 60
    while left_over := [
        path
        for path in settings.data_dir.rglob("*")
        if path.is_file() and path.read_bytes() in (portrait_bytes, mirrored_bytes)
    ]:
        assert time.monotonic() < deadline, left_over
        time.sleep(0.2)
