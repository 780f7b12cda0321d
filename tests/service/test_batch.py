"""Images ahead of their ads, and many ads in one request: each line by itself, nothing doubled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from indexer import quarantine, queue
from indexer.workspace import Workspace
from models.pipeline import Analyser
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

NDJSON = {"content-type": "application/x-ndjson"}
UNKNOWN = "0" * 64


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(client: TestClient, data: bytes, digest: str | None = None) -> Any:
    return client.put(f"/v1/images/{digest or sha256(data)}", content=data)


def line(external_id: str, *images: Any, **fields: Any) -> dict[str, Any]:
    return {"site": "site-a.example", "external_id": external_id, "images": images, **fields}


def body(*lines: dict[str, Any] | bytes) -> bytes:
    return b"".join(
        (one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines
    )


def send(client: TestClient, *lines: dict[str, Any] | bytes, **headers: str) -> Any:
    return client.post("/v1/ads/batch", content=body(*lines), headers={**NDJSON, **headers})


def waiting_files(workspace: Workspace) -> list[Path]:
    return list((workspace.data_dir / "blobs" / "incoming").rglob("*.part"))


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job is done, so that the queue stays as full as it is."""
    monkeypatch.setattr(queue, "claim", lambda ws, limit: [])


# --- images ahead of their ads ---------------------------------------------------------------


def test_bytes_are_sent_once(client: TestClient, workspace: Workspace, nobody_bytes: bytes) -> None:
    digest = sha256(nobody_bytes)
    problem(put(client, b"", digest), 404, "image_not_found")
    first = put(client, nobody_bytes)
    assert (first.status_code, first.json()) == (201, {"sha256": digest, "status": "stored"})
    for data in (nobody_bytes, b""):
        again = put(client, data, digest)
        assert (again.status_code, again.json()["status"]) == (200, "known")
    # It is no image of anything yet.
    problem(client.get(f"/v1/images/{digest}"), 404, "image_not_found")
    answer = send(client, line("1", {"sha256": digest.upper(), "filename": "../a\u202e.jpg"}))
    assert answer.status_code == 200, answer.text
    (item,) = answer.json()["items"]
    assert item["images"][0]["filename"] == "a.jpg"
    assert client.get(f"/v1/images/{digest}").content == nobody_bytes
    assert put(client, b"", digest).json()["status"] == "known", "an ad has it now"
    assert wait_for_job(client, item["job_id"])["state"] == "done"
    assert client.delete(f"/v1/ads/{item['ad_id']}").status_code == 204
    problem(put(client, b"", digest), 404, "image_not_found")
    assert list(workspace.blobs.digests()) == []
    assert waiting_files(workspace) == []


def test_an_image_sent_with_an_ad_waits_no_longer(
    client: TestClient, workspace: Workspace, nobody_bytes: bytes
) -> None:
    assert put(client, nobody_bytes).status_code == 201
    receipt = post_ad(client, "1", [("a.jpg", nobody_bytes)]).json()
    assert receipt["images"][0]["status"] == "queued"
    wait_for_job(client, receipt["job_id"])
    assert client.delete(f"/v1/ads/{receipt['ad_id']}").status_code == 204
    assert list(workspace.blobs.digests()) == []


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"no picture " * 20, 415, "unsupported_format"),
        (b"\xff\xd8\xff" + b"x" * 2_000, 422, "image_corrupt"),
        (b"\xff\xd8\xff" + b"x" * 25_000_000, 413, "image_too_large"),
    ],
)
def test_what_is_no_usable_image_is_refused(
    client: TestClient, workspace: Workspace, data: bytes, status: int, code: str
) -> None:
    assert put(client, data).json()["code"] in (code, "image_truncated")
    assert put(client, data).status_code == status
    assert list(workspace.blobs.digests()) == []
    assert waiting_files(workspace) == []


def test_other_bytes_than_announced_are_refused(
    client: TestClient, workspace: Workspace, nobody_bytes: bytes
) -> None:
    problem(put(client, nobody_bytes, UNKNOWN), 422, "digest_mismatch")
    problem(put(client, nobody_bytes[:-1], sha256(nobody_bytes)), 422, "digest_mismatch")
    problem(put(client, nobody_bytes, "nonsense"), 404, "image_not_found")
    assert list(workspace.blobs.digests()) == []


