"""Forgetting: out of every search, every row and every file; what others own stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text, update

from indexer import ads, candidates, cases, forget, idempotency, images, jobs, quarantine, removals
from indexer.catalog.schema import Base
from indexer.catalog.tables import (
    Ad,
    Alert,
    Case,
    Face,
    IdempotentResponse,
    Judgement,
    PendingRemoval,
    Quarantined,
)
from indexer.errors import (
    AdNotFound,
    CaseNotFound,
    IdempotencyConflict,
    ImageNotFound,
    LegalHold,
    PhotoNotFound,
)
from indexer.ids import new_id
from indexer.purges import list_purges
from indexer.records import CaseInput, Person, PurgeRecord, RankedCandidate, Upload
from indexer.times import utc_now
from indexer.workspace import Workspace
from tests.indexer.small import colour, face_picture, picture, vector_of
from tests.indexer.test_ads import ad

NAME = "Zebulon Quillfeather"


def files_with(data_dir: Path, needle: bytes) -> list[Path]:
    return [path for path in data_dir.rglob("*") if path.is_file() and needle in path.read_bytes()]


def row_counts(ws: Workspace) -> dict[str, int]:
    with ws.catalog.read() as session:
        return {
            table.name: session.execute(text(f"SELECT count(*) FROM {table.name}")).scalar_one()
            for table in Base.metadata.sorted_tables
        }


def make_case(ws: Workspace, *photos: bytes) -> tuple[str, list[str]]:
    case = cases.create_case(
        ws, CaseInput(case_number=new_id(), person=Person(name=NAME), notes=f"About {NAME}")
    )
    ids = [
        cases.add_photo(ws, case.case_id, photo, filename=f"{NAME}.png").photo_id
        for photo in photos
    ]
    return case.case_id, ids


def test_a_forgotten_case_is_in_no_file(ws: Workspace) -> None:
    ads.receive_ad(ws, ad("a"), [Upload(face_picture(50))])
    jobs.run_pending(ws)
    empty = row_counts(ws)
    photo = face_picture(1)
    case_id, _ = make_case(ws, photo, face_picture(1, 2))
    jobs.run_pending(ws)
    candidates.ranked(ws, case_id)
    candidates.search_photo(
        ws, case_id, face_picture(1, 3), purpose="training", purpose_note=f"for {NAME}"
    )
    idempotency.remember(ws, "key", "k", "d", 201, NAME.encode(), subject_id=case_id)
    ws.cases.save()
    vector = vector_of(colour(1)).tobytes()
    needles = (NAME.encode(), vector, photo[-200:])
    for needle in needles if ws.catalog.is_sqlite else needles[1:]:
        assert files_with(ws.data_dir, needle)
    record = forget.forget_case(ws, case_id, actor="key-1")
    for needle in needles:
        assert files_with(ws.data_dir, needle) == []
    assert record.kind == "case"
    assert record.counts["photos"] == 2
    assert record.counts["vectors"] == 2
    assert record.counts["blobs"] == 2
    assert record.counts["candidates"] == 1
    ws.maintain()
    after = row_counts(ws)
    changed = {name: after[name] - empty[name] for name in after if after[name] != empty[name]}
    # That there is a shelf for index files, and how far they go, tells of nobody.
    assert changed == {
        "audit_log": 7,
        "searches": 1,
        "purge_ledger": 1,
        "gallery_log": 4,
        "gallery_shelves": 1,
    }
    assert list_purges(ws).items == (record,)
    assert NAME not in str(record)
    with pytest.raises(CaseNotFound):
        cases.get_case(ws, case_id)
    with pytest.raises(CaseNotFound):
        forget.forget_case(ws, case_id)


def test_a_case_withdrawn_leaves_no_vector_in_any_file(ws: Workspace) -> None:
    case_id, _ = make_case(ws, face_picture(1))
    jobs.run_pending(ws)
    ws.cases.save()
    cases.update_case(ws, case_id, {"status": "found"}, actor="key-2")
    assert files_with(ws.data_dir, vector_of(colour(1)).tobytes()) == []
    (record,) = list_purges(ws).items
    assert (record.kind, record.actor, record.counts["vectors"]) == ("case_withdrawn", "key-2", 1)


def test_a_forgotten_photo_leaves_the_others(ws: Workspace) -> None:
    ads.receive_ad(ws, ad("a"), [Upload(face_picture(1, 7))])
    case_id, (first, second) = make_case(ws, face_picture(1), face_picture(1, 2))
    jobs.run_pending(ws)
    sha256 = cases.get_photo(ws, case_id, first).sha256
    forget.forget_photo(ws, case_id, first)
    assert [photo.photo_id for photo in cases.get_case(ws, case_id).photos] == [second]
    assert not ws.blobs.has(sha256)
    with pytest.raises(ImageNotFound):
        images.original(ws, sha256)
    result = candidates.ranked(ws, case_id)
    assert result.photos_fused == 1
    assert len(result.items) == 1
    with pytest.raises(PhotoNotFound):
        forget.forget_photo(ws, case_id, first)
    other, _ = make_case(ws)
    with pytest.raises(PhotoNotFound):
        forget.forget_photo(ws, other, second)
    forget.forget_photo(ws, case_id, second)
    assert candidates.ranked(ws, case_id).items == ()
    assert row_counts(ws)["candidates"] == row_counts(ws)["leads"] == 0


def test_bytes_shared_by_a_case_and_an_ad_stay_for_the_other(ws: Workspace) -> None:
    group = picture((5, 5, 40, colour(1)), (60, 60, 80, colour(2)))
    receipt = ads.receive_ad(ws, ad("a"), [Upload(group)])
    jobs.run_pending(ws)
    case = cases.create_case(ws, CaseInput(case_number="1"))
    photo = cases.add_photo(ws, case.case_id, group, face_index=1)
    assert (ws.ads.count(), ws.cases.count()) == (2, 1)
    forget.forget_ad(ws, receipt.ad_id)
    assert (ws.ads.count(), ws.cases.count()) == (0, 1)
    assert images.original(ws, photo.sha256)[0] == group
    with ws.catalog.read() as session:
        kept = {f.face_index: f.vector is not None for f in session.query(Face)}
    assert kept == {0: False, 1: True}, "the bystander's vector went with the ad"
    again = ads.receive_ad(ws, ad("b"), [Upload(group)])
    assert again.images[0].status == "queued"
    jobs.run_pending(ws)
    assert ws.ads.count() == 2
    forget.forget_case(ws, case.case_id)
    assert (ws.ads.count(), ws.cases.count()) == (2, 0)
    assert images.original(ws, photo.sha256)[0] == group
    forget.forget_ad(ws, again.ad_id)
    assert list(ws.blobs.digests()) == []
    assert row_counts(ws)["faces"] == 0


def test_bytes_shared_by_two_ads_stay_for_the_other(ws: Workspace) -> None:
    page = Upload(b"<html>the same page</html>", "p.html")
    shared = Upload(face_picture(1))
    first = ads.receive_ad(ws, ad("a"), [shared, Upload(face_picture(2))], [page])
    second = ads.receive_ad(ws, ad("b"), [shared], [page])
    jobs.run_pending(ws)
    record = forget.forget_ad(ws, first.ad_id)
    assert record.counts["images"] == 1
    assert ws.ads.count() == 1
    assert len(list(ws.blobs.digests())) == 2
    assert len(ads.get_ad(ws, second.ad_id).images) == 1
    forget.forget_ad(ws, second.ad_id)
    assert list(ws.blobs.digests()) == []
    with pytest.raises(AdNotFound):
        forget.forget_ad(ws, first.ad_id)


def test_an_ad_forgotten_before_its_analysis(ws: Workspace) -> None:
    receipt = ads.receive_ad(ws, ad("a"), [Upload(face_picture(1))])
    forget.forget_ad(ws, receipt.ad_id)
    assert jobs.run_pending(ws) == 0
    assert ws.ads.count() == 0
    assert ads.receive_ad(ws, ad("a"), [Upload(face_picture(1))]).ad_id != receipt.ad_id


def test_lines_of_the_quarantine_that_name_what_is_forgotten_go_with_it(ws: Workspace) -> None:
    ad_id = ads.receive_ad(ws, ad("a-1"), []).ad_id
    case_id = cases.create_case(ws, CaseInput(case_number="2026-7 é")).case_id
    lines = {
        "of the ad": b'{"site": "example.test", "external_id": "a-1", "title": 5}',
        "of the ad, no JSON": b'{"external_id":"\\u0061-1","site":"example.test", "title": "x',
        "of another ad": b'{"site": "example.test", "external_id": "a-12"}',
        "of another site": b'{"site": "site-b.example", "external_id": "a-1"}',
        "of the case": b'{"case_number": "2026-7 \\u00e9", "person": 1}',
        "of the case, no JSON": '{"case_number" :"2026-7 é", "notes": "x'.encode(),
        "of another case": '{"case_number": "12026-7 é", "notes": "2026-7 é"}'.encode(),
        "a word of an ad": '{"site": "x", "external_id": "2026-7 é"}'.encode(),
        "no text": b"\xff\x00",
    }
    with ws.catalog.write() as session:
        for place, content in lines.items():
            session.add(
                Quarantined(
                    item_id=new_id(),
                    at=utc_now(),
                    actor="k",
                    place=place,
                    code="item_invalid",
                    detail="",
                    content=content,
                )
            )

    def left() -> set[str]:
        with ws.catalog.read() as session:
            return {row.place for row in session.query(Quarantined)}

    forget.forget_ad(ws, ad_id)
    assert left() == set(lines) - {"of the ad", "of the ad, no JSON"}
    forget.forget_case(ws, case_id)
    assert left() == {
        "of another ad",
        "of another site",
        "of another case",
        "a word of an ad",
        "no text",
    }


def test_the_quarantine_is_read_before_the_write_lock(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ad_id = ads.receive_ad(ws, ad("a-1"), []).ad_id
    case_id = cases.create_case(ws, CaseInput(case_number="1")).case_id
    line = b'{"site": "example.test", "external_id": "a-1", "case_number": "1"}'
    other = b'{"site": "example.test", "external_id": "a-1", "case_number": "1", "n": 2}'
    named = forget._named
    read: list[bytes] = []

    def named_while_others_write(content: bytes, name: bytes) -> set[str]:
        read.append(content)
        if content == line:
            quarantine.add(ws.catalog, [quarantine.BadItem("2", "c", "", other)], "k")
        return named(content, name)

    monkeypatch.setattr(forget, "_named", named_while_others_write)
    forgets: list[Callable[[], PurgeRecord]] = [
        lambda: forget.forget_ad(ws, ad_id),
        lambda: forget.forget_case(ws, case_id),
    ]
    for forgotten in forgets:
        quarantine.add(ws.catalog, [quarantine.BadItem("1", "c", "", line)], "k")
        read.clear()
        forgotten()
        assert quarantine.items(ws.catalog) == [], "also what came meanwhile"
        assert read[0] == line and read[-1] == other


def test_what_people_concluded_outlives_the_ad_and_goes_with_the_case(ws: Workspace) -> None:
    group = picture((5, 5, 40, colour(1)), (60, 60, 80, colour(2)))
    ad_id = ads.receive_ad(ws, ad("a"), [Upload(group)]).ad_id
    case_id, _ = make_case(ws, face_picture(1))
    other_id, _ = make_case(ws)
    jobs.run_pending(ws)
    shared = cases.add_photo(ws, other_id, group, face_index=0)
    found = candidates.ranked(ws, case_id).items
    assert {item.image_sha256 for item in found} == {shared.sha256}
    with ws.catalog.write() as session:
        for item in found:
            session.add(judged(case_id, item))
            session.add(alerted(case_id, item))
    forget.forget_ad(ws, ad_id)
    rows = row_counts(ws)
    assert rows["candidates"] == rows["leads"] == 0, "though a case keeps the picture"
    assert images.original(ws, shared.sha256)[0] == group
    assert rows["judgements"] == rows["alerts"] == len(found)
    forget.forget_case(ws, case_id)
    rows = row_counts(ws)
    assert rows["judgements"] == rows["alerts"] == 0


def judged(case_id: str, item: RankedCandidate) -> Judgement:
    box = item.face.box
    return Judgement(
        judgement_id=new_id(),
        case_id=case_id,
        candidate_id=item.candidate_id,
        image_sha256=item.image_sha256,
        x=box.x,
        y=box.y,
        width=box.width,
        height=box.height,
        conclusion="supports_different",
        reason=f"not {NAME}",
        actor="k",
        at=utc_now(),
        contract_id=item.face.contract_id,
    )


def alerted(case_id: str, item: RankedCandidate) -> Alert:
    return Alert(
        alert_id=new_id(),
        case_id=case_id,
        candidate_id=item.candidate_id,
        sighting_id=item.candidate_id,
        lead_id=item.lead.lead_id,
        face_id=item.face.face_id,
        contract_id=item.face.contract_id,
        score=item.score,
        photos_fused=1,
        gallery_size=1,
        expected_false=0.1,
        expected_false_limit=1.0,
        tightened=False,
        created_at=utc_now(),
    )


def test_a_deletion_asked_for_meanwhile_is_not_crossed_out(ws: Workspace) -> None:
    earlier = utc_now()
    with ws.catalog.write() as session:
        session.add(PendingRemoval(item="log", requested_at=earlier))
    scrub = ws.catalog.scrub

    def scrub_and_another_deletion() -> bool:
        done = scrub()
        with ws.catalog.write() as session:
            session.merge(PendingRemoval(item="log", requested_at=utc_now() + timedelta(seconds=1)))
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ws.catalog, "scrub", scrub_and_another_deletion)
        removals.finish(ws)
    assert row_counts(ws)["pending_removals"] == 1
    removals.finish(ws)
    assert row_counts(ws)["pending_removals"] == 0


def test_an_answer_about_what_is_forgotten_is_not_kept(ws: Workspace) -> None:
    case_id, _ = make_case(ws, face_picture(1))
    forget.forget_case(ws, case_id)
    idempotency.remember(ws, "key", "k", "digest", 201, NAME.encode(), subject_id=case_id)
    assert idempotency.recall(ws, "key", "k", "digest") is None


def test_evidence_under_hold_is_not_forgotten(ws: Workspace) -> None:
    case_id, (photo_id,) = make_case(ws, face_picture(1))
    ad_id = ads.receive_ad(ws, ad("a"), []).ad_id
    with ws.catalog.write() as session:
        session.get_one(Case, case_id).legal_hold = True
        session.get_one(Ad, ad_id).legal_hold = True
    with pytest.raises(LegalHold):
        forget.forget_photo(ws, case_id, photo_id)
    with pytest.raises(LegalHold):
        forget.forget_case(ws, case_id)
    with pytest.raises(LegalHold):
        forget.forget_ad(ws, ad_id)
    assert ws.cases.count() == 1


def test_remains_are_cleared_later_if_the_disk_refuses_now(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    case_id, _ = make_case(ws, face_picture(1))
    sha256 = next(iter(ws.blobs.digests()))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", _denied)
        forget.forget_case(ws, case_id)
    assert ws.blobs.has(sha256)
    assert ws.cases.count() == 0, "the deletion itself is done"
    ws.maintain()
    assert not ws.blobs.has(sha256)
    assert row_counts(ws)["pending_removals"] == 0


def _denied(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_idempotent_answers(ws: Workspace) -> None:
    assert idempotency.recall(ws, "key", "k", "digest") is None
    idempotency.remember(ws, "key", "k", "digest", 201, b"{}", subject_id="x")
    stored = idempotency.recall(ws, "key", "k", "digest")
    assert stored is not None
    assert (stored.status, stored.body, stored.media_type) == (201, b"{}", "application/json")
    assert idempotency.recall(ws, "other", "k", "digest") is None
    with pytest.raises(IdempotencyConflict):
        idempotency.recall(ws, "key", "k", "another request")
    ws.maintain()
    assert row_counts(ws)["idempotency"] == 1
    with ws.catalog.write() as session:
        session.execute(
            update(IdempotentResponse).values(created_at=utc_now() - timedelta(hours=24, minutes=1))
        )
    assert idempotency.recall(ws, "key", "k", "digest") is None
    ws.maintain()
    assert row_counts(ws)["idempotency"] == 0


def test_what_a_killed_writer_of_an_index_left_goes(ws: Workspace) -> None:
    left = [
        ws.index_dir / f".ads-{contract}.index.{new_id()}.part"
        for contract in (ws.contract_id, "other-000000000000")
    ]
    for path in left:
        path.write_bytes(vector_of(colour(1)).tobytes())
    ws.maintain()
    assert not any(path.exists() for path in left)
    left[0].write_bytes(b"x")
    case_id, _ = make_case(ws, face_picture(1))
    forget.forget_case(ws, case_id)
    assert not left[0].exists(), "a deletion takes it as well"


def test_originals_that_no_row_names_go_after_an_hour(ws: Workspace) -> None:
    ads.receive_ad(ws, ad("a"), [Upload(face_picture(1))], [Upload(b"page")])
    kept = set(ws.blobs.digests())
    old, young = ws.blobs.put(b"put, then killed"), ws.blobs.put(b"being put")
    part = ws.data_dir / "blobs" / old[:2] / old[2:4] / f".{old}.{new_id()}.part"
    part.write_bytes(b"half")
    stamp = ws.locks_dir / "swept"
    ago = time.time() - 7200
    for path in [part, *(_blob(ws, sha256) for sha256 in (*kept, old))]:
        os.utime(path, (ago, ago))
    ws.maintain()
    assert ws.blobs.has(old), "once an hour is enough; opening looked already"
    os.utime(stamp, (ago, ago))
    ws.maintain()
    assert set(ws.blobs.digests()) == kept | {young}
    assert not part.exists()
    assert time.time() - stamp.stat().st_mtime < 3600


def _blob(ws: Workspace, sha256: str) -> Path:
    return ws.data_dir / "blobs" / sha256[:2] / sha256[2:4] / sha256
