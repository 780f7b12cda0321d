"""What disks and power cuts do to segments: detected, finished or refused, never a wrong answer."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.errors import IndexDamaged, StorageError, StorageFull
from indexer.vectors.segment import (
    Segment,
    from_arrays,
    merged,
    open_segment,
    scrub,
    sweep,
    write_segment,
)
from indexer.vectors.segment_head import Head, head_path, next_path, read_head
from tests.conftest import REPOSITORY
from tests.indexer.test_faults import fill_up, mounted
from tests.indexer.vectors.killed import AFTER, DEAD
from tests.indexer.vectors.segments import (
    EVERY_ROW,
    FIRST,
    OWNER,
    Rows,
    every,
    reopened,
    some_rows,
    without,
    write,
)

ROWS = some_rows()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with segment ``one``, some rows of which are dead; only ever copied."""
    folder = tmp_path_factory.mktemp("original")
    write(folder, "one", ROWS)
    scrub(folder, "one", DEAD[:2], FIRST)
    return folder


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes another copy of the original folder each time."""
    made = iter(range(1000))

    def another() -> Path:
        return Path(shutil.copytree(original, tmp_path / f"copy-{next(made)}"))

    return another


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def head_of(folder: Path) -> Head:
    return read_head(head_path(folder, "one"), "one")


def assert_intact(segment: Segment, dead: NDArray[np.int64], rows: Rows = ROWS) -> None:
    assert segment.dead.tolist() == dead.tolist()
    assert segment.ids(every(segment)) == rows.ids
    assert np.array_equal(segment.vectors(every(segment)), without(rows.vectors, dead))
    assert segment.rows_of(rows.ids).tolist() == list(range(len(rows.ids)))


# --- damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "section", ["ids", "tag_site", "tag_posted_ms", "tag_row", "codes", "vectors"]
)
@pytest.mark.parametrize("place", ["first", "middle", "last", "padding"])
def test_a_flipped_bit_in_the_data_is_found(
    copy: Callable[[], Path], section: str, place: str
) -> None:
    folder = copy()
    found = head_of(folder).section(section)
    size = found.rows * found.row_bytes
    offset = {"first": 0, "middle": size // 2, "last": size - 1}.get(place, size)
    assert found.offset + offset < found.end
    flip(folder / "one.data", found.offset + offset)
    if section != "vectors":
        with pytest.raises(IndexDamaged, match=f"The {section} of segment one fail"):
            reopened(folder)
        return
    segment = reopened(folder)
    damaged = min(offset // found.row_bytes, EVERY_ROW - 1) // found.piece
    whole = np.flatnonzero(np.arange(EVERY_ROW) // found.piece != damaged)
    assert np.array_equal(segment.vectors(whole), without(ROWS.vectors, DEAD[:2])[whole])
    for _ in range(2):
        with pytest.raises(IndexDamaged, match="The vectors of segment one fail"):
            segment.vectors(np.array([damaged * found.piece]))


def test_a_flipped_bit_anywhere_in_a_head_is_found(copy: Callable[[], Path]) -> None:
    folder = copy()
    size = (folder / "one.head").stat().st_size
    for offset in [*range(48), *range(48, size, 97), *range(size - 20, size)]:
        flip(folder / "one.head", offset)
        with pytest.raises(IndexDamaged):
            reopened(folder)
        flip(folder / "one.head", offset)
    assert_intact(reopened(folder), DEAD[:2])


@pytest.mark.parametrize("name", ["one.data", "one.head"])
def test_a_file_that_is_cut_or_too_long_or_gone_is_found(
    copy: Callable[[], Path], name: str
) -> None:
    folder = copy()
    path = folder / name
    whole = path.read_bytes()
    for length in (0, 10, 43, 44, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(IndexDamaged):
            reopened(folder)
        with pytest.raises(IndexDamaged):
            scrub(folder, "one", DEAD, AFTER)
    for more in (b"\0", bytes(4096)):
        path.write_bytes(whole + more)
        with pytest.raises(IndexDamaged):
            reopened(folder)
    path.unlink()
    with pytest.raises(IndexDamaged, match="missing"):
        reopened(folder)
    with pytest.raises(IndexDamaged, match="missing"):
        scrub(folder, "one", DEAD, AFTER)
    assert not path.exists()
    path.write_bytes(whole)
    assert_intact(reopened(folder), DEAD[:2])


def test_a_segment_of_another_owner_is_refused(copy: Callable[[], Path]) -> None:
    folder = copy()
    for other in ({"gallery": "cases"}, {"contract_id": "contract-2"}, {"dimension": 128}):
        with pytest.raises(IndexDamaged, match="is for ads under contract-1"):
            open_segment(folder, "one", **{**OWNER, **other})


def test_files_of_different_segments_do_not_mix(copy: Callable[[], Path]) -> None:
    folder = copy()
    write(folder, "two", some_rows(2))
    shutil.copy(folder / "two.head", folder / "one.head")
    with pytest.raises(IndexDamaged, match=r"one\.head is the head of two"):
        reopened(folder)
    shutil.copy(folder / "one.data", folder / "two.data")
    with pytest.raises(IndexDamaged):
        reopened(folder, "two")


def test_another_version_is_refused(copy: Callable[[], Path]) -> None:
    folder = copy()
    raw = (folder / "one.head").read_bytes()
    (folder / "one.head").write_bytes(b"HMWDSG99" + raw[8:])
    with pytest.raises(IndexDamaged, match="no segment of this version"):
        reopened(folder)


def test_a_head_that_is_whole_but_says_nonsense_is_refused(copy: Callable[[], Path]) -> None:
    folder = copy()
    raw = (folder / "one.head").read_bytes()
    (length,) = struct.unpack_from("<I", raw, 40)
    said = json.loads(raw[44 : 44 + length])
    changes: list[dict[str, object]] = [
        {"dead": 3},
        {"dead": 0},
        {"sections": [{}]},
        {"dimension": "x"},
        {"more": 1},
    ]
    for change in changes:
        text = json.dumps({**said, **change}).encode()
        rest = [struct.pack("<I", len(text)), text, raw[44 + length :]]
        (folder / "one.head").write_bytes(
            raw[:8] + hashlib.sha256(b"".join(rest)).digest() + b"".join(rest)
        )
        with pytest.raises(IndexDamaged, match="cannot be read"):
            reopened(folder)


def test_damage_is_not_made_right_by_a_scrub_beside_it(copy: Callable[[], Path]) -> None:
    """What is hashed anew was right before; else the new digest would vouch for the damage."""
    folder = copy()
    vectors = head_of(folder).section("vectors")
    flip(folder / "one.data", vectors.offset + 300 * vectors.row_bytes)
    before = (folder / "one.data").read_bytes()
    with pytest.raises(IndexDamaged, match="The vectors of segment one fail"):
        scrub(folder, "one", np.array([301]), AFTER)
    assert (folder / "one.data").read_bytes() == before
    assert not next_path(folder, "one").exists()


def test_damage_is_not_carried_into_a_joined_segment(copy: Callable[[], Path]) -> None:
    folder = copy()
    vectors = head_of(folder).section("vectors")
    flip(folder / "one.data", vectors.offset + 300 * vectors.row_bytes)
    segment = reopened(folder)
    source = merged([(segment, np.setdiff1d(every(segment), segment.dead))])
    with pytest.raises(IndexDamaged, match="The vectors of segment one fail"):
        write_segment(folder, "two", source, history=FIRST, **OWNER)
    assert {path.name for path in folder.iterdir()} == {"one.data", "one.head"}


def test_vectors_that_change_after_they_were_checked(copy: Callable[[], Path]) -> None:
    """A piece is hashed once, yet a vector that is none is looked into again."""
    folder = copy()
    segment = reopened(folder)
    segment.vectors(every(segment))
    vectors = segment._section
    with (folder / "one.data").open("r+b") as file:
        file.seek(vectors.offset + 300 * vectors.row_bytes)
        file.write(bytes(vectors.row_bytes))
    with pytest.raises(IndexDamaged, match="The vectors of segment one fail"):
        segment.vectors(np.array([300]))


# --- killed at every step --------------------------------------------------------------------


def killed_at_each_step(change: str, folders: list[Path]) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-m", "tests.indexer.vectors.killed", change, *map(str, folders)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    ends = run.stdout.split()
    # Each step was the last of one process, and in the end there was none left to die at.
    assert len(ends) == len(folders)
    assert ends[0] == "killed" and ends[-1] == "done"
    return ends


def test_killed_while_writing(tmp_path: Path) -> None:
    """There is a segment or none; the remains are swept, and in nobody's way before they are."""
    folders = [tmp_path / f"step-{step}" for step in range(20)]
    for folder in folders:
        folder.mkdir()
    outcomes = set()
    for folder, end in zip(folders, killed_at_each_step("write", folders), strict=True):
        swept = Path(shutil.copytree(folder, tmp_path / "swept"))
        sweep(swept, set())
        swept.rmdir()
        if (folder / "one.head").exists():
            outcomes.add(end)
        else:
            assert end == "killed"
            with pytest.raises(IndexDamaged, match="missing"):
                reopened(folder)
            outcomes.add("absent")
            write(folder, "one", ROWS)
        assert_intact(reopened(folder), DEAD[:0])
        sweep(folder, {"one"})
        assert {path.name for path in folder.iterdir()} == {"one.data", "one.head"}
    assert outcomes == {"absent", "killed", "done"}


