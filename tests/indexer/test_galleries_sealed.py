"""Galleries whose files are encrypted: the same answers, and every key that is used in its turn."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.catalog.tables import Face
from indexer.errors import SealKeyMissing
from indexer.galleries import remove_faces
from indexer.galleries.local import LocalGallery
from indexer.galleries.opening import scanner
from indexer.galleries.resealing import reseal
from indexer.sealing.keyring import Keyring
from indexer.vectors import segment as files
from indexer.vectors.segment_ids import to_bytes
from indexer.workspace import Workspace, open_workspace
from models.types import FloatArray
from tests.conftest import REPOSITORY
from tests.indexer.kept import ROTATED, SIZES, copy_of, gallery_in, use_keys
from tests.indexer.small import CONTRACT, DIMENSION, SmallAnalyser
from tests.indexer.test_galleries import add_random, small_gallery
from tests.indexer.vectors.segments import keyring, unit_rows

PROBES = unit_rows(77, 3, DIMENSION)
EARLIER, LATER = "0000000000000001", "0000000000000002"


def answers(gallery: LocalGallery) -> list[tuple[tuple[str, ...], bytes]]:
    """To the last bit of a score."""
    return [(one.ids, one.scores.tobytes()) for one in gallery.search(PROBES, 25)]


def keys_of(gallery: LocalGallery) -> set[tuple[str, ...]]:
    return {part.segment.keys for part in gallery._index.state.parts}


def parts_of(gallery: LocalGallery) -> int:
    return len(gallery._index.state.parts)


def filled(ws: Workspace, batches: int = 3, rows: Keyring | None = None) -> LocalGallery:
    """A gallery of some segments; ``rows`` seal its faces in the catalog, if not what is used."""
    gallery = small_gallery(ws)
    used = ws.catalog.keyring
    for seed in range(batches):
        if rows is not None:
            use_keys(ws.catalog, rows)
        add_random(ws, 8, seed)
        use_keys(ws.catalog, used)
        gallery.save()
    assert parts_of(gallery) == batches
    return gallery


def vectors_of(ws: Workspace, ids: list[str]) -> list[FloatArray]:
    with ws.catalog.read() as session:
        found = [session.get_one(Face, face_id).vector for face_id in ids]
    return [vector for vector in found if vector is not None]


def shown(ws: Workspace, ids: list[str]) -> set[str]:
    """What of these faces any file of the index folder holds as it is."""
    held = b"\0".join(path.read_bytes() for path in ws.index_dir.rglob("*") if path.is_file())
    vectors = vectors_of(ws, ids)
    assert len(vectors) == len(ids)
    found = {
        "vectors": any(vector.tobytes()[:32] in held for vector in vectors),
        "ids": any(row.tobytes() in held for row in to_bytes(ids)[0]),
        "ids in letters": any(face_id.encode() in held for face_id in ids),
    }
    return {name for name, there in found.items() if there}


def test_the_same_answers_and_no_face_in_any_file(ws: Workspace, tmp_path: Path) -> None:
    plain = filled(ws)
    ids = sorted(plain.ids())
    assert shown(ws, ids) == {"vectors", "ids", "ids in letters"}
    use_keys(ws.catalog, keyring())
    scan = scanner("local", 1)
    sealed = LocalGallery(
        ws.catalog, "ads", CONTRACT, DIMENSION, tmp_path / "sealed", scan, sizes=SIZES
    )
    assert keys_of(sealed) == {(EARLIER,)}
    assert answers(sealed) == answers(plain)
    assert sealed.health() is None
    plain.close()
    shutil.rmtree(ws.index_dir / f"ads-{CONTRACT}")
    shutil.copytree(tmp_path / "sealed", ws.index_dir / "copy")
    assert shown(ws, ids) == set()
    sealed.close()


def test_switching_it_on_and_rotating_while_others_search(
    ws: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    view, other = filled(ws), small_gallery(ws)
    ids = sorted(view.ids())
    expected = answers(view)
    done = threading.Event()
    faults: list[str] = []

    def search() -> None:
        while not done.is_set():
            if answers(other) != expected:
                faults.append("another answer")

    searching = threading.Thread(target=search)
    searching.start()
    try:
        for keys, name in (
            (keyring(), EARLIER),
            (keyring(2, [1, 2]), LATER),
            (keyring(2, [2]), LATER),
        ):
            use_keys(ws.catalog, keys)
            reseal([view], ws.index_dir)
            assert keys_of(view) == {(name,)}
            assert answers(view) == expected
            other.keep()
            assert keys_of(other) == {(name,)}
    finally:
        done.set()
        searching.join()
    assert faults == []
    assert shown(ws, ids) == set()
    again = small_gallery(ws)
    assert answers(again) == expected
    assert "rebuilt" not in caplog.text
    for one in (view, other, again):
        assert one.health() is None
        one.close()


def test_upkeep_brings_one_segment_at_a_time_under_the_new_key(ws: Workspace) -> None:
    """So it is on a machine where nobody asked for it."""
    use_keys(ws.catalog, keyring())
    view = filled(ws, 2)
    expected = answers(view)
    use_keys(ws.catalog, keyring(2, [1, 2]))
    view.keep()
    assert keys_of(view) == {(EARLIER,), (LATER,)}
    assert answers(view) == expected
    view.keep()
    assert keys_of(view) == {(LATER,)}
    version = view._version
    view.keep()
    assert view._version == version, "nothing is written twice"
    assert answers(view) == expected
    view.close()


def test_segments_under_a_retired_key_are_made_anew_and_said_so(
    ws: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    use_keys(ws.catalog, keyring(1, [1, 2]))
    view = filled(ws, rows=keyring(2))
    expected = answers(view)
    view.close()
    use_keys(ws.catalog, keyring(2, [2]))
    again = small_gallery(ws)
    assert f"the data key {EARLIER}" in caplog.text and "rebuilt from the catalog" in caplog.text
    assert answers(again) == expected
    assert keys_of(again) == {(LATER,)}
    again.close()


def test_plain_segments_are_made_anew_where_all_has_to_be_encrypted(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use_keys(ws.catalog, keyring())
    written = files.write_segment

    def in_plain(*arguments: Any, keys: object, **named: Any) -> object:
        return written(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_segment", in_plain)
        view = filled(ws)
    assert keys_of(view) == {()}
    expected, ids = answers(view), sorted(view.ids())
    assert "vectors" in shown(ws, ids)
    view.close()
    use_keys(ws.catalog, keyring(plain=False))
    again = small_gallery(ws)
    assert "not encrypted, and everything has to be" in caplog.text
    assert answers(again) == expected
    assert shown(ws, ids) == set()
    again.close()


def test_without_keys_nothing_is_opened_and_nothing_made_anew(ws: Workspace) -> None:
    use_keys(ws.catalog, keyring())
    view = filled(ws)
    expected = answers(view)
    view.close()
    before = {path: path.read_bytes() for path in ws.index_dir.rglob("*.*") if path.is_file()}
    use_keys(ws.catalog, None)
    with pytest.raises(SealKeyMissing, match="is encrypted, and no key is set"):
        small_gallery(ws)
    after = {path: path.read_bytes() for path in ws.index_dir.rglob("*.*") if path.is_file()}
    assert after == before
    use_keys(ws.catalog, keyring())
    again = small_gallery(ws)
    assert answers(again) == expected
    again.close()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "swap", "older"])
@pytest.mark.parametrize("part", ["data", "head"])
def test_a_file_that_is_not_the_one_is_never_searched(
    ws: Workspace, damage: str, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    use_keys(ws.catalog, keyring(plain=False))
    view = filled(ws, 2)
    folder = ws.index_dir / f"ads-{CONTRACT}"
    segment = view._index.state.parts[0].segment
    path = folder / f"{segment.name}.{part}"
    data = bytearray(path.read_bytes())
    with ws.catalog.write() as session:
        remove_faces(session, "ads", CONTRACT, segment.ids(np.array([0, 3])))
    assert view.scrub()
    expected = answers(view)
    view.close()
    if damage == "flip":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
    elif damage == "cut":
        data = bytearray(path.read_bytes())[:-7]
    elif damage == "empty":
        data = bytearray()
    elif damage == "swap":
        (other,) = set(folder.glob(f"*.{part}")) - {path}
        data = bytearray(other.read_bytes())
    path.unlink()
    if damage != "gone":
        path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        again = small_gallery(ws)
    assert "rebuilt from the catalog" in caplog.text
    assert answers(again) == expected
    assert again.health() is None
    again.close()


def test_an_older_copy_of_a_whole_segment_is_told_by_the_catalog(
    ws: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    use_keys(ws.catalog, keyring(plain=False))
    view = filled(ws, 2)
    folder = ws.index_dir / f"ads-{CONTRACT}"
    shutil.copytree(folder, tmp_path / "copy")
    gone = sorted(view.ids())[:3]
    with ws.catalog.write() as session:
        remove_faces(session, "ads", CONTRACT, gone)
    assert view.scrub()
    expected = answers(view)
    view.close()
    for path in (tmp_path / "copy").iterdir():
        shutil.copy(path, folder / path.name)
    again = small_gallery(ws)
    assert "old copy" in caplog.text
    assert not set(gone) & again.ids()
    assert answers(again) == expected
    again.close()


def test_many_views_and_keys_that_change_under_them(ws: Workspace) -> None:
    """Sealing, merging and deleting while encryption is switched on and a key is rotated, in three
    views; all agree all the time."""
    views = [small_gallery(ws) for _ in range(3)]
    turns = {4: keyring(), 9: keyring(2, [1, 2])}
    rng = np.random.default_rng(3)
    held: list[str] = []
    for step in range(18):
        if step in turns:
            use_keys(ws.catalog, turns[step])
        held += add_random(ws, int(rng.integers(1, 7)), step)
        if step % 3 == 1:
            gone = [held.pop(int(rng.integers(len(held)))) for _ in range(2)]
            with ws.catalog.write() as session:
                remove_faces(session, "ads", CONTRACT, gone)
            assert views[step % 3].scrub()
        views[step % 3].keep()
        lists = [answers(view) for view in views]
        assert lists[1:] == lists[:-1]
        assert all(view.ids() == set(held) for view in views)
    for view in views:
        view.save()
        view.reseal()
        assert keys_of(view) == {(LATER,)}
        assert view.health() is None
    assert shown(ws, sorted(held)) == set()
    for view in views:
        view.close()


def test_killed_at_every_step_of_a_rotation(
    tmp_path: Path, small_analyser: SmallAnalyser, caplog: pytest.LogCaptureFixture
) -> None:
    """Scrubbing, merging, sealing and writing anew under another key, broken off anywhere."""
    data = tmp_path / "data"
    with open_workspace(data, small_analyser) as ws:
        use_keys(ws.catalog, keyring())
        filled(ws, 2).close()
        view = small_gallery(ws)
        gone = sorted(view.ids())[:2]
        with ws.catalog.write() as session:
            remove_faces(session, "ads", CONTRACT, gone)
        expected, ids = answers(view), view.ids()
        view.close()
    folders = [tmp_path / f"copy-{step}" for step in range(64)]
    for folder in folders:
        copy_of(data, folder)
    run = subprocess.run(
        [sys.executable, "-m", "tests.indexer.kept", "rotated", *map(str, folders)],
        check=True,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=200,
    )
    ends = run.stdout.split()
    assert ends[0] == "killed" and ends[-1] == "done" and len(ends) == len(folders)
    for folder in folders[: ends.index("done") + 1]:
        view = gallery_in(folder, ROTATED)
        assert answers(view) == expected
        assert view.scrub()
        view.reseal()
        assert keys_of(view) == {(LATER,)}
        assert view.health() is None and view.ids() == ids
        view.close()
    assert "rebuilt" not in caplog.text
