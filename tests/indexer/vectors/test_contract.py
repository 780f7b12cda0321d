"""One contract for every vector index; the NumPy reference says what is right."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.vectors.base import VectorIndex
from indexer.vectors.numpy_index import NumpyIndex
from indexer.vectors.tags import EVERYTHING, Filter, Tag
from models.types import FloatArray
from tests.indexer.vectors.conftest import Make, make_of

EXAMPLES = {"segments": 40, "encrypted-segments": 15, "milvus-lite": 20, "milvus-server": 15}
"""How many random histories a back end goes through; the reference itself goes through none."""


@pytest.fixture(params=["numpy", *EXAMPLES])
def make(request: pytest.FixtureRequest) -> Make:
    return make_of(request, request.param)


def unit_rows(seed: int, count: int, dimension: int = 16) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def face(number: int) -> str:
    """An id of its own for each number, in another order than the numbers."""
    return str(uuid.UUID(int=(number * 0x9E3779B97F4A7C15 % 2**64) << 64 | number))


def faces(count: int, start: int = 0) -> list[str]:
    return [face(number) for number in range(start, start + count)]


def same(
    index: VectorIndex, reference: NumpyIndex, probes: FloatArray, k: int, **how: object
) -> None:
    """Both give the same answer, to the last bit of a score."""
    mine = index.search(probes, k, **how)  # type: ignore[arg-type]
    theirs = reference.search(probes, k, **how)  # type: ignore[arg-type]
    assert [found.ids for found in mine] == [found.ids for found in theirs]
    for one, other in zip(mine, theirs, strict=True):
        assert one.scores.dtype == np.float32
        assert np.array_equal(one.scores, other.scores)


def test_finds_the_nearest_first(make: Make) -> None:
    rows = unit_rows(1, 200)
    index = make(16)
    index.add(faces(200), rows)
    (found,) = index.search(rows[17:18], 5)
    expected = rows.astype(np.float64) @ rows[17].astype(np.float64)
    assert found.ids == tuple(face(int(i)) for i in np.argsort(-expected)[:5])
    assert found.ids[0] == face(17)
    assert found.scores.dtype == np.float32
    np.testing.assert_allclose(found.scores, np.sort(expected)[::-1][:5], atol=1e-6)
    assert index.dimension == 16
    assert index.health() is None


def test_an_empty_index_answers_with_nothing(make: Make) -> None:
    index = make(16)
    assert [len(found) for found in index.search(unit_rows(1, 3), 10)] == [0, 0, 0]
    assert index.search(unit_rows(1, 1)[:0], 10) == []
    assert index.count() == 0
    assert index.ids() == set()
    assert index.delete([face(1)]) == 0
    assert index.scores(unit_rows(1, 2), []).shape == (2, 0)
    index.add([], unit_rows(1, 1)[:0])
    assert index.count() == 0


def test_k_beyond_the_count_returns_all(make: Make) -> None:
    index = make(16)
    index.add(faces(3), unit_rows(1, 3))
    assert set(index.search(unit_rows(2, 1), 50)[0].ids) == set(faces(3))
    assert len(index.search(unit_rows(2, 1), 0)[0]) == 0


def test_deleted_ids_never_come_back(make: Make) -> None:
    rows = unit_rows(3, 50)
    index = make(16)
    index.add(faces(50), rows, [[Tag(site="a"), Tag(site="b")]] * 50)
    gone = {face(7), face(8)}
    assert index.delete([*gone, face(99), "nobody"]) == 2
    for found in (
        *index.search(rows[7:9], 50),
        *index.search(rows[7:9], 50, where=Filter(site="b")),
    ):
        assert set(found.ids) == set(faces(50)) - gone
    assert index.delete([face(7)]) == 0
    assert index.count() == 48
    assert index.ids() == set(faces(50)) - gone
    for missing in (face(7), face(99), "nobody"):
        with pytest.raises(KeyError):
            index.scores(rows[:1], [face(1), missing])


def test_an_id_added_again_is_replaced_with_its_tags(make: Make) -> None:
    rows = unit_rows(4, 4)
    index = make(16)
    many = [Tag(site="a"), Tag(site="b"), Tag(site="c", posted_ms=5)]
    index.add(faces(2), rows[:2], [many, many])
    index.add(faces(1), rows[2:3], [[Tag(site="d")]])
    assert index.count() == 2
    assert index.ids() == set(faces(2))
    assert index.scores(rows[2:3], [face(0)])[0, 0] == pytest.approx(1.0, abs=1e-6)
    for site, expected in (("a", {face(1)}), ("c", {face(1)}), ("d", {face(0)}), ("e", set())):
        assert set(index.search(rows[:1], 9, where=Filter(site=site))[0].ids) == expected
    index.add(faces(1), rows[3:4], [many])
    assert set(index.search(rows[:1], 9, where=Filter(site="c"))[0].ids) == set(faces(2))
    assert index.search(rows[:1], 9, where=Filter(site="d"))[0].ids == ()
    index.add(faces(1), rows[3:4])
    assert set(index.search(rows[:1], 9, where=Filter(site="c"))[0].ids) == {face(1)}
    assert index.delete(faces(2)) == 2
    assert index.search(rows[:1], 9, where=Filter(site="a"))[0].ids == ()


def test_equal_scores_are_ordered_by_id(make: Make) -> None:
    row = unit_rows(5, 1)
    index = make(16)
    ids = faces(40)
    index.add(ids, np.repeat(row, 40, axis=0), [[Tag(site="a"), Tag(site="b")]] * 40)
    ordered = sorted(ids)
    for where in (EVERYTHING, Filter(site="b")):
        assert index.search(row, 3, where=where)[0].ids == tuple(ordered[:3])
    index.delete(ordered[1:2])
    for where in (EVERYTHING, Filter(site="b")):
        assert index.search(row, 2, where=where)[0].ids == (ordered[0], ordered[2])


def test_one_tag_has_to_pass_all_of_a_filter(make: Make) -> None:
    index = make(16)
    index.add(
        faces(4),
        unit_rows(6, 4),
        [
            [Tag(site="A", posted_ms=100), Tag(site="B", posted_ms=200)],
            [Tag(site="a", region="North", agency="X", status="open", posted_ms=200)],
            [Tag(site="B")],
            [],
        ],
    )

    def passing(**words: object) -> set[int]:
        (found,) = index.search(unit_rows(6, 1), 9, where=Filter(**words))  # type: ignore[arg-type]
        return {number for number in range(4) if face(number) in found.ids}

    assert passing() == {0, 1, 2, 3}
    assert passing(site="a") == {0, 1}
    assert passing(site="A", posted_from_ms=150) == {1}
    assert passing(site="b", posted_before_ms=150) == set()
    assert passing(posted_from_ms=200) == {0, 1}
    assert passing(posted_before_ms=200) == {0}
    assert passing(posted_from_ms=-(2**63), posted_before_ms=2**63 - 1) == {0, 1}
    assert passing(posted_from_ms=-(2**70), posted_before_ms=2**70) == {0, 1}
    assert passing(posted_from_ms=2**70) == passing(posted_before_ms=-(2**70)) == set()
    assert passing(region="NORTH", agency="x", status="OPEN", site="a") == {1}
    assert passing(region="north", status="closed") == set()
    assert passing(site="") == passing(agency="") == set()


def test_words_are_words_whatever_they_hold(make: Make) -> None:
    words = [
        'a"',
        "a'",
        "a\\",
        'a\\"',
        '" or ordinal >= 0 or site == "',
        "%",
        "a\nb",
        "a\x00b",
        "{}",
        "ß",
        "\U0001f600" * 300,
        "x" * 70_000,
        " ",
        "\ud800",
    ]
    index = make(16)
    count = len(words)
    index.add(faces(count), unit_rows(7, count), [[Tag(site=word, region="r")] for word in words])
    for number, word in enumerate(words):
        (found,) = index.search(unit_rows(7, 1), 99, where=Filter(site=word, region="R"))
        assert found.ids == (face(number),), repr(word)
    assert index.search(unit_rows(7, 1), 99, where=Filter(site='b" or "" == "'))[0].ids == ()


def test_excluded_ids_stay_out(make: Make) -> None:
    rows = unit_rows(8, 300)
    index, reference = make(16), NumpyIndex(16)
    tags = [[Tag(site=f"s{number % 3}")] for number in range(300)]
    for each in (index, reference):
        each.add(faces(300), rows, tags)
    for excluded in (faces(4), faces(290), [*faces(5), "nobody", 'x" or ""=="'], faces(300)):
        for where in (EVERYTHING, Filter(site="s1")):
            same(index, reference, rows[:2], 7, where=where, excluded=excluded)


@pytest.mark.parametrize(
    ("ids", "vectors"),
    [
        (faces(1), np.ones((1, 16), np.float32)),
        (faces(1), np.zeros((1, 16), np.float32)),
        (faces(1), np.full((1, 16), np.nan, np.float32)),
        (faces(1), unit_rows(1, 1, 7)),
        (faces(2), unit_rows(1, 1)),
        ([face(1), face(1)], unit_rows(1, 2)),
        (["a"], unit_rows(1, 1)),
        ([face(1).upper()], unit_rows(1, 1)),
        ([face(1) + '"'], unit_rows(1, 1)),
    ],
)
def test_bad_vectors_are_refused_and_change_nothing(
    make: Make, ids: list[str], vectors: FloatArray
) -> None:
    index = make(16)
    with pytest.raises(ValueError, match=r"shape|normalised|twice|UUID"):
        index.add(ids, vectors)
    assert index.count() == 0
    with pytest.raises(ValueError, match=r"shape|normalised"):
        index.search(np.full((1, 16), np.inf, np.float32), 1)
    with pytest.raises(ValueError, match="shape"):
        index.search(np.ones(16, np.float32), 1)


def test_tags_go_with_ids(make: Make) -> None:
    index = make(16)
    with pytest.raises(ValueError, match="tags for 1 ids"):
        index.add(faces(2), unit_rows(1, 2), [[]])
    assert index.count() == 0


@pytest.mark.parametrize("dimension", [128])
def test_equals_the_reference_at_size(make: Make, dimension: int) -> None:
    rows = unit_rows(10, 6000, dimension)
    rows[3000:3400] = rows[0]  # exact ties beyond any shortlist's end
    rng = np.random.default_rng(10)
    near = rows[1] + rng.standard_normal((300, dimension)).astype(np.float32) * np.float32(1e-7)
    rows[3400:3700] = near / np.linalg.norm(near, axis=1, keepdims=True)
    tags = [
        [Tag(site=f"s{number % 97}", posted_ms=number), Tag(site="all", posted_ms=-number)]
        for number in range(6000)
    ]
    index, reference = make(dimension), NumpyIndex(dimension)
    for each in (index, reference):
        each.add(faces(6000), rows, tags)
        each.delete(faces(6000)[::7])
    assert index.count() == reference.count()
    assert index.ids() == reference.ids()
    probes = np.concatenate([rows[:2], unit_rows(11, 6, dimension)])
    for k in (10, 500):
        for where in (
            EVERYTHING,
            Filter(site="all", posted_before_ms=-3000),
            Filter(site="s5"),
            Filter(posted_from_ms=-50, posted_before_ms=50),
        ):
            same(index, reference, probes, k, where=where)


WORDS = st.sampled_from(["", "a", "A", "b", 'c"\\', "d'"])
TIMES = st.none() | st.integers(-3, 3)


@dataclass(frozen=True)
class Step:
    numbers: Sequence[int]
    tags: Sequence[Sequence[Tag]] | None
    """The tags that faces are added with, in turn; ``None`` to delete."""


@st.composite
def steps(draw: st.DrawFn) -> Step:
    numbers = draw(st.lists(st.integers(0, 120), min_size=1, max_size=60, unique=True))
    if draw(st.integers(0, 2)) == 0:
        return Step(numbers, None)
    tag = st.builds(Tag, site=WORDS, region=WORDS, agency=WORDS, posted_ms=TIMES)
    return Step(numbers, draw(st.lists(st.lists(tag, max_size=4), min_size=1, max_size=5)))


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    word = st.none() | WORDS
    return Filter(
        site=draw(word),
        region=draw(st.none() | st.none() | WORDS),
        agency=draw(st.none() | st.none() | WORDS),
        posted_from_ms=draw(TIMES),
        posted_before_ms=draw(TIMES),
    )


@pytest.mark.parametrize("backend", sorted(EXAMPLES))
def test_any_history_gives_the_reference_answer(
    backend: str, request: pytest.FixtureRequest
) -> None:
    """``distinct`` below the number of ids makes exact ties; adding an id again replaces it."""
    make = make_of(request, backend)

    @settings(
        max_examples=EXAMPLES[backend], deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(
        history=st.lists(steps(), min_size=1, max_size=5),
        seed=st.integers(0, 1000),
        distinct=st.integers(1, 60),
        k=st.integers(1, 80),
        where=st.lists(filters(), min_size=1, max_size=3),
        excluded=st.sets(st.integers(0, 130), max_size=30),
    )
    def check(
        history: list[Step],
        seed: int,
        distinct: int,
        k: int,
        where: list[Filter],
        excluded: set[int],
    ) -> None:
        rows = unit_rows(seed, distinct)
        index, reference = make(16), NumpyIndex(16)
        for turn, step in enumerate(history):
            ids = [face(number) for number in step.numbers]
            if step.tags is None:
                assert index.delete(ids) == reference.delete(ids)
                continue
            vectors = np.stack([rows[(number + turn) % distinct] for number in step.numbers])
            tags = [step.tags[place % len(step.tags)] for place in range(len(ids))]
            index.add(ids, vectors, tags)
            reference.add(ids, vectors, tags)
        assert index.count() == reference.count()
        assert index.ids() == reference.ids()
        probes = unit_rows(seed + 1, 2)
        left_out = {face(number) for number in excluded}
        same(index, reference, probes, k)
        for each in where:
            same(index, reference, probes, k, where=each, excluded=left_out)
        ids = sorted(reference.ids())
        assert np.array_equal(index.scores(probes, ids), reference.scores(probes, ids))

    check()
