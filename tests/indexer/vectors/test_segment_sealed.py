"""Encrypted segments: nothing of a face in any file, and nothing in any file that was put there."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from indexer.errors import IndexDamaged, SealKeyMissing
from indexer.sealing.keyring import OVERHEAD
from indexer.vectors import segment_redo
from indexer.vectors.gpu import GpuScanner
from indexer.vectors.quantise import ZERO
from indexer.vectors.scan import CpuScanner
from indexer.vectors.segment import (
    History,
    merged,
    remove_segment,
    scrub,
    write_segment,
)
from indexer.vectors.segment_head import (
    data_path,
    head_path,
    read_head,
    slot,
)
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
    every,
    keyring,
    reopened,
    some_rows,
    write,
)
from tests.indexer.vectors.test_gpu import stay
from tests.indexer.vectors.test_segment_faults import (
    flip,
)

# --- the same answers, and nothing to be read ------------------------------------------------


def test_it_holds_what_a_plain_one_would_to_the_last_bit(tmp_path: Path) -> None:
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    for folder, keys in ((plain, None), (sealed, KEYS)):
        folder.mkdir()
        write(folder, "one", ROWS, keys=keys)
        scrub(folder, "one", DEAD, AFTER, keys)
    one, other = reopened(plain), opened(sealed)
    assert_intact(other, DEAD)
    assert other.history == one.history == AFTER
    assert np.array_equal(other.codes.codes, one.codes.codes)
    assert not other.codes.codes.flags.writeable
    assert np.array_equal(other.codes.quantiser.centre, one.codes.quantiser.centre)
    assert other.codes.quantiser.scale == one.codes.quantiser.scale
    assert (other.codes.residual, other.codes.reach) == (one.codes.residual, one.codes.reach)
    assert np.array_equal(other.matrix(), one.matrix())
    for row in range(other.count):
        assert other.columns.tags(row) == one.columns.tags(row)
    assert (one.keys, other.keys) == ((), (KEYS.current_id,))
    assert names(sealed) == FILES
    assert other.disk_bytes == sum(path.stat().st_size for path in sealed.iterdir())


def test_the_scan_of_a_gpu_takes_its_vectors(sealed_copy: Copies) -> None:
    """All that a device is given is what a plain segment would give it."""
    view = opened(sealed_copy())
    scanner = GpuScanner(
        view.matrix(), devices=(0,), elsewhere=CpuScanner(view.codes, threads=1), to_device=stay
    )
    for row in (5, 599):
        (found,) = scanner.shortlist(ROWS.vectors[row : row + 1], 10)
        assert row in found.rows


def test_no_file_shows_a_vector_a_code_an_id_or_a_word(tmp_path: Path) -> None:
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    for folder, keys in ((plain, None), (sealed, KEYS)):
        folder.mkdir()
        write(folder, "one", ROWS, keys=keys)
    codes = reopened(plain).codes.codes
    assert shown(plain, codes) == {
        "vectors", "codes", "ids", "words"
    }  # fmt: skip
    assert shown(sealed, codes) == set()


def test_a_scrubbed_row_is_gone_from_what_the_key_opens(sealed_copy: Copies) -> None:
    folder = sealed_copy()
    before = opened(folder)
    codes = before.codes.codes.copy()
    info = scrub(folder, "one", DEAD, AFTER, KEYS)
    assert (info.dead, info.history) == (len(DEAD), AFTER)
    segment = opened(folder)
    assert_intact(segment, DEAD)
    codes[DEAD] = ZERO
    assert np.array_equal(segment.codes.codes, codes)
    # As it lies in the file: not hidden by the count of the dead.
    assert not segment.matrix()[DEAD].any()
    assert names(folder) == FILES
    assert info.disk_bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_a_view_that_learns_of_a_scrub_blanks_its_own_memory(
    sealed_copy: Copies,
) -> None:
    folder = sealed_copy()
    view = opened(folder)
    scrub(folder, "one", DEAD, AFTER, KEYS)
    assert np.array_equal(view.matrix()[DEAD[3:]], ROWS.vectors[DEAD[3:]]), "not told yet"
    view.refresh()
    assert view.history == AFTER
    assert_intact(view, DEAD)
    assert not view.matrix()[DEAD].any()
    assert (view.codes.codes[DEAD] == ZERO).all()


def test_what_is_open_outlives_closing_and_removing(sealed_copy: Copies) -> None:
    folder = sealed_copy()
    view = opened(folder)
    view.close()
    remove_segment(folder, "one")
    assert names(folder) == set()
    assert_intact(view, DEAD[:2])


def test_memory_that_changes_is_found(sealed_copy: Copies) -> None:
    view = opened(sealed_copy())
    view._data[view._section.offset + 300 * view._section.row_bytes :][:4] = 0x41
    with pytest.raises(IndexDamaged, match="changed in memory"):
        view.vectors(np.array([300]))


def test_joined_with_a_plain_one(sealed_copy: Copies) -> None:
    folder = sealed_copy()
    more = some_rows(2, 40)
    write(folder, "two", more)
    one, two = opened(folder), opened(folder, "two")
    alive = np.setdiff1d(every(one), one.dead)
    source = merged([(one, alive), (two, every(two))])
    write_segment(folder, "both", source, history=AFTER, keys=KEYS, **OWNER)
    both = opened(folder, "both")
    assert both.keys == (KEYS.current_id,)
    assert both.count == len(alive) + 40
    assert np.array_equal(both.vectors(both.rows_of(more.ids)), more.vectors)
    kept = [ROWS.ids[row] for row in alive]
    assert np.array_equal(both.vectors(both.rows_of(kept)), ROWS.vectors[alive])


def test_a_scrub_of_very_much_goes_step_by_step(
    sealed_copy: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept for a step stays small, and the history is the new one with the last only."""
    monkeypatch.setattr(segment_redo, "_AT_ONCE", 1 << 17)
    folder = sealed_copy()
    real, seen = os.replace, []

    def noted(source: Path, target: Path) -> None:
        if str(target).endswith(".head"):
            after = read_head(Path(source), "one", KEYS)
            seen.append((len(after.dead), after.history))
        real(source, target)

    monkeypatch.setattr(os, "replace", noted)
    dead = np.arange(0, 600, 7)
    scrub(folder, "one", dead, AFTER, KEYS)
    assert len(seen) > 1
    assert [history for _, history in seen] == [FIRST] * (len(seen) - 1) + [AFTER]
    assert_intact(opened(folder), np.union1d(dead, DEAD[:2]))


