"""Receiving ads, and what becomes of their images."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import TypeAdapter, ValidationError

from indexer import ads, cases, images, jobs
from indexer.errors import (
    AdNotFound,
    FileTooLarge,
    ItemRefused,
    QueueFull,
    StorageFull,
    TooManyFiles,
)
from indexer.ids import new_id
from indexer.records import AdFilter, AdInput, CaptureInfo, CaseInput, Upload
from indexer.workspace import Workspace
from tests.indexer.small import POISON, SmallAnalyser, colour, face_picture, picture

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FULL = AdInput(
    site="example.test",
    external_id="a-1",
    url="https://example.test/a-1",
    posted_at=NOON,
    captured_at=NOON + timedelta(hours=1),
    title="Title",
    body="Body \u2014 with more.",
    phones=("+1 (206) 555-0100",),
    emails=("A@example.test",),
    handles=("@someone",),
    age_stated="21",
    city="Springfield",
    region="WA",
    country="US",
    location_text="near the station",
    lat=47.5,
    lon=-122.25,
    language="en",
    capture=CaptureInfo(tool="scraper", tool_version="1.2", response_headers={"etag": "x"}),
    attributes={"price": [1, 2.5, None], "ok": True},
)


def ad(external_id: str, **fields: object) -> AdInput:
    return replace(AdInput(site="example.test", external_id=external_id), **fields)  # type: ignore[arg-type]


def test_everything_received_comes_back(ws: Workspace) -> None:
    page = b"<html>\xff</html>"
    receipt = ads.receive_ad(
        ws,
        FULL,
        [Upload(face_picture(1), "1.jpg"), Upload(face_picture(2), None)],
        [Upload(page, "page.html", "text/html")],
    )
    assert receipt.created
    assert [image.status for image in receipt.images] == ["queued", "queued"]
    assert jobs.run_job(ws, receipt.job_id).state == "done"
    got = ads.get_ad(ws, receipt.ad_id)
    assert ads.find_ad(ws, "example.test", "a-1").ad_id == got.ad_id
    for name in ("site", "external_id", "url", "posted_at", "title", "body", "phones", "emails"):
        assert getattr(got, name) == getattr(FULL, name)
    for name in ("handles", "age_stated", "city", "region", "country", "lat", "lon", "language"):
        assert getattr(got, name) == getattr(FULL, name)
    assert got.attributes == {"price": [1, 2.5, None], "ok": True}
    (capture,) = got.captures
    assert capture.captured_at == capture.last_captured_at == NOON + timedelta(hours=1)
    assert capture.content["capture"]["response_headers"] == {"etag": "x"}
    assert [image.filename for image in capture.images] == ["1.jpg", None]
    assert capture.pages[0].media_type == "text/html"
    assert ws.blobs.get(capture.pages[0].sha256) == page
    assert [image.analysis for image in got.images] == ["done", "done"]
    assert [len(image.faces) for image in got.images] == [1, 1]
    face = got.images[0].faces[0]
    assert images.get_face(ws, face.face_id).box == face.box
    assert [f.face_id for f in images.faces_of(ws, face.sha256)] == [face.face_id]
    assert images.owners(ws, face.sha256).ad_ids == {got.ad_id}
    assert ws.ads.count() == 2


def test_the_same_content_again_changes_nothing(
    ws: Workspace, small_analyser: SmallAnalyser
) -> None:
    uploads = [Upload(face_picture(1), "1.jpg"), Upload(b"no image", "2.jpg")]
    first = ads.receive_ad(ws, FULL, uploads)
    jobs.run_pending(ws)
    analysed = small_analyser.images
    later = replace(FULL, captured_at=NOON + timedelta(days=3), capture=CaptureInfo(tool="other"))
    again = ads.receive_ad(ws, later, uploads)
    assert not again.created
    assert (again.ad_id, again.capture_id, again.job_id) == (
        first.ad_id,
        first.capture_id,
        first.job_id,
    )
    assert [image.status for image in again.images] == ["known", "rejected"]
    assert jobs.run_pending(ws) == 0
    assert small_analyser.images == analysed
    assert ws.ads.count() == 1
    (capture,) = ads.get_ad(ws, first.ad_id).captures
    assert capture.captured_at == NOON + timedelta(hours=1)
    assert capture.last_captured_at == NOON + timedelta(days=3)


def test_new_content_is_a_new_capture_of_the_same_ad(
    ws: Workspace, small_analyser: SmallAnalyser
) -> None:
    first = ads.receive_ad(ws, FULL, [Upload(face_picture(1))])
    jobs.run_pending(ws)
    second = ads.receive_ad(
        ws,
        replace(FULL, body="New text", phones=("206 555 0199",)),
        [Upload(face_picture(1)), Upload(face_picture(2))],
    )
    jobs.run_pending(ws)
    assert second.created
    assert second.ad_id == first.ad_id
    assert second.capture_id != first.capture_id
    assert [image.status for image in second.images] == ["known", "queued"]
    assert small_analyser.images == 2, "a known image is not analysed again"
    got = ads.get_ad(ws, first.ad_id)
    assert got.body == "New text"
    assert len(got.captures) == 2
    assert got.captures[0].content["body"] == FULL.body
    assert len(got.images) == 2
    third = ads.receive_ad(ws, FULL, [Upload(face_picture(1))], [Upload(b"page", "p.html")])
    assert third.created, "a page that was not kept before is evidence"
    for phone in ("12065550100", "(206) 555-0199"):
        assert [a.ad_id for a in ads.list_ads(ws, AdFilter(phone=phone)).items] == [first.ad_id]


def test_bad_images_are_told_one_by_one(ws: Workspace) -> None:
    receipt = ads.receive_ad(
        ws,
        ad("a"),
        [
            Upload(b"", "empty.jpg"),
            Upload(b"<html>", "page.jpg"),
            Upload(face_picture(1), "good.png"),
            Upload(face_picture(2)[:400], "cut.png"),
            Upload(picture((9, 9, 60, POISON)), "poison.png"),
            Upload(picture(), "nobody.png"),
        ],
    )
    states = {image.filename: (image.status, image.code) for image in receipt.images}
    assert states["empty.jpg"] == ("rejected", "image_empty")
    assert states["page.jpg"] == ("rejected", "unsupported_format")
    assert states["good.png"] == ("queued", None)
    assert states["nobody.png"] == ("queued", None)
    job = jobs.run_job(ws, receipt.job_id)
    assert job.state == "queued", "what failed may pass, so it is tried again"
    while jobs.get_job(ws, receipt.job_id).state == "queued":
        jobs.run_job(ws, receipt.job_id)
    job = jobs.get_job(ws, receipt.job_id)
    assert job.state == "failed"
    assert job.done == job.total
    by_item = {failure.item: failure for failure in job.failures}
    poison = next(i for i in receipt.images if i.filename == "poison.png")
    assert by_item[poison.sha256].code == "analysis_failed"
    cut = next(i for i in receipt.images if i.filename == "cut.png")
    assert (cut.code or by_item[cut.sha256].code) in ("image_truncated", "image_corrupt")
    assert ws.ads.count() == 1, "the good image is in, whatever its neighbours do"
    failed = next(i for i in ads.get_ad(ws, receipt.ad_id).images if i.sha256 == poison.sha256)
    assert (failed.analysis, failed.code) == ("failed", "analysis_failed")
    assert ads.get_ad(ws, receipt.ad_id).captures[0].images[0].code == "image_empty"


def test_known_never_speaks_of_case_photos(ws: Workspace) -> None:
    case = cases.create_case(ws, CaseInput(case_number="1"))
    group = picture((5, 5, 40, colour(1)), (60, 60, 80, colour(2)))
    cases.add_photo(ws, case.case_id, group, face_index=0)
    receipt = ads.receive_ad(ws, ad("a"), [Upload(group)])
    assert receipt.images[0].status == "queued"
    jobs.run_pending(ws)
    assert ws.ads.count() == 2, "in an ad every face counts, also those that no case enrolled"
    assert ads.receive_ad(ws, ad("b"), [Upload(group)]).images[0].status == "known"


def test_the_same_image_twice_in_one_ad(ws: Workspace) -> None:
    receipt = ads.receive_ad(ws, ad("a"), [Upload(face_picture(1)), Upload(face_picture(1))])
    assert len(receipt.images) == 2
    job = jobs.run_job(ws, receipt.job_id)
    assert (job.done, job.total) == (1, 1)
    assert ws.ads.count() == 1
    assert len(ads.get_ad(ws, receipt.ad_id).images) == 1


def test_an_ad_without_images(ws: Workspace) -> None:
    receipt = ads.receive_ad(ws, ad("a"), [])
    assert jobs.run_job(ws, receipt.job_id).state == "done"
    assert ads.get_ad(ws, receipt.ad_id).images == ()


def test_bounds(ws: Workspace) -> None:
    with pytest.raises(TooManyFiles):
        ads.receive_ad(ws, ad("a"), [Upload(face_picture(i)) for i in range(21)])
    with pytest.raises(TooManyFiles):
        ads.receive_ad(ws, ad("a"), [], [Upload(bytes([i])) for i in range(4)])
    with pytest.raises(FileTooLarge):
        ads.receive_ad(ws, ad("a"), [], [Upload(bytes(25_000_001), "big.warc")])
    with pytest.raises(ItemRefused):
        ads.receive_ad(ws, ad("a", attributes={"x": float("nan")}), [])
    with pytest.raises(ItemRefused):
        ads.receive_ad(ws, ad("a", attributes={"x": "\ud800"}), [])
    with pytest.raises(ItemRefused):
        ads.receive_ad(ws, ad("a", attributes={"x": "y" * 1_000_000}), [])
    assert ads.list_ads(ws).items == ()
    assert list(ws.blobs.digests()) == []


@pytest.mark.parametrize("bad", ["2026-03-01T12:00:00", "yesterday", "2026-13-01T00:00:00Z"])
def test_a_time_without_its_zone_is_refused(bad: str) -> None:
    adapter = TypeAdapter(AdInput)
    with pytest.raises(ValidationError):
        adapter.validate_python({"site": "s", "external_id": "1", "posted_at": bad})
    good = {"site": "s", "external_id": "1", "posted_at": "2026-03-01T13:00:00+01:00"}
    assert adapter.validate_python(good).posted_at == NOON


def test_nothing_is_kept_of_what_could_not_be_stored(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    case_id = cases.create_case(ws, CaseInput(case_number="1")).case_id
    cases.add_photo(ws, case_id, face_picture(1))
    before = set(ws.blobs.digests())

    def fail(*_: object, **__: object) -> None:
        raise StorageFull("the catalog")

    monkeypatch.setattr("indexer.queue.enqueue", fail)
    with pytest.raises(StorageFull):
        ads.receive_ad(ws, FULL, [Upload(face_picture(1)), Upload(face_picture(2))])
    with pytest.raises(StorageFull):
        cases.add_photo(ws, case_id, face_picture(3))
    assert set(ws.blobs.digests()) == before, "and what the case has is still there"
    assert ads.list_ads(ws).items == ()


def test_a_full_queue_refuses_new_ads_but_knows_old_ones(ws: Workspace) -> None:
    first = ads.receive_ad(ws, ad("0"), [])
    for i in range(1, 200):
        ads.receive_ad(ws, ad(str(i)), [])
    with pytest.raises(QueueFull) as caught:
        ads.receive_ad(ws, ad("more"), [Upload(face_picture(1))])
    assert caught.value.code == "queue_full"
    assert list(ws.blobs.digests()) == []
    assert ads.receive_ad(ws, ad("0"), []).ad_id == first.ad_id
    jobs.run_pending(ws)
    assert ads.receive_ad(ws, ad("more"), [Upload(face_picture(1))]).created


def test_lists_and_filters(ws: Workspace) -> None:
    made = [
        ads.receive_ad(
            ws,
            ad(
                str(i),
                posted_at=NOON + timedelta(days=i) if i != 4 else None,
                city="Tacoma" if i % 2 else "Yakima",
                location_text="50%_off street" if i == 3 else None,
            ),
            [],
        ).ad_id
        for i in range(5)
    ]
    other = ads.receive_ad(ws, AdInput(site="other.test", external_id="0"), []).ad_id

    def found(**filters: object) -> list[str]:
        return [a.ad_id for a in ads.list_ads(ws, AdFilter(**filters)).items]  # type: ignore[arg-type]

    assert found(site="other.test") == [other]
    assert found(place="taco") == [made[3], made[1]]
    assert found(place="%_") == [made[3]]
    assert found(posted_after=NOON + timedelta(days=1), posted_before=NOON + timedelta(days=3)) == [
        made[2],
        made[1],
    ]
    assert found(phone="1") == []
    assert found(phone="none") == []
    page = ads.list_ads(ws, limit=4)
    assert [a.ad_id for a in page.items] == [other, *made[:1:-1]]
    rest = ads.list_ads(ws, limit=4, cursor=page.next_cursor)
    assert [a.ad_id for a in rest.items] == made[1::-1]
    assert rest.next_cursor is None
    with pytest.raises(AdNotFound):
        ads.get_ad(ws, new_id())
    with pytest.raises(AdNotFound):
        ads.find_ad(ws, "example.test", "none")


@pytest.mark.parametrize("timed", [True, False])
def test_earlier_content_seen_again_is_the_present_content(ws: Workspace, timed: bool) -> None:
    def send(title: str, phone: str, hour: int) -> str:
        at = NOON + timedelta(hours=hour) if timed else None
        one = ad("a", title=title, phones=(phone,), captured_at=at)
        return ads.receive_ad(ws, one, []).ad_id

    ad_id = send("A", "1", 1)
    send("B", "2", 2)
    assert ads.get_ad(ws, ad_id).title == "B"
    send("A", "1", 3)
    got = ads.get_ad(ws, ad_id)
    assert (got.title, got.phones, len(got.captures)) == ("A", ("1",), 2)
    send("A", "1", 3)
    assert ads.get_ad(ws, ad_id) == got, "nothing new"


def test_a_late_older_capture_leaves_newer_fields(ws: Workspace) -> None:
    new = ad("a", title="new", captured_at=NOON + timedelta(hours=2))
    old = ad("a", title="old", captured_at=NOON, phones=("206-555-0100",))
    ad_id = ads.receive_ad(ws, new, []).ad_id
    for _ in range(2):
        ads.receive_ad(ws, old, [])
        got = ads.get_ad(ws, ad_id)
        assert (got.title, got.phones, len(got.captures)) == ("new", (), 2)
    assert [a.ad_id for a in ads.list_ads(ws, AdFilter(phone="2065550100")).items] == [ad_id]
    ads.receive_ad(ws, replace(new, title="same time"), [])
    assert ads.get_ad(ws, ad_id).title == "same time"


def test_an_ad_does_not_tell_that_a_case_has_its_photo(ws: Workspace) -> None:
    case_id = cases.create_case(ws, CaseInput(case_number="1")).case_id
    photo = face_picture(1)
    cases.add_photo(ws, case_id, photo)
    jobs.run_pending(ws)
    receipt = ads.receive_ad(ws, ad("a"), [Upload(photo), Upload(face_picture(2))])
    both = ads.get_ad(ws, receipt.ad_id).images
    assert [(image.analysis, image.code, image.faces) for image in both] == [
        ("pending", None, ())
    ] * 2
    jobs.run_pending(ws)
    both = ads.get_ad(ws, receipt.ad_id).images
    assert [(image.analysis, len(image.faces)) for image in both] == [("done", 1)] * 2
    for image in both:
        told = uuid.UUID(image.faces[0].face_id).int >> 80  # where a UUIDv7 has its milliseconds
        assert abs(told - time.time() * 1000) > 60_000, "the id tells when the face was first seen"


def test_analyses_without_faces_show_in_the_ad(ws: Workspace) -> None:
    pictures = [picture(), picture((9, 9, 60, POISON))]
    receipt = ads.receive_ad(ws, ad("a"), [Upload(data) for data in pictures])
    jobs.run_pending(ws)
    shown = ads.get_ad(ws, receipt.ad_id).images
    assert [(image.analysis, image.code) for image in shown] == [
        ("done", None),
        ("failed", "analysis_failed"),
    ]
