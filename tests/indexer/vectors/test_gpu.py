"""The scanner for GPUs: all but the device itself, on FAISS's flat index on processors.

What runs on a device is tested where there is one.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from indexer.vectors import gpu
from indexer.vectors.gpu import GpuScanner, accumulation_error, require_gpu
from indexer.vectors.quantise import coded
from indexer.vectors.scan import CpuScanner
from indexer.vectors.scanner import Shortlist
from models.errors import HomewardError, ProviderUnavailable
from models.types import FloatArray
from tests.indexer.vectors.test_scan import KINDS, check, probes_for, rows_of


def devices_here() -> tuple[int, ...]:
    try:
        return require_gpu()
    except ProviderUnavailable:
        return ()


on_a_gpu = pytest.mark.skipif(not devices_here(), reason="there is no GPU, or FAISS has none")


def stay(index: Any, device: int) -> Any:
    return index


class Elsewhere:
    """A real scanner that counts what it is asked."""

    def __init__(self, rows: FloatArray) -> None:
        self._scanner = CpuScanner(coded(rows), threads=1)
        self.asked = 0

    def shortlist(
        self, probes: FloatArray, fetch: int, *, keep: NDArray[np.bool_] | None = None
    ) -> list[Shortlist]:
        self.asked += len(probes)
        return self._scanner.shortlist(probes, fetch, keep=keep)


def scanner_of(rows: FloatArray, devices: tuple[int, ...] = (0,)) -> tuple[GpuScanner, Elsewhere]:
    elsewhere = Elsewhere(rows)
    return GpuScanner(rows, devices=devices, elsewhere=elsewhere, to_device=stay), elsewhere


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    count=st.sampled_from([1, 9, 300, 1500, 4000]),
    dimension=st.sampled_from([1, 13, 64]),
    probes=st.sampled_from([1, 5]),
    fetch=st.sampled_from([1, 50, 299, 2048, 5000]),
    share=st.sampled_from([None, 0.0, 0.01, 0.4, 0.999, 1.0]),
    devices=st.sampled_from([(0,), (0, 1, 2)]),
    seed=st.integers(0, 2**16),
)
def test_no_row_outside_is_above_the_ceiling(
    kind: str,
    count: int,
    dimension: int,
    probes: int,
    fetch: int,
    share: float | None,
    devices: tuple[int, ...],
    seed: int,
) -> None:
    rows = rows_of(kind, count, dimension, seed)
    asked = probes_for(rows, probes, dimension, seed)
    keep = None if share is None else np.random.default_rng(seed + 2).random(count) < share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "_LEAST_ROWS", 100)
        scanner, _ = scanner_of(rows, devices)
    check(rows, asked, scanner.shortlist(asked, fetch, keep=keep), fetch, keep)


def test_rows_in_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_PIECE_BYTES", 4 * 32 * 70)
    monkeypatch.setattr(gpu, "_LEAST_ROWS", 400)
    rows = rows_of("same_way", 1000, 32, 1)
    probes = probes_for(rows, 4, 32, 2)
    scanner, elsewhere = scanner_of(rows, (0, 1, 2))
    check(rows, probes, scanner.shortlist(probes, 40), 40, None)
    assert elsewhere.asked == 0


def test_a_broad_filter_stays_on_the_device() -> None:
    rows = rows_of("random", 5000, 32, 3)
    probes = probes_for(rows, 4, 32, 4)
    keep = np.random.default_rng(5).random(len(rows)) < 0.5
    scanner, elsewhere = scanner_of(rows)
    check(rows, probes, scanner.shortlist(probes, 40, keep=keep), 40, keep)
    assert elsewhere.asked == 0


def test_a_filter_against_the_nearest_is_tried_with_all_that_a_device_returns() -> None:
    rows = rows_of("random", 6000, 32, 6)
    probe = probes_for(rows, 1, 32, 7)
    order = np.argsort(-(rows @ probe[0]))
    scanner, elsewhere = scanner_of(rows)
    keep = np.ones(len(rows), np.bool_)
    keep[order[:1000]] = False
    check(rows, probe, scanner.shortlist(probe, 40, keep=keep), 40, keep)
    assert elsewhere.asked == 0
    keep[order[:3000]] = False
    check(rows, probe, scanner.shortlist(probe, 40, keep=keep), 40, keep)
    assert elsewhere.asked == 1


@pytest.mark.parametrize(("fetch", "share"), [(3000, None), (40, 0.005), (1900, 0.6)])
def test_what_a_device_cannot_return_is_scanned_elsewhere(fetch: int, share: float | None) -> None:
    rows = rows_of("random", 12_000, 16, 8)
    probes = probes_for(rows, 3, 16, 9)
    keep = None if share is None else np.random.default_rng(10).random(len(rows)) < share
    scanner, elsewhere = scanner_of(rows)
    check(rows, probes, scanner.shortlist(probes, fetch, keep=keep), fetch, keep)
    assert elsewhere.asked == len(probes)


def test_the_ceiling_is_close_enough_to_be_of_use() -> None:
    rows = rows_of("same_way", 20_000, 128, 11)
    probes = probes_for(rows, 8, 128, 12)
    exact = probes.astype(np.float64) @ rows.astype(np.float64).T
    fiftieth = -np.sort(-exact, axis=1)[:, 49]
    scanner, _ = scanner_of(rows)
    for shortlist, score in zip(scanner.shortlist(probes, 200), fiftieth, strict=True):
        assert shortlist.ceiling < score


def test_the_bound_holds_for_sums_that_are_cut_off() -> None:
    """Sums in float32 that round towards zero after each term, as bad as a device may be."""
    rng = np.random.default_rng(13)
    for dimension in (16, 128, 512):
        left, right = (
            rng.standard_normal((50, dimension)).astype(np.float16).astype(np.float64)
            for _ in range(2)
        )
        total = np.zeros(50)
        for term in (left * right).T:
            exact = total + term
            single = exact.astype(np.float32)
            over = np.abs(single.astype(np.float64)) > np.abs(exact)
            single[over] = np.nextafter(single[over], np.float32(0))
            total = single.astype(np.float64)
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        wrong = np.abs(total - (left * right).sum(axis=1)) / lengths
        assert 0 < wrong.max() <= accumulation_error(dimension)


def test_one_device_works_for_one_caller_at_a_time() -> None:
    inside, most = 0, 0

    class Watched:
        """FAISS's own index, watched while it searches."""

        def __init__(self, index: Any) -> None:
            self._index = index
            self.add = index.add

        @property
        def ntotal(self) -> int:
            return int(self._index.ntotal)

        def search(self, probes: FloatArray, fetch: int) -> Any:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            found = self._index.search(probes, fetch)
            inside -= 1
            return found

    rows = rows_of("random", 3000, 64, 14)
    scanners = [
        GpuScanner(
            rows,
            devices=(0,),
            elsewhere=Elsewhere(rows),
            to_device=lambda index, device: Watched(index),
        )
        for _ in range(2)
    ]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda turn: scanners[turn % 2].shortlist(rows[:9], 30), range(60)))
    assert most == 1