def test_reading_and_opening_beside_scrubs(tmp_path: Path) -> None:
    write(tmp_path, "one", ROWS, keys=KEYS)
    order = np.random.default_rng(5).permutation(600)[:80].reshape(20, 4)
    done = threading.Event()
    faults: list[str] = []

    def check(opens: bool) -> None:
        segment = opened(tmp_path)
        try:
            while not done.is_set():
                segment = opened(tmp_path) if opens else segment
                segment.refresh()
                found = segment.vectors(every(segment))
                whole = np.all(found == ROWS.vectors, axis=1)
                blank = np.all(found == 0, axis=1)
                if not (whole | blank).all():
                    faults.append("a row is half there")
                if not np.all(blank[segment.dead]) or len(segment.dead) % 4:
                    faults.append("the dead rows are not those of a whole scrub")
        except BaseException as error:
            faults.append(repr(error))
            raise

    readers = [threading.Thread(target=check, args=(opens,)) for opens in (False, True)]
    for reader in readers:
        reader.start()
    try:
        for turn, some in enumerate(order):
            scrub(tmp_path, "one", some, History(10 + turn, "x"), KEYS)
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert faults == []
    assert opened(tmp_path).dead.tolist() == sorted(order.ravel().tolist())


# --- damage, and what somebody put there -----------------------------------------------------


