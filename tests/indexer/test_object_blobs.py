"""Originals in an object store: what only a store can do wrong, and the whole way through it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer import ads, candidates, forget, jobs, removals, restore
from indexer.backup import back_up
from indexer.blobs import Received, sha256_hex
from indexer.errors import (
    BackupDamaged,
    BackupFailed,
    BlobDamaged,
    BlobMissing,
    ExtraMissing,
    StorageAway,
    StorageDenied,
    StorageError,
    StorageFull,
    StoreUnusable,
)
from indexer.health import check
from indexer.object_blobs import ObjectBlobStore, open_blobs
from indexer.records import Upload
from indexer.room import room_left
from indexer.workspace import Workspace, open_workspace
from tests.indexer.conftest import Opens, Reopen
from tests.indexer.small import SmallAnalyser, face_picture
from tests.indexer.test_ads import ad
from tests.indexer.test_candidates import make_case
from tests.s3 import REGION, Bucket, Server, running_s3

REPOSITORY = Path(__file__).parents[2]
SECRET = "test-secret-key"


@pytest.fixture(scope="module")
def s3() -> Iterator[Server]:
    with running_s3() as server:
        yield server


@pytest.fixture
def bucket(s3: Server) -> Bucket:
    return s3.bucket()


@pytest.fixture
def store(bucket: Bucket, tmp_path: Path) -> ObjectBlobStore:
    return bucket.store(tmp_path / "incoming")


def child(program: str, bucket: Bucket, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own with a store on ``bucket``."""
    head = (
        "import sys\nfrom pathlib import Path\n"
        "from indexer.blobs import Received\nfrom indexer.object_blobs import ObjectBlobStore\n"
        "url, endpoint, region, incoming, *rest = sys.argv[1:]\n"
        "store = ObjectBlobStore(url, Path(incoming), endpoint=endpoint, region=region,"
        " allow_http=True)\n"
    )
    given = [bucket.url, bucket.endpoint, REGION, *map(str, arguments)]
    return subprocess.Popen(
        [sys.executable, "-c", head + program, *given],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )


# --- the start -------------------------------------------------------------------------------


def test_a_usable_store_is_left_as_it_was(bucket: Bucket, tmp_path: Path) -> None:
    found = open_blobs(
        bucket.url, tmp_path / "x", endpoint=bucket.endpoint, region=REGION, allow_http=True
    )
    assert isinstance(found, ObjectBlobStore)
    assert bucket.names() == []
    assert found.free_bytes() is None


def test_a_bucket_that_keeps_versions_is_refused(s3: Server, tmp_path: Path) -> None:
    bucket = s3.bucket(versioned=True)
    with pytest.raises(StoreUnusable, match="keeps versions"):
        bucket.store(tmp_path).require_usable()
    bucket.client.put_bucket_versioning(
        Bucket=bucket.name, VersioningConfiguration={"Status": "Suspended"}
    )
    bucket.store(tmp_path).require_usable()


def test_a_bucket_that_is_not_there(bucket: Bucket, tmp_path: Path) -> None:
    store = bucket.store(tmp_path, url="s3://homeward-absent")
    for work in (store.require_usable, lambda: store.put(b"x"), lambda: list(store.digests())):
        with pytest.raises(StoreUnusable, match="no such bucket"):
            work()
    with pytest.raises(StoreUnusable):
        store.get(sha256_hex(b"x"))


def test_without_the_library_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ExtraMissing) as caught:
        ObjectBlobStore("s3://bucket", tmp_path)
    assert "scale" in caught.value.remedy


# --- what goes wrong -------------------------------------------------------------------------


def test_denied_credentials_are_told_and_never_shown(
    store: ObjectBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = store.put(b"data")
    # From here on the server checks who asks, and knows nobody.
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    for work in (
        store.require_usable,
        lambda: store.put(b"other"),
        lambda: store.get(sha256),
        lambda: store.has(sha256),
        lambda: store.delete(sha256),
        lambda: list(store.digests()),
    ):
        with pytest.raises(StorageDenied) as caught:
            work()
        shown = f"{caught.value.detail} {caught.value.remedy} {caught.value.__cause__}"
        assert "credentials" in shown
        assert SECRET not in shown
        assert "test-key-id" not in shown
    monkeypatch.undo()
    assert store.get(sha256) == b"data"


def test_a_server_that_is_away(tmp_path: Path, bucket: Bucket) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else can
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        store = bucket.store(tmp_path, endpoint=endpoint)
        sha256 = sha256_hex(b"data")
        for work in (lambda: store.put(b"data"), lambda: store.delete(sha256)):
            with pytest.raises(StorageAway) as caught:
                work()
            assert endpoint not in caught.value.detail
        receiving = store.receive()
        receiving.write(b"data")
        received = receiving.done()
        with pytest.raises(StorageAway):
            store.keep([received], evenly=True)
        assert received.read() == b"data", "what was received is there for another try"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("status code: 507 ... <Code>XMinioStorageFull</Code>", StorageFull),
        ("status code: 403 ... <Code>QuotaExceeded</Code>", StorageFull),
        ("status code: 403 ... <Code>InvalidAccessKeyId</Code>", StorageDenied),
        ("status code: 503 ... <Code>SlowDown</Code>", StorageAway),
        ("status code: 404 ... <Code>NoSuchBucket</Code>", StoreUnusable),
        ("error sending request", StorageAway),
    ],
)
def test_answers_become_errors_of_ours(
    store: ObjectBlobStore, answer: str, error: type[StorageError]
) -> None:
    found = store._translated(answer)
    assert type(found) is error
    assert found.remedy


