"""When the machine lets Homeward down: a full disk, a locked catalog, a folder gone read-only.

What was acknowledged stays, what is refused leaves nothing, deletions work all the same. (A clock
that jumps: ``test_retention.py``.)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import func, select

from indexer import ads, cases, forget, jobs, room
from indexer.catalog import engine
from indexer.catalog.tables import Ad, Image, PendingRemoval
from indexer.errors import CaseNotFound, CatalogBusy, StorageDenied, StorageFull, StorageLow
from indexer.health import check, require_room, room_left
from indexer.records import CaseInput, Person, Upload
from indexer.workspace import Workspace, WorkspaceOptions, open_workspace
from tests.indexer.small import SmallAnalyser, colour, face_picture, vector_of
from tests.indexer.test_ads import ad
from tests.indexer.test_forget import files_with

NAME = "Zebulon Quillfeather"
RESERVE = 2_000_000


@contextmanager
def opened(
    data_dir: Path, *, min_free_bytes: int = 0, reserve_bytes: int = 0
) -> Iterator[Workspace]:
    """On SQLite: these tests are about files."""
    options = WorkspaceOptions(min_free_bytes=min_free_bytes, reserve_bytes=reserve_bytes)
    with open_workspace(data_dir, SmallAnalyser(), options=options) as ws:
        yield ws


def fill(ws: Workspace) -> str:
    """Two ads and a case with a photo; the id of the case."""
    case = cases.create_case(ws, CaseInput(case_number="1", person=Person(name=NAME)))
    cases.add_photo(ws, case.case_id, face_picture(1))
    for number in (1, 2):
        ads.receive_ad(ws, ad(str(number)), [Upload(face_picture(number, 7))])
    jobs.run_pending(ws)
    return case.case_id


def kept(ws: Workspace) -> tuple[int, int, int]:
    """Ads, images and originals that are there."""
    with ws.catalog.read() as session:
        counts = [session.scalar(select(func.count()).select_from(t)) or 0 for t in (Ad, Image)]
    return counts[0], counts[1], len(list(ws.blobs.digests()))


def sound(ws: Workspace) -> None:
    ws.maintain()
    report = check(ws, verify_blobs=True)
    assert [item for item in report.items if not item.ok and item.name != "disk"] == []


# --- the watermark ---------------------------------------------------------------------------


def test_below_the_watermark_nothing_new_is_taken_in(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as ws:
        case_id = fill(ws)
        before = kept(ws)
    with opened(tmp_path / "data", min_free_bytes=10**15) as ws:
        assert not room_left(ws)
        with pytest.raises(StorageLow) as low:
            ads.receive_ad(ws, ad("3"), [Upload(face_picture(3))])
        assert low.value.code == "storage_full"
        assert "MB of disk are free" in low.value.detail
        with pytest.raises(StorageLow):
            cases.add_photo(ws, case_id, face_picture(1, 2))
        assert kept(ws) == before
        (disk,) = [item for item in check(ws).items if item.name == "disk"]
        assert not disk.ok
        assert "nothing new is taken in" in disk.detail
        forget.forget_case(ws, case_id)
        assert files_with(ws.data_dir, vector_of(colour(1)).tobytes()) == []
        sound(ws)


def test_room_is_looked_at_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "data", min_free_bytes=1_000) as ws:
        require_room(ws)
        monkeypatch.setattr(ws.blobs, "free_bytes", lambda: 999)
        assert room_left(ws), "for a second what was seen holds"
        monkeypatch.setattr(room, "_LOOK_EVERY_S", 0.0)
        assert not room_left(ws)
        monkeypatch.setattr(ws.blobs, "free_bytes", lambda: None)
        assert room_left(ws), "of a store that cannot say, the disk of the data folder counts"


def test_the_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "data", reserve_bytes=RESERVE) as ws:
        path = ws.data_dir / room.RESERVE
        assert path.stat().st_blocks * 512 >= RESERVE
        path.unlink()
        monkeypatch.setattr(ws.blobs, "free_bytes", lambda: RESERVE)
        ws.maintain()
        assert not path.exists(), "it would take the last there is"
        monkeypatch.undo()
        ws.maintain()
        assert path.exists()


# --- a disk that is really full --------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MB in memory, of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    with mounted(place, "-t", "tmpfs", "-o", "size=12m", "tmpfs"):
        yield place


@contextmanager
def mounted(place: Path, *words: str | Path) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    run = subprocess.run(["mount", *words, place], capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip(f"no disk can be mounted here: {run.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill_up(place: Path) -> Path:
    """Take every byte that is left."""
    ballast = place / "ballast"
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(place).free == 0
    return ballast


def test_on_a_full_disk_nothing_is_half_kept_and_deletions_are_done(tiny_disk: Path) -> None:
    with opened(tiny_disk / "data", reserve_bytes=RESERVE) as ws:
        case_id = fill(ws)
        before = kept(ws)
        vector = vector_of(colour(1)).tobytes()
        assert ws.catalog.scrub()
        ballast = fill_up(tiny_disk)
        with pytest.raises(StorageFull):
            ads.receive_ad(ws, ad("3", body="x" * 50_000), [Upload(face_picture(3))])
        with pytest.raises(StorageFull):
            cases.update_case(ws, case_id, {"notes": "y" * 90_000})
        ws.maintain()
        assert kept(ws) == before
        assert (tiny_disk / "data" / room.RESERVE).exists(), "only deletions may use it"
        forget.forget_case(ws, case_id)
        assert not (tiny_disk / "data" / room.RESERVE).exists(), "and it was needed"
        with pytest.raises(CaseNotFound):
            cases.get_case(ws, case_id)
        assert ws.cases.count() == 0
        ws.maintain()
        for needle in (vector, NAME.encode(), face_picture(1)[-200:]):
            assert files_with(tiny_disk / "data", needle) == []
        ballast.unlink()
        ws.maintain()
        assert ads.receive_ad(ws, ad("4"), [Upload(face_picture(4))]).created
        jobs.run_pending(ws)
        sound(ws)


def test_jobs_that_a_full_disk_breaks_off_are_done_later(tiny_disk: Path) -> None:
    with opened(tiny_disk / "data") as ws:
        fill(ws)
        sent = [
            ads.receive_ad(ws, ad(f"later-{n}"), [Upload(face_picture(30 + n))]).job_id
            for n in range(3)
        ]
        assert ws.catalog.scrub()
        ballast = fill_up(tiny_disk)
        with suppress(StorageFull):
            jobs.run_pending(ws)
        ballast.unlink()
        ws.maintain()
        jobs.run_pending(ws)
        assert {jobs.get_job(ws, job_id).state for job_id in sent} == {"done"}
        assert ws.ads.count() == 5
        sound(ws)


# --- a catalog that somebody else holds ------------------------------------------------------

_HOLDS = (
    "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
    "c.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()"
)


def test_a_catalog_that_another_process_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_MS", 200)
    with opened(tmp_path / "data") as ws:
        case_id = fill(ws)
        before = kept(ws)
        with subprocess.Popen(
            [sys.executable, "-c", _HOLDS, ws.data_dir / "catalog.sqlite3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as holder:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with pytest.raises(CatalogBusy):
                ads.receive_ad(ws, ad("3"), [Upload(face_picture(3))])
            with pytest.raises(CatalogBusy):
                forget.forget_case(ws, case_id)
            ws.maintain()
            assert cases.get_case(ws, case_id).photos, "reading goes on"
            assert ws.ads.count() == 2
            holder.kill()
        ws.blobs.sweep()
        assert kept(ws)[:2] == before[:2]
        assert ads.receive_ad(ws, ad("3"), [Upload(face_picture(3))]).created
        forget.forget_case(ws, case_id)
        jobs.run_pending(ws)
        sound(ws)


# --- a folder that may no longer be written --------------------------------------------------


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing in ``folder`` can be written; for root that takes more than permissions."""
    if os.geteuid() == 0:
        with mounted(folder, "--bind", folder):
            subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
            yield
        return
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for place in places:
        place.chmod(0o500)
    try:
        yield
    finally:
        for place in places:
            place.chmod(0o700)


def test_originals_gone_read_only(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as ws:
        case_id = fill(ws)
        before = kept(ws)
        with read_only(ws.data_dir / "blobs"):
            with pytest.raises(StorageDenied):
                ads.receive_ad(ws, ad("3"), [Upload(face_picture(3))])
            with pytest.raises(StorageDenied):
                cases.add_photo(ws, case_id, face_picture(1, 2))
            assert kept(ws) == before
            forget.forget_case(ws, case_id)
            with pytest.raises(CaseNotFound):
                cases.get_case(ws, case_id)
            assert files_with(ws.data_dir, face_picture(1)[-200:]), "it cannot be removed yet"
            ws.maintain()
            with ws.catalog.read() as session:
                assert session.scalar(select(func.count()).select_from(PendingRemoval))
            (item,) = [item for item in check(ws).items if item.name == "deletions"]
            assert not item.ok
        ws.maintain()
        for needle in (vector_of(colour(1)).tobytes(), NAME.encode(), face_picture(1)[-200:]):
            assert files_with(ws.data_dir, needle) == []
        sound(ws)