@pytest.mark.parametrize("section", ["ids", "tag_site", "tag_posted_ms", "codes", "vectors"])
def test_a_flipped_bit_anywhere_in_a_piece_is_found(sealed_copy: Copies, section: str) -> None:
    folder = sealed_copy()
    head = head_of(folder)
    found = head.section(section)
    for piece in {0, found.pieces - 1}:
        start, length = slot(head.sections, found, piece)
        for offset in (0, 5, 13, OVERHEAD, length // 2, length - 17, length - 1):
            flip(folder / "one.data", start + offset)
            with pytest.raises(IndexDamaged, match=f"The {section} of segment one"):
                opened(folder)
            with pytest.raises(IndexDamaged):
                opened(folder)
            flip(folder / "one.data", start + offset)
    assert_intact(opened(folder), DEAD[:2])


def test_a_flipped_bit_anywhere_in_a_head_is_found(sealed_copy: Copies) -> None:
    folder = sealed_copy()
    size = (folder / "one.head").stat().st_size
    for offset in [*range(56), *range(56, size, 211), *range(size - 20, size)]:
        flip(folder / "one.head", offset)
        with pytest.raises(IndexDamaged):
            opened(folder)
        flip(folder / "one.head", offset)
    assert_intact(opened(folder), DEAD[:2])


@pytest.mark.parametrize("name", ["one.data", "one.head"])
def test_a_file_that_is_cut_or_too_long_or_gone_is_found(sealed_copy: Copies, name: str) -> None:
    folder = sealed_copy()
    path = folder / name
    whole = path.read_bytes()
    for changed in (
        *(whole[:length] for length in (0, 4, 10, 47, 48, 1000, len(whole) - 1)),
        whole[: len(whole) // 2],
        whole + b"\0",
        whole + bytes(4096),
    ):
        path.write_bytes(changed)
        with pytest.raises(IndexDamaged):
            opened(folder)
        with pytest.raises(IndexDamaged):
            scrub(folder, "one", DEAD, AFTER, KEYS)
    path.unlink()
    with pytest.raises(IndexDamaged, match="missing"):
        opened(folder)
    path.write_bytes(whole)
    assert_intact(opened(folder), DEAD[:2])


def taken(folder: Path, section: str, piece: int, name: str = "one") -> bytes:
    head = head_of(folder, name)
    start, length = slot(head.sections, head.section(section), piece)
    return data_path(folder, name).read_bytes()[start : start + length]


def put(folder: Path, section: str, piece: int, sealed: bytes) -> None:
    head = head_of(folder)
    start, length = slot(head.sections, head.section(section), piece)
    assert len(sealed) == length
    with (folder / "one.data").open("r+b") as file:
        file.seek(start)
        file.write(sealed)


def test_pieces_that_change_places_are_found(sealed_copy: Copies) -> None:
    folder = sealed_copy()
    first, second = taken(folder, "vectors", 0), taken(folder, "vectors", 1)
    assert len(first) == len(second) and head_of(folder).section("vectors").pieces == 3
    put(folder, "vectors", 0, second)
    put(folder, "vectors", 1, first)
    with pytest.raises(IndexDamaged, match="not what was sealed there last"):
        opened(folder)
    put(folder, "vectors", 0, first)
    put(folder, "vectors", 1, second)
    assert_intact(opened(folder), DEAD[:2])


@pytest.mark.parametrize("section", ["ids", "codes", "vectors"])
def test_a_piece_of_another_segment_is_found(sealed_copy: Copies, section: str) -> None:
    folder = sealed_copy()
    write(folder, "two", ROWS, keys=KEYS)
    put(folder, section, 0, taken(folder, section, 0, "two"))
    with pytest.raises(IndexDamaged, match="not what was sealed there last"):
        opened(folder)


@pytest.mark.parametrize("section", ["codes", "vectors"])
def test_a_piece_as_it_was_before_a_deletion_is_found(sealed_copy: Copies, section: str) -> None:
    """Sealed by the same key for the same place, it would bring a deleted face back."""
    folder = sealed_copy()
    earlier = taken(folder, section, 0)
    scrub(folder, "one", DEAD, AFTER, KEYS)
    assert_intact(opened(folder), DEAD)
    put(folder, section, 0, earlier)
    with pytest.raises(IndexDamaged, match="not what was sealed there last"):
        opened(folder)
    with pytest.raises(IndexDamaged, match="not what was sealed there last"):
        scrub(folder, "one", np.array([10]), AFTER, KEYS)


@pytest.mark.parametrize("name", sorted(FILES))
def test_one_of_the_two_files_as_it_was_before_is_found(sealed_copy: Copies, name: str) -> None:
    """Both together are an older copy of the segment, which the catalog tells by its dead rows."""
    folder, earlier = sealed_copy(), sealed_copy()
    scrub(folder, "one", DEAD, AFTER, KEYS)
    shutil.copy(earlier / name, folder / name)
    with pytest.raises(IndexDamaged, match="not what was sealed there last"):
        opened(folder)


def test_files_of_different_segments_do_not_mix(sealed_copy: Copies) -> None:
    folder = sealed_copy()
    write(folder, "two", some_rows(2), keys=KEYS)
    shutil.copy(folder / "two.head", folder / "one.head")
    with pytest.raises(IndexDamaged, match=r"one\.head fails its checksum"):
        opened(folder)


def test_a_plain_one_is_not_taken_for_it(sealed_copy: Copies) -> None:
    """Where all is encrypted, a plain segment is one that somebody put there."""
    folder = sealed_copy()
    remove_segment(folder, "one")
    write(folder, "one", some_rows(2))
    assert opened(folder).keys == (), "while encryption is being switched on it is read"
    with pytest.raises(IndexDamaged, match="not encrypted, and everything has to be"):
        reopened(folder, keys=keyring(plain=False))


# --- keys ------------------------------------------------------------------------------------


def test_without_keys_it_is_refused_and_not_called_damaged(sealed_copy: Copies) -> None:
    """What is damaged is made anew, and that would be in plain."""
    folder = sealed_copy()
    for act in (lambda: reopened(folder), lambda: scrub(folder, "one", DEAD, AFTER)):
        with pytest.raises(SealKeyMissing, match="is encrypted, and no key is set"):
            act()
    assert_intact(opened(folder), DEAD[:2])


def test_a_key_that_is_retired_makes_it_unreadable(sealed_copy: Copies) -> None:
    folder = sealed_copy()
    with pytest.raises(IndexDamaged, match=r"cannot be opened: .*data key 0000000000000001"):
        reopened(folder, keys=keyring(2, [2]))


def test_another_key_of_the_same_name_opens_nothing(sealed_copy: Copies) -> None:
    folder = sealed_copy()
    wrong = keyring(1, [1])
    wrong._keys = {"0000000000000001": keyring(2)._keys["0000000000000002"]}
    with pytest.raises(IndexDamaged, match="fails its checksum"):
        reopened(folder, keys=wrong)


def test_a_scrub_seals_with_the_key_of_now_and_both_are_named(
    sealed_copy: Copies,
) -> None:
    folder = sealed_copy()
    rotated = keyring(2, [1, 2])
    scrub(folder, "one", np.array([0]), AFTER, rotated)
    assert read_head(head_path(folder, "one"), "one", rotated).keys == ("0000000000000001",), (
        "a scrub of nothing new leaves the pieces as they are"
    )
    scrub(folder, "one", DEAD, AFTER, rotated)
    segment = reopened(folder, keys=rotated)
    assert segment.keys == ("0000000000000001", "0000000000000002")
    assert_intact(segment, DEAD)
    with pytest.raises(IndexDamaged, match="cannot be opened"):
        reopened(folder, keys=keyring(2, [2]))
