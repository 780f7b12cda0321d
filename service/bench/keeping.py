"""A gallery kept up: opened anew, faces deleted and added, until a search shows it.

The gallery is the real one, on segments that a catalog publishes. Its catalog knows only those
faces that are changed here: ten million rows of a database would say nothing more about a search.
"""

from __future__ import annotations

import gc
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import insert

from indexer.catalog import Catalog
from indexer.catalog.tables import Face, GalleryMember, Image
from indexer.galleries import add_faces, log, remove_faces, shelf
from indexer.galleries.local import LocalGallery
from indexer.galleries.opening import scanner
from indexer.ids import random_id
from indexer.times import utc_now
from indexer.vectors.base import Neighbours
from indexer.vectors.segment import Segment
from indexer.vectors.segmented import SegmentedIndex
from models.types import FloatArray
from service.bench.clock import resident, seconds
from service.bench.report import Change, Restart
from service.bench.synthetic import CONTRACT, GALLERY, strangers

EARLY: Final = 20
_TIMES: Final = 20


@dataclass(frozen=True, slots=True)
class Kept:
    """A published gallery: its catalog, and the folder of indexes its segments are in."""

    catalog: Catalog
    index_dir: Path
    segments: Path
    dimension: int

    def publish(self, written: Sequence[tuple[str, int]]) -> None:
        """Let the catalog name these segments, which follow its log from the beginning."""
        place = shelf.Place(shelf.store_id(self.index_dir), GALLERY, CONTRACT)
        with self.catalog.write() as session:
            shelf.publish(session, place, upto=log.BEGINNING, gone=[], added=written)

    def open(self, threads: int) -> LocalGallery:
        """The gallery as the service opens it on this machine."""
        scan = scanner("local", threads)
        return LocalGallery(self.catalog, GALLERY, CONTRACT, self.dimension, self.index_dir, scan)


def restarts(kept: Kept, probes: FloatArray, k: int) -> tuple[list[Restart], int | None]:
    """Open the gallery with its files in memory, then from the disk; and the bytes by which the
    first of the two made this process larger. One thread."""
    first, grown = _restart(kept, probes, k, from_disk=False)
    found = [first]
    # Only a file that nobody has mapped leaves the memory.
    gc.collect()
    if _forget(kept.segments):
        found.append(_restart(kept, probes, k, from_disk=True)[0])
    return found, grown


def _restart(
    kept: Kept, probes: FloatArray, k: int, *, from_disk: bool
) -> tuple[Restart, int | None]:
    before = resident()
    started = time.perf_counter()
    with closing(kept.open(1)) as gallery:
        opened = time.perf_counter() - started
        taken = [seconds(partial(gallery.search, p[None], k)) for p in probes[: EARLY + 1]]
        after = resident()
        early = taken[1:] or taken
        return Restart(
            gallery.count(),
            kept.dimension,
            from_disk,
            opened * 1000,
            taken[0] * 1000,
            len(early),
            float(np.median(early)) * 1000,
        ), None if before is None or after is None else after - before


def _forget(folder: Path) -> bool:
    """Have the system drop what it keeps of the files in memory; whether it can be asked to."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in folder.glob("*.data"):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    return True


def index_changes(index: SegmentedIndex, segments: Sequence[Segment], k: int) -> list[Change]:
    """Deletions and additions in the index itself. The faces that are deleted stay so."""
    rng = np.random.default_rng(index.dimension)
    gone, known = _some(rng, segments, _TIMES)
    ids = [random_id() for _ in gone]
    fresh = strangers(rng, len(gone), index.dimension)

    def delete(i: int) -> object:
        return index.delete([gone[i]])

    def add(i: int) -> None:
        index.add([ids[i]], fresh[i : i + 1])

    line = partial(_line, index.search, index.count(), index.dimension, "index", k)
    return [
        line("delete", delete, gone, known, there=False),
        line("add", add, ids, fresh, there=True),
    ]


def gallery_changes(kept: Kept, segments: Sequence[Segment], threads: int, k: int) -> list[Change]:
    """The same as transactions of the catalog, which the gallery then follows.

    The segments on disk are left as they are.
    """
    rng = np.random.default_rng(kept.dimension + 1)
    gone, known = _some(rng, segments, _TIMES)
    ids = [random_id() for _ in gone]
    fresh = strangers(rng, len(gone), kept.dimension)
    with kept.catalog.write() as session:
        for some, vectors in ((gone, known), (ids, fresh)):
            images, faces = _rows(some, vectors)
            session.execute(insert(Image), images)
            session.execute(insert(Face), faces)
        members = [{"gallery": GALLERY, "contract_id": CONTRACT, "face_id": i} for i in gone]
        session.execute(insert(GalleryMember), members)

    def delete(i: int) -> None:
        with kept.catalog.write() as session:
            remove_faces(session, GALLERY, CONTRACT, [gone[i]])

    def add(i: int) -> None:
        with kept.catalog.write() as session:
            add_faces(session, GALLERY, CONTRACT, [ids[i]])

    with closing(kept.open(threads)) as gallery:
        gallery.search(known[:1], k)
        line = partial(_line, gallery.search, gallery.count(), kept.dimension, "gallery", k)
        return [
            line("delete", delete, gone, known, there=False),
            line("add", add, ids, fresh, there=True),
        ]


def _line(
    search: Callable[[FloatArray, int], list[Neighbours]],
    vectors: int,
    dimension: int,
    where: str,
    k: int,
    change: str,
    make: Callable[[int], object],
    ids: Sequence[str],
    probes: FloatArray,
    *,
    there: bool,
) -> Change:
    """Make each change and search for the face itself. Raises ``RuntimeError`` where the answer
    does not show the change."""
    made, seen = [], []
    for i, face_id in enumerate(ids):
        started = time.perf_counter()
        make(i)
        made.append(time.perf_counter() - started)
        answer = search(probes[i : i + 1], k)[0]
        seen.append(time.perf_counter() - started)
        if (face_id in answer.ids) is not there:
            raise RuntimeError(f"a search of the {where} does not show that a face was {change}ed")
    return Change(
        vectors,
        dimension,
        where,
        change,
        len(ids),
        float(np.median(made)) * 1000,
        float(np.median(seen)) * 1000,
        max(seen) * 1000,
    )


def _some(
    rng: np.random.Generator, segments: Sequence[Segment], count: int
) -> tuple[list[str], FloatArray]:
    """Ids and vectors of a few faces of the segments."""
    segment = segments[int(rng.integers(len(segments)))]
    rows = rng.choice(segment.count, min(count, segment.count // 2), replace=False)
    return segment.ids(rows), segment.vectors(rows)


def _rows(
    ids: Sequence[str], vectors: FloatArray
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the catalog for faces, each in an image of its own."""
    shas = [hashlib.sha256(face_id.encode()).hexdigest() for face_id in ids]
    image = {"format": "png", "width": 64, "height": 64, "size": 1, "notes": []}
    face = {
        "contract_id": CONTRACT,
        "face_index": 0,
        **dict.fromkeys(("x", "y"), 0.0),
        **dict.fromkeys(("width", "height"), 64.0),
        "landmarks": [],
        "scheme": "none",
        "turn": 0,
        "detection_score": 1.0,
        "quality": {},
    }
    now = utc_now()
    return (
        [{**image, "sha256": sha256, "created_at": now} for sha256 in shas],
        [
            {**face, "face_id": face_id, "sha256": sha256, "vector": vector}
            for face_id, sha256, vector in zip(ids, shas, vectors, strict=True)
        ],
    )