def test_the_photo_of_a_case_is_never_known(
    client: TestClient, workspace: Workspace, portrait_bytes: bytes, nobody_bytes: bytes
) -> None:
    case_id = post_case(client)
    assert post_photo(client, case_id, portrait_bytes).status_code == 201
    digests = [sha256(portrait_bytes), sha256(nobody_bytes)]
    told: list[list[Any]] = []
    for data, digest in zip((portrait_bytes, nobody_bytes), digests, strict=True):
        answers = [put(client, b"", digest)]
        answers.append(send(client, line("1", digest)))
        answers += [put(client, data), put(client, data), put(client, b"", digest)]
        told.append(
            [
                (one.status_code, one.text.replace(digest, "it").replace(request_id(one), ""))
                for one in answers
            ]
        )
    assert told[0] == told[1], "the same for a photo of a case as for bytes that nobody has"
    # And letting go of it takes nothing from the case.
    workspace.options = replace_hours(workspace, 1e-9)
    workspace.maintain()
    assert list(workspace.blobs.digests()) == digests[:1]
    assert client.get(f"/v1/images/{digests[0]}").content == portrait_bytes


def request_id(answer: Any) -> str:
    return str(answer.headers["x-request-id"])


def replace_hours(workspace: Workspace, hours: float) -> Any:
    from dataclasses import replace

    return replace(workspace.options, staged_hours=hours)


def test_staging_is_bounded(settings: Settings, analyser: Analyser, nobody_bytes: bytes) -> None:
    tight = settings.model_copy(update={"max_queued_jobs": 1})
    with (
        open_with(tight, analyser) as workspace,
        TestClient(create_app(tight, workspace), headers=AUTH) as client,
    ):
        # Bytes behind the end of a JPEG make another file of it.
        for n in range(20):
            assert put(client, nobody_bytes + bytes([n])).status_code == 201
        answer = put(client, nobody_bytes + b"one more")
        assert "images wait for their ads" in problem(answer, 503, "queue_full")["detail"]
        assert int(answer.headers["retry-after"]) >= 1
        assert len(list(workspace.blobs.digests())) == 20
        assert put(client, nobody_bytes + b"\0").status_code == 200


# --- many ads in one request -----------------------------------------------------------------