def test_bytes_that_changed_while_they_waited_are_not_stored(
    store: ObjectBlobStore, bucket: Bucket, tmp_path: Path
) -> None:
    for size in (5, 12 << 20):
        path = tmp_path / "waiting.part"
        path.write_bytes(os.urandom(size))
        with pytest.raises(BlobDamaged):
            store.keep([Received(path, sha256_hex(b"what came in"), size)])
    assert bucket.names() == []
    assert bucket.uploads() == [], "parts that went up are taken back"


def test_a_process_killed_during_an_upload_leaves_nothing_visible(
    store: ObjectBlobStore, bucket: Bucket, tmp_path: Path
) -> None:
    data = os.urandom(1 << 20) * 25
    sha256 = sha256_hex(data)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = child(
        "store.keep([Received(Path(rest[0]), rest[1], int(rest[2]))], evenly=True)",
        bucket,
        *(tmp_path / "other", pipe, sha256, len(data)),
    )
    with process:
        try:
            with pipe.open("wb") as file:
                file.write(data[: 16 << 20])
                file.flush()
                deadline = time.monotonic() + 60
                while not _parts_of(bucket):
                    assert process.poll() is None
                    assert time.monotonic() < deadline, "no part went up"
                    time.sleep(0.02)
                process.kill()
                process.wait()
        finally:
            process.kill()
    assert bucket.uploads(), "the upload was under way"
    assert bucket.names() == []
    assert not store.has(sha256)
    assert list(store.digests()) == []
    with pytest.raises(BlobMissing):
        store.get(sha256)
    store.put(data)
    assert store.get(sha256) == data


