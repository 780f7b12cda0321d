"""The galleries: views that agree with the catalog and each other, and their index files."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer import cases, forget, jobs
from indexer.catalog import Catalog
from indexer.catalog.tables import Face
from indexer.errors import StorageFull
from indexer.files import file_lock
from indexer.galleries import Gallery, log, remove_faces
from indexer.galleries.local import LocalGallery
from indexer.galleries.opening import scanner
from indexer.records import CaseInput, GalleryName
from indexer.vectors import segment as files
from indexer.workspace import Workspace, open_workspace
from tests.conftest import REPOSITORY
from tests.indexer.conftest import Reopen, url_of
from tests.indexer.gallery_rows import put_faces
from tests.indexer.kept import SIZES, copy_of, gallery_in
from tests.indexer.small import (
    CONTRACT,
    DIMENSION,
    SmallAnalyser,
    colour,
    face_picture,
    vector_of,
)


def enrol(ws: Workspace, *people: int) -> str:
    case_id = cases.create_case(ws, CaseInput(case_number=f"c-{people}")).case_id
    for person in people:
        cases.add_photo(ws, case_id, face_picture(person))
    return case_id


def nearest(gallery: Gallery, person: int) -> tuple[str, ...]:
    return gallery.search(vector_of(colour(person))[None], 1)[0].ids


def segment_files(ws: Workspace, part: str) -> list[Path]:
    return sorted((ws.index_dir / f"cases-{CONTRACT}").glob(f"*.{part}"))


def index_files(ws: Workspace) -> list[Path]:
    return [path for path in ws.index_dir.rglob("*") if path.is_file()]


def vector_in(path: Path, person: int) -> bool:
    return vector_of(colour(person)).tobytes() in path.read_bytes()


def test_views_of_one_folder_see_each_other(opened: Reopen) -> None:
    one, other = opened(), opened()
    case_id = enrol(one, 1, 2)
    assert other.cases.count() == 2
    assert nearest(other.cases, 1) == nearest(one.cases, 1)
    photo = cases.get_case(other, case_id).photos[0]
    forget.forget_photo(other, case_id, photo.photo_id)
    assert photo.face_id not in one.cases.search(vector_of(colour(1))[None], 9)[0].ids
    assert one.cases.count() == 1
    assert one.cases.health() is None
    cases.update_case(one, case_id, {"status": "found"})
    assert other.cases.count() == 0


def test_another_process_sees_a_deletion(ws: Workspace) -> None:
    case_id = enrol(ws, 1)
    script = (
        "import sys; from pathlib import Path\n"
        "from indexer import forget; from indexer.workspace import open_workspace\n"
        "from tests.indexer.small import SmallAnalyser\n"
        "with open_workspace(Path(sys.argv[1]), SmallAnalyser(), catalog_url=sys.argv[2]) as ws:\n"
        "    assert ws.cases.count() == 1\n"
        "    forget.forget_case(ws, sys.argv[3])\n"
    )
    command = [sys.executable, "-c", script, str(ws.data_dir), url_of(ws), case_id]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], timeout=60)
    assert ws.cases.count() == 0


def test_segments_spare_the_catalog(opened: Reopen, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = opened()
    enrol(ws, 1, 2, 3)
    ws.cases.save()
    enrol(ws, 4)
    read: list[int] = []
    faces = log.faces

    def counted(*arguments: Any) -> Iterator[log.Faces]:
        for some in faces(*arguments):
            read.append(len(some.ids))
            yield some

    monkeypatch.setattr(log, "faces", counted)
    everything = log.all_faces

    def of_ads(catalog: Catalog, gallery: GalleryName, *rest: Any) -> Iterator[log.Faces]:
        assert gallery == "ads", "the cases are in a segment"
        return everything(catalog, gallery, *rest)

    monkeypatch.setattr(log, "all_faces", of_ads)
    again = opened()
    assert again.cases.count() == 4
    assert read == [1], "only what came after the segment is read from the catalog"
    assert nearest(again.cases, 3) == nearest(ws.cases, 3)
    assert again.cases.health() is None


@pytest.mark.parametrize("part", ["data", "head"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "gone", "swap"])
def test_a_damaged_segment_is_made_anew_and_said_so(
    opened: Reopen, damage: str, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    ws = opened()
    enrol(ws, 1, 2, 3)
    ws.cases.save()
    (path,) = segment_files(ws, part)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "cut":
        data = data[:-7]
    elif damage == "empty":
        data = bytearray()
    elif damage == "text":
        data = bytearray(b"x" * 500)
    elif damage == "swap":
        case_id = enrol(ws, 4)
        ws.cases.save()
        (other,) = set(segment_files(ws, part)) - {path}
        data = bytearray(other.read_bytes())
        forget.forget_case(ws, case_id)
    path.unlink()
    if damage != "gone":
        path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        again = opened()
        found = nearest(again.cases, 2)
    assert "rebuilt from the catalog" in caplog.text
    assert found == nearest(ws.cases, 2)
    assert again.cases.count() == 3
    assert again.cases.health() is None
    assert ws.cases.health() is None


def test_a_vector_that_is_damaged_later_is_never_answered_with(
    opened: Reopen, caplog: pytest.LogCaptureFixture
) -> None:
    enrol(opened(), 1, 2, 3)
    ws = opened()
    ws.cases.save()
    expected = ws.cases.search(vector_of(colour(2))[None], 3)[0]
    again = opened()
    (path,) = segment_files(again, "data")
    vector = vector_of(colour(2)).tobytes()
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(data.index(vector))
        file.write(bytes([vector[0] ^ 1]))
    with caplog.at_level(logging.WARNING):
        found = again.cases.search(vector_of(colour(2))[None], 3)[0]
    assert found.ids == expected.ids
    assert np.array_equal(found.scores, expected.scores)
    assert "rebuilt from the catalog" in caplog.text


def test_segments_of_another_history_are_not_trusted(
    tmp_path: Path, small_analyser: SmallAnalyser, caplog: pytest.LogCaptureFixture
) -> None:
    """A catalog put back from an earlier copy, with segments that were written later."""
    folder = tmp_path / "a"
    with open_workspace(folder, small_analyser) as ws:
        enrol(ws, 1, 2)
        ws.cases.save()
    earlier = (folder / "catalog.sqlite3").read_bytes()
    with open_workspace(folder, small_analyser) as ws:
        (case,) = cases.list_cases(ws).items
        forget.forget_photo(ws, case.case_id, case.photos[0].photo_id)
        ws.cases.save()
    (folder / "catalog.sqlite3").write_bytes(earlier)
    with open_workspace(folder, small_analyser) as ws:
        assert ws.cases.count() == 2
    with open_workspace(folder, small_analyser) as ws:
        enrol(ws, 5)
        assert ws.cases.health() is None
    (folder / "catalog.sqlite3").write_bytes(earlier)
    with caplog.at_level(logging.WARNING), open_workspace(folder, small_analyser) as ws:
        assert ws.cases.health() is None
        assert ws.cases.search(vector_of(colour(1))[None], 1)[0].scores[0] > 0.99


def test_two_contracts_never_meet(ws: Workspace) -> None:
    enrol(ws, 1)
    ws.cases.save()
    second = SmallAnalyser("other-000000000000")
    with open_workspace(ws.data_dir, second, catalog_url=url_of(ws), take_over=True) as other:
        assert other.cases.count() == 0
        enrol(other, 2)
        other.cases.save()
        assert other.cases.count() == 1
    assert ws.cases.count() == 1
    assert ws.cases.health() is None


def test_a_deletion_leaves_no_vector_in_any_file(opened: Reopen) -> None:
    ws, other = opened(), opened()
    case_id = enrol(ws, 1, 2)
    with open_workspace(
        ws.data_dir,
        SmallAnalyser("other-000000000000"),
        catalog_url=url_of(ws),
        take_over=True,
    ) as stranger:
        enrol(stranger, 1)
        stranger.cases.save()
    ws.cases.save()
    other.cases.search(vector_of(colour(1))[None], 1)
    held = [path for path in index_files(ws) if vector_in(path, 1)]
    assert {path.parent.name for path in held} == {
        f"cases-{CONTRACT}",
        "cases-other-000000000000",
    }
    photo = cases.get_case(ws, case_id).photos[0]
    forget.forget_photo(ws, case_id, photo.photo_id)
    assert not any(vector_in(path, 1) for path in index_files(ws))
    other.cases.save()
    assert not any(vector_in(path, 1) for path in index_files(ws)), "a late view writes nothing old"
    assert any(vector_in(path, 2) for path in index_files(ws))
    assert other.cases.health() is None


def test_a_deletion_does_not_wait_for_a_merge(ws: Workspace) -> None:
    case_id = enrol(ws, 1, 2)
    ws.cases.save()
    photo = cases.get_case(ws, case_id).photos[0]
    with file_lock(ws.index_dir / f".cases-{CONTRACT}.lock"):
        forget.forget_photo(ws, case_id, photo.photo_id)
        assert photo.face_id not in ws.cases.ids()
        assert any(vector_in(path, 1) for path in index_files(ws))
    ws.maintain()
    assert not any(vector_in(path, 1) for path in index_files(ws))


# --- publishing ------------------------------------------------------------------------------


def small_gallery(ws: Workspace) -> LocalGallery:
    scan = scanner("local", 1)
    return LocalGallery(ws.catalog, "ads", CONTRACT, DIMENSION, ws.index_dir, scan, sizes=SIZES)


def add_random(ws: Workspace, count: int, seed: int) -> list[str]:
    """Faces of an image each, as an ingest leaves them; the vectors are random."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return put_faces(ws, vectors)