def test_each_line_is_taken_or_refused_by_itself(
    client: TestClient, workspace: Workspace, portrait_bytes: bytes, nobody_bytes: bytes
) -> None:
    for data in (portrait_bytes, nobody_bytes):
        put(client, data)
    face, nobody = sha256(portrait_bytes), sha256(nobody_bytes)
    lines: list[dict[str, Any] | bytes] = [
        line("1", face, title="One"),
        b"{no json",
        line("", nobody, lat=91, colour="red"),
        b"",
        line("2", face, UNKNOWN, "1" * 64, nobody),
        line("3", face, {"sha256": nobody, "filename": "b.jpg"}),
        line("1", face, title="One"),
        b"[]",
        line("4", "no digest"),
        line("5", *[face] * 21),
        line("6", title="\0"),
        b'{"site": "a", "external_id": "' + b"x" * 1_000_001 + b'"}',
        line("7"),
    ]
    answer = send(client, *lines)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["created"], told["known"], told["refused"]) == (3, 1, 8)
    items = {item["line"]: item for item in told["items"]}
    assert list(items) == [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert {n: item["code"] for n, item in items.items() if item["code"]} == {
        2: "malformed_line",
        3: "validation_failed",
        5: "image_unknown",
        8: "validation_failed",
        9: "validation_failed",
        10: "validation_failed",
        11: "validation_failed",
        12: "line_too_long",
    }
    assert {e["field"] for e in items[3]["errors"]} == {"external_id", "lat", "colour"}
    assert UNKNOWN in items[5]["detail"] and "1" * 64 in items[5]["detail"]
    assert face not in items[5]["detail"]
    assert items[7]["status"] == "known"
    for name in ("ad_id", "capture_id", "job_id"):
        assert items[7][name] == items[1][name]
    assert [image["status"] for image in items[6]["images"]] == ["known", "queued"]
    assert len(client.get("/v1/ads").json()["items"]) == 3, "nothing is half stored"
    for number in (1, 6, 13):
        assert wait_for_job(client, items[number]["job_id"])["state"] == "done"
    ad = client.get(f"/v1/ads/{items[1]['ad_id']}").json()
    assert (ad["title"], len(ad["images"][0]["faces"])) == ("One", 1)
    # Bad lines are kept with their reason; one that came too early is not a bad line.
    kept = {one.place: one for one in quarantine.items(workspace.catalog)}
    assert set(kept) == {f"batch line {n}" for n in (2, 3, 8, 9, 10, 11, 12)}
    assert quarantine.show(workspace.catalog, kept["batch line 2"].item_id)[1] == b"{no json"
    assert "lat" in kept["batch line 3"].detail
    assert kept["batch line 12"].size == 100_000


def test_the_same_batch_again_gives_the_same_ids(
    client: TestClient, workspace: Workspace, nobody_bytes: bytes
) -> None:
    put(client, nobody_bytes)
    lines = [line(str(n), sha256(nobody_bytes)) for n in range(40)]
    first = send(client, *lines, **{"idempotency-key": "k"}).json()
    again = send(client, *lines, **{"idempotency-key": "k"}).json()
    assert (first["created"], again["known"]) == (40, 40)
    for name in ("line", "ad_id", "capture_id", "job_id"):
        assert [i[name] for i in first["items"]] == [i[name] for i in again["items"]]
    problem(send(client, lines[0], **{"idempotency-key": "k"}), 422, "idempotency_key_reused")
    assert list(workspace.blobs.digests()) == [sha256(nobody_bytes)]


@pytest.mark.usefixtures("idle")
def test_a_queue_that_fills_up_refuses_the_rest(settings: Settings, analyser: Analyser) -> None:
    tight = settings.model_copy(update={"max_queued_jobs": 20})
    with (
        open_with(tight, analyser) as workspace,
        TestClient(create_app(tight, workspace), headers=AUTH) as client,
    ):
        lines = [line(str(n)) for n in range(50)]
        answer = send(client, *lines)
        assert answer.status_code == 200
        assert int(answer.headers["retry-after"]) >= 1
        told = answer.json()
        assert (told["created"], told["known"], told["refused"]) == (20, 0, 30)
        assert {i["code"] for i in told["items"][20:]} == {"queue_full"}
        again = send(client, *lines)
        assert (again.json()["known"], again.json()["refused"]) == (20, 30)
        full = send(client, *lines[20:])
        problem(full, 503, "queue_full")
        assert int(full.headers["retry-after"]) >= 1
        assert len(client.get("/v1/ads", params={"limit": 200}).json()["items"]) == 20
        assert quarantine.items(workspace.catalog) == []


@pytest.fixture
def small(settings: Settings, analyser: Analyser) -> Iterator[TestClient]:
    changes = {"max_batch_lines": 3, "max_batch_bytes": 2_000}
    tight = settings.model_copy(update=changes)
    with (
        open_with(tight, analyser) as workspace,
        TestClient(create_app(tight, workspace), headers=AUTH) as client,
    ):
        yield client


def test_a_batch_beyond_the_bounds_is_refused_whole(small: TestClient) -> None:
    lines = [line(str(n)) for n in range(4)]
    problem(send(small, *lines), 413, "body_too_large")
    unended = body(*lines).rstrip(b"\n")
    answer = small.post("/v1/ads/batch", content=unended, headers=NDJSON)
    problem(answer, 413, "body_too_large")
    problem(send(small, line("1", title="x" * 2_000)), 413, "body_too_large")
    answer = small.post("/v1/ads/batch", content=body(line("1")))
    problem(answer, 415, "unsupported_media_type")
    assert small.get("/v1/ads").json()["items"] == []
    assert send(small, *lines[:3]).json()["created"] == 3
    assert send(small).json() == {"items": [], "created": 0, "known": 0, "refused": 0}
    first = b"\xef\xbb\xbf" + body(line("0"))
    assert small.post("/v1/ads/batch", content=first, headers=NDJSON).json()["known"] == 1


def test_a_full_disk_refuses_the_rest(
    client: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from indexer.errors import StorageFull

    lines = [line(str(n)) for n in range(40)]
    enqueue, count = queue.enqueue, [0]

    def fill(*words: Any, **named: Any) -> str:
        count[0] += 1
        if count[0] > 20:
            raise StorageFull("the catalog")
        return enqueue(*words, **named)

    with monkeypatch.context() as patch:
        patch.setattr(queue, "enqueue", fill)
        told = send(client, *lines)
        assert told.status_code == 200
        assert (told.json()["created"], told.json()["refused"]) == (16, 24)
        assert {item["code"] for item in told.json()["items"][16:]} == {"storage_full"}
        problem(send(client, *lines[16:]), 507, "storage_full")
    again = send(client, *lines).json()
    assert (again["created"], again["known"]) == (24, 16)
