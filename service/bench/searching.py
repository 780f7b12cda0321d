"""Searching: the index on real segments against FAISS's flat index, NumPy and the memory itself.

All that is compared is measured in one run on the same vectors.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from indexer.catalog import open_catalog
from indexer.catalog.engine import sqlite_url
from indexer.files import make_folder
from indexer.galleries.folders import folder_of
from indexer.galleries.opening import scanner
from indexer.vectors.base import Neighbours
from indexer.vectors.segment import Segment, open_segment
from indexer.vectors.segment_ids import ID_BYTES
from indexer.vectors.segmented import SegmentedIndex, part_of
from indexer.vectors.tags import EVERYTHING
from models.types import FloatArray
from service.bench.clock import Taken, available_memory, limited, seconds
from service.bench.keeping import EARLY, Kept, gallery_changes, index_changes, restarts
from service.bench.report import BenchReport, Burst, Exactness, Filtered, Footprint, Search
from service.bench.rivals import Flat, interleaved, memory_speed, nearest, recall
from service.bench.synthetic import (
    CONTRACT,
    GALLERY,
    SHARES,
    Share,
    sample,
    write_gallery,
)

NEIGHBOURS: Final = 50
BURST: Final = 64
_ROUNDS: Final = 3
_SAMPLE: Final = 16
_OURS: Final = "homeward"
_FLAT: Final = "FAISS Flat"
_NUMPY: Final = "NumPy"
# What the scan alone is asked for, as a multiple of the answer.
_SHORTLIST: Final = 8
# Bytes a row beside the vector and its codes, generously; and of everything else.
_ROW_BYTES: Final = 128
_BASE_BYTES: Final = 300_000_000


@dataclass(frozen=True, slots=True)
class Gallery:
    """The open segments of one size and dimension, all of whose bytes were checked."""

    segments: list[Segment]
    size: int
    dimension: int
    probes: FloatArray

    def index(self, threads: int) -> SegmentedIndex:
        """The index as a gallery on this machine makes it."""
        scan = scanner("local", threads)
        return SegmentedIndex(
            self.dimension, scan, [part_of(segment, scan) for segment in self.segments]
        )

    @property
    def code_bytes(self) -> int:
        """What a scan of everything reads."""
        return self.size * self.dimension


def measure(
    report: BenchReport,
    size: int,
    dimension: int,
    threads: Sequence[int],
    probes: int,
    scratch: Path,
) -> None:
    """Write ``size`` synthetic vectors as segments into a folder of their own below ``scratch``,
    measure searches in them, and remove them. Adds to ``report``.

    ``probes``: how many single probes each engine is timed with. Raises the StorageError tree.
    """
    why = _no_room(scratch, size, dimension)
    if why is not None:
        report.search.append(_skipped(_OURS, size, dimension, threads[0], why))
        return
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch) as name:
        index_dir = Path(name, "index")
        folder = folder_of(index_dir, GALLERY, CONTRACT)
        make_folder(folder)
        with closing(open_catalog(sqlite_url(Path(name, "catalog.sqlite3")))) as catalog:
            with limited(1):
                written: list[tuple[str, int]] = []
                write_s = seconds(lambda: written.extend(write_gallery(folder, size, dimension)))
                kept = Kept(catalog, index_dir, folder, dimension)
                kept.publish(written)
                asked = sample(size, dimension, max(probes, BURST, EARLY + 1))
                # Before anything else looks into the files, so that they can be put out of memory.
                found, grown = restarts(kept, asked, NEIGHBOURS)
                report.restarts += found
                gallery = _opened(folder, written, asked)
                report.footprints.append(_footprint(gallery, write_s, grown))
                _exactness(report, gallery)
            _single(report, gallery, threads, probes)
            for count in threads:
                with limited(count):
                    _bursts(report, gallery, count)
                    _filters(report, gallery, count, max(1, probes // 4))
            with limited(1):
                index = gallery.index(threads[0])
                report.changes += index_changes(index, gallery.segments, NEIGHBOURS)
                report.changes += gallery_changes(kept, gallery.segments, threads[0], NEIGHBOURS)
    # The next size needs the memory.
    del gallery, index
    gc.collect()


def _opened(folder: Path, written: Sequence[tuple[str, int]], probes: FloatArray) -> Gallery:
    """All segments, every byte checked: as they are once a service has run for a while."""
    dimension = probes.shape[1]
    segments = [
        open_segment(folder, name, gallery=GALLERY, contract_id=CONTRACT, dimension=dimension)
        for name, _ in written
    ]
    for segment in segments:
        segment.matrix()
    return Gallery(segments, sum(segment.count for segment in segments), dimension, probes)


def _footprint(gallery: Gallery, write_s: float, grown: int | None) -> Footprint:
    columns = sum(
        column.nbytes for one in gallery.segments for column in one.columns.arrays().values()
    )
    disk = sum(segment.disk_bytes for segment in gallery.segments)
    return Footprint(
        gallery.size,
        gallery.dimension,
        len(gallery.segments),
        write_s,
        gallery.code_bytes / gallery.size,
        (gallery.code_bytes + columns) / gallery.size + ID_BYTES,
        disk / gallery.size,
        EARLY + 1,
        None if grown is None else grown / gallery.size,
    )


def _exactness(report: BenchReport, gallery: Gallery) -> None:
    """Single probes, many at once, and filters, all against brute force in float64."""
    index = gallery.index(1)
    probes = gallery.probes[:_SAMPLE]
    best = nearest(gallery.segments, probes, NEIGHBOURS, [None, *SHARES])

    def alone(share: Share | None) -> list[Neighbours]:
        where = EVERYTHING if share is None else share.where
        return [index.search(p[None], NEIGHBOURS, where=where)[0] for p in probes]

    answers: list[tuple[str, Share | None, list[Neighbours]]] = [
        ("none", None, alone(None)),
        ("none, all at once", None, index.search(probes, NEIGHBOURS)),
        *((share.name, share, alone(share)) for share in SHARES),
    ]
    report.exactness += [
        Exactness(
            gallery.size,
            gallery.dimension,
            name,
            len(probes),
            NEIGHBOURS,
            recall(found, best[share], NEIGHBOURS),
        )
        for name, share, found in answers
    ]


def _single(report: BenchReport, gallery: Gallery, threads: Sequence[int], probes: int) -> None:
    """One probe at a time: the index, its scan alone, FAISS, NumPy and the memory."""
    size, dimension = gallery.size, gallery.dimension
    flat, why = _flat(gallery)
    taken: dict[int, dict[str, list[Taken]]] = {}
    speeds: dict[int, float] = {}
    for count in threads:
        with limited(count):
            speeds[count] = memory_speed(gallery.segments, count)
            engines = {**_ours(gallery, count), **({} if flat is None else _theirs(flat, count))}
            taken[count] = interleaved(engines, gallery.probes[:probes])
    fastest = min((_median(t[_FLAT]) for t in taken.values() if _FLAT in t), default=None)
    for count in threads:
        for name, some in taken[count].items():
            ours = name.startswith(_OURS)
            read = gallery.code_bytes * (1 if ours else 4)
            p50, p99 = np.percentile([one.wall for one in some], [50, 99]).tolist()
            report.search.append(
                Search(
                    name,
                    size,
                    dimension,
                    count,
                    1,
                    NEIGHBOURS,
                    p50 * 1000,
                    p99 * 1000,
                    None if fastest is None else p50 / fastest,
                    read / p50 / 1e9,
                    read / p50 / speeds[count],
                    cpu_ms=float(np.median([one.processor for one in some])) * 1000,
                )
            )
        if why is not None:
            report.search += [
                _skipped(name, size, dimension, count, why) for name in (_FLAT, _NUMPY)
            ]
        report.search.append(
            Search(
                "reading the codes",
                size,
                dimension,
                count,
                1,
                NEIGHBOURS,
                gallery.code_bytes / speeds[count] * 1000,
                None,
                None,
                speeds[count] / 1e9,
                1.0,
            )
        )


Engine = Callable[[FloatArray], object]


def _ours(gallery: Gallery, threads: int) -> dict[str, Engine]:
    index = gallery.index(threads)

    def whole(probe: FloatArray) -> object:
        return index.search(probe[None], NEIGHBOURS)

    def scan(probe: FloatArray) -> object:
        fetch = _SHORTLIST * NEIGHBOURS
        return [part.scanner.shortlist(probe[None], fetch) for part in index.state.parts]

    return {_OURS: whole, f"{_OURS}, scan alone": scan}


def _theirs(flat: Flat, threads: int) -> dict[str, Engine]:
    return {
        _FLAT: lambda probe: flat.by_faiss(probe, NEIGHBOURS, threads),
        _NUMPY: lambda probe: flat.by_numpy(probe, NEIGHBOURS),
    }


def _flat(gallery: Gallery) -> tuple[Flat | None, str | None]:
    """All rows in memory, or why they are not."""
    needed = Flat.bytes_for(gallery.size, gallery.dimension) + _BASE_BYTES
    available = available_memory()
    if available is not None and needed > available:
        return None, f"needs {needed >> 20:,} MiB of memory; {available >> 20:,} are free"
    return Flat(gallery.segments, gallery.dimension), None


def _bursts(report: BenchReport, gallery: Gallery, threads: int) -> None:
    """Probes one after the other and at once, in turns."""
    index, probes = gallery.index(threads), gallery.probes[:BURST]

    def one_by_one() -> None:
        for probe in probes:
            index.search(probe[None], NEIGHBOURS)

    def at_once() -> None:
        index.search(probes, NEIGHBOURS)

    at_once()
    single, burst = [], []
    for _ in range(_ROUNDS):
        single.append(seconds(one_by_one))
        burst.append(seconds(at_once))
    report.bursts.append(
        Burst(
            gallery.size,
            gallery.dimension,
            threads,
            len(probes),
            len(probes) / float(np.median(single)),
            len(probes) / float(np.median(burst)),
        )
    )


def _filters(report: BenchReport, gallery: Gallery, threads: int, probes: int) -> None:
    index = gallery.index(threads)

    def under(share: Share | None) -> Engine:
        where = EVERYTHING if share is None else share.where
        return lambda probe: index.search(probe[None], NEIGHBOURS, where=where)

    engines = {"none": under(None), **{share.name: under(share) for share in SHARES}}
    taken = interleaved(engines, gallery.probes[:probes])
    everything = _median(taken["none"])
    for share in SHARES:
        kept = sum(int(share.rows(one.columns).sum()) for one in gallery.segments) / gallery.size
        p50 = _median(taken[share.name])
        report.filters.append(
            Filtered(
                gallery.size,
                gallery.dimension,
                threads,
                share.name,
                kept,
                p50 * 1000,
                p50 / everything,
            )
        )


def _median(taken: Sequence[Taken]) -> float:
    return float(np.median([one.wall for one in taken]))


def _no_room(scratch: Path, size: int, dimension: int) -> str | None:
    """Why the segments cannot be written here."""
    needed = size * (5 * dimension + _ROW_BYTES) + _BASE_BYTES
    free = shutil.disk_usage(scratch).free
    if needed <= free:
        return None
    return f"needs {needed >> 20:,} MiB of disk; {free >> 20:,} are free"


def _skipped(engine: str, size: int, dimension: int, threads: int, why: str) -> Search:
    return Search(engine, size, dimension, threads, 1, NEIGHBOURS, None, None, skipped=why)
