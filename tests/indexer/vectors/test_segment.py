"""Segments hold what was put in, find it by id, forget what is scrubbed, and can be joined."""

from __future__ import annotations

import gc
import stat
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.vectors.quantise import ZERO
from indexer.vectors.segment import (
    History,
    SegmentSource,
    from_arrays,
    merged,
    open_segment,
    remove_segment,
    scrub,
    sweep,
    write_segment,
)
from indexer.vectors.segment_ids import to_bytes, to_texts
from indexer.vectors.segment_source import Block
from indexer.vectors.tags import Columns, Filter, Tag
from tests.indexer.vectors.segments import (
    FIRST,
    OWNER,
    every,
    reopened,
    some_rows,
    unit_rows,
    without,
    write,
)

LATER = History(9, "face-9")


def test_a_segment_holds_what_was_written_in_the_order_of_the_ids(tmp_path: Path) -> None:
    rows = some_rows()
    shuffled = np.random.default_rng(3).permutation(len(rows.ids))
    info = write_segment(
        tmp_path,
        "one",
        from_arrays(
            [rows.ids[n] for n in shuffled],
            rows.vectors[shuffled],
            [rows.tags[n] for n in shuffled],
        ),
        history=FIRST,
        **OWNER,
    )
    segment = reopened(tmp_path)
    assert (segment.name, segment.count, segment.history) == ("one", len(rows.ids), FIRST)
    assert segment.ids(every(segment)) == rows.ids
    assert np.array_equal(segment.vectors(every(segment)), rows.vectors)
    assert len(segment.dead) == 0
    assert [segment.columns.tags(n) for n in range(8)] == [tuple(t[:1]) for t in rows.tags[:8]]
    on_disk = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert info.disk_bytes == segment.disk_bytes == on_disk
    assert {path.name for path in tmp_path.iterdir()} == {"one.data", "one.head"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_the_codes_are_as_near_to_the_vectors_as_the_head_says(tmp_path: Path) -> None:
    rows = some_rows()
    write(tmp_path, "one", rows)
    codes = reopened(tmp_path).codes
    by = codes.quantiser
    steps = codes.codes.astype(np.float64) - ZERO
    decoded = by.centre.astype(np.float64) + steps / by.scale
    errors = np.linalg.norm(rows.vectors - decoded, axis=1)
    assert 0 < errors.max() <= codes.residual < 0.02
    assert np.linalg.norm(steps / by.scale, axis=1).max() <= codes.reach
    assert np.abs(steps).max() == 127, "the scale is the finest at which nothing clips"
    np.testing.assert_allclose(by.centre, rows.vectors.mean(axis=0), atol=1 / 511)
    assert np.array_equal(by.centre * 256, np.rint(by.centre * 256)), "too coarse to tell of a row"
    assert not codes.codes.flags.writeable


def test_rows_are_found_by_id(tmp_path: Path) -> None:
    rows = some_rows()
    write(tmp_path, "one", rows)
    segment = reopened(tmp_path)
    first = rows.ids[0]
    absent = [
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "nobody",
        "",
        first.upper(),
        first.replace("-", "0"),
        first[:-1] + "\N{LATIN SMALL LETTER E WITH ACUTE}",
        first[:-1] + "\0",
        f"{first[:-1]}\n",
    ]
    wanted = [rows.ids[599], *absent, rows.ids[3], rows.ids[3]]
    assert segment.rows_of(wanted).tolist() == [599, *[-1] * len(absent), 3, 3]
    assert segment.rows_of([]).tolist() == []
    assert segment.ids(np.zeros(0, np.int64)) == []
    assert segment.vectors(np.zeros(0, np.int64)).shape == (0, 64)


def test_ids_that_differ_in_their_last_bytes_or_end_in_zeros(tmp_path: Path) -> None:
    upper = 0x0190_0000_0000_7000 << 64
    numbers = [0, 1, 255, 256, 1 << 32, (1 << 56) - 1, 1 << 56, (1 << 63) + 256, (1 << 64) - 1]
    ids = [str(UUID(int=upper + number)) for number in numbers]
    write_segment(
        tmp_path,
        "one",
        from_arrays(ids[::-1], unit_rows(1, len(ids), 64)),
        history=FIRST,
        **OWNER,
    )
    segment = reopened(tmp_path)
    assert segment.ids(every(segment)) == ids == sorted(ids)
    assert segment.rows_of(ids).tolist() == list(range(len(ids)))
    others = [str(UUID(int=upper + number)) for number in (2, 254, 257, 1 << 40, 1 << 62)]
    assert segment.rows_of(others).tolist() == [-1] * len(others)


@given(st.lists(st.uuids(), max_size=20))
def test_ids_as_bytes_and_back(uuids: list[UUID]) -> None:
    texts = [str(some) for some in uuids]
    packed, valid = to_bytes(texts)
    assert packed.tobytes() == b"".join(some.bytes for some in uuids)
    assert valid.all()
    assert to_texts(packed) == texts


@given(st.text(max_size=40) | st.from_regex(r"[0-9a-f-]{36}", fullmatch=True))
def test_only_canonical_ids_are_ids(text: str) -> None:
    try:
        canonical = str(UUID(text)) == text
    except ValueError:
        canonical = False
    assert to_bytes([text])[1].tolist() == [canonical]


def test_rows_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, "one", some_rows())
    segment = reopened(tmp_path)
    for row in (-1, segment.count):
        with pytest.raises(IndexError):
            segment.vectors(np.array([row]))
        with pytest.raises(IndexError):
            segment.ids(np.array([row]))
        with pytest.raises(ValueError, match="of a segment of"):
            scrub(tmp_path, "one", np.array([row]), LATER)
    assert reopened(tmp_path).history == FIRST


