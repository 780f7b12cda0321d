"""Encrypted segments whose changes break off: killed at any step, torn, or on a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from indexer.errors import IndexDamaged, StorageError, StorageFull
from indexer.vectors.quantise import ZERO
from indexer.vectors.segment import (
    from_arrays,
    scrub,
    sweep,
    write_segment,
)
from indexer.vectors.segment_head import (
    next_path,
    redo_path,
    slot,
)
from tests.indexer.test_faults import fill_up, mounted
from tests.indexer.vectors.encrypted import (
    FILES,
    KEYS,
    ROWS,
    Copies,
    assert_intact,
    head_of,
    names,
    opened,
    shown,
)
from tests.indexer.vectors.killed import AFTER, DEAD
from tests.indexer.vectors.segments import (
    FIRST,
    OWNER,
    reopened,
    some_rows,
    write,
)
from tests.indexer.vectors.test_segment_faults import (
    flip,
    killed_at_each_step,
    order_of_calls,
)

# --- killed at every step --------------------------------------------------------------------


def assert_nothing_shown(folder: Path, left: str) -> None:
    """Whoever was killed left files of that kind, and no file shows anything of a face."""
    assert any(path.name.endswith(left) for path in folder.rglob("*"))
    with tempfile.TemporaryDirectory() as plain:
        write(Path(plain), "one", ROWS)
        codes = reopened(Path(plain)).codes.codes
        assert shown(Path(plain), codes)
        assert shown(folder, codes) == set()


def test_killed_while_writing(tmp_path: Path) -> None:
    folders = [tmp_path / f"step-{step}" for step in range(26)]
    for folder in folders:
        folder.mkdir()
    outcomes = set()
    ends = killed_at_each_step("sealed-write", folders)
    assert_nothing_shown(tmp_path, "part")
    for folder, end in zip(folders, ends, strict=True):
        if (folder / "one.head").exists():
            outcomes.add(end)
        else:
            assert end == "killed"
            with pytest.raises(IndexDamaged, match="missing"):
                opened(folder)
            outcomes.add("absent")
            write(folder, "one", ROWS, keys=KEYS)
        assert_intact(opened(folder), DEAD[:0])
        sweep(folder, {"one"})
        assert names(folder) == FILES
    assert outcomes == {"absent", "killed", "done"}


def test_killed_while_scrubbing(sealed_copy: Copies, tmp_path: Path) -> None:
    """Whoever opens next finds all of the scrub or none, though no piece is ever written twice."""
    folders = [sealed_copy() for _ in range(24)]
    outcomes = set()
    ends = killed_at_each_step("sealed-scrub", folders)
    assert_nothing_shown(tmp_path, "redo")
    for folder, end in zip(folders, ends, strict=True):
        begun, kept = next_path(folder, "one").exists(), redo_path(folder, "one").exists()
        segment = opened(folder)
        if begun or segment.history == AFTER:
            assert_intact(segment, DEAD)
            assert segment.history == AFTER
            assert not segment.matrix()[DEAD].any() and (segment.codes.codes[DEAD] == ZERO).all()
        else:
            assert_intact(segment, DEAD[:2])
            assert segment.history == FIRST
        assert not next_path(folder, "one").exists()
        outcomes.add((end, begun, kept, segment.history))
        # What lies beside is in nobody's way, and gone after the next.
        scrub(folder, "one", np.array([20]), AFTER, KEYS)
        sweep(folder, {"one"})
        assert names(folder) == FILES
    assert outcomes == {
        ("killed", False, True, FIRST),
        ("killed", True, True, AFTER),
        ("killed", False, True, AFTER),
        ("killed", False, False, AFTER),
        ("done", False, False, AFTER),
    }


def broken_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrub of ``DEAD`` that a failing disk ended in the middle of a piece of the data."""
    real = os.pwrite

    def failing(handle: int, data: memoryview, offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{handle}").endswith("one.data"):
            real(handle, data[: len(data) // 3], offset)
            raise OSError(errno.EIO, "Input/output error")
        return real(handle, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing)
        with pytest.raises(StorageError, match="Input/output error"):
            scrub(folder, "one", DEAD, AFTER, KEYS)
    assert next_path(folder, "one").exists() and redo_path(folder, "one").exists()


def test_killed_while_finishing_a_scrub(
    sealed_copy: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [sealed_copy() for _ in range(14)]
    for folder in folders:
        broken_off(folder, monkeypatch)
    killed_at_each_step("sealed-finish", folders)
    assert_nothing_shown(folders[0].parent, "redo")
    for folder in folders:
        segment = opened(folder)
        assert segment.history == AFTER
        assert_intact(segment, DEAD)


def test_killed_while_removing(sealed_copy: Copies) -> None:
    folders = [sealed_copy() for _ in range(6)]
    killed_at_each_step("sealed-remove", folders)
    for folder in folders:
        if (folder / "one.head").exists():
            assert_intact(opened(folder), DEAD[:2])
        else:
            with pytest.raises(IndexDamaged, match="missing"):
                opened(folder)
        sweep(folder, set())
        assert names(folder) == set()


def test_each_step_is_on_the_disk_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert order_of_calls(lambda: write(tmp_path, "one", ROWS, keys=KEYS), monkeypatch) == [
        "write .one.data*",
        "fsync .one.data*",
        ".one.data* to one.data",
        "fsync folder",
        "fsync .one.head*",
        ".one.head* to one.head",
        "fsync folder",
    ]
    change = order_of_calls(lambda: scrub(tmp_path, "one", DEAD, AFTER, KEYS), monkeypatch)
    assert change == [
        "write one.redo",
        "fsync one.redo",
        "fsync folder",
        "fsync .one.head.next*",
        ".one.head.next* to one.head.next",
        "fsync folder",
        "write one.data",
        "fsync one.data",
        "one.head.next to one.head",
        "fsync folder",
        "fsync folder",
    ]


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "flip", "place", "other"])
def test_what_a_change_left_may_be_damaged_too(
    sealed_copy: Copies, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """The pieces are opened under the marks of the new head, whoever put them there."""
    folder = sealed_copy()
    broken_off(folder, monkeypatch)
    path = redo_path(folder, "one")
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "flip":
        flip(path, len(whole) // 2)
    elif damage == "other":
        another = sealed_copy()
        broken_off(another, monkeypatch)
        shutil.copy(redo_path(another, "one"), path)
    else:
        path.write_bytes(
            {"empty": b"", "cut": whole[:-1], "place": b"\xff" * 8 + whole[8:]}[damage]
        )
    with pytest.raises(IndexDamaged):
        opened(folder)


def test_a_torn_head_of_a_scrub_that_did_not_begin_is_dropped(
    sealed_copy: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sealed_copy()
    broken_off(other, monkeypatch)
    whole = next_path(other, "one").read_bytes()
    for torn in (b"", whole[:30], whole[:500], whole[:-1], whole + b"\0", bytes(len(whole))):
        folder = sealed_copy()
        next_path(folder, "one").write_bytes(torn)
        shutil.copy(redo_path(other, "one"), redo_path(folder, "one"))
        assert_intact(opened(folder), DEAD[:2])
        assert names(folder) == FILES


def test_a_head_that_is_lost_is_made_good_by_the_next(
    sealed_copy: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sealed_copy()
    broken_off(folder, monkeypatch)
    flip(folder / "one.head", 600)
    assert_intact(opened(folder), DEAD)


# --- a full disk -----------------------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB in memory, of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    with mounted(place, "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        yield place


def test_a_full_disk_refuses_a_change_and_keeps_the_rest(tiny_disk: Path) -> None:
    write(tiny_disk, "one", ROWS, keys=KEYS)
    large = some_rows(3, 12_000)
    source = from_arrays(large.ids, large.vectors, large.tags)
    with pytest.raises(StorageFull):
        write_segment(tiny_disk, "two", source, history=FIRST, keys=KEYS, **OWNER)
    assert names(tiny_disk) == FILES
    ballast = fill_up(tiny_disk)
    with pytest.raises(StorageFull):
        scrub(tiny_disk, "one", DEAD, AFTER, KEYS)
    assert names(tiny_disk) == FILES | {"ballast"}
    assert_intact(opened(tiny_disk), DEAD[:0])
    ballast.unlink()
    room = ballast.parent / "ballast"
    # Enough for the pieces, and not for the head that comes after them.
    head = head_of(tiny_disk)
    pieces = [(section, piece) for section in head.blanked for piece in range(section.pieces)]
    redo = sum(16 + slot(head.sections, *one)[1] for one in pieces)
    room.write_bytes(bytes(shutil.disk_usage(tiny_disk).free - -(-redo // 4096) * 4096))
    with pytest.raises(StorageFull):
        scrub(tiny_disk, "one", DEAD, AFTER, KEYS)
    assert names(tiny_disk) == FILES | {"ballast"}
    room.unlink()
    scrub(tiny_disk, "one", DEAD, AFTER, KEYS)
    assert_intact(opened(tiny_disk), DEAD)
