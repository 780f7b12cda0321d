"""One contract for every vector index; the NumPy reference says what is right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.vectors import FaissIndex, NumpyIndex, VectorIndex
from models.types import FloatArray

Make = Callable[[int], VectorIndex]


@pytest.fixture(params=[NumpyIndex, FaissIndex])
def make(request: pytest.FixtureRequest) -> Make:
    made: Make = request.param
    return made


def unit_rows(seed: int, count: int, dimension: int) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def names(count: int, start: int = 0) -> list[str]:
    return [f"face-{i:05d}" for i in range(start, start + count)]


def test_finds_the_nearest_first(make: Make) -> None:
    rows = unit_rows(1, 200, 32)
    index = make(32)
    index.add(names(200), rows)
    (found,) = index.search(rows[17:18], 5)
    expected = rows.astype(np.float64) @ rows[17].astype(np.float64)
    assert found.ids == tuple(names(200)[i] for i in np.argsort(-expected)[:5])
    assert found.ids[0] == "face-00017"
    assert found.scores.dtype == np.float32
    np.testing.assert_allclose(found.scores, np.sort(expected)[::-1][:5], atol=1e-6)


def test_an_empty_index_answers_with_nothing(make: Make) -> None:
    index = make(8)
    assert [len(found) for found in index.search(unit_rows(1, 3, 8), 10)] == [0, 0, 0]
    assert index.count() == 0
    assert index.dump()[0] == []
    assert index.delete(["face-00001"]) == 0


def test_k_beyond_the_count_returns_all(make: Make) -> None:
    index = make(8)
    index.add(names(3), unit_rows(1, 3, 8))
    assert len(index.search(unit_rows(2, 1, 8), 50)[0]) == 3
    assert len(index.search(unit_rows(2, 1, 8), 0)[0]) == 0


def test_deleted_ids_never_come_back(make: Make) -> None:
    rows = unit_rows(3, 50, 16)
    index = make(16)
    index.add(names(50), rows)
    assert index.delete(["face-00007", "face-00008", "nobody"]) == 2
    assert index.delete(["face-00007"]) == 0
    assert index.count() == 48
    found = index.search(rows[7:8], 50)[0]
    assert len(found) == 48
    assert not {"face-00007", "face-00008"} & set(found.ids)
    assert "face-00007" not in index.dump()[0]
    with pytest.raises(KeyError):
        index.scores(rows[:1], ["face-00007"])


def test_an_id_added_again_is_replaced(make: Make) -> None:
    rows = unit_rows(4, 4, 16)
    index = make(16)
    index.add(names(2), rows[:2])
    index.add(names(1), rows[2:3])
    assert index.count() == 2
    assert index.scores(rows[2:3], ["face-00000"])[0, 0] == pytest.approx(1.0, abs=1e-6)


def test_equal_scores_are_ordered_by_id(make: Make) -> None:
    row = unit_rows(5, 1, 16)
    index = make(16)
    ids = ["d", "a", "c", "b", "e"]
    index.add(ids, np.repeat(row, 5, axis=0))
    assert index.search(row, 3)[0].ids == ("a", "b", "c")
    index.delete(["b"])
    assert index.search(row, 3)[0].ids == ("a", "c", "d")


def test_filters(make: Make) -> None:
    rows = unit_rows(6, 300, 16)
    index = make(16)
    index.add(names(300), rows)
    few = names(4, start=100)
    found = index.search(rows[:1], 10, allowed=[*few, "nobody"])[0]
    assert set(found.ids) == set(few)
    many = set(names(300)) - {"face-00000"}
    assert "face-00000" not in index.search(rows[:1], 300, allowed=many)[0].ids
    assert len(index.search(rows[:1], 300, excluded=few)[0]) == 296
    assert len(index.search(rows[:1], 10, allowed=few, excluded=few)[0]) == 0
    assert len(index.search(rows[:1], 10, allowed=[])[0]) == 0


@pytest.mark.parametrize(
    ("ids", "vectors"),
    [
        (["a"], np.ones((1, 8), np.float32)),
        (["a"], np.zeros((1, 8), np.float32)),
        (["a"], np.full((1, 8), np.nan, np.float32)),
        (["a"], unit_rows(1, 1, 7)),
        (["a", "b"], unit_rows(1, 1, 8)),
        (["a", "a"], unit_rows(1, 2, 8)),
    ],
)
def test_bad_vectors_are_refused_and_change_nothing(
    make: Make, ids: list[str], vectors: FloatArray
) -> None:
    index = make(8)
    with pytest.raises(ValueError, match=r"shape|normalised|twice"):
        index.add(ids, vectors)
    assert index.count() == 0
    with pytest.raises(ValueError, match=r"shape|normalised"):
        index.search(np.full((1, 8), np.inf, np.float32), 1)
    with pytest.raises(ValueError, match="shape"):
        index.search(np.ones(8, np.float32), 1)


def test_health_and_dump(make: Make) -> None:
    rows = unit_rows(7, 30, 8)
    index = make(8)
    index.add(names(30), rows)
    index.delete(names(10))
    assert index.health() is None
    ids, vectors = index.dump()
    assert sorted(ids) == names(20, start=10)
    assert vectors.shape == (20, 8)
    again = make(8)
    again.add(ids, vectors)
    assert again.search(rows[:2], 5)[0].ids == index.search(rows[:2], 5)[0].ids


def test_faiss_forgets_the_bytes_of_a_deleted_vector() -> None:
    rows = unit_rows(8, 10, 8)
    index = FaissIndex(8)
    index.add(names(10), rows)
    index.delete(["face-00003"])
    held = index._matrix()
    assert not held[3].any()
    assert np.array_equal(held[4], rows[4])


def test_faiss_compacts_many_tombstones() -> None:
    rows = unit_rows(9, 3000, 8)
    index = FaissIndex(8)
    index.add(names(3000), rows)
    index.delete(names(2000))
    assert index._flat.ntotal == 1000
    assert index.health() is None
    assert index.search(rows[2500:2501], 1)[0].ids == ("face-02500",)


@pytest.mark.parametrize("dimension", [128, 512])
def test_faiss_equals_the_reference_at_size(dimension: int) -> None:
    rows = unit_rows(10, 6000, dimension)
    # Near-duplicates and exact duplicates crowd the end of the shortlist.
    rows[3000:3400] = rows[0]
    reference, index = NumpyIndex(dimension), FaissIndex(dimension, threads=2)
    for each in (reference, index):
        each.add(names(6000), rows)
        each.delete(names(6000)[::7])
    probes = np.concatenate([rows[:2], unit_rows(11, 20, dimension)])
    broad = set(names(6000)[::2])
    narrow = set(names(6000)[::97])
    for k in (1, 10, 50, 500):
        for allowed in (None, broad, narrow):
            for mine, theirs in zip(
                index.search(probes, k, allowed=allowed),
                reference.search(probes, k, allowed=allowed),
                strict=True,
            ):
                assert mine.ids == theirs.ids
                assert np.array_equal(mine.scores, theirs.scores)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, list[int]]]:
    step = st.tuples(
        st.sampled_from(["add", "delete"]),
        st.lists(st.integers(0, 120), min_size=1, max_size=60, unique=True),
    )
    return draw(st.lists(step, min_size=1, max_size=6))


@settings(max_examples=80, deadline=None)
@given(
    history=histories(),
    seed=st.integers(0, 1000),
    distinct=st.integers(1, 60),
    k=st.integers(1, 80),
    allowed=st.none() | st.sets(st.integers(0, 130), max_size=60),
    excluded=st.sets(st.integers(0, 130), max_size=30),
)
def test_any_history_gives_the_reference_answer(
    history: list[tuple[str, list[int]]],
    seed: int,
    distinct: int,
    k: int,
    allowed: set[int] | None,
    excluded: set[int],
) -> None:
    """``distinct`` below the number of ids makes exact ties; adding an id again replaces it."""
    rows = unit_rows(seed, distinct, 12)
    reference, index = NumpyIndex(12), FaissIndex(12)
    for turn, (op, numbers) in enumerate(history):
        ids = [f"face-{n:05d}" for n in numbers]
        if op == "add":
            vectors = np.stack([rows[(n + turn) % distinct] for n in numbers])
            reference.add(ids, vectors)
            index.add(ids, vectors)
        else:
            assert index.delete(ids) == reference.delete(ids)
    assert index.count() == reference.count()
    assert index.health() is None
    probes = unit_rows(seed + 1, 2, 12)
    wanted = None if allowed is None else {f"face-{n:05d}" for n in allowed}
    left_out = {f"face-{n:05d}" for n in excluded}
    for mine, theirs in zip(
        index.search(probes, k, allowed=wanted, excluded=left_out),
        reference.search(probes, k, allowed=wanted, excluded=left_out),
        strict=True,
    ):
        assert mine.ids == theirs.ids
        assert np.array_equal(mine.scores, theirs.scores)
    ids = sorted(index.dump()[0])
    assert np.array_equal(index.scores(probes, ids), reference.scores(probes, ids))