# --- what may not be written -----------------------------------------------------------------


def source_of(count: int, *blocks: Block) -> SegmentSource:
    return SegmentSource(count, Columns.of([()] * count), lambda: iter(blocks))


def test_a_source_that_is_not_as_it_should_be_is_refused_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    rows = unit_rows(1, 4, 64)
    keys = np.arange(64, dtype=np.uint8).reshape(4, 16)
    for words, source in [
        ("at least one row", source_of(0)),
        ("columns for each", SegmentSource(4, Columns.of([()]), lambda: iter([(keys, rows)]))),
        ("has shapes", source_of(4, (keys, rows[:, :32]))),
        ("has shapes", source_of(4, (keys[:3], rows))),
        ("normalised", source_of(4, (keys, rows * 2))),
        ("normalised", source_of(4, (keys, np.full_like(rows, np.nan)))),
        ("normalised", source_of(4, (keys, np.zeros_like(rows)))),
        ("ascending", source_of(4, (keys[::-1], rows))),
        ("ascending", source_of(4, (keys[:2], rows[:2]), (keys[1:3], rows[1:3]))),
        ("other than", source_of(4, (keys[:3], rows[:3]))),
        ("other than", source_of(3, (keys, rows))),
    ]:
        with pytest.raises(ValueError, match=words):
            write_segment(tmp_path, "one", source, history=FIRST, **OWNER)
        assert list(tmp_path.iterdir()) == [], words


