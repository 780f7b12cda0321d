"""The benchmark, small: every part runs, the answers agree, and the report can be read.

No time is asserted anywhere.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from indexer.vectors.base import Neighbours
from indexer.vectors.segment import History, Segment, SegmentSource, open_segment, write_segment
from service.bench import BenchOptions, run_bench, searching, synthetic, tables
from service.bench.analysis import PictureSet, compare_with_dlib, our_throughput, picture_sets
from service.bench.report import BenchReport, Exactness, Search
from service.bench.rivals import nearest, recall


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> BenchReport:
    said: list[str] = []
    scratch = tmp_path_factory.mktemp("scratch")
    options = BenchOptions(
        threads=(1, 2),
        sizes=(2500,),
        dimensions=(128, 512),
        pictures=False,
        probes=8,
        scratch=scratch,
    )
    with pytest.MonkeyPatch.context() as patch:
        # Three segments, the last one smaller.
        patch.setattr(synthetic, "SEGMENT_ROWS", 1000)
        result = run_bench(options, scratch, said.append)
    assert len(said) == 2
    assert list(scratch.iterdir()) == []
    assert not result.throughput
    assert not result.stages
    return result


def test_detecting_and_embedding_are_measured(pack_cache: Path) -> None:
    said: list[str] = []
    options = BenchOptions(threads=(1,), sizes=(), budget_s=0.0, repeats=1, dlib=False)
    report = run_bench(options, pack_cache, said.append)
    assert len(said) == 1
    assert {line.engine for line in report.throughput} == {"homeward", "homeward, as served"}
    assert all(line.images_per_s > 0 and line.faces > 0 for line in report.throughput)
    assert len({stage.name for stage in report.stages}) == len(report.stages) == 8
    assert all(stage.ms > 0 for stage in report.stages)
    assert report.memory_mib["detecting and embedding"] > 50
    assert report.seconds > 0
    assert "images/s" in tables(report)


def test_every_answer_is_that_of_brute_force(report: BenchReport) -> None:
    checked = {(line.dimension, line.filter) for line in report.exactness}
    assert len(checked) == len(report.exactness) == 2 * 6
    assert all(line.recall == 1.0 and line.probes > 0 for line in report.exactness)
    assert report.exact


def test_everything_asked_of_a_search_is_there(report: BenchReport) -> None:
    engines = {(line.engine, line.dimension, line.threads) for line in report.search}
    assert len(engines) == len(report.search) == 5 * 2 * 2
    assert all(line.p50_ms is not None and line.gb_per_s for line in report.search)
    flat = [line.against_flat for line in report.search if line.engine == "FAISS Flat"]
    assert min(share for share in flat if share is not None) == pytest.approx(1.0)
    assert {(line.dimension, line.threads) for line in report.bursts} == {
        (128, 1),
        (128, 2),
        (512, 1),
        (512, 2),
    }
    assert len(report.filters) == 4 * 2 * 2
    kept = {line.filter: line.kept for line in report.filters}
    assert [round(share, 1) for share in kept.values()] == [0.5, 0.1, 0.0, 0.0]
    assert {(line.where, line.change) for line in report.changes} == {
        ("index", "delete"),
        ("index", "add"),
        ("gallery", "delete"),
        ("gallery", "add"),
    }
    assert all(line.count == 20 and line.seen_ms >= line.made_ms for line in report.changes)
    assert {line.from_disk for line in report.restarts} >= {False}
    assert all(line.vectors == 2500 for line in report.restarts)


def test_the_bytes_of_a_vector_are_counted(report: BenchReport) -> None:
    assert [(line.segments, line.scanned) for line in report.footprints] == [(3, 128), (3, 512)]
    for line in report.footprints:
        # Ids of 16 bytes, four words of 4, a time of 8.
        assert line.mapped == line.scanned + 16 + 16 + 8
        assert line.disk > line.mapped + 4 * line.scanned


def test_the_report_is_json_and_text(report: BenchReport) -> None:
    loaded = json.loads(json.dumps(report.to_json()))
    assert {"machine", "throughput", "stages", "search", "memory_mib", "notes"} <= set(loaded)
    assert loaded["exact"] is True
    text = tables(report)
    assert "GB/s" in text
    assert "WRONG" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_largest_sizes_fit_a_terminal() -> None:
    line = Search(
        "homeward, scan alone", 10**7, 128, 2, 1, 50, 999.0, 999.0, 19.99, 99.9, 1.0, 999.0
    )
    text = tables(BenchReport({**_MACHINE}, search=[line]))
    assert max(map(len, text.splitlines())) <= 100


def test_a_wrong_answer_is_said() -> None:
    line = Exactness(10, 128, "none", 4, 50, 0.995)
    report = BenchReport({**_MACHINE}, exactness=[line])
    assert not report.exact
    assert "0.995000 WRONG" in tables(report)


def test_without_memory_only_the_flat_ones_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(searching, "available_memory", lambda: 1_000)
    report = BenchReport({**_MACHINE})
    searching.measure(report, 300, 16, (1,), 2, tmp_path)
    skipped = {line.engine for line in report.search if line.skipped}
    assert skipped == {"FAISS Flat", "NumPy"}
    assert "MiB of memory" in tables(report)
    assert report.exact
    assert len(report.exactness) == 6


def test_without_room_on_the_disk_nothing_is_written(tmp_path: Path) -> None:
    report = BenchReport({**_MACHINE})
    searching.measure(report, 10**12, 128, (1,), 2, tmp_path)
    assert [line.skipped is not None for line in report.search] == [True]
    assert "MiB of disk" in tables(report)
    assert list(tmp_path.iterdir()) == []


def test_brute_force_is_brute_force(tmp_path: Path) -> None:
    segments = [
        _segment(tmp_path, f"part{first}", synthetic.source(first, 700, 24)) for first in (0, 700)
    ]
    probes = synthetic.sample(1400, 24, 3)
    found = nearest(segments, probes, 5, [None, *synthetic.SHARES])
    rows = np.concatenate([segment.matrix() for segment in segments]).astype(np.float64)
    ids = [face_id for one in segments for face_id in one.ids(np.arange(one.count))]
    by_site = np.concatenate([synthetic.SHARES[0].rows(one.columns) for one in segments])
    assert by_site.sum() == sum(
        any(map(synthetic.SHARES[0].where.passes, one.columns.tags(row)))
        for one in segments
        for row in range(one.count)
    )
    for number, probe in enumerate(probes.astype(np.float64)):
        scores = rows @ probe
        assert found[None][number] == {ids[row] for row in np.argsort(-scores)[:5]}
        some = np.where(by_site, scores, -9.0)
        assert found[synthetic.SHARES[0]][number] == {ids[row] for row in np.argsort(-some)[:5]}
    for segment in segments:
        segment.close()


def test_recall_counts_what_was_found() -> None:
    answer = Neighbours(("a", "b", "x"), np.zeros(3, np.float32))
    assert recall([answer], [{"a", "b", "c"}], 3) == pytest.approx(2 / 3)
    # Equal scores: either of the last two will do.
    assert recall([answer], [{"a", "b", "x", "y"}], 3) == 1.0
    # Two that do not pass the filter.
    assert recall([answer], [{"a"}], 3) == pytest.approx(1 / 3)
    assert recall([Neighbours((), np.zeros(0, np.float32))], [set()], 3) == 1.0


def _segment(folder: Path, name: str, rows: SegmentSource) -> Segment:
    write_segment(
        folder,
        name,
        rows,
        gallery="ads",
        contract_id="c",
        dimension=24,
        history=History(0, ""),
    )
    return open_segment(folder, name, gallery="ads", contract_id="c", dimension=24)


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
    from models.runtime import RuntimeOptions

    small = picture_sets()[1].images[-1]
    sets = [PictureSet("the portrait, halved", 1, [small])]
    result = BenchReport({**_MACHINE})
    pack = load_pack("dlib", packs_dir=pack_cache, runtime=RuntimeOptions(threads=1))
    result.throughput = our_throughput(pack, sets, 1, 0.0)[:1]
    compare_with_dlib(result, sets)
    ours, theirs = result.throughput
    assert ours.faces == theirs.faces == 1
    assert ours.speedup is not None
    assert theirs.engine == "dlib"


def test_synthetic_vectors_lie_as_faces_do() -> None:
    rng = np.random.default_rng(1)
    vectors = synthetic.strangers(rng, 400, 128)
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.allclose(lengths, 1, atol=1e-5)
    cosines = (vectors @ vectors.T)[np.triu_indices(400, 1)]
    assert 0.8 < float(np.median(cosines)) < 0.9
    # No component stands out by more than it does in real ones (0.29 in six faces).
    assert float(np.abs(vectors).max()) < 0.5
    again = synthetic.strangers(np.random.default_rng(2), 400, 128)
    assert 0.8 < float(np.median(vectors @ again.T)) < 0.9
    other = synthetic.other_photos(rng, vectors)
    assert np.allclose(np.sum(other * vectors, axis=1), 0.94, atol=0.04)


_MACHINE = {"processor": "p", "cores": 2, "system": "s", "python": "3"}
