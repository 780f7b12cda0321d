"""What comes in on its way to the originals: files, images ahead of their ad, the quarantine."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from indexer import ads, cases, forget, health, jobs, quarantine, staging
from indexer.blobs import LocalBlobStore, Received, sha256_hex
from indexer.catalog.tables import Quarantined, StagedImage
from indexer.errors import (
    ImageUnknown,
    ItemRefused,
    QuarantineItemNotFound,
    StagingFull,
    StorageError,
    TooManyFiles,
)
from indexer.incoming import Delivery
from indexer.ingest import MAX_LISTED, ingest_ads
from indexer.quarantine import BadItem
from indexer.records import AdReceipt, CaseInput, SentBefore, Upload
from indexer.times import utc_now
from indexer.workspace import Workspace
from models.errors import ImageRejected
from tests.indexer.conftest import Reopen
from tests.indexer.small import face_picture
from tests.indexer.test_ads import ad
from tests.indexer.test_ingest import ad_line, write_images, write_lines

REPOSITORY = Path(__file__).parents[2]
WHO = "scraper"


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs")


def receive(blobs: LocalBlobStore, *chunks: bytes) -> Received:
    receiving = blobs.receive()
    for chunk in chunks:
        receiving.write(chunk)
    return receiving.done()


def waiting(root: Path) -> list[Path]:
    return list(root.rglob("*.part"))


# --- files -----------------------------------------------------------------------------------


def test_a_received_file_becomes_an_original_without_a_copy(blobs: LocalBlobStore) -> None:
    file = receive(blobs, b"ab", b"", b"cd")
    assert (file.sha256, file.size, file.read()) == (sha256_hex(b"abcd"), 4, b"abcd")
    assert not blobs.has(file.sha256)
    assert list(blobs.digests()) == []
    blobs.keep([file])
    path = blobs.root / file.sha256[:2] / file.sha256[2:4] / file.sha256
    assert path.samefile(file.path)
    file.discard()
    file.discard()
    assert blobs.get(file.sha256) == b"abcd"
    assert path.stat().st_mode & 0o777 == 0o400
    assert waiting(blobs.root) == []


@pytest.mark.parametrize("evenly", [False, True])
def test_bytes_that_are_there_are_kept_once(blobs: LocalBlobStore, evenly: bool) -> None:
    sha256 = blobs.put(b"data")
    path = blobs.root / sha256[:2] / sha256[2:4] / sha256
    one, two = receive(blobs, b"data"), receive(blobs, b"data")
    for _ in range(2):
        blobs.keep([one, two], evenly=evenly)
    path.chmod(0o600)
    path.write_bytes(b"Data")
    other = receive(blobs, b"data")
    blobs.keep([other], evenly=evenly)
    assert blobs.get(sha256) == b"data", "a damaged one is replaced"
    for file in (one, two, other):
        file.discard()
    assert [p.name for p in blobs.root.rglob("*") if p.is_file()] == [sha256]


def test_a_file_system_without_hard_links(
    blobs: LocalBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    file = receive(blobs, b"abcd" * 1_000_000)
    blobs.keep([file])
    assert blobs.get(file.sha256) == b"abcd" * 1_000_000


def test_what_was_not_wanted_is_gone(blobs: LocalBlobStore) -> None:
    receiving = blobs.receive()
    receiving.write(b"half")
    receiving.abort()
    receiving.abort()
    assert waiting(blobs.root) == []


def test_a_disk_that_fails_while_keeping(
    blobs: LocalBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = receive(blobs, b"abcd")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError):
            blobs.keep([file])
    assert list(blobs.digests()) == []


_DIE = """
import os, signal, sys
from pathlib import Path
from indexer.blobs import LocalBlobStore
blobs = LocalBlobStore(Path(sys.argv[1]))
whole = blobs.receive()
whole.write(b"whole")
blobs.keep([whole.done()])
half = blobs.receive()
half.write(b"half" * 100_000)
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_was_receiving_is_nobodys(blobs: LocalBlobStore) -> None:
    mine = receive(blobs, b"mine")
    done = subprocess.run(
        [sys.executable, "-c", _DIE, str(blobs.root)], cwd=REPOSITORY, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert len(waiting(blobs.root)) == 3
    other = LocalBlobStore(blobs.root)
    assert other.discard_abandoned() == 2
    assert waiting(blobs.root) == [mine.path], "the living keep theirs"
    assert other.sweep(older_than_s=-1) == 0
    assert blobs.get(sha256_hex(b"whole")) == b"whole"
    blobs.keep([mine])
    assert blobs.get(mine.sha256) == b"mine"


def test_receiving_goes_on_where_the_folder_was_taken_away(blobs: LocalBlobStore) -> None:
    receive(blobs, b"x").discard()
    for room in (blobs.root / "incoming").iterdir():
        room.rmdir()
    file = receive(blobs, b"y")
    blobs.keep([file])
    assert blobs.get(file.sha256) == b"y"


def test_many_receive_the_same_bytes_while_they_are_forgotten(ws: Workspace) -> None:
    """An ad that was taken has its original, whatever happens to the other ads with it."""
    picture = face_picture(1)
    stop = threading.Event()
    errors: list[BaseException] = []

    def come_and_go(name: str) -> None:
        try:
            while not stop.is_set():
                receipt = ads.receive_ad(ws, ad(name), [Upload(picture)], bounded=False)
                forget.forget_ad(ws, receipt.ad_id, actor="test")
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    threads = [threading.Thread(target=come_and_go, args=(str(n),)) for n in range(2)]
    for thread in threads:
        thread.start()
    try:
        for n in range(20):
            receipt = ads.receive_ad(ws, ad(f"stays {n}"), [Upload(picture)], bounded=False)
            assert ws.blobs.get(receipt.images[0].sha256) == picture
            if n < 19:
                forget.forget_ad(ws, receipt.ad_id, actor="test")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert ws.blobs.get(sha256_hex(picture)) == picture
    ws.maintain()  # which clears what the deletions left to it
    assert health.check(ws, verify_blobs=True).ok


# --- several ads at once ---------------------------------------------------------------------


def test_several_ads_at_once_are_as_one_after_the_other(ws: Workspace) -> None:
    def delivery(name: str, *pictures: int, title: str = "") -> Delivery:
        uploads = [Upload(face_picture(n), f"{n}.png") for n in pictures]
        return Delivery(ad(name, title=title, phones=("1", "+1")), uploads)

    outcomes = ads.receive_ads(
        ws,
        [
            delivery("a", 1, 2),
            delivery("a", 1, 2),
            delivery("b", 2, 3),
            Delivery(ad("c", attributes={"x": float("nan")})),
            delivery("a", 1, title="new"),
            Delivery(ad("d"), [], [Upload(b"page", "p.html", "text/html")] * 2),
            Delivery(ad("e"), [Upload(bytes([n])) for n in range(21)]),
        ],
    )
    assert [type(outcome) for outcome in outcomes] == [
        *[AdReceipt] * 3,
        ItemRefused,
        *[AdReceipt] * 2,
        TooManyFiles,
    ]
    first, again, second, _, third, _, _ = outcomes
    assert isinstance(first, AdReceipt) and isinstance(again, AdReceipt)
    assert isinstance(second, AdReceipt) and isinstance(third, AdReceipt)
    assert (first.created, again.created, third.created) == (True, False, True)
    assert again.capture_id == first.capture_id
    assert third.ad_id == first.ad_id
    assert [image.status for image in first.images] == ["queued", "queued"]
    assert [image.status for image in again.images] == ["known", "known"]
    assert [image.status for image in second.images] == ["known", "queued"]
    jobs.run_pending(ws)
    assert ws.ads.count() == 3
    assert ads.get_ad(ws, first.ad_id).title == "new"
    assert len(ads.get_ad(ws, first.ad_id).captures) == 2
    assert waiting(ws.data_dir) == []
    assert health.check(ws, verify_blobs=True).ok


# --- images ahead of their ad ----------------------------------------------------------------


def stage(ws: Workspace, data: bytes) -> bool:
    receiving = ws.blobs.receive()
    try:
        receiving.write(data)
        return staging.stage(ws, receiving.done(), WHO)
    finally:
        receiving.abort()


def named(*pictures: bytes) -> list[Upload]:
    return [Upload(SentBefore(sha256_hex(data)), "named.png") for data in pictures]


def test_an_ad_takes_the_images_that_were_sent_before(ws: Workspace) -> None:
    one, two = face_picture(1), face_picture(2)
    with pytest.raises(ImageUnknown) as caught:
        ads.receive_ad(ws, ad("a"), named(one, two))
    assert caught.value.sha256s == (sha256_hex(one), sha256_hex(two))
    assert stage(ws, one)
    assert not stage(ws, one)
    with pytest.raises(ImageUnknown) as caught:
        ads.receive_ad(ws, ad("a"), named(one, two))
    assert caught.value.sha256s == (sha256_hex(two),)
    assert ads.list_ads(ws).items == (), "nothing is half stored"
    assert stage(ws, two)
    assert health.check(ws, verify_blobs=True).ok
    receipt = ads.receive_ad(ws, ad("a"), named(one, two))
    assert [image.status for image in receipt.images] == ["queued", "queued"]
    with ws.catalog.read() as session:
        assert session.query(StagedImage).count() == 0
    assert not stage(ws, one), "the ad has it"
    again = ads.receive_ad(ws, ad("a"), [Upload(one), Upload(two)])
    assert again.capture_id == receipt.capture_id, "the bytes are the same however they came"
    jobs.run_pending(ws)
    assert ws.ads.count() == 2
    assert ads.get_ad(ws, receipt.ad_id).images[0].width == 200
    assert ads.receive_ad(ws, ad("b"), named(one)).images[0].status == "known"


def test_what_only_a_case_has_was_not_sent(ws: Workspace) -> None:
    case_id = cases.create_case(ws, CaseInput(case_number="1")).case_id
    photo = face_picture(1)
    photo_id = cases.add_photo(ws, case_id, photo).photo_id
    assert not staging.is_known(ws, sha256_hex(photo))
    with pytest.raises(ImageUnknown):
        ads.receive_ad(ws, ad("a"), named(photo))
    assert stage(ws, photo)
    forget.forget_photo(ws, case_id, photo_id, actor="test")
    assert ws.blobs.get(sha256_hex(photo)) == photo, "it waits for its ad"
    assert ads.receive_ad(ws, ad("a"), named(photo)).created


def test_images_whose_ad_does_not_come_go(ws: Workspace) -> None:
    one, two = face_picture(1), face_picture(2)
    stage(ws, one)
    stage(ws, two)
    receipt = ads.receive_ad(ws, ad("a"), [Upload(two)])
    stage(ws, face_picture(3))
    late = utc_now() - timedelta(hours=25)
    with ws.catalog.write() as session:
        session.execute(
            update(StagedImage)
            .where(StagedImage.sha256 == sha256_hex(one))
            .values(received_at=late)
        )
    ws.maintain()
    assert set(ws.blobs.digests()) == {sha256_hex(two), sha256_hex(face_picture(3))}
    with pytest.raises(ImageUnknown):
        ads.receive_ad(ws, ad("b"), named(one))
    assert ads.get_ad(ws, receipt.ad_id).images


def test_an_original_that_is_lost_is_wanted_again(ws: Workspace) -> None:
    picture = face_picture(1)
    receipt = ads.receive_ad(ws, ad("a"), [Upload(picture)])
    ws.blobs.delete(sha256_hex(picture))
    assert not staging.is_known(ws, sha256_hex(picture))
    with pytest.raises(ImageUnknown):
        ads.receive_ad(ws, ad("b"), named(picture))
    assert stage(ws, picture)
    assert jobs.run_job(ws, receipt.job_id).failures == ()


def test_what_may_wait_is_bounded(ws: Workspace) -> None:
    ws.options = replace(ws.options, max_queued_jobs=0)
    with pytest.raises(StagingFull) as caught:
        stage(ws, face_picture(1))
    assert caught.value.code == "queue_full"
    with pytest.raises(ImageRejected):
        stage(ws, b"no image")
    assert list(ws.blobs.digests()) == []


def test_a_page_is_never_named_by_its_digest(ws: Workspace) -> None:
    with pytest.raises(ItemRefused):
        ads.receive_ad(ws, ad("a"), [], named(face_picture(1)))


# --- the quarantine --------------------------------------------------------------------------


def bad(place: str, content: bytes = b"line") -> BadItem:
    return BadItem(place, "malformed_line", "It is no JSON.", content)


def test_bad_items_are_kept_shown_and_dropped(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = ws.catalog
    quarantine.add(catalog, [bad("batch line 1", b"\xff\x00" * 600_000), bad("batch line 2")], WHO)
    quarantine.add(catalog, [bad("batch line 2")], WHO)
    records = quarantine.items(catalog)
    assert sorted((one.place, one.size) for one in records) == [
        ("batch line 1", 100_000),
        ("batch line 2", 4),
    ]
    first = next(one for one in records if one.place == "batch line 1")
    record, content = quarantine.show(catalog, first.item_id)
    assert (record, content) == (first, b"\xff\x00" * 50_000)
    with pytest.raises(QuarantineItemNotFound):
        quarantine.show(catalog, "none")
    with pytest.raises(QuarantineItemNotFound):
        quarantine.drop(catalog, [first.item_id, "none"])
    assert quarantine.drop(catalog, [first.item_id]) == 1
    assert [one.place for one in quarantine.items(catalog)] == ["batch line 2"]
    monkeypatch.setattr(quarantine, "MAX_ITEMS", 3)
    quarantine.add(catalog, [bad(f"later {n}") for n in range(3)], WHO)
    assert {one.place for one in quarantine.items(catalog)} == {f"later {n}" for n in range(3)}
    monkeypatch.setattr(quarantine, "MAX_BYTES", 1_000)
    quarantine.add(catalog, [bad("large", b"x" * 995)], WHO)
    quarantine.add(catalog, [bad("small")], WHO)
    assert {one.place for one in quarantine.items(catalog)} == {"large", "small"}, "oldest first"
    quarantine.add(catalog, [bad("more", b"y" * 7)], WHO)
    assert {one.place for one in quarantine.items(catalog)} == {"small", "more"}
    assert quarantine.drop(catalog, None) == 2
    assert quarantine.drop(catalog, None) == 0


def test_any_name_of_a_file_is_kept(ws: Workspace) -> None:
    quarantine.add(ws.catalog, [bad("x" * 300 + "\udcff\0.jsonl line 1")], WHO)
    (record,) = quarantine.items(ws.catalog)
    assert record.place.endswith("x?.jsonl line 1")
    assert len(record.place) == 200


def test_the_quarantine_is_emptied_after_a_month(ws: Workspace) -> None:
    quarantine.add(ws.catalog, [bad("old"), bad("new")], WHO)
    with ws.catalog.write() as session:
        month = utc_now() - timedelta(days=30, minutes=1)
        session.execute(update(Quarantined).where(Quarantined.place == "old").values(at=month))
    ws.maintain()
    assert [one.place for one in quarantine.items(ws.catalog)] == ["new"]


def test_bad_lines_of_a_file_are_kept(ws: Workspace, tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    source = write_lines(
        tmp_path / "ads.jsonl",
        ad_line(0, images=["0.png", "gone.png"]),
        b"{not json",
        {"site": "s"},
        ad_line(1, images=["0.png"] * 21),
    )
    for _ in range(2):
        assert ingest_ads(ws, source, tmp_path).refused_total == 4
    kept = {one.place: one.code for one in quarantine.items(ws.catalog)}
    assert kept == {
        "ads.jsonl line 2": "malformed_line",
        "ads.jsonl line 3": "invalid_fields",
        "ads.jsonl line 4": "too_many_files",
    }


def test_reports_do_not_grow_with_the_file(ws: Workspace, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "ads.jsonl", *[b"{not json"] * (MAX_LISTED + 50), ad_line(0))
    write_images(tmp_path, 1)
    report = ingest_ads(ws, source, tmp_path)
    assert (report.done, report.refused_total, len(report.refused)) == (
        1,
        MAX_LISTED + 50,
        MAX_LISTED,
    )


def test_a_workspace_opens_beside_another_that_receives(opened: Reopen) -> None:
    one = opened()
    receiving = one.blobs.receive()
    receiving.write(b"x")
    other = opened()
    other.maintain()
    other.blobs.keep([receiving.done()])
    assert other.blobs.get(sha256_hex(b"x")) == b"x"