@pytest.mark.parametrize("name", ["", "..", "a/b", "a.b", "-a", "a" * 101])
def test_a_name_is_one_word(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name for a segment"):
        write(tmp_path, name, some_rows(count=2))


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    rows = some_rows()
    write(tmp_path, "one", rows)
    with pytest.raises(ValueError, match="already"):
        write(tmp_path, "one", some_rows(2))
    segment = reopened(tmp_path)
    assert np.array_equal(segment.vectors(every(segment)), rows.vectors)


def test_memory_is_bounded_while_writing(tmp_path: Path) -> None:
    count, block = 40_000, 1000
    keys = np.zeros((count, 16), np.uint8)
    keys[:, 8:] = np.arange(count, dtype=">u8").view(np.uint8).reshape(count, 8)

    def blocks() -> Iterator[Block]:
        for start in range(0, count, block):
            yield keys[start : start + block], unit_rows(start, block, 128)

    source = SegmentSource(count, Columns.of([()] * count), blocks)
    tracemalloc.start()
    try:
        write_segment(tmp_path, "one", source, history=FIRST, **{**OWNER, "dimension": 128})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The vectors alone are 20 MB; columns of rows without tags are small.
    assert peak < 8_000_000


# --- scrubbing -------------------------------------------------------------------------------


def test_scrubbed_rows_are_gone_from_the_disk_and_the_rest_stays(tmp_path: Path) -> None:
    rows = some_rows()
    write(tmp_path, "one", rows)
    before = reopened(tmp_path)
    codes = before.codes.codes.copy()
    dead = np.array([0, 255, 256, 257, 599])
    info = scrub(tmp_path, "one", dead, LATER)
    assert (info.count, info.dead, info.history) == (600, 5, LATER)
    segment = reopened(tmp_path)
    assert segment.dead.tolist() == dead.tolist()
    assert segment.history == LATER
    assert np.array_equal(segment.vectors(every(segment)), without(rows.vectors, dead))
    codes[dead] = ZERO
    assert np.array_equal(segment.codes.codes, codes)
    assert segment.ids(every(segment)) == rows.ids
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not any(rows.vectors[row].tobytes() in held for row in dead)
    assert rows.vectors[1].tobytes() in held
    assert {path.name for path in tmp_path.iterdir()} == {"one.data", "one.head"}


def test_scrubs_add_up(tmp_path: Path) -> None:
    rows = some_rows()
    write(tmp_path, "one", rows)
    scrub(tmp_path, "one", np.array([5, 4, 4]), History(8, "face-8"))
    assert scrub(tmp_path, "one", np.array([4, 300]), LATER).dead == 3
    assert scrub(tmp_path, "one", np.zeros(0, np.int64), History(10, "face-10")).dead == 3
    segment = reopened(tmp_path)
    assert segment.dead.tolist() == [4, 5, 300]
    assert segment.history == History(10, "face-10")
    assert scrub(tmp_path, "one", np.arange(600), LATER).dead == 600
    assert not reopened(tmp_path).vectors(np.arange(600)).any()


def test_a_view_opened_before_a_scrub_goes_on(tmp_path: Path) -> None:
    rows = some_rows()
    write(tmp_path, "one", rows)
    unread, read = reopened(tmp_path), reopened(tmp_path)
    read.vectors(every(read))
    dead = np.array([1, 2, 500])
    scrub(tmp_path, "one", dead[:2], LATER)
    scrub(tmp_path, "one", dead[2:], History(10, "face-10"))
    for view in (unread, read):
        assert np.array_equal(view.vectors(every(view)), without(rows.vectors, dead))
        assert view.dead.tolist() == dead.tolist()
        assert view.history == History(10, "face-10")


def test_reading_and_opening_beside_scrubs(tmp_path: Path) -> None:
    """A row is whole or blank, never half, and nobody is told of damage that is not there."""
    rows = some_rows()
    write(tmp_path, "one", rows)
    order = np.random.default_rng(5).permutation(600)[:120].reshape(30, 4)
    done = threading.Event()
    faults: list[str] = []

    def check(opens: bool) -> None:
        segment = reopened(tmp_path)
        try:
            while not done.is_set():
                if opens:
                    segment = reopened(tmp_path)
                known = segment.dead
                found = segment.vectors(every(segment))
                whole = np.all(found == rows.vectors, axis=1)
                blank = np.all(found == 0, axis=1)
                if not (whole | blank).all():
                    faults.append("a row is half there")
                if not set(np.flatnonzero(blank)) <= set(order.ravel().tolist()):
                    faults.append("a row is blank that nobody scrubbed")
                if not np.all(blank[known]) or len(known) % 4:
                    faults.append("the dead rows are not those of a whole scrub")
        except BaseException as error:
            faults.append(repr(error))
            raise

    readers = [threading.Thread(target=check, args=(opens,)) for opens in (False, True)]
    for reader in readers:
        reader.start()
    try:
        for turn, some in enumerate(order):
            scrub(tmp_path, "one", some, History(10 + turn, "x"))
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert faults == []
    assert reopened(tmp_path).dead.tolist() == sorted(order.ravel().tolist())


# --- joining ---------------------------------------------------------------------------------

WORDS = st.sampled_from(["", "a", "B", "c"])
TAGS = st.builds(
    Tag, site=WORDS, region=WORDS, status=WORDS, posted_ms=st.none() | st.integers(0, 5)
)


@st.composite
def gallery_parts(draw: st.DrawFn) -> list[dict[int, tuple[int, list[Tag]]]]:
    """Up to three segments: number of the face, to the number of its vector and its tags."""
    part = st.dictionaries(
        st.integers(0, 40),
        st.tuples(st.integers(0, 30), st.lists(TAGS, max_size=3)),
        min_size=1,
        max_size=25,
    )
    return draw(st.lists(part, min_size=1, max_size=3))


def face_id(number: int) -> str:
    # The same upper half for many, so that the lower one decides.
    return str(UUID(int=(number % 3 << 120) + (number << 60)))


@settings(max_examples=25)
@given(
    parts=gallery_parts(),
    dead=st.sets(st.integers(0, 40), max_size=20),
    where=st.builds(Filter, site=st.none() | WORDS, posted_from_ms=st.none() | st.integers(0, 5)),
)
def test_joined_segments_hold_what_plain_python_would(
    parts: list[dict[int, tuple[int, list[Tag]]]], dead: set[int], where: Filter
) -> None:
    """An id in several segments counts as the last of them has it; ``dead`` is scrubbed there."""
    pool = unit_rows(4, 31, 64)
    expected: dict[str, tuple[int, list[Tag]]] = {}
    owner: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        segments = []
        for turn, part in enumerate(parts):
            source = from_arrays(
                [face_id(number) for number in part],
                pool[[vector for vector, _ in part.values()]],
                [tags for _, tags in part.values()],
            )
            write_segment(folder, f"s{turn}", source, history=FIRST, **OWNER)
            for number, held in part.items():
                expected[face_id(number)], owner[face_id(number)] = held, turn
        for number in dead & {number for part in parts for number in part}:
            expected.pop(face_id(number))
        for turn in range(len(parts)):
            segment = reopened(folder, f"s{turn}")
            rows = segment.rows_of([face_id(number) for number in sorted(dead)])
            scrub(folder, f"s{turn}", rows[rows >= 0], LATER)
            segments.append(reopened(folder, f"s{turn}"))
        taken = [
            (
                segment,
                segment.rows_of(sorted(i for i in expected if owner[i] == turn)),
            )
            for turn, segment in enumerate(segments)
        ]
        if not expected:
            with pytest.raises(ValueError, match="at least one row"):
                write_segment(folder, "all", merged(taken), history=LATER, **OWNER)
            return
        write_segment(folder, "all", merged(taken), history=LATER, **OWNER)
        joined = reopened(folder, "all")
        assert joined.ids(every(joined)) == sorted(expected)
        kept = [expected[known] for known in sorted(expected)]
        assert np.array_equal(joined.vectors(every(joined)), pool[[vector for vector, _ in kept]])
        plain = Columns.of([tags for _, tags in kept])
        for row in range(joined.count):
            assert joined.columns.tags(row) == plain.tags(row)
        wanted = [where.empty or any(where.passes(tag) for tag in tags) for _, tags in kept]
        assert joined.columns.mask(where).tolist() == wanted


def test_an_id_is_taken_from_one_segment_only(tmp_path: Path) -> None:
    write(tmp_path, "one", some_rows())
    write(tmp_path, "two", some_rows())
    parts = [(reopened(tmp_path, name), np.array([3, 4])) for name in ("one", "two")]
    with pytest.raises(ValueError, match="two segments"):
        merged(parts)


def test_a_dead_row_is_not_taken(tmp_path: Path) -> None:
    write(tmp_path, "one", some_rows())
    segment = reopened(tmp_path)
    scrub(tmp_path, "one", np.array([3]), LATER)
    with pytest.raises(ValueError, match="normalised"):
        write_segment(tmp_path, "two", merged([(segment, every(segment))]), history=LATER, **OWNER)
    assert {path.name for path in tmp_path.iterdir()} == {"one.data", "one.head"}


def test_more_rows_than_a_block_are_joined(tmp_path: Path) -> None:
    owner = {**OWNER, "dimension": 8}
    ids = [str(UUID(int=(n * 7919 % 10_007) << 64)) for n in range(10_000)]
    vectors = unit_rows(1, 10_000, 8)
    for name, some in (("one", slice(0, None, 2)), ("two", slice(1, None, 2))):
        source = from_arrays(ids[some], vectors[some])
        write_segment(tmp_path, name, source, history=FIRST, **owner)
    parts = [open_segment(tmp_path, name, **owner) for name in ("one", "two")]
    source = merged([(part, every(part)[::-1]) for part in parts])
    write_segment(tmp_path, "all", source, history=FIRST, **owner)
    joined = open_segment(tmp_path, "all", **owner)
    assert joined.ids(every(joined)) == sorted(ids)
    assert np.array_equal(joined.vectors(joined.rows_of(ids)), vectors)


# --- the end of a segment --------------------------------------------------------------------


def test_what_is_mapped_outlives_closing_and_removing(tmp_path: Path) -> None:
    rows = some_rows()
    write(tmp_path, "one", rows)
    segment = reopened(tmp_path)
    codes = segment.codes.codes
    total = int(codes.sum())
    segment.close()
    remove_segment(tmp_path, "one")
    assert list(tmp_path.iterdir()) == []
    assert np.array_equal(segment.vectors(every(segment)), rows.vectors)
    segment.close()
    del segment
    gc.collect()
    assert int(codes.sum()) == total
    remove_segment(tmp_path, "one")


def test_a_sweep_keeps_what_is_named_and_what_is_not_ours(tmp_path: Path) -> None:
    for name in ("one", "two", "one-2"):
        write(tmp_path, name, some_rows(count=4))
    strangers = {"one.index", ".two.index.0190.part", "notes.txt", "data", ".data"}
    remains = {"lost.data", "gone.head", "gone.head.next"}
    temporary = {".one.data.0190-ab.part", ".one.head.next.0190-ab.part", ".lost.head.01.part"}
    for name in strangers | remains | temporary:
        (tmp_path / name).write_bytes(b"x")
    assert sweep(tmp_path, {"one", "absent"}) == {"two", "one-2", "lost", "gone"}
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"one.data", "one.head"} | strangers
    assert reopened(tmp_path).count == 4