def _parts_of(bucket: Bucket) -> int:
    """How many parts the server has of the uploads that go on."""
    found = bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", [])
    return sum(
        len(
            bucket.client.list_parts(
                Bucket=bucket.name, Key=upload["Key"], UploadId=upload["UploadId"]
            ).get("Parts", [])
        )
        for upload in found
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_large_file_is_never_held_in_memory(
    store: ObjectBlobStore, bucket: Bucket, tmp_path: Path
) -> None:
    part = os.urandom(1 << 20)
    receiving = store.receive()
    for _ in range(100):
        receiving.write(part)
    received = receiving.done()
    process = child(
        # Not what getrusage says: that begins with the peak of the process that started this one.
        "def peak():\n"
        "    text = Path('/proc/self/status').read_text()\n"
        "    return int(text.split('VmHWM:')[1].split()[0])\n"
        "store.put(b'first')\n"
        "before = peak()\n"
        "for evenly in (True, False):\n"
        "    store.keep([Received(Path(rest[0]), rest[1], int(rest[2]))], evenly=evenly)\n"
        "print((peak() - before) // 1024)",
        bucket,
        *(tmp_path / "other", received.path, received.sha256, received.size),
    )
    grown, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert int(grown) < 60, "of 100 MiB, sent once and compared once"
    assert store.has(received.sha256)


# --- the whole way ---------------------------------------------------------------------------


@pytest.fixture
def reopen(opens: Opens, bucket: Bucket, tmp_path: Path) -> Reopen:
    return lambda: opens(blobs=bucket.store(tmp_path / "data" / "blobs"))()


def test_from_an_ad_to_a_candidate_to_nothing(reopen: Reopen, bucket: Bucket) -> None:
    ws = reopen()
    case_id = make_case(ws, face_picture(1))
    photo = next(iter(ws.blobs.digests()))
    found = face_picture(1, 7)
    receipt = ads.receive_ad(ws, ad("a"), [Upload(found)], [Upload(b"<p>page</p>")])
    assert ads.receive_ad(ws, ad("b"), [Upload(face_picture(2))]).created
    jobs.run_pending(ws)
    ranked = candidates.ranked(ws, case_id)
    assert [item.face.sha256 for item in ranked.items][:1] == [sha256_hex(found)]
    assert len(bucket.names()) == 4
    local = [path for path in (ws.data_dir / "blobs").rglob("*") if path.is_file()]
    assert local == [], "nothing of them stays on this machine"
    report = check(ws, verify_blobs=True)
    assert report.ok, report.items
    assert room_left(ws), "the disk of the data folder is looked at"

    forget.forget_ad(ws, receipt.ad_id)
    assert not ws.blobs.has(sha256_hex(found))
    assert len(bucket.names()) == 2
    other = reopen()
    assert check(other, verify_blobs=True).ok
    bucket.write(photo, b"other bytes")
    damaged = {item.name for item in check(other, verify_blobs=True).items if not item.ok}
    assert damaged == {"originals"}


def test_a_job_waits_for_a_store_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_s3() as server:
        bucket = server.bucket()
        store = bucket.store(tmp_path / "data" / "blobs")
        with open_workspace(tmp_path / "data", SmallAnalyser(), blobs=store) as ws:
            receipt = ads.receive_ad(ws, ad("a"), [Upload(face_picture(1))])
            server.stop()
            jobs.run_pending(ws, limit=1)
            job = jobs.get_job(ws, receipt.job_id)
            assert (job.state, job.attempts) == ("queued", 0), "not the job's fault"
            with pytest.raises(StorageAway):
                ads.receive_ad(ws, ad("b"), [Upload(face_picture(2))])
            assert len(ads.list_ads(ws).items) == 1, "nothing was half-stored"
            forget.forget_ad(ws, receipt.ad_id)
            assert not check(ws).ok, "the original is still to be removed"
            server.start()
            assert ads.receive_ad(ws, ad("b"), [Upload(face_picture(2))]).created
            jobs.run_pending(ws)
            ws.maintain()
            assert check(ws, verify_blobs=True).ok
            assert len(bucket.names()) == 1


def fill(ws: Workspace) -> None:
    make_case(ws, face_picture(1))
    for number in range(3):
        ads.receive_ad(ws, ad(str(number)), [Upload(face_picture(number, 7))])
    jobs.run_pending(ws)


def test_back_up_and_restore_into_another_prefix(bucket: Bucket, tmp_path: Path) -> None:
    store = bucket.store(tmp_path / "data" / "blobs")
    with open_workspace(tmp_path / "data", SmallAnalyser(), blobs=store) as ws:
        fill(ws)
        originals = {sha256: store.get(sha256) for sha256 in store.digests()}
        path = tmp_path / "b.tar"
        manifest = back_up(ws.catalog, store, path, homeward="1", data_dir=ws.data_dir)
    assert (manifest.originals, manifest.missing) == (len(originals), ())
    there = tmp_path / "there"
    with pytest.raises(BackupFailed, match="originals already"):
        restore.restore_files(path, there, blobs=bucket.store(tmp_path / "x"))
    assert not there.exists()
    assert set(store.digests()) == set(originals)

    drill = bucket.store(there / "blobs", url=f"s3://{bucket.name}/drill")
    restore.restore_files(path, there, blobs=drill)
    with open_workspace(there, SmallAnalyser(), blobs=drill, restoring=True) as ws:
        restore.reapply(ws, ())
        restore.finished(ws)
        assert check(ws, verify_blobs=True).ok
    assert {sha256: drill.get(sha256) for sha256 in drill.digests()} == originals
    assert set(store.digests()) == set(originals), "the originals of what runs are untouched"


def test_a_restore_that_breaks_off_takes_back_what_it_put(bucket: Bucket, tmp_path: Path) -> None:
    store = bucket.store(tmp_path / "data" / "blobs")
    with open_workspace(tmp_path / "data", SmallAnalyser(), blobs=store) as ws:
        fill(ws)
        path = tmp_path / "b.tar"
        back_up(ws.catalog, store, path, homeward="1", data_dir=ws.data_dir)
    last = max(store.digests())
    data = path.read_bytes()
    original = store.get(last)
    at = data.index(original)
    path.write_bytes(data[:at] + bytes(len(original)) + data[at + len(original) :])
    drill = bucket.store(tmp_path / "incoming", url=f"s3://{bucket.name}/drill")
    with pytest.raises(BackupDamaged):
        restore.restore_files(path, tmp_path / "there", blobs=drill)
    assert list(drill.digests()) == []
    assert list((tmp_path / "there").iterdir()) == []


def test_the_originals_of_another_catalog_are_not_swept(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removals, "_ORPHAN_AFTER_S", -60.0)
    monkeypatch.setattr(removals, "_ORPHANS_UNSUSPECTED", 3)
    store = bucket.store(tmp_path / "data" / "blobs")
    foreign = {store.put(str(number).encode()) for number in range(4)}
    with open_workspace(tmp_path / "data", SmallAnalyser(), blobs=store) as ws:
        assert set(store.digests()) == foreign, "opening looks, and removes nothing"
        (item,) = [item for item in check(ws).items if item.name == "originals"]
        assert not item.ok
        assert "HOMEWARD_BLOBS_URL" in item.remedy
        for number in range(5):
            ads.receive_ad(ws, ad(str(number)), [Upload(face_picture(number))])
        (ws.locks_dir / "swept").unlink()
        ws.maintain()
        assert len(list(store.digests())) == 5, "a few among many are remains, and go"
        assert not foreign & set(store.digests())