def test_many_views_seal_merge_and_delete_and_all_agree(ws: Workspace) -> None:
    """Three views of one folder, which seal and merge after every few faces."""
    views = [small_gallery(ws) for _ in range(3)]
    rng = np.random.default_rng(3)
    held: list[str] = []
    probe = vector_of(colour(9))[None]
    for step in range(24):
        held += add_random(ws, int(rng.integers(1, 7)), step)
        if step % 3 == 1:
            gone = [held.pop(int(rng.integers(len(held)))) for _ in range(2)]
            with ws.catalog.write() as session:
                remove_faces(session, "ads", CONTRACT, gone)
            assert views[step % 3].scrub()
        views[step % 3].keep()
        lists = [view.search(probe, 200)[0] for view in views]
        for one in lists:
            assert set(one.ids) == set(held)
            assert one.ids == lists[0].ids
            assert np.array_equal(one.scores, lists[0].scores)
    for view in views:
        view.keep()
        assert view.health() is None
        assert 1 <= len(view._index.state.parts) < 10
        assert view._version == views[0]._version
    again = small_gallery(ws)
    assert again.search(probe, 200)[0].ids == lists[0].ids
    for view in (*views, again):
        view.close()


def test_a_full_disk_keeps_the_search_in_memory(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ids = add_random(ws, 40, 1)
    written = files.write_segment

    def full(*_: object, **__: object) -> None:
        raise StorageFull("the index")

    monkeypatch.setattr(files, "write_segment", full)
    view = small_gallery(ws)
    view.rebuild()
    assert "stays in memory" in caplog.text
    assert set(view.search(vector_of(colour(9))[None], 99)[0].ids) == set(ids)
    view._rest_until = 0.0
    with pytest.raises(StorageFull):
        view.keep()
    view.keep()
    monkeypatch.setattr(files, "write_segment", written)
    view._rest_until = 0.0
    view.keep()
    again = small_gallery(ws)
    assert again.ids() == set(ids) == view.ids()
    assert len(again._index.state.parts) >= 1
    for one in (view, again):
        one.close()


@pytest.mark.parametrize("step", ["seal", "merge", "rebuild"])
def test_what_changes_between_writing_and_publishing_is_not_lost(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Faces come and go after the rows of a segment were chosen, in this view and another."""
    view, other = small_gallery(ws), small_gallery(ws)
    ids = set(add_random(ws, 30, 1))
    if step != "seal":
        for seed in range(2, 6):
            view.save()
            ids |= set(add_random(ws, 5, seed))
    view.catch_up()
    gone = sorted(ids)[:4]
    come: list[str] = []

    def during() -> None:
        assert set(view.search(probe, 99)[0].ids) == ids - set(gone) | set(come)
        assert set(other.search(probe, 99)[0].ids) == ids - set(gone) | set(come)

    def written(*arguments: Any, **named: Any) -> object:
        found = write(*arguments, **named)
        if not come:
            come.extend(add_random(ws, 3, 99))
            with ws.catalog.write() as session:
                remove_faces(session, "ads", CONTRACT, gone)
            during()
        return found

    probe = vector_of(colour(9))[None]
    write = files.write_segment
    monkeypatch.setattr(files, "write_segment", written)
    if step == "seal":
        view.save()
    elif step == "merge":
        view.keep()
    else:
        view.rebuild()
    assert come
    during()
    for one in (view, other):
        assert one.scrub()
        one.keep()
        during()
        assert one.health() is None
    again = small_gallery(ws)
    assert set(again.search(probe, 99)[0].ids) == ids - set(gone) | set(come)
    with ws.catalog.read() as session:
        left = [
            session.get_one(Face, face_id).vector.tobytes()  # type: ignore[union-attr]
            for face_id in gone
        ]
    for path in index_files(ws):
        assert not any(vector in path.read_bytes() for vector in left), path
    for one in (view, other, again):
        one.close()


def test_an_old_copy_of_the_files_does_not_bring_back_the_deleted(
    ws: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = add_random(ws, 20, 1)
    view = small_gallery(ws)
    view.save()
    folder = ws.index_dir / f"ads-{CONTRACT}"
    shutil.copytree(folder, tmp_path / "copy")
    with ws.catalog.write() as session:
        remove_faces(session, "ads", CONTRACT, ids[:2])
    assert view.scrub()
    add_random(ws, 5, 2)
    view.save()
    view.close()
    for path in (tmp_path / "copy").iterdir():
        shutil.copy(path, folder / path.name)
    again = small_gallery(ws)
    assert "old copy" in caplog.text
    assert not set(ids[:2]) & again.ids()
    assert again.health() is None
    again.close()


def test_a_copied_folder_has_a_shelf_of_its_own(ws: Workspace, tmp_path: Path) -> None:
    ids = set(add_random(ws, 20, 1))
    view = small_gallery(ws)
    view.save()
    shutil.copytree(ws.index_dir, tmp_path / "index")
    scan = scanner("local", 1)
    moved = LocalGallery(ws.catalog, "ads", CONTRACT, DIMENSION, tmp_path / "index", scan)
    assert moved.ids() == ids
    moved.save()
    version = view._version
    for seed in (2, 3):
        ids |= set(add_random(ws, 6, seed))
        for one in (view, moved):
            one.save()
            assert one.ids() == ids
    assert view._version == version + 2, "neither makes the other's files anew"
    for one in (view, moved):
        one.close()


def test_a_segment_merged_away_is_no_damage(
    ws: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    """One view reads for the first time what another has scrubbed and merged meanwhile."""
    ids = add_random(ws, 30, 1)
    one = small_gallery(ws)
    one.save()
    other = small_gallery(ws)
    with ws.catalog.write() as session:
        remove_faces(session, "ads", CONTRACT, ids[:3])
    assert one.scrub()
    for seed in range(2, 6):
        ids += add_random(ws, 5, seed)
        one.save()
    with ws.catalog.write() as session:
        remove_faces(session, "ads", CONTRACT, ids[3:9])
    for _ in range(4):
        one.keep()
    held = set(ids[9:])
    probe = vector_of(colour(9))[None]
    assert set(other.search(probe, 99)[0].ids) == held
    assert set(other.search(probe, 99, fresh=False)[0].ids) == held
    other.keep()
    assert other.health() is None
    assert "rebuilt" not in caplog.text
    for view in (one, other):
        view.close()


def test_killed_at_every_step_of_keeping_up(tmp_path: Path, small_analyser: SmallAnalyser) -> None:
    """Sealing, scrubbing, merging and publishing, broken off before each change of the disk."""
    data = tmp_path / "data"
    with open_workspace(data, small_analyser) as ws:
        ids = []
        for seed in range(3):
            ids += add_random(ws, 5, seed)
            view = small_gallery(ws)
            view.save()
            view.close()
        gone = [ids[0], ids[7]]
        with ws.catalog.write() as session:
            remove_faces(session, "ads", CONTRACT, gone)
        ids = sorted({*ids, *add_random(ws, 9, 9)} - set(gone))
    folders = [tmp_path / f"copy-{step}" for step in range(56)]
    for folder in folders:
        copy_of(data, folder)
    run = subprocess.run(
        [sys.executable, "-m", "tests.indexer.kept", "plain", *map(str, folders)],
        check=True,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=200,
    )
    ends = run.stdout.split()
    assert ends[0] == "killed" and ends[-1] == "done" and len(ends) == len(folders)
    probe = vector_of(colour(9))[None]
    for step, folder in enumerate(folders[: ends.index("done") + 1]):
        # What was mended stays so, which every few steps are enough to show.
        for _ in range(1 + (step % 6 == 0)):
            view = gallery_in(folder)
            assert sorted(view.search(probe, 99)[0].ids) == ids
            assert view.scrub()
            view.keep()
            assert view.health() is None
            view.close()


def test_threads_search_while_others_enrol(ws: Workspace) -> None:
    errors: list[BaseException] = []
    stop = threading.Event()

    def search() -> None:
        try:
            while not stop.is_set():
                found = ws.cases.search(vector_of(colour(1))[None], 5)[0]
                assert list(found.scores) == sorted(found.scores, reverse=True)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    writers = [threading.Thread(target=enrol, args=(ws, 10 + i, 30 + i)) for i in range(6)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert ws.cases.count() == 12
    assert ws.cases.health() is None
    assert jobs.waiting(ws) == 12
