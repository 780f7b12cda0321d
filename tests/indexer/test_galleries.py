"""The galleries: views that agree with the catalog and each other, and their index files."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from indexer import cases, forget, jobs
from indexer.errors import IndexDamaged
from indexer.galleries import Gallery
from indexer.records import CaseInput
from indexer.vectors.snapshot import SnapshotHeader, read_snapshot, write_snapshot
from indexer.workspace import Workspace, open_workspace
from tests.indexer.conftest import Reopen, url_of
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


def index_file(ws: Workspace) -> Path:
    return ws.index_dir / f"cases-{CONTRACT}.index"


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


def test_the_index_file_spares_the_catalog(opened: Reopen) -> None:
    ws = opened()
    enrol(ws, 1, 2, 3)
    ws.cases.save()
    enrol(ws, 4)
    header, ids, vectors = read_snapshot(
        index_file(ws), gallery="cases", contract_id=CONTRACT, dimension=DIMENSION
    ) or pytest.fail("no file was written")
    assert header.count == len(ids) == len(vectors) == 3
    again = opened()
    assert again.cases.count() == 4
    assert nearest(again.cases, 3) == nearest(ws.cases, 3)
    assert again.cases.health() is None


@pytest.mark.parametrize("damage", ["flip header", "flip vector", "cut", "empty", "text", "swap"])
def test_a_damaged_index_file_is_rebuilt_and_said_so(
    opened: Reopen, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    ws = opened()
    enrol(ws, 1, 2, 3)
    ws.cases.save()
    path = index_file(ws)
    data = bytearray(path.read_bytes())
    if damage == "flip header":
        data[50] ^= 1
    elif damage == "flip vector":
        data[-5] ^= 1
    elif damage == "cut":
        data = data[:-7]
    elif damage == "empty":
        data = bytearray()
    elif damage == "text":
        data = bytearray(b"x" * 500)
    else:
        ws.ads.save()
        data = bytearray((ws.index_dir / f"ads-{CONTRACT}.index").read_bytes())
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        again = opened()
    assert "rebuilt from the catalog" in caplog.text
    assert again.cases.count() == 3
    assert nearest(again.cases, 2) == nearest(ws.cases, 2)
    assert again.cases.health() is None


def test_an_index_file_of_another_history_is_not_trusted(
    tmp_path: Path, small_analyser: SmallAnalyser, caplog: pytest.LogCaptureFixture
) -> None:
    with open_workspace(tmp_path / "a", small_analyser) as ws:
        enrol(ws, 1, 2)
        ws.cases.save()
        stale = index_file(ws).read_bytes()
    with open_workspace(tmp_path / "b", small_analyser) as ws:
        enrol(ws, 5, 6)
        index_file(ws).write_bytes(stale)
    with caplog.at_level(logging.WARNING), open_workspace(tmp_path / "b", small_analyser) as ws:
        assert "another history" in caplog.text
        assert ws.cases.health() is None
        assert ws.cases.search(vector_of(colour(5))[None], 1)[0].scores[0] > 0.99


def test_two_contracts_never_meet(tmp_path: Path, ws: Workspace) -> None:
    enrol(ws, 1)
    second = SmallAnalyser("other-000000000000")
    with open_workspace(ws.data_dir, second, catalog_url=url_of(ws)) as ws:
        assert ws.cases.count() == 0
    path = tmp_path / "x.index"
    header = SnapshotHeader(
        gallery="cases", contract_id="a", dimension=4, count=0, seq=0, seq_face_id=""
    )
    write_snapshot(path, header, [], vector_of(colour(1))[None][:0, :4])
    assert read_snapshot(path, gallery="cases", contract_id="a", dimension=4) is not None
    for other in ({"contract_id": "b"}, {"gallery": "ads"}, {"dimension": 5}):
        with pytest.raises(IndexDamaged):
            read_snapshot(path, **{"gallery": "cases", "contract_id": "a", "dimension": 4, **other})  # type: ignore[arg-type]
    assert read_snapshot(tmp_path / "none", gallery="cases", contract_id="a", dimension=4) is None


def test_a_deletion_takes_the_index_file_with_it(opened: Reopen) -> None:
    ws, other = opened(), opened()
    case_id = enrol(ws, 1, 2)
    vector = vector_of(colour(1)).tobytes()
    ws.cases.save()
    assert vector in index_file(ws).read_bytes()
    photo = cases.get_case(ws, case_id).photos[0]
    forget.forget_photo(ws, case_id, photo.photo_id)
    assert not index_file(ws).exists()
    other.cases.save()
    assert vector not in index_file(ws).read_bytes(), "a late view writes nothing old"
    assert vector_of(colour(2)).tobytes() in index_file(ws).read_bytes()


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