def test_killed_while_scrubbing(copy: Callable[[], Path]) -> None:
    """Whoever opens next finds all of the scrub or none; whoever reads meanwhile is not misled."""
    folders = [copy() for _ in range(18)]
    views = [reopened(folder) for folder in folders]
    outcomes = set()
    ends = killed_at_each_step("scrub", folders)
    for folder, view, end in zip(folders, views, ends, strict=True):
        begun = next_path(folder, "one").exists()
        found = view.vectors(every(view))
        live = np.setdiff1d(every(view), DEAD)
        assert np.array_equal(found[live], ROWS.vectors[live])
        for row in DEAD:
            assert not found[row].any() or np.array_equal(found[row], ROWS.vectors[row])
        segment = reopened(folder)
        # From the moment that the head of the new state is whole, it is the new state.
        if begun or segment.history == AFTER:
            assert segment.history == AFTER
            assert_intact(segment, DEAD)
            held = (folder / "one.data").read_bytes()
            assert not any(ROWS.vectors[row].tobytes() in held for row in DEAD)
            assert (segment.codes.codes[DEAD] == 128).all()
        else:
            assert segment.history == FIRST
            assert_intact(segment, DEAD[:2])
        assert not next_path(folder, "one").exists()
        outcomes.add((end, begun, segment.history))
        sweep(folder, {"one"})
        assert {path.name for path in folder.iterdir()} == {"one.data", "one.head"}
    assert outcomes == {
        ("killed", False, FIRST),
        ("killed", True, AFTER),
        ("killed", False, AFTER),
        ("done", False, AFTER),
    }


