"""Ads over HTTP: what is kept, what is reported, and that nothing is doubled or given away."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from indexer.workspace import Workspace
from service.app import create_app
from service.config import Settings
from tests.service.conftest import (
    AUTH,
    open_with,
    post_ad,
    post_case,
    post_photo,
    problem,
    wait_for_job,
)

FULL: dict[str, Any] = {
    "url": "https://site-a.example/17",
    "posted_at": "2026-01-31T12:00:00.123456+01:00",
    "captured_at": "2026-02-01T00:00:00Z",
    "title": "Sample ad",
    "body": "Sample text ü \U0001f600",
    "phones": ["+49 30 1234567"],
    "emails": ["sample@site-a.example"],
    "handles": ["@sample"],
    "age_stated": 21,
    "city": "Sample City",
    "region": "Sample Region",
    "country": "DE",
    "location_text": "near the station",
    "lat": 52.5,
    "lon": 13.4,
    "language": "de",
    "capture": {
        "tool": "sample-scraper",
        "tool_version": "1.0",
        "response_headers": {"server": "sample"},
        "image_urls": ["https://site-a.example/1.jpg"],
    },
    "attributes": {"price": [100, None, {"deep": True}], "ключ": "значение"},
}


def test_an_ad_is_kept_as_it_came(
    client: TestClient, portrait_bytes: bytes, nobody_bytes: bytes
) -> None:
    page = b"<html><script>alert(1)</script></html>"
    answer = post_ad(
        client,
        "17",
        [("a.jpg", portrait_bytes), ("../../b.jpg", nobody_bytes)],
        [("page.html", page)],
        **FULL,
    )
    assert answer.status_code == 202, answer.text
    receipt = answer.json()
    assert receipt["created"] is True
    assert [(i["filename"], i["status"]) for i in receipt["images"]] == [
        ("a.jpg", "queued"),
        ("b.jpg", "queued"),
    ]
    assert receipt["images"][0]["sha256"] == hashlib.sha256(portrait_bytes).hexdigest()
    job = wait_for_job(client, receipt["job_id"])
    assert (job["state"], job["failures"]) == ("done", [])
    ad = client.get(f"/v1/ads/{receipt['ad_id']}").json()
    assert ad["posted_at"] == "2026-01-31T11:00:00.123Z"
    for name in ("url", "title", "body", "phones", "emails", "handles", "attributes", "lat", "lon"):
        assert ad[name] == FULL[name], name
    by_sha = {image["sha256"]: image for image in ad["images"]}
    assert len(by_sha[hashlib.sha256(portrait_bytes).hexdigest()]["faces"]) == 1
    assert by_sha[hashlib.sha256(nobody_bytes).hexdigest()]["faces"] == []
    assert ad["captures"][0]["capture_id"] == receipt["capture_id"]
    assert ad["captures"][0]["pages"][0]["sha256"] == hashlib.sha256(page).hexdigest()
    # The page is evidence: it is never served as something a browser could run.
    problem(client.get(f"/v1/images/{hashlib.sha256(page).hexdigest()}"), 404, "image_not_found")


def test_the_same_content_again_doubles_nothing(client: TestClient, portrait_bytes: bytes) -> None:
    first = post_ad(client, "1", [("a.jpg", portrait_bytes)], title="One").json()
    wait_for_job(client, first["job_id"])
    second = post_ad(client, "1", [("a.jpg", portrait_bytes)], title="One").json()
    assert second["created"] is False
    for name in ("ad_id", "capture_id", "job_id"):
        assert second[name] == first[name]
    changed = post_ad(client, "1", [("a.jpg", portrait_bytes)], title="Two").json()
    assert changed["created"] is True
    assert changed["ad_id"] == first["ad_id"]
    assert changed["capture_id"] != first["capture_id"]
    assert len(client.get("/v1/ads").json()["items"]) == 1


def test_known_speaks_of_ads_only(
    client: TestClient, portrait_bytes: bytes, other_bytes: bytes
) -> None:
    case_id = post_case(client)
    assert post_photo(client, case_id, portrait_bytes).status_code == 201
    receipt = post_ad(client, "1", [("a.jpg", portrait_bytes)]).json()
    assert [image["status"] for image in receipt["images"]] == ["queued"]
    wait_for_job(client, receipt["job_id"])
    receipt = post_ad(client, "2", [("a.jpg", portrait_bytes), ("b.jpg", other_bytes)]).json()
    assert [image["status"] for image in receipt["images"]] == ["known", "queued"]


def test_a_bad_picture_is_refused_and_the_rest_kept(
    client: TestClient, portrait_bytes: bytes
) -> None:
    answer = post_ad(
        client,
        "1",
        [
            ("empty.jpg", b""),
            ("text.jpg", b"no picture " * 20),
            ("large.jpg", b"\xff\xd8\xff" + b"x" * 25_000_001),
            ("good.jpg", portrait_bytes),
        ],
    )
    assert answer.status_code == 202, answer.text
    outcomes = [(i["filename"], i["status"], i["code"]) for i in answer.json()["images"]]
    assert outcomes == [
        ("empty.jpg", "rejected", "image_empty"),
        ("text.jpg", "rejected", "unsupported_format"),
        ("large.jpg", "rejected", "image_too_large"),
        ("good.jpg", "queued", None),
    ]
    job = wait_for_job(client, answer.json()["job_id"])
    assert job["state"] == "done"
    assert len(client.get(f"/v1/ads/{answer.json()['ad_id']}").json()["images"]) == 1


def test_an_ad_without_pictures_is_an_ad(client: TestClient) -> None:
    receipt = post_ad(client, "1").json()
    assert receipt["images"] == []
    assert wait_for_job(client, receipt["job_id"])["state"] == "done"


def test_all_bad_fields_of_an_ad_are_named(client: TestClient) -> None:
    answer = post_ad(
        client,
        "",
        lat=91,
        lon="east",
        posted_at="2026-01-31T12:00:00",
        captured_at=0,
        age_stated=-1,
        unknown_field=1,
        capture={"tool": 5},
    )
    fields = {error["field"] for error in problem(answer, 422, "validation_failed")["errors"]}
    for name in (
        "external_id",
        "lat",
        "lon",
        "posted_at",
        "captured_at",
        "unknown_field",
        "capture.tool",
    ):
        assert f"ad.{name}" in fields
    assert client.get("/v1/ads").json()["items"] == []


@pytest.mark.parametrize(
    ("ad", "code"),
    [
        ("", "malformed_body"),
        ("{", "malformed_body"),
        ("[]", "validation_failed"),
        ('{"site": "a", "external_id": "b", "attributes": {"x": 1e999}}', "validation_failed"),
        ('{"site": "a", "external_id": "b\\u0000"}', "validation_failed"),
        ('{"site": "a", "external_id": "\\udfff"}', "malformed_body"),
        ('{"site":"a","external_id":"b","attributes":' + '{"a":' * 500 + "1" + "}" * 501, "*"),
        ('{"site":"a","external_id":"b","attributes":{"n":' + "9" * 40 + "}}", "*"),
    ],
)
def test_a_bad_ad_part_is_refused(client: TestClient, ad: str, code: str) -> None:
    answer = client.post("/v1/ads", files=[("ad", (None, ad, "application/json"))])
    problem(answer, 422, answer.json()["code"] if code == "*" else code)


@pytest.mark.parametrize(
    "value", ["0001-01-01T00:00:00+14:00", "0999-05-05T00:00:00Z", "20200131", 2020]
)
def test_a_time_that_nobody_can_mean_is_refused(client: TestClient, value: Any) -> None:
    ad = json.dumps({"site": "a", "external_id": "b", "posted_at": value})
    answer = client.post("/v1/ads", files=[("ad", (None, ad, "application/json"))])
    assert problem(answer, 422, "validation_failed")["errors"][0]["field"] == "ad.posted_at"
    assert client.get("/v1/ads").json()["items"] == []


def test_too_many_and_wrong_parts_are_refused(client: TestClient, nobody_bytes: bytes) -> None:
    answer = post_ad(client, "1", [(f"{n}.jpg", nobody_bytes) for n in range(21)])
    assert problem(answer, 422, "validation_failed")["errors"][0]["field"] == "images"
    answer = post_ad(client, "1", pages=[("p.html", b"x")] * 4)
    assert problem(answer, 422, "validation_failed")["errors"][0]["field"] == "page"
    answer = client.post("/v1/ads", files={"images": nobody_bytes})
    assert problem(answer, 422, "validation_failed")["errors"][0]["field"] == "ad"
    answer = client.post("/v1/ads", json={"site": "a", "external_id": "b"})
    problem(answer, 415, "unsupported_media_type")
    huge = json.dumps({"site": "a", "external_id": "b", "body": "x" * 1_100_000})
    answer = client.post("/v1/ads", files=[("ad", (None, huge, "application/json"))])
    problem(answer, 413, "body_too_large")
    assert client.get("/v1/ads").json()["items"] == []


def test_ads_are_listed_by_site_phone_place_and_time(client: TestClient) -> None:
    post_ad(client, "1", city="Alpha", phones=["+1 555 0101"], posted_at="2026-01-01T00:00:00Z")
    post_ad(client, "2", region="Beta", phones=["+1 555 0102"], posted_at="2026-02-01T00:00:00Z")

    def found(**params: str) -> list[str]:
        answer = client.get("/v1/ads", params=params)
        assert answer.status_code == 200, answer.text
        return sorted(item["external_id"] for item in answer.json()["items"])

    assert found() == ["1", "2"]
    assert found(site="site-a.example") == ["1", "2"]
    assert found(site="elsewhere.example") == []
    assert found(phone="+15550102") == ["2"]
    assert found(place="alpha") == ["1"]
    assert found(posted_after="2026-01-15T00:00:00Z") == ["2"]
    assert found(posted_before="2026-01-15T00:00:00Z") == ["1"]
    problem(client.get("/v1/ads", params={"posted_after": "soon"}), 422, "validation_failed")


def test_forgetting_an_ad_leaves_what_a_case_has(
    client: TestClient, portrait_bytes: bytes, other_bytes: bytes
) -> None:
    case_id = post_case(client)
    post_photo(client, case_id, portrait_bytes)
    receipt = post_ad(client, "1", [("a.jpg", portrait_bytes), ("b.jpg", other_bytes)]).json()
    wait_for_job(client, receipt["job_id"])
    assert client.delete(f"/v1/ads/{receipt['ad_id']}").status_code == 204
    problem(client.get(f"/v1/ads/{receipt['ad_id']}"), 404, "ad_not_found")
    problem(client.delete(f"/v1/ads/{receipt['ad_id']}"), 404, "ad_not_found")
    shared = hashlib.sha256(portrait_bytes).hexdigest()
    alone = hashlib.sha256(other_bytes).hexdigest()
    assert client.get(f"/v1/images/{shared}").content == portrait_bytes
    problem(client.get(f"/v1/images/{alone}"), 404, "image_not_found")


def test_unknown_ads_and_jobs_are_not_found(client: TestClient) -> None:
    for bad in ("00000000-0000-0000-0000-000000000000", "nonsense"):
        problem(client.get(f"/v1/ads/{bad}"), 404, "ad_not_found")
        problem(client.get(f"/v1/jobs/{bad}"), 404, "job_not_found")


def test_a_page_over_the_limit_refuses_the_ad(settings: Settings, analyser: Any) -> None:
    tight = settings.model_copy(update={"max_page_bytes": 1_000})
    workspace: Workspace
    with (
        open_with(tight, analyser) as workspace,
        TestClient(create_app(tight, workspace), headers=AUTH) as client,
    ):
        answer = post_ad(client, "1", pages=[("p.html", b"x" * 1_001)])
        assert "page" in problem(answer, 413, "page_too_large")["detail"]
        assert client.get("/v1/ads").json()["items"] == []


def test_a_full_queue_says_so_and_stores_nothing(
    settings: Settings, analyser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from indexer import queue

    monkeypatch.setattr(queue, "claim", lambda ws, limit: [])
    tight = settings.model_copy(update={"max_queued_jobs": 1})
    workspace: Workspace
    with (
        open_with(tight, analyser) as workspace,
        TestClient(create_app(tight, workspace), headers=AUTH) as client,
    ):
        assert post_ad(client, "1").status_code == 202
        answer = post_ad(client, "2")
        problem(answer, 503, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1
        assert len(client.get("/v1/ads").json()["items"]) == 1
