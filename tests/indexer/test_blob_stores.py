"""What every store of originals promises, on a folder and on an S3-compatible server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from indexer.blobs import BlobStore, LocalBlobStore, sha256_hex
from indexer.errors import BlobDamaged, BlobMissing
from tests.s3 import Server, running_s3

REPOSITORY = Path(__file__).parents[2]
ABSENT = sha256_hex(b"nobody put this")
LARGE = os.urandom(1 << 20) * 25


@dataclass(frozen=True, slots=True)
class Place:
    """A store, another view of the same originals, and a way to write past both."""

    store: BlobStore
    other: BlobStore
    write: Callable[[str, bytes], None]
    names: Callable[[], list[str]]
    incoming: Path

    def waiting(self) -> list[str]:
        """Files that are being received, or were."""
        return [path.name for path in self.incoming.rglob("*.part")]


def local(folder: Path) -> Place:
    def write(sha256: str, data: bytes) -> None:
        path = folder / sha256[:2] / sha256[2:4] / sha256
        path.unlink()
        path.write_bytes(data)

    def names() -> list[str]:
        found = folder.glob("??/??/*")
        return [path.name for path in found if path.is_file()]

    return Place(LocalBlobStore(folder), LocalBlobStore(folder), write, names, folder)


def remote(server: Server, folder: Path) -> Place:
    bucket = server.bucket()

    def names() -> list[str]:
        return [name.rpartition("/")[2] for name in bucket.names()]

    return Place(bucket.store(folder), bucket.store(folder / "other"), bucket.write, names, folder)


@pytest.fixture(scope="module")
def s3() -> Iterator[Server]:
    with running_s3() as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return local(tmp_path / "blobs")
    return remote(request.getfixturevalue("s3"), tmp_path / "blobs")


@pytest.mark.parametrize("data", [b"", b"one", bytes(range(256)) * 10, LARGE], ids=len)
def test_originals_come_back_unchanged(place: Place, data: bytes) -> None:
    sha256 = place.store.put(data)
    assert sha256 == sha256_hex(data)
    assert place.store.put(data) == sha256
    for store in (place.store, place.other):
        assert store.has(sha256)
        assert store.get(sha256) == data
        assert list(store.digests()) == [sha256]
    assert place.names() == [sha256]
    assert place.waiting() == []


def test_what_is_absent_is_said_to_be(place: Place) -> None:
    for name in (ABSENT, "../../etc/passwd", ABSENT.upper(), ""):
        with pytest.raises(BlobMissing):
            place.store.get(name)
    assert not place.store.has(ABSENT)
    assert not place.store.delete(ABSENT)
    assert list(place.store.digests()) == []


def test_a_deletion_holds_at_once_for_all_readers(place: Place) -> None:
    sha256, kept = place.store.put(b"data"), place.store.put(b"other data")
    assert place.other.get(sha256) == b"data"
    assert place.store.delete(sha256)
    for store in (place.store, place.other):
        assert not store.has(sha256)
        with pytest.raises(BlobMissing):
            store.get(sha256)
        assert list(store.digests()) == [kept]
    assert not place.other.delete(sha256)
    assert place.names() == [kept]
    assert place.store.put(b"data") == sha256, "and it may come again"
    assert place.other.get(sha256) == b"data"


@pytest.mark.parametrize("damage", [b"", b"other bytes of another length", b"Data"])
def test_wrong_bytes_are_never_served_and_heal(place: Place, damage: bytes) -> None:
    sha256 = place.store.put(b"data")
    place.write(sha256, damage)
    for store in (place.store, place.other):
        with pytest.raises(BlobDamaged):
            store.get(sha256)
    receiving = place.store.receive()
    receiving.write(b"data")
    received = receiving.done()
    place.store.keep([received])
    received.discard()
    assert place.other.get(sha256) == b"data", "the same bytes sent again heal it"


@pytest.mark.parametrize("evenly", [False, True])
def test_received_files_become_originals_when_they_are_kept(place: Place, evenly: bool) -> None:
    files = []
    for data in (b"one", b"two", b"one", LARGE):
        receiving = place.store.receive()
        for at in range(0, len(data), 1 << 20):
            receiving.write(memoryview(data)[at : at + (1 << 20)])
        files.append(receiving.done())
    assert place.names() == [], "nobody's until they are kept"
    place.store.keep(files, evenly=evenly)
    place.store.keep(files[:2], evenly=evenly)
    place.store.keep([])
    for file in files:
        file.discard()
    assert place.waiting() == []
    for data in (b"one", b"two", LARGE):
        assert place.other.get(sha256_hex(data)) == data
    assert len(place.names()) == 3


def test_what_is_aborted_leaves_nothing(place: Place) -> None:
    receiving = place.store.receive()
    receiving.write(b"half of")
    receiving.abort()
    assert place.names() == []
    assert place.waiting() == []


def test_many_writers_of_the_same_bytes(place: Place) -> None:
    data = os.urandom(200_000)
    failed: list[BaseException] = []

    def put(store: BlobStore) -> None:
        try:
            for _ in range(3):
                store.put(data)
        except BaseException as error:
            failed.append(error)
            raise

    writers = [threading.Thread(target=put, args=(s,)) for s in (place.store, place.other) * 2]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    assert place.other.get(sha256_hex(data)) == data
    assert place.names() == [sha256_hex(data)]


def test_originals_are_listed_by_age(place: Place) -> None:
    shas = {place.store.put(str(number).encode()) for number in range(30)}
    assert set(place.store.digests()) == shas
    assert list(place.store.digests(older_than_s=3600)) == []
    assert set(place.store.digests(older_than_s=-60)) == shas


_RECEIVES = """
import sys, time
from pathlib import Path
from indexer.blobs import LocalBlobStore
store = LocalBlobStore(Path(sys.argv[1]))
receiving = store.receive()
receiving.write(b"half of a file")
print("receiving", flush=True)
time.sleep(100)
"""


def test_what_a_dead_process_was_receiving_is_discarded(place: Place) -> None:
    command = [sys.executable, "-c", _RECEIVES, str(place.incoming)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"receiving\n"
            assert place.store.discard_abandoned() == 0, "its owner lives"
        finally:
            process.kill()
    assert place.store.discard_abandoned() == 1
    assert place.waiting() == []
    assert place.store.sweep() == 0
