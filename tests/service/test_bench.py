"""The benchmark, small: every part runs, the answers agree, and the report can be read.

No time is asserted anywhere.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from service.bench import BenchOptions, run_bench, tables
from service.bench import searching as bench_searching
from service.bench.analysis import PictureSet, compare_with_dlib, our_throughput, picture_sets
from service.bench.report import BenchReport


@pytest.fixture(scope="module")
def report(pack_cache: Path) -> BenchReport:
    said: list[str] = []
    options = BenchOptions(
        threads=(1,), sizes=(500,), dimensions=(128, 512), budget_s=0.0, repeats=1, dlib=False
    )
    result = run_bench(options, pack_cache, said.append)
    assert len(said) == 3
    return result


def test_every_part_is_measured(report: BenchReport) -> None:
    assert {line.engine for line in report.throughput} == {"homeward", "homeward, as served"}
    assert all(line.images_per_s > 0 and line.faces > 0 for line in report.throughput)
    assert len({stage.name for stage in report.stages}) == len(report.stages) == 8
    assert all(stage.ms > 0 for stage in report.stages)
    assert report.memory_mib["detecting and embedding"] > 50
    assert report.seconds > 0


def test_the_index_gives_the_answers_of_plain_numpy(report: BenchReport) -> None:
    compared = [line for line in report.search if line.same_answers is not None]
    assert {line.dimension for line in compared} == {128, 512}
    assert all(line.same_answers for line in compared)


def test_the_report_is_json_and_text(report: BenchReport) -> None:
    loaded = json.loads(json.dumps(report.to_json()))
    assert {"machine", "throughput", "stages", "search", "memory_mib", "notes"} <= set(loaded)
    text = tables(report)
    assert "images/s" in text
    assert "NO" not in text.split()


def test_sizes_that_do_not_fit_are_skipped_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_searching, "available_memory", lambda: 1_000)
    lines = bench_searching.search(1_000, 128, (1,))
    assert all(line.p50_ms is None and line.skipped for line in lines)
    assert "needs about" in tables(BenchReport({**_MACHINE}, search=lines))


def test_without_dlib_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "dlib", None)
    empty = BenchReport({**_MACHINE})
    compare_with_dlib(empty, picture_sets())
    assert empty.throughput == []
    assert "dlib is not installed" in empty.notes[0]


def test_dlib_finds_the_same_number_of_faces(pack_cache: Path) -> None:
    pytest.importorskip("dlib")
    from models.packs.registry import load_pack

    small = picture_sets()[1].images[-1]
    sets = [PictureSet("the portrait, halved", 1, [small])]
    result = BenchReport({**_MACHINE})
    pack = load_pack("dlib", cache_dir=pack_cache, threads=1)
    result.throughput = our_throughput(pack, sets, 1, 0.0)[:1]
    compare_with_dlib(result, sets)
    ours, theirs = result.throughput
    assert ours.faces == theirs.faces == 1
    assert ours.speedup is not None
    assert theirs.engine == "dlib"


def test_synthetic_vectors_lie_as_faces_do() -> None:
    rng = np.random.default_rng(1)
    vectors = bench_searching._synthetic(rng, 400, 128)
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.allclose(lengths, 1, atol=1e-5)
    cosines = (vectors @ vectors.T)[np.triu_indices(400, 1)]
    assert 0.8 < float(np.median(cosines)) < 0.9


_MACHINE = {"processor": "p", "cores": 2, "system": "s", "python": "3"}
