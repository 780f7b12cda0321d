"""The scan of codes against plain NumPy in float64: nothing outside of a shortlist is better."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from indexer.vectors import product, scan
from indexer.vectors.parts import Best
from indexer.vectors.quantise import ZERO, Codes, coded
from indexer.vectors.scan import CpuScanner
from indexer.vectors.scanner import Shortlist
from models.types import FloatArray

KINDS = ("random", "same_way", "duplicates", "near_ties", "one_component", "all_equal", "clusters")


def normalised(rows: NDArray[np.float64]) -> FloatArray:
    out: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return out


def rows_of(kind: str, count: int, dimension: int, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dimension))
    if kind == "same_way":
        # Strangers of the default pack have a cosine of about 0.85.
        rows = rows * 0.4 + rng.standard_normal(dimension)
    elif kind == "duplicates":
        rows = rows[rng.integers(0, max(1, count // 10), count)] if count else rows
    elif kind == "near_ties":
        rows = rng.standard_normal(dimension) + rows * 1e-3
    elif kind == "one_component":
        rows[:, 0] += np.where(rng.random(count) < 0.5, 40.0, -40.0)
    elif kind == "all_equal":
        rows = np.tile(rng.standard_normal(dimension), (count, 1))
    elif kind == "clusters":
        # The photos of one person lie side by side.
        rows = np.repeat(rng.standard_normal((-(-count // 50), dimension)), 50, axis=0)[:count]
        rows = rows + 0.2 * rng.standard_normal((count, dimension))
    return normalised(rows)


def probes_for(rows: FloatArray, count: int, dimension: int, seed: int) -> FloatArray:
    """Half of them near a row, the rest anywhere."""
    rng = np.random.default_rng(seed + 1)
    probes = rng.standard_normal((count, dimension))
    if len(rows):
        probes[::2] = rows[rng.integers(0, len(rows), len(probes[::2]))] + 0.02 * probes[::2]
    return normalised(probes)


@lru_cache(maxsize=2)
def many(dimension: int) -> tuple[FloatArray, Codes]:
    rows = rows_of("same_way", 40_000, dimension, 5)
    return rows, coded(rows)


def check(
    rows: FloatArray,
    probes: FloatArray,
    found: list[Shortlist],
    fetch: int,
    keep: NDArray[np.bool_] | None,
) -> None:
    looked_at = np.ones(len(rows), np.bool_) if keep is None else keep
    kept = int(looked_at.sum())
    exact = probes.astype(np.float64) @ rows.astype(np.float64).T
    assert len(found) == len(probes)
    for scores, shortlist in zip(exact, found, strict=True):
        assert shortlist.rows.dtype == np.int64
        assert len(np.unique(shortlist.rows)) == len(shortlist.rows)
        assert looked_at[shortlist.rows].all()
        assert min(fetch, kept) <= len(shortlist.rows) <= kept
        outside = looked_at.copy()
        outside[shortlist.rows] = False
        if outside.any():
            # The caller compares with scores that are rounded to float32.
            assert scores[outside].astype(np.float32).max() <= shortlist.ceiling
        else:
            assert shortlist.ceiling == -np.inf


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    count=st.sampled_from([1, 2, 9, 300, 1500]),
    dimension=st.sampled_from([1, 8, 13, 32, 64, 130]),
    probes=st.sampled_from([1, 2, 9, 17]),
    fetch=st.sampled_from([1, 7, 50, 299, 5000]),
    share=st.sampled_from([None, 0.0, 0.01, 0.1, 0.4, 0.6, 0.999, 1.0]),
    slab_rows=st.sampled_from([None, 8, 100, 640]),
    burst_from=st.sampled_from([1, 1000]),
    sample=st.sampled_from([product._SAMPLE, 16]),
    seed=st.integers(0, 2**16),
)
def test_no_row_outside_is_above_the_ceiling(
    kind: str,
    count: int,
    dimension: int,
    probes: int,
    fetch: int,
    share: float | None,
    slab_rows: int | None,
    burst_from: int,
    sample: int,
    seed: int,
) -> None:
    rows = rows_of(kind, count, dimension, seed)
    asked = probes_for(rows, probes, dimension, seed)
    keep = None if share is None else np.random.default_rng(seed + 2).random(count) < share
    scanner = CpuScanner(coded(rows), threads=2, slab_rows=slab_rows, burst_from=burst_from)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "_SAMPLE", sample)
        found = scanner.shortlist(asked, fetch, keep=keep)
    check(rows, asked, found, fetch, keep)


def test_a_sample_that_promises_too_much_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sampled row is a copy of the probe, and no other row comes near it."""
    monkeypatch.setattr(product, "_SAMPLE", 64)
    rows = rows_of("random", 4000, 64, 26)
    probes = probes_for(rows, 3, 64, 27)
    rows[np.linspace(0, len(rows) - 1, 64).astype(np.int64)] = probes[1]
    again: list[bool] = []
    search = product._best

    def watched(*args: Any, sample: bool = True) -> list[Best]:
        again.append(not sample)
        return search(*args, sample=sample)

    monkeypatch.setattr(product, "_best", watched)
    scanner = CpuScanner(coded(rows), threads=1, burst_from=1)
    check(rows, probes, scanner.shortlist(probes, 100), 100, None)
    assert any(again)