def test_a_device_that_fails_is_said_so() -> None:
    def full(index: Any, device: int) -> Any:
        raise RuntimeError("out of memory")

    rows = rows_of("random", 10, 8, 15)
    with pytest.raises(ProviderUnavailable, match=r"GPU 3 failed: out of memory.*nvidia-smi"):
        GpuScanner(rows, devices=(3,), elsewhere=Elsewhere(rows), to_device=full)
    with pytest.raises(ValueError, match="no device"):
        GpuScanner(rows, devices=(), elsewhere=Elsewhere(rows), to_device=stay)
    scanner, _ = scanner_of(rows)
    with pytest.raises(ValueError, match="keep"):
        scanner.shortlist(rows[:1], 5, keep=np.ones(9, np.bool_))


def test_no_rows() -> None:
    scanner, _ = scanner_of(np.empty((0, 8), np.float32))
    (nothing,) = scanner.shortlist(rows_of("random", 1, 8, 16), 5)
    assert len(nothing.rows) == 0 and nothing.ceiling == -np.inf


@pytest.mark.skipif(bool(devices_here()), reason="there is a GPU")
def test_a_gpu_that_is_asked_for_and_missing_is_an_error() -> None:
    with pytest.raises(HomewardError) as refused:
        require_gpu()
    assert "asked to run on a GPU" in refused.value.detail
    assert refused.value.remedy


def test_a_build_for_gpus_without_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0, raising=False)
    with pytest.raises(ProviderUnavailable, match="sees none"):
        require_gpu()


@on_a_gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [13, 128, 512])
def test_the_bound_holds_on_the_device(kind: str, dimension: int) -> None:
    rows = rows_of(kind, 20_000, dimension, 17)
    elsewhere = Elsewhere(rows)
    scanner = GpuScanner(rows, devices=devices_here(), elsewhere=elsewhere)
    for count in (1, 64):
        probes = probes_for(rows, count, dimension, 18)
        for share in (None, 0.5, 0.001):
            keep = None if share is None else np.random.default_rng(19).random(len(rows)) < share
            check(rows, probes, scanner.shortlist(probes, 100, keep=keep), 100, keep)
