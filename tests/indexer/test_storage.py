"""Originals, files and the catalog on a disk that fails, fills up or forbids."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from indexer import ads, cases, files, jobs
from indexer.blobs import LocalBlobStore, sha256_hex, short_name
from indexer.catalog import open_catalog
from indexer.catalog.engine import sqlite_url
from indexer.catalog.schema import Base
from indexer.catalog.tables import Case
from indexer.errors import (
    BlobDamaged,
    BlobMissing,
    CatalogUnusable,
    StorageDenied,
    StorageError,
    StorageFull,
)
from indexer.records import CaseInput, Upload
from indexer.times import utc_now
from indexer.workspace import Workspace, open_workspace
from tests.indexer.small import SmallAnalyser, face_picture
from tests.indexer.test_ads import ad
from tests.postgres import sqlite_only

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def lent() -> None:
    """Nothing: the catalogs of these tests are made by the product itself, from an empty folder."""


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs")


# --- originals -------------------------------------------------------------------------------


def test_originals_come_back_unchanged(blobs: LocalBlobStore) -> None:
    data = bytes(range(256)) * 10
    sha256 = blobs.put(data)
    assert sha256 == sha256_hex(data)
    assert blobs.put(data) == sha256
    assert blobs.get(sha256) == data
    assert blobs.has(sha256)
    assert list(blobs.digests()) == [sha256]
    path = blobs.root / sha256[:2] / sha256[2:4] / sha256
    assert path.stat().st_mode & 0o777 == 0o400, "written once"
    assert blobs.delete(sha256)
    assert not blobs.delete(sha256)
    assert not blobs.has(sha256)
    with pytest.raises(BlobMissing):
        blobs.get(sha256)
    with pytest.raises(BlobMissing):
        blobs.get("../../etc/passwd")
    assert (blobs.free_bytes() or 0) > 0


@pytest.mark.parametrize("damage", [b"", b"other bytes of another length", b"Data"])
def test_a_damaged_original_is_never_served(blobs: LocalBlobStore, damage: bytes) -> None:
    sha256 = blobs.put(b"data")
    path = blobs.root / sha256[:2] / sha256[2:4] / sha256
    path.chmod(0o600)
    path.write_bytes(damage)
    with pytest.raises(BlobDamaged) as caught:
        blobs.get(sha256)
    assert "back-up" in caught.value.remedy
    assert blobs.put(b"data") == sha256
    assert blobs.get(sha256) == b"data", "the same bytes sent again heal it"


def test_many_writers_of_the_same_bytes(blobs: LocalBlobStore) -> None:
    data = os.urandom(200_000)
    threads = [threading.Thread(target=blobs.put, args=(data,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blobs.get(sha256_hex(data)) == data
    assert sum(path.is_file() for path in blobs.root.rglob("*")) == 1


def test_leftovers_of_a_crash_are_swept(blobs: LocalBlobStore) -> None:
    sha256 = blobs.put(b"data")
    folder = blobs.root / sha256[:2] / sha256[2:4]
    (folder / f".{sha256}.x{files.TEMP_SUFFIX}").write_bytes(b"half")
    assert blobs.sweep() == 0, "it may be a write in progress"
    assert blobs.sweep(older_than_s=-1) == 1
    assert blobs.get(sha256) == b"data"


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EACCES, StorageDenied),
        (errno.EROFS, StorageDenied),
        (errno.EIO, StorageError),
    ],
)
def test_a_write_that_fails_leaves_nothing(
    blobs: LocalBlobStore, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(error):
            files.write_atomic(blobs.root / "x", [b"data"])
    assert list(blobs.root.iterdir()) == []


def test_file_names_of_senders() -> None:
    assert short_name(None) is None
    assert short_name("") is None
    assert short_name("a\0b") == "ab"
    assert short_name("\ud800.jpg") == "?.jpg"
    assert len(short_name("x" * 900) or "") == 500


# --- a full disk, really ---------------------------------------------------------------------

_FULL_DISK = """
import resource, sys
from pathlib import Path
from indexer import ads, cases
from indexer.errors import StorageError
from indexer.records import CaseInput, Upload
from indexer.workspace import open_workspace
from tests.indexer.small import SmallAnalyser, face_picture
from tests.indexer.test_ads import ad
import os, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open_workspace(Path(sys.argv[1]), SmallAnalyser()) as ws:
    case_id = cases.create_case(ws, CaseInput(case_number="1")).case_id
    cases.add_photo(ws, case_id, face_picture(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    page = Upload(os.urandom(300_000), "page.warc")
    try:
        ads.receive_ad(ws, ad("a"), [Upload(face_picture(2))], [page])
    except StorageError as error:
        print(error.code)
    try:
        cases.update_case(ws, case_id, {"notes": "x" * 1_000_000})
    except StorageError as error:
        print(error.code)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(len(ads.list_ads(ws).items), cases.get_case(ws, case_id).notes)
    print(ads.receive_ad(ws, ad("a"), [Upload(face_picture(2))], [page]).created)
    print(sum(path.name.endswith(".part") for path in Path(sys.argv[1]).rglob("*")))
"""


def test_a_full_disk_refuses_and_keeps_what_was_there(tmp_path: Path) -> None:
    """The kernel refuses to let files grow, as a full disk does; space comes back later."""
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path / "data")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:5] == ["storage_full", "storage_full", "0 None", "True", "0"]


def test_a_full_disk_during_a_job_loses_nothing(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = ads.receive_ad(ws, ad("a"), [Upload(face_picture(1))])

    def full(*_: object, **__: object) -> None:
        raise StorageFull("the catalog")

    with monkeypatch.context() as patch:
        patch.setattr("indexer.images.keep_analysis", full)
        jobs.run_pending(ws, limit=1)
    job = jobs.get_job(ws, receipt.job_id)
    assert (job.state, job.attempts) == ("queued", 0), "not the job's fault"
    assert jobs.run_job(ws, receipt.job_id).state == "done"
    assert ws.ads.count() == 1


# --- permissions -----------------------------------------------------------------------------


@pytest.mark.parametrize("seam", ["mkdir", "open"])
def test_a_folder_without_permission(
    tmp_path: Path, small_analyser: SmallAnalyser, monkeypatch: pytest.MonkeyPatch, seam: str
) -> None:
    data = tmp_path / "data"
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
    elif seam == "mkdir":
        monkeypatch.setattr(Path, "mkdir", _denied)
    else:
        monkeypatch.setattr("builtins.open", _denied)
    try:
        with pytest.raises(StorageDenied) as caught:
            open_workspace(data, small_analyser)
    finally:
        tmp_path.chmod(0o700)
    assert str(data) in caught.value.detail
    assert "ownership" in caught.value.remedy


def _denied(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_only_the_owner_may_look_inside(ws: Workspace) -> None:
    cases.add_photo(ws, cases.create_case(ws, CaseInput(case_number="1")).case_id, face_picture(1))
    ws.cases.save()
    assert ws.data_dir.stat().st_mode & 0o077 == 0
    for path in ws.data_dir.glob("catalog.sqlite3*"):
        assert path.stat().st_mode & 0o077 == 0, path
    for path in ws.index_dir.glob("*.index"):
        assert path.stat().st_mode & 0o077 == 0, path


# --- the catalog -----------------------------------------------------------------------------


def test_migrations_make_the_tables(ws: Workspace) -> None:
    with ws.catalog.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    assert ws.catalog.problems() == []


@sqlite_only
def test_sqlite_keeps_what_was_committed_and_erases_what_was_deleted(ws: Workspace) -> None:
    with ws.catalog.engine.connect() as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
    }


def _overwrite_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:40960] = os.urandom(36864)
    path.write_bytes(data)


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()


@pytest.mark.parametrize(
    "damage", [lambda p: p.write_bytes(b"not a database" * 500), _overwrite_middle, _newer]
)
def test_a_catalog_that_cannot_be_used_is_said_so(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "c.sqlite3"
    open_catalog(sqlite_url(path), lock_path=tmp_path / "lock").close()
    for extra in tmp_path.glob("c.sqlite3-*"):
        extra.unlink()
    damage(path)
    with pytest.raises(CatalogUnusable) as caught:
        open_catalog(sqlite_url(path), lock_path=tmp_path / "lock").close()
    assert caught.value.remedy


def test_a_write_is_whole_or_not_at_all(ws: Workspace) -> None:
    def half() -> None:
        with ws.catalog.write() as session:
            session.add(_row("x"))
            session.flush()
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        half()
    assert cases.list_cases(ws).items == ()


def _row(case_id: str) -> Case:
    now = utc_now()
    return Case(
        case_id=case_id,
        agency="",
        case_number=case_id,
        status="open",
        person={},
        legal_hold=False,
        created_at=now,
        updated_at=now,
    )


def test_many_writers_wait_for_each_other(ws: Workspace) -> None:
    errors: list[BaseException] = []

    def create(worker: int) -> None:
        try:
            for i in range(10):
                cases.create_case(ws, CaseInput(case_number=f"{worker}-{i}"))
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(cases.list_cases(ws, limit=100).items) == 60


def test_two_processes_make_the_same_new_catalog(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from indexer.workspace import open_workspace\n"
        "from tests.indexer.small import SmallAnalyser\n"
        "open_workspace(Path(sys.argv[1]), SmallAnalyser()).close()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "data")]
    running = [subprocess.Popen(command, cwd=REPOSITORY) for _ in range(3)]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