def order_of_calls(change: Callable[[], object], patch: pytest.MonkeyPatch) -> list[str]:
    """What a change does to which file, in order; it is done all the same."""
    calls: list[str] = []
    names: dict[int, str] = {}
    real = {name: getattr(os, name) for name in ("open", "fsync", "pwrite", "replace")}

    def plain(path: object) -> str:
        name = Path(str(path)).name
        return name.split(".0")[0] + "*" if name.endswith(".part") else name

    def opening(path: Path, *rest: int) -> int:
        handle: int = real["open"](path, *rest)
        names[handle] = "folder" if path.is_dir() else plain(path)
        return handle

    def fsync(handle: int) -> None:
        calls.append(f"fsync {names[handle]}")
        real["fsync"](handle)

    def pwrite(handle: int, data: memoryview, offset: int) -> int:
        if calls[-1:] != [f"write {names[handle]}"]:
            calls.append(f"write {names[handle]}")
        written: int = real["pwrite"](handle, data, offset)
        return written

    def renaming(source: Path, target: Path) -> None:
        calls.append(f"{plain(source)} to {plain(target)}")
        real["replace"](source, target)

    with patch.context() as patched:
        patched.setattr(os, "open", opening)
        patched.setattr(os, "fsync", fsync)
        patched.setattr(os, "pwrite", pwrite)
        patched.setattr(os, "replace", renaming)
        change()
    return calls