@pytest.mark.parametrize("burst_from", [1, 1000])
@pytest.mark.parametrize("dimension", [128, 512])
@pytest.mark.parametrize("share", [None, 0.01, 0.3, 0.999])
def test_many_rows(burst_from: int, dimension: int, share: float | None) -> None:
    # More than one block and slab of the sizes that are in use.
    rows, codes = many(dimension)
    probes = probes_for(rows, 9, dimension, 6)
    keep = None if share is None else np.random.default_rng(7).random(len(rows)) < share
    scanner = CpuScanner(codes, threads=2, burst_from=burst_from)
    check(rows, probes, scanner.shortlist(probes, 100, keep=keep), 100, keep)


@pytest.mark.parametrize("burst_from", [1, 1000])
def test_a_filter_that_leaves_out_exactly_the_nearest(burst_from: int) -> None:
    rows = rows_of("random", 6000, 64, 1)
    probes = probes_for(rows, 3, 64, 2)
    scores = probes.astype(np.float64) @ rows.astype(np.float64).T
    keep = np.ones(len(rows), np.bool_)
    keep[np.argsort(-scores.max(axis=0))[:3000]] = False
    scanner = CpuScanner(coded(rows), threads=2, burst_from=burst_from)
    check(rows, probes, scanner.shortlist(probes, 40, keep=keep), 40, keep)


@pytest.mark.parametrize("burst_from", [1, 1000])
def test_a_probe_whose_rounding_loses_all_that_tells_rows_apart(burst_from: int) -> None:
    """One component is so large that the others, in which the rows differ, become no step."""
    probe = np.full((1, 65), 0.0035, np.float64)
    probe[0, 0] = 1.0
    rows = np.random.default_rng(28).choice([-1.0, 1.0], (200, 65))
    rows[::10] = 1.0
    rows[:, 0] = 8.0
    near, asked = normalised(rows), normalised(probe)
    scanner = CpuScanner(coded(near), threads=2, burst_from=burst_from)
    found = scanner.shortlist(asked, 5)
    assert len(found[0].rows) == 5
    check(near, asked, found, 5, None)


@pytest.mark.parametrize("burst_from", [1, 1000])
@pytest.mark.parametrize("rising", [True, False])
def test_rows_in_the_order_of_their_scores(burst_from: int, rising: bool) -> None:
    rows = rows_of("random", 20_000, 32, 3)
    probe = probes_for(rows, 1, 32, 4)
    order = np.argsort((rows @ probe[0]) * (1 if rising else -1))
    rows = rows[order]
    scanner = CpuScanner(coded(rows), threads=2, burst_from=burst_from)
    check(rows, probe, scanner.shortlist(probe, 60), 60, None)


@pytest.mark.parametrize("burst_from", [1, 1000])
@pytest.mark.parametrize("code", [0, ZERO])
def test_dead_rows_are_passed_over_whatever_their_codes_are(burst_from: int, code: int) -> None:
    rows = rows_of("random", 4000, 48, 8)
    probes = probes_for(rows, 4, 48, 9)
    keep = np.random.default_rng(10).random(len(rows)) < 0.95
    whole = coded(rows)
    dead = whole.codes.copy()
    dead[~keep] = code
    codes = Codes(dead, whole.quantiser, whole.residual, whole.reach)
    scanner = CpuScanner(codes, threads=2, burst_from=burst_from)
    check(rows, probes, scanner.shortlist(probes, 30, keep=keep), 30, keep)


@pytest.mark.parametrize("burst_from", [1, 1000])
def test_no_rows_and_no_probes(burst_from: int) -> None:
    empty = CpuScanner(coded(np.empty((0, 16), np.float32)), threads=2, burst_from=burst_from)
    (nothing,) = empty.shortlist(rows_of("random", 1, 16, 1), 5)
    assert len(nothing.rows) == 0 and nothing.ceiling == -np.inf
    some = CpuScanner(coded(rows_of("random", 20, 16, 1)), threads=2, burst_from=burst_from)
    assert some.shortlist(np.empty((0, 16), np.float32), 5) == []


def test_the_ceiling_is_close_enough_to_be_of_use() -> None:
    """A bound that were far off would be true, and make every search read everything."""
    rows = rows_of("random", 30_000, 512, 11)
    probes = probes_for(rows, 16, 512, 12)
    exact = probes.astype(np.float64) @ rows.astype(np.float64).T
    fiftieth = -np.sort(-exact, axis=1)[:, 49]
    for shortlist, score in zip(
        CpuScanner(coded(rows), threads=1).shortlist(probes, 1000), fiftieth, strict=True
    ):
        assert shortlist.ceiling < score


