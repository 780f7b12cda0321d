"""Encryption at rest: nothing plain anywhere, nothing moved or changed is believed, keys change."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import String, event, select, text, update
from sqlalchemy.orm import Session

from indexer import ads, backup, candidates, cases, jobs, restore
from indexer.catalog.migrations import versions
from indexer.catalog.schema import Base
from indexer.catalog.sealed import CONTACT_MARK, sealed_columns
from indexer.catalog.sealing_tables import DataKey
from indexer.catalog.tables import AdContact, Case, Face, StagedImage
from indexer.errors import (
    BackupFailed,
    BlobDamaged,
    BlobMissing,
    KeysUnusable,
    SealBroken,
    SealKeyMissing,
)
from indexer.galleries.resealing import reseal
from indexer.records import AdFilter
from indexer.sealing import keys, work
from indexer.sealing.keyring import MAGIC, MAX_SEALS, key_id_of
from indexer.sealing.outer import OuterKeys
from indexer.times import utc_now
from indexer.workspace import Workspace, make_catalog, open_workspace
from tests.conftest import REPOSITORY
from tests.indexer.sealed import OTHER, OUTER, everything, fill, found_in
from tests.indexer.small import SmallAnalyser, face_picture
from tests.indexer.test_candidates import make_case, send
from tests.postgres import sqlite_only
from tests.s3 import running_s3

Opener = Callable[..., Workspace]


@pytest.fixture
def opener(tmp_path: Path, catalog_url: str | None, lent: None) -> Iterator[Opener]:
    """Opens the one data folder with these outer keys, as often as called."""
    opened: list[Workspace] = []

    def with_keys(keys: Any = OUTER) -> Workspace:
        ws = open_workspace(tmp_path / "data", SmallAnalyser(), catalog_url=catalog_url, keys=keys)
        opened.append(ws)
        return ws

    yield with_keys
    for ws in opened:
        ws.close()


def turn_on(tmp_path: Path, url: str | None) -> None:
    """What `homeward encryption on` does before anything is sealed."""
    from indexer.catalog import open_catalog
    from indexer.catalog.engine import sqlite_url

    catalog = open_catalog(url or sqlite_url(tmp_path / "data" / "catalog.sqlite3"))
    try:
        keys.attach(catalog, OUTER, turn_on=True)
    finally:
        catalog.close()


def by_key(ws: Workspace) -> dict[str, int]:
    """How many sealed values there are under each key; nothing may be broken."""
    found = work.check(ws)
    assert found.broken == {}
    return found.by_key


# --- nothing plain ---------------------------------------------------------------------------


def test_nothing_of_a_person_is_in_any_file(opener: Opener, tmp_path: Path) -> None:
    ws = opener()
    filled = fill(ws)
    places = everything(tmp_path / "data", ws)
    assert found_in(places, filled.needles) == {}
    if ws.catalog.is_sqlite:
        archive = tmp_path / "b.tar"
        backup.back_up(ws.catalog, ws.blobs, archive, homeward="0", data_dir=tmp_path / "data")
        assert found_in({"archive": archive.read_bytes()}, filled.needles) == {}
    ws.close()
    assert found_in(everything(tmp_path / "data"), filled.needles) == {}


def test_the_same_look_finds_everything_where_encryption_is_off(
    opener: Opener, tmp_path: Path
) -> None:
    ws = opener(None)
    filled = fill(ws)
    found = found_in(everything(tmp_path / "data", ws), filled.needles)
    assert set(found) == set(filled.needles)


def test_what_is_sealed_comes_back(opener: Opener, tmp_path: Path) -> None:
    filled = fill(opener())
    ws = opener()
    case = cases.get_case(ws, filled.case_id)
    assert case.person.name == "Zebulon Quillfeather"
    assert case.alert_emails == ("quill@feather.test",)
    got = ads.get_ad(ws, filled.ad_id)
    assert (got.age_stated, got.handles) == ("nineteenish", ("@marmaladefox",))
    assert [one.ad_id for one in ads.list_ads(ws, AdFilter(phone="+12065550177")).items] == [
        filled.ad_id
    ]
    assert ads.list_ads(ws, AdFilter(phone="+12065550178")).items == ()
    assert len(candidates.ranked(ws, filled.case_id).items) == 1


def test_every_sealed_column_knows_its_place() -> None:
    wider = {(table, column) for table, column, _ in _wider()}
    for table in Base.metadata.sorted_tables:
        for name, column in sealed_columns(table).items():
            kind: Any = column.type
            assert kind.label == f"{table.name}.{name}"
            assert kind.keys == len(table.primary_key)
            assert (
                not isinstance(kind.impl_instance, String)
                or kind.length is None
                or ((table.name, name) in wider)
            ), f"{kind.label} is not widened on PostgreSQL"


def _wider() -> tuple[tuple[str, str, int], ...]:
    import importlib

    found: tuple[tuple[str, str, int], ...] = importlib.import_module(
        f"{versions.__name__}.0007_sealing"
    ).WIDER
    return found


# --- moved and changed -----------------------------------------------------------------------


def stored(ws: Workspace, table: str, column: str, key: str, value: str) -> Any:
    with ws.catalog.read() as session:
        return session.execute(
            text(f"SELECT {column} FROM {table} WHERE {key} = :k"), {"k": value}
        ).scalar_one()


def put(ws: Workspace, table: str, column: str, key: str, row: str, value: Any) -> None:
    with ws.catalog.write() as session:
        session.execute(
            text(f"UPDATE {table} SET {column} = :v WHERE {key} = :k"), {"v": value, "k": row}
        )


def test_a_value_that_was_moved_or_changed_is_not_believed(opener: Opener) -> None:
    ws = opener()
    case_id = make_case(ws, face_picture(1))
    other_id = make_case(ws, face_picture(2), number="2")
    for one, word in ((case_id, "one"), (other_id, "two")):
        cases.update_case(ws, one, {"notes": word, "missing_since": date(1987, 2, 3)})
    notes = stored(ws, "cases", "notes", "case_id", case_id)
    # From another row, from another column, with one bit changed, cut, and plain.
    twisted = notes[:-6] + ("A" if notes[-6] != "A" else "B") + notes[-5:]
    for value in (
        stored(ws, "cases", "notes", "case_id", other_id),
        stored(ws, "cases", "missing_since", "case_id", case_id),
        twisted,
        notes[:40],
        "written by hand",
    ):
        put(ws, "cases", "notes", "case_id", case_id, value)
        with pytest.raises(SealBroken):
            cases.get_case(ws, case_id)
        assert work.check(ws).broken == {"cases.notes": 1}
    put(ws, "cases", "notes", "case_id", case_id, notes)
    assert cases.get_case(ws, case_id).notes == "one"
    with ws.catalog.read() as session:
        face_ids = list(session.scalars(select(Face.face_id)))
    vectors = [stored(ws, "faces", "vector", "face_id", one) for one in face_ids]
    put(ws, "faces", "vector", "face_id", face_ids[0], vectors[1])
    with ws.catalog.read() as session, pytest.raises(SealBroken):
        session.scalars(select(Face.vector)).all()


def test_a_sealed_column_is_never_written_or_compared_without_its_row(opener: Opener) -> None:
    ws = opener()
    case_id = make_case(ws)
    with ws.catalog.write() as session, pytest.raises(Exception, match="written by row"):
        session.execute(update(Case).where(Case.case_id == case_id).values(notes="bare"))
    with ws.catalog.read() as session, pytest.raises(Exception, match="written by row"):
        session.scalars(select(Case).where(Case.notes == "bare")).all()


def test_originals_are_sealed_under_names_that_tell_nothing(opener: Opener) -> None:
    ws = opener()
    one, two = b"a" * 100, bytes(range(256)) * 9000
    shas = [ws.blobs.put(data) for data in (one, two)]
    assert ws.blobs.put(one) == shas[0]
    assert sorted(ws.blobs.digests()) == sorted(shas)
    root: Path = ws.blobs.root  # type: ignore[attr-defined]
    files = {path.name: path for path in root.glob("??/??/*")}
    assert len(files) == 2
    assert not set(shas) & set(files)
    for path in files.values():
        assert path.stat().st_mode & 0o777 == 0o400
    for sha256, data in zip(shas, (one, two), strict=True):
        assert ws.blobs.get(sha256) == data
    paths = [root / _fan(ws, sha256) for sha256 in shas]
    held = [path.read_bytes() for path in paths]
    _replace(paths[0], held[1])
    with pytest.raises(BlobDamaged):
        ws.blobs.get(shas[0])
    for damage in (held[1][:-1], held[1][:40], held[1][:900_000], b"", _bit(held[1], 1_500_000)):
        _replace(paths[1], damage)
        with pytest.raises(BlobDamaged):
            ws.blobs.get(shas[1])
    assert ws.blobs.put(two) == shas[1], "what is damaged is written anew"
    assert ws.blobs.get(shas[1]) == two
    assert ws.blobs.delete(shas[1])
    assert not ws.blobs.has(shas[1])


def _fan(ws: Workspace, sha256: str) -> str:
    assert ws.keyring is not None
    name = ws.keyring.name_of(bytes.fromhex(sha256))
    return f"{name[:2]}/{name[2:4]}/{name}"


def _replace(path: Path, data: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(data)


def _bit(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_nothing_plain_touches_the_disk_while_a_file_comes_in(
    opener: Opener, tmp_path: Path
) -> None:
    ws = opener()
    receiving = ws.blobs.receive()
    needle = b"needle in a picture " * 3
    for _ in range(40):
        receiving.write(needle * 1000)
        assert found_in(everything(tmp_path / "data"), {"needle": needle}) == {}
    received = receiving.done()
    assert received.read() == needle * 40_000
    assert received.size == len(needle) * 40_000
    assert found_in(everything(tmp_path / "data"), {"needle": needle}) == {}
    received.discard()


# --- keys ------------------------------------------------------------------------------------


def test_without_the_right_key_nothing_opens_and_nothing_is_touched(
    opener: Opener, tmp_path: Path, catalog_url: str | None
) -> None:
    ws = opener()
    case_id = make_case(ws, face_picture(1))
    ws.close()
    before = everything(tmp_path / "data" / "blobs")
    for wrong in (None, OTHER, OuterKeys("first", {"first": b"3" * 32})):
        with pytest.raises(KeysUnusable):
            opener(wrong)
        with pytest.raises(KeysUnusable):
            make_catalog(tmp_path / "data", catalog_url, keys=wrong)
    assert everything(tmp_path / "data" / "blobs") == before
    assert cases.get_case(opener(), case_id).case_number == "1"


def test_keys_do_not_encrypt_a_folder_by_accident(
    opener: Opener, tmp_path: Path, catalog_url: str | None
) -> None:
    ws = opener(None)
    case_id = make_case(ws)
    with pytest.raises(KeysUnusable, match="not encrypted"):
        opener()
    assert cases.get_case(ws, case_id).case_number == "1"
    # Once it is on, a process without keys writes nothing any more and reads nothing sealed.
    turn_on(tmp_path, catalog_url)
    with pytest.raises(SealKeyMissing):
        make_case(ws, number="2")
    with pytest.raises(KeysUnusable):
        opener(None)


def test_the_outer_key_is_changed_by_wrapping_anew(opener: Opener) -> None:
    ws = opener()
    case_id = make_case(ws, face_picture(1))
    both = OuterKeys("second", {**OUTER.keys, **OTHER.keys})
    with ws.catalog.write() as session:
        assert keys.rewrap(session, both) == 2
        assert keys.rewrap(session, both) == 0
    ws.close()
    with pytest.raises(KeysUnusable):
        opener(OUTER)
    assert len(cases.get_case(opener(OTHER), case_id).photos) == 1


def test_a_worn_key_is_replaced_before_its_bound(opener: Opener) -> None:
    ws = opener()
    make_case(ws)
    assert ws.keyring is not None
    old = ws.keyring.current_id
    with ws.catalog.write() as session:
        session.execute(update(DataKey).values(seals=MAX_SEALS // 2))
    make_case(ws, number="2")
    assert ws.keyring.current_id != old
    work.finish(ws, lambda _: None)
    assert set(by_key(ws)) == {ws.keyring.current_id}


def test_a_key_is_not_used_that_may_be_rolled_back(opener: Opener) -> None:
    ws = opener()
    with ws.catalog.write() as session:
        session.execute(update(DataKey).values(seals=MAX_SEALS // 2))
    kept: list[str] = []

    def fail() -> None:
        with ws.catalog.write():
            kept.append(ws.blobs.put(b"sealed beside a transaction that fails"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    ws.close()
    assert opener().blobs.get(kept[0]) == b"sealed beside a transaction that fails"


def test_what_a_failed_transaction_sealed_is_counted_later(opener: Opener) -> None:
    ws = opener()

    def fail() -> None:
        with ws.catalog.write() as session:
            for _ in range(300):
                ws.keyring.seal(b"", b"")  # type: ignore[union-attr]
            event.listen(session, "before_commit", broken)

    def broken(_session: Session) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with ws.catalog.write():
        pass
    with ws.catalog.read() as session:
        counted = session.scalars(select(DataKey.seals).where(DataKey.purpose == "seal")).one()
    assert counted >= 300


def test_sealed_values_are_counted(opener: Opener) -> None:
    ws = opener()
    for number in range(100):
        make_case(ws, number=str(number))
    with ws.catalog.read() as session:
        counted = session.scalars(select(DataKey.seals).where(DataKey.purpose == "seal")).one()
    assert 0 < 100 * 2 - counted <= 256


# --- sealing what is there -------------------------------------------------------------------


def test_an_existing_folder_is_sealed_in_steps_that_may_break_off(
    opener: Opener, tmp_path: Path, catalog_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_STEP_S", 0.0)  # not by upkeep
    monkeypatch.setattr(work, "ROWS_AT_ONCE", 8)
    monkeypatch.setattr(work, "FILES_AT_ONCE", 8)
    ws = opener(None)
    filled = fill(ws)
    for number in range(2, 12):
        send(ws, str(number), face_picture(number), phones=(f"+1 206 555 02{number:02}",))
    ws.close()
    turn_on(tmp_path, catalog_url)
    steps = 0
    while True:
        # Each step by a process that knows nothing of the one before.
        ws = opener()
        with ws.catalog.read() as session:
            if work.going_on(session) is None:
                break
        # What is plain still and what is sealed already are both read meanwhile.
        assert cases.get_case(ws, filled.case_id).notes == "the Tangerine notes"
        assert len(candidates.ranked(ws, filled.case_id).items) >= 1
        found = ads.list_ads(ws, AdFilter(phone="+12065550177")).items
        assert [one.ad_id for one in found] == [filled.ad_id]
        if 3 <= steps < 6:
            send(ws, "late", face_picture(99))
        with pytest.raises(BackupFailed, match="being encrypted"):
            backup.back_up(
                ws.catalog, ws.blobs, tmp_path / "b.tar", homeward="0", data_dir=ws.data_dir
            )
        for _ in range(3):
            steps += work.step(ws)
        ws.close()
    assert steps > len(work.parts())
    assert ws.keyring is not None
    assert not ws.keyring.accepts_plain
    assert set(by_key(ws)) == {ws.keyring.current_id}
    with ws.catalog.read() as session:
        assert all(key.startswith(CONTACT_MARK) for key in session.scalars(select(AdContact.key)))
    ws.close()
    ws = opener()
    assert found_in(everything(tmp_path / "data", ws), filled.needles) == {}
    assert cases.get_case(ws, filled.case_id).notes == "the Tangerine notes"


def test_what_only_looks_sealed_is_sealed_as_well(
    opener: Opener, tmp_path: Path, catalog_url: str | None
) -> None:
    """Whoever writes an ad or a page must not be able to keep the folder from being sealed."""
    head = MAGIC + b"\0" * 8
    short = f"hw1:{b64encode(head).decode()}"
    long = f"hw1:{b64encode(head + b'x' * 60).decode()}"
    ws = opener(None)
    case_ids = []
    for number, notes in enumerate((short, long, "hw1:AEhX*")):
        case_ids.append(make_case(ws, number=str(number)))
        cases.update_case(ws, case_ids[-1], {"notes": notes})
        assert cases.get_case(ws, case_ids[-1]).notes == notes
    page = head + b"a page of a site " * 20
    sha256 = ws.blobs.put(page)
    with ws.catalog.write() as session:
        session.add(StagedImage(sha256=sha256, size=len(page), actor="key", received_at=utc_now()))
    ws.close()
    turn_on(tmp_path, catalog_url)
    ws = opener()
    work.finish(ws, lambda _: None)
    assert ws.keyring is not None and not ws.keyring.accepts_plain
    assert [cases.get_case(ws, one).notes for one in case_ids] == [short, long, "hw1:AEhX*"]
    assert ws.blobs.get(sha256) == page
    assert set(by_key(ws)) == {ws.keyring.current_id}


def test_what_does_not_open_holds_nothing_else_up(
    opener: Opener, tmp_path: Path, catalog_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_STEP_S", 0.0)  # not by upkeep
    ws = opener()
    one, two = make_case(ws), make_case(ws, number="2")
    for case_id in (one, two):
        cases.update_case(ws, case_id, {"notes": case_id})
    put(ws, "cases", "notes", "case_id", one, stored(ws, "cases", "notes", "case_id", two))
    new = work.rotate(ws, OUTER)
    work.finish(ws, lambda _: None)
    assert cases.get_case(ws, two).notes == two
    found = work.check(ws)
    assert found.broken == {"cases.notes": 1}
    assert found.by_key[new] > 1


def test_without_keys_nothing_sealed_is_shown(
    opener: Opener, tmp_path: Path, catalog_url: str | None
) -> None:
    plain = opener(None)
    case_id = make_case(plain, face_picture(1))
    turn_on(tmp_path, catalog_url)
    ws = opener()
    work.finish(ws, lambda _: None)
    with pytest.raises(SealKeyMissing):
        cases.get_case(plain, case_id)
    with plain.catalog.read() as session, pytest.raises(SealKeyMissing):
        session.scalars(select(Face.vector)).all()


def test_a_new_data_key_seals_everything_anew(opener: Opener, tmp_path: Path) -> None:
    ws = opener()
    filled = fill(ws)
    assert ws.keyring is not None
    old = ws.keyring.current_id
    beside = opener()
    new = work.rotate(ws, OUTER)
    assert new != old
    # Another process learns of it by its next write, before it writes.
    make_case(beside, number="beside")
    assert beside.keyring is not None
    assert beside.keyring.current_id == new
    assert cases.get_case(beside, filled.case_id).notes == "the Tangerine notes"
    work.finish(ws, lambda _: None)
    beside.ads.keep()
    beside.cases.keep()
    reseal((beside.ads, beside.cases), beside.index_dir)
    assert set(by_key(ws)) == {new}
    head = bytes.fromhex(old)
    places = everything(tmp_path / "data", ws)
    keeps = {"data_keys"} | {path for path in places if path.startswith("catalog.sqlite3")}
    assert set(found_in(places, {"old": head}).get("old", [])) <= keeps
    with ws.catalog.read() as session:
        retired = session.scalars(
            select(DataKey.data_key_id).where(DataKey.retired_at.is_not(None))
        )
        assert list(retired) == [old]
    assert cases.get_case(ws, filled.case_id).notes == "the Tangerine notes"
    assert ads.get_ad(ws, filled.ad_id).handles == ("@marmaladefox",)


@sqlite_only
def test_killed_anywhere_while_all_is_sealed_anew_nothing_is_lost(
    opener: Opener, tmp_path: Path
) -> None:
    ws = opener()
    case_id = make_case(ws, face_picture(1))
    for number in range(2, 32):
        send(ws, str(number), face_picture(number), title=f"title {number}")
    jobs.run_pending(ws)
    ws.close()
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from indexer.sealing import work\nfrom indexer.workspace import open_workspace\n"
        "from tests.indexer.sealed import OUTER\nfrom tests.indexer.small import SmallAnalyser\n"
        "work.ROWS_AT_ONCE = 5\nwork.FILES_AT_ONCE = 2\nwork._STEP_S = 0\n"
        "ws = open_workspace(Path(sys.argv[1]), SmallAnalyser(), keys=OUTER)\n"
        "if len(sys.argv) > 2: work.rotate(ws, OUTER)\n"
        "print('ready', flush=True)\n"
        "work.finish(ws, lambda _: None)\nprint('done', flush=True)\n"
    )
    ended = 0
    for attempt in range(5):
        words = ["new"] if attempt == 0 else []
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "data"), *words],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.01 + 0.04 * attempt)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        process.stdout.close()
        process.wait()
        if rest == "done\n":
            ended += 1
            break
    ws = opener()
    work.finish(ws, lambda _: None)
    assert ws.keyring is not None
    assert set(by_key(ws)) == {ws.keyring.current_id}
    assert len(ads.list_ads(ws, AdFilter(), limit=100).items) == 30
    assert len(candidates.ranked(ws, case_id, k=60).items) > 0
    for sha256 in ws.blobs.digests():
        ws.blobs.get(sha256)
    assert ended <= 1


# --- object stores ---------------------------------------------------------------------------


@sqlite_only
def test_originals_in_a_bucket_are_sealed_as_well(opener: Opener, tmp_path: Path) -> None:
    large = bytes(range(256)) * 28_000  # of several parts
    with running_s3() as server:
        bucket = server.bucket()
        plain = bucket.store(tmp_path / "plain")
        shas = [plain.put(b"small original"), plain.put(large)]
        ws = opener()
        assert ws.keyring is not None
        store = bucket.store(tmp_path / "incoming")
        store.seal_with(ws.keyring)
        assert not store.has(shas[0]), "what is plain is not believed where all is sealed"
        for sha256, data in zip(shas, (b"small original", large), strict=True):
            assert store.put(data) == sha256
            receiving = store.receive()
            receiving.write(data)
            store.keep([receiving.done()], evenly=True)
            assert store.get(sha256) == data
            assert store.outdated(sha256), "the plain one is there still"
            store.drop_plain(sha256)
            assert not store.outdated(sha256)
            name, sealed = store.get_sealed(sha256)
            assert key_id_of(sealed) == ws.keyring.current_id
            assert any(one.endswith(name) for one in bucket.names())
        assert not any(sha256 in name for sha256 in shas for name in bucket.names())
        assert sorted(store.digests()) == sorted(shas)
        work.rotate(ws, OUTER)
        assert store.outdated(shas[0])
        assert not store.is_empty()
        assert store.delete(shas[0])
        with pytest.raises(BlobMissing):
            store.get(shas[0])


# --- back-ups --------------------------------------------------------------------------------


@sqlite_only
def test_a_back_up_is_as_sealed_as_the_folder_and_needs_its_key(
    opener: Opener, tmp_path: Path
) -> None:
    ws = opener()
    filled = fill(ws)
    path = tmp_path / "b.tar"
    manifest = backup.back_up(ws.catalog, ws.blobs, path, homeward="0", data_dir=ws.data_dir)
    originals = {sha256: ws.blobs.get(sha256) for sha256 in ws.blobs.digests()}
    ws.close()
    assert manifest.outer_keys == ("first",)
    assert backup.verify(path) == manifest, "which needs no key"
    for wrong in (None, OTHER):
        with pytest.raises(KeysUnusable, match="first"):
            restore.restore_files(path, tmp_path / "again", keys=wrong)
    with pytest.raises(KeysUnusable):
        restore.restore_files(
            path, tmp_path / "again", keys=OuterKeys("first", {"first": b"4" * 32})
        )
    assert list((tmp_path / "again").iterdir()) == []
    restore.restore_files(path, tmp_path / "again", keys=OUTER)
    assert found_in(everything(tmp_path / "again"), filled.needles) == {}
    with open_workspace(
        tmp_path / "again", SmallAnalyser(), keys=OUTER, restoring=True
    ) as restored:
        restore.finished(restored)
        assert {s: restored.blobs.get(s) for s in restored.blobs.digests()} == originals
        assert cases.get_case(restored, filled.case_id).person.name == "Zebulon Quillfeather"
        assert by_key(restored)