def test_each_step_is_on_the_disk_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut, unlike a kill, loses what was not synced: the order is all that helps."""
    assert order_of_calls(lambda: write(tmp_path, "one", ROWS), monkeypatch) == [
        "write .one.data*",
        "fsync .one.data*",
        ".one.data* to one.data",
        "fsync folder",
        "fsync .one.head*",
        ".one.head* to one.head",
        "fsync folder",
    ]
    blanked = ["write one.data", "fsync one.data", "one.head.next to one.head", "fsync folder"]
    scrubbed = order_of_calls(lambda: scrub(tmp_path, "one", DEAD, AFTER), monkeypatch)
    assert scrubbed == [
        "fsync .one.head.next*",
        ".one.head.next* to one.head.next",
        "fsync folder",
        *blanked,
    ]
    shutil.copy(tmp_path / "one.head", tmp_path / "one.head.next")
    assert order_of_calls(lambda: reopened(tmp_path), monkeypatch) == blanked


def broken_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrub of ``DEAD`` that a failing disk ended in the middle of a row."""
    real, calls = os.pwrite, iter(range(1000))

    def failing(handle: int, data: memoryview, offset: int) -> int:
        if next(calls) == 2:
            real(handle, data[: len(data) // 3], offset)
            raise OSError(errno.EIO, "Input/output error")
        return real(handle, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing)
        with pytest.raises(StorageError, match="Input/output error"):
            scrub(folder, "one", DEAD, AFTER)
    assert next_path(folder, "one").exists()


def test_killed_while_finishing_a_scrub(
    copy: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [copy() for _ in range(14)]
    for folder in folders:
        broken_off(folder, monkeypatch)
    killed_at_each_step("finish", folders)
    for folder in folders:
        segment = reopened(folder)
        assert segment.history == AFTER
        assert_intact(segment, DEAD)


def test_killed_while_removing(copy: Callable[[], Path]) -> None:
    folders = [copy() for _ in range(6)]
    killed_at_each_step("remove", folders)
    for folder in folders:
        if (folder / "one.head").exists():
            assert_intact(reopened(folder), DEAD[:2])
        else:
            with pytest.raises(IndexDamaged, match="missing"):
                reopened(folder)
        sweep(folder, set())
        assert list(folder.iterdir()) == []


def test_a_view_beside_a_scrub_that_broke_off(
    copy: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy()
    unread, read = reopened(folder), reopened(folder)
    read.vectors(every(read))
    broken_off(folder, monkeypatch)
    live = np.setdiff1d(every(read), DEAD)
    for view in (unread, read):
        found = view.vectors(every(view))
        assert np.array_equal(found[live], ROWS.vectors[live])
    scrub(folder, "one", np.array([20]), AFTER)
    assert_intact(reopened(folder), np.union1d(DEAD, [20]))


def test_a_torn_head_of_a_scrub_that_did_not_begin_is_dropped(
    copy: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = copy()
    broken_off(other, monkeypatch)
    whole = next_path(other, "one").read_bytes()
    for torn in (b"", whole[:30], whole[:500], whole[:-1], whole + b"\0", bytes(len(whole))):
        folder = copy()
        next_path(folder, "one").write_bytes(torn)
        assert_intact(reopened(folder), DEAD[:2])
        assert not next_path(folder, "one").exists()


def test_damage_to_the_head_of_a_scrub_that_began_is_found(
    copy: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy()
    broken_off(folder, monkeypatch)
    flip(next_path(folder, "one"), 600)
    with pytest.raises(IndexDamaged, match="The codes of segment one fail"):
        reopened(folder)


def test_a_head_that_is_lost_is_made_good_by_the_next(
    copy: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy()
    broken_off(folder, monkeypatch)
    flip(folder / "one.head", 600)
    assert_intact(reopened(folder), DEAD)


# --- a full disk -----------------------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB in memory, of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    with mounted(place, "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        yield place


def test_a_full_disk_refuses_a_segment_and_keeps_the_others(tiny_disk: Path) -> None:
    write(tiny_disk, "one", ROWS)
    large = some_rows(3, 12_000)
    source = from_arrays(large.ids, large.vectors, large.tags)
    with pytest.raises(StorageFull):
        write_segment(tiny_disk, "two", source, history=FIRST, **OWNER)
    assert {path.name for path in tiny_disk.iterdir()} == {"one.data", "one.head"}
    ballast = fill_up(tiny_disk)
    with pytest.raises(StorageFull):
        write(tiny_disk, "two", some_rows(2))
    with pytest.raises(StorageFull):
        scrub(tiny_disk, "one", DEAD, AFTER)
    assert {path.name for path in tiny_disk.iterdir()} == {"one.data", "one.head", "ballast"}
    assert_intact(reopened(tiny_disk), DEAD[:0])
    ballast.unlink()
    scrub(tiny_disk, "one", DEAD, AFTER)
    assert_intact(reopened(tiny_disk), DEAD)
    write(tiny_disk, "two", some_rows(2))


def test_a_disk_that_fills_up_between_data_and_head(tiny_disk: Path, original: Path) -> None:
    """Data without a head takes room and is of no use: it goes as well."""
    ballast = tiny_disk / "ballast"
    left = (original / "one.data").stat().st_size
    with ballast.open("wb") as file:
        file.write(bytes(shutil.disk_usage(tiny_disk).free - left))
    assert shutil.disk_usage(tiny_disk).free <= left
    with pytest.raises(StorageFull, match=r"one\.head could not be written"):
        write(tiny_disk, "one", ROWS)
    assert list(tiny_disk.iterdir()) == [ballast]