def test_codes_are_read_where_they_lie(tmp_path: Path) -> None:
    rows = rows_of("random", 3000, 64, 13)
    made = coded(rows)
    path = tmp_path / "codes"
    path.write_bytes(b"head" * 16 + made.codes.tobytes())
    mapped = np.memmap(path, np.uint8, "r", offset=64, shape=made.codes.shape)
    codes = Codes(mapped, made.quantiser, made.residual, made.reach)
    probes = probes_for(rows, 8, 64, 14)
    for burst_from in (1, 1000):
        scanner = CpuScanner(codes, threads=2, burst_from=burst_from)
        check(rows, probes, scanner.shortlist(probes, 20), 20, None)
    # A later change of the array is seen: there is no copy.
    array = made.codes.copy()
    scanner = CpuScanner(
        Codes(array, made.quantiser, made.residual, made.reach), threads=1, burst_from=1000
    )
    before = scanner.shortlist(probes[:1], 20)[0]
    array[before.rows] = ZERO
    assert set(scanner.shortlist(probes[:1], 20)[0].rows).isdisjoint(before.rows)


def test_several_threads_ask_one_scanner() -> None:
    rows = rows_of("clusters", 5000, 64, 15)
    probes = probes_for(rows, 24, 64, 16)
    scanner = CpuScanner(coded(rows), threads=2, slab_rows=700)
    keep = np.random.default_rng(17).random(len(rows)) < 0.05

    def ask(turn: int) -> None:
        count = (1, 3, 24)[turn % 3]
        used = keep if turn % 2 else None
        check(rows, probes[:count], scanner.shortlist(probes[:count], 30, keep=used), 30, used)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(ask, range(48)))


def test_the_threads_of_faiss_in_the_caller_are_left_alone() -> None:
    rows = rows_of("random", 500, 32, 18)
    faiss.omp_set_num_threads(2)
    CpuScanner(coded(rows), threads=1).shortlist(rows[:1], 10)
    assert faiss.omp_get_max_threads() == 2
    faiss.omp_set_num_threads(1)


_FORK = """
import os, sys
import numpy as np
from indexer.vectors.quantise import coded
from indexer.vectors.scan import CpuScanner

rows = np.random.default_rng(1).standard_normal((500, 32)).astype(np.float32)
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
scanner = CpuScanner(coded(rows), threads=2, slab_rows=64)
before = scanner.shortlist(rows[:1], 10)[0]
child = os.fork()
if not child:
    after = scanner.shortlist(rows[:1], 10)[0]
    os._exit(0 if set(after.rows) == set(before.rows) else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_makes_threads_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORK], timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_codes_that_cannot_be_read_in_place_are_refused() -> None:
    made = coded(rows_of("random", 64, 32, 20))
    for array in (made.codes.astype(np.int16), made.codes[:, ::2], made.codes[0]):
        with pytest.raises(ValueError, match="C-contiguous"):
            CpuScanner(Codes(array, made.quantiser, 0.0, 1.0), threads=1)  # type: ignore[arg-type]


def test_a_filter_of_another_length_is_refused() -> None:
    scanner = CpuScanner(coded(rows_of("random", 64, 32, 21)), threads=1)
    with pytest.raises(ValueError, match="keep"):
        scanner.shortlist(rows_of("random", 1, 32, 22), 5, keep=np.ones(63, np.bool_))


def test_the_product_without_saturation_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is used where a processor has no VNNI and the product of signed probes saturates."""
    product._session.cache_clear()
    trials: list[bool] = []

    def only_the_second(session: object) -> bool:
        trials.append(False)
        return False

    monkeypatch.setattr(product, "_is_exact", only_the_second)
    try:
        rows = rows_of("same_way", 2000, 130, 23)
        probes = probes_for(rows, 9, 130, 24)
        scanner = CpuScanner(coded(rows), threads=1, burst_from=1)
        check(rows, probes, scanner.shortlist(probes, 40), 40, None)
        assert trials and product._session()[1] is False
    finally:
        product._session.cache_clear()


def test_the_product_that_is_chosen_is_exact() -> None:
    rng = np.random.default_rng(25)
    for dimension in (1, 13, 64, 512, 2048):
        codes = rng.choice(np.array([1, 2, 128, 254, 255], np.uint8), (70, dimension))
        steps = rng.choice(np.array([-127, -1, 0, 126, 127], np.int8), (dimension, 24))
        out = np.empty((70, 24), np.int32)
        product._Product(steps)(codes, out)
        np.testing.assert_array_equal(out, (codes.astype(np.int32) - ZERO) @ steps.astype(np.int32))


def test_faiss_adds_whole_numbers_without_loss() -> None:
    for dimension in (1, 13, 16, 32, 64, 128, 512, 520, 1024, 2048):
        assert scan._scan_is_exact(dimension)
