"""The segmented index against the reference, for every order of changes, seals and merges."""

from __future__ import annotations

import tempfile
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.vectors.numpy_index import NumpyIndex
from indexer.vectors.tags import EVERYTHING, Filter, Tag
from models.types import FloatArray
from tests.indexer.vectors.sealing import SealingIndex


def face(number: int) -> str:
    return str(uuid.UUID(int=(number * 0x9E3779B97F4A7C15) % 2**128 | 7 << 76))


def unit(rng: np.random.Generator, count: int, dimension: int, common: float) -> FloatArray:
    rows = rng.standard_normal((count, dimension)).astype(np.float32)
    rows[:, 0] += np.float32(common * dimension**0.5)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


TAGS = st.lists(
    st.builds(
        Tag,
        site=st.sampled_from(["", "alpha", "Beta"]),
        region=st.sampled_from(["", "north"]),
        posted_ms=st.one_of(st.none(), st.integers(-5, 5)),
    ),
    max_size=3,
)
FILTERS = st.one_of(
    st.just(EVERYTHING),
    st.builds(
        Filter,
        site=st.sampled_from([None, "ALPHA", "beta", "gamma"]),
        region=st.sampled_from([None, "North"]),
        posted_from_ms=st.one_of(st.none(), st.integers(-5, 5)),
        posted_before_ms=st.one_of(st.none(), st.integers(-5, 5)),
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_answers_are_those_of_the_reference(data: st.DataObject) -> None:
    dimension = data.draw(st.sampled_from([4, 13, 32]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    common = data.draw(st.sampled_from([0.0, 2.4]))
    reference = NumpyIndex(dimension)
    with tempfile.TemporaryDirectory() as folder:
        index = SealingIndex(Path(folder), dimension, every=data.draw(st.integers(3, 40)))
        for _ in range(data.draw(st.integers(1, 7))):
            some = [face(i) for i in data.draw(st.sets(st.integers(0, 60), min_size=1))]
            if data.draw(st.booleans()):
                rows = unit(rng, len(some), dimension, common)
                if data.draw(st.booleans()):
                    rows[:] = rows[0]
                tags = [data.draw(TAGS) for _ in some]
                reference.add(some, rows, tags)
                index.add(some, rows, tags)
            else:
                assert index.delete(some) == reference.delete(some)
            probes = unit(rng, data.draw(st.sampled_from([1, 3, 20])), dimension, common)
            k = data.draw(st.sampled_from([1, 5, 100]))
            where = data.draw(FILTERS)
            excluded = [face(i) for i in data.draw(st.sets(st.integers(0, 70), max_size=5))]
            expected = reference.search(probes, k, where=where, excluded=excluded)
            found = index.search(probes, k, where=where, excluded=excluded)
            for ours, theirs in zip(found, expected, strict=True):
                assert ours.ids == theirs.ids
                assert np.array_equal(ours.scores, theirs.scores)
        assert index.ids() == reference.ids()
        assert index.count() == reference.count()
        assert index.health() is None
        held = sorted(reference.ids())
        if held:
            assert np.array_equal(index.scores(probes, held), reference.scores(probes, held))
        with pytest.raises(KeyError):
            index.scores(probes, [face(1000)])


@pytest.mark.parametrize(("dimension", "common"), [(128, 2.4), (512, 0.14)])
def test_the_nearest_of_thousands(tmp_path: Path, dimension: int, common: float) -> None:
    rng = np.random.default_rng(dimension)
    rows = unit(rng, 6000, dimension, common)
    ids = [face(i) for i in range(len(rows))]
    tags = [[Tag(site=f"site {i % 100}", posted_ms=i)] for i in range(len(rows))]
    reference, index = NumpyIndex(dimension), SealingIndex(tmp_path, dimension, every=2500)
    for start in range(0, len(rows), 1000):
        part = slice(start, start + 1000)
        reference.add(ids[part], rows[part], tags[part])
        index.add(ids[part], rows[part], tags[part])
    gone = ids[::9]
    assert index.delete(gone) == reference.delete(gone)
    assert len(index.state.parts) == 2
    assert index.state.fresh.count == 0 or index.state.fresh.count < 2500
    noise = rng.standard_normal((20, dimension)).astype(np.float32) * 0.35 / dimension**0.5
    probes = rows[:20] + noise
    probes = (probes / np.linalg.norm(probes, axis=1, keepdims=True)).astype(np.float32)
    for where in (
        EVERYTHING,
        Filter(site="SITE 7"),
        Filter(posted_from_ms=3000),
        Filter(site="site 7", posted_before_ms=300),
        Filter(site="nowhere"),
    ):
        for some in (probes, probes[:1]):
            expected = reference.search(some, 50, where=where)
            found = index.search(some, 50, where=where)
            assert [one.ids for one in found] == [one.ids for one in expected]
            for ours, theirs in zip(found, expected, strict=True):
                assert np.array_equal(ours.scores, theirs.scores)


def test_searches_beside_changes_see_each_of_them_whole(tmp_path: Path) -> None:
    """One of two faces is always there: a search never finds none and never both."""
    rng = np.random.default_rng(5)
    dimension = 16
    index = SealingIndex(tmp_path, dimension, every=25)
    base = unit(rng, 200, dimension, 0.0)
    index.add([face(i) for i in range(200)], base)
    probe = unit(rng, 1, dimension, 0.0)
    one, other = face(1000), face(1001)
    index.add([one], probe)
    stop = threading.Event()
    wrong: list[object] = []

    def search() -> None:
        try:
            while not stop.is_set():
                (found,) = index.search(probe, 3)
                if len({one, other} & set(found.ids)) != 1:
                    wrong.append(found)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            wrong.append(error)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(150):
        index.change([one], [other], probe, [()])
        one, other = other, one
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
