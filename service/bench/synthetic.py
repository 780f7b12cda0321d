"""Vectors that lie about each other as strangers' faces do, written as the segments of a gallery.

Nothing is held but a block of rows at a time, so that ten million vectors need no more memory
than ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexer.galleries import log
from indexer.ids import new_id
from indexer.records import GalleryName
from indexer.vectors.segment import SegmentSource, write_segment
from indexer.vectors.tags import KEYWORDS, BoolArray, Columns, Filter
from models.types import FloatArray

GALLERY: Final[GalleryName] = "ads"
CONTRACT: Final = "synthetic-vectors"
SEGMENT_ROWS: Final = 1_000_000

_BLOCK: Final = 4096
# Strangers' median cosine: close together in the default pack (128-d), far apart in others.
_COMMON_COSINE: Final = {128: 0.85}
_FAR_COSINE: Final = 0.02
# Another photo of a face, as a length of noise: the cosine with it is about 0.94.
_OTHER_PHOTO: Final = 0.35

_SITES: Final = ("site-common", "site-other", "site-rare")
_SITE_SHARES: Final = (0.5, 0.49, 0.01)
_REGIONS: Final = 50
_DAY_MS: Final = 86_400_000
_FIRST_MS: Final = 1_600_000_000_000
_DAYS: Final = 1000


@dataclass(frozen=True, slots=True)
class Share:
    """A filter that a known share of the rows pass; ``name`` says which and how."""

    name: str
    where: Filter

    def rows(self, columns: Columns) -> BoolArray:
        """Which rows pass, bool (rows,), found out apart from the index's own way."""
        if self.where.site is not None:
            sites = np.array(columns.words["site"])[columns.codes["site"]]
            return np.asarray(sites == self.where.site, np.bool_)
        before = self.where.posted_before_ms
        assert before is not None
        return np.asarray(columns.posted_ms < before, np.bool_)


SHARES: Final = (
    Share("50 %, by site", Filter(site=_SITES[0])),
    Share(
        "10 %, by time",
        Filter(posted_from_ms=_FIRST_MS, posted_before_ms=_FIRST_MS + 100 * _DAY_MS),
    ),
    Share("1 %, by site", Filter(site=_SITES[2])),
    Share("0.1 %, by time", Filter(posted_from_ms=_FIRST_MS, posted_before_ms=_FIRST_MS + _DAY_MS)),
)
"""Two by a word and two by the time of posting."""


def strangers(rng: np.random.Generator, count: int, dimension: int) -> FloatArray:
    """Unit vectors, float32 (count, dimension), about a common direction as faces are.

    The direction has a part in every component, as that of a real embedder has, and is the same
    for all vectors of one dimension.
    """
    vectors = rng.standard_normal((count, dimension), dtype=np.float32)
    vectors /= np.sqrt(np.float32(dimension))
    common = _COMMON_COSINE.get(dimension, _FAR_COSINE)
    direction = np.random.default_rng(dimension).standard_normal((1, dimension), np.float32)
    vectors += _normalised(direction) * np.float32(np.sqrt(common / (1 - common)))
    return _normalised(vectors)


def other_photos(rng: np.random.Generator, vectors: FloatArray) -> FloatArray:
    """Unit vectors near ``vectors`` (n, dimension), as of other photos of the same people."""
    noise = rng.standard_normal(vectors.shape, dtype=np.float32)
    noise *= np.float32(_OTHER_PHOTO / np.sqrt(vectors.shape[1]))
    return _normalised(vectors + noise)


def sample(size: int, dimension: int, count: int) -> FloatArray:
    """``count`` probes, float32 (count, dimension): other photos of rows of all segments."""
    starts = range(0, size, SEGMENT_ROWS)
    rng = np.random.default_rng((size, dimension))
    own = -(-count // len(starts))
    probes = []
    for first in starts:
        rows = source(first, min(SEGMENT_ROWS, size - first), dimension)
        _, vectors = next(iter(rows.blocks()))
        chosen = rng.choice(len(vectors), own, replace=own > len(vectors))
        probes.append(other_photos(rng, vectors[chosen]))
    mixed = np.concatenate(probes)
    rng.shuffle(mixed)
    return mixed[:count]


def write_gallery(folder: Path, size: int, dimension: int) -> list[tuple[str, int]]:
    """Write segments of ``size`` rows in all; their names and numbers of rows.

    Raises the StorageError tree.
    """
    written = []
    for first in range(0, size, SEGMENT_ROWS):
        count = min(SEGMENT_ROWS, size - first)
        name = new_id()
        write_segment(
            folder,
            name,
            source(first, count, dimension),
            gallery=GALLERY,
            contract_id=CONTRACT,
            dimension=dimension,
            history=log.BEGINNING,
        )
        written.append((name, count))
    return written


def source(first: int, count: int, dimension: int) -> SegmentSource:
    """Rows number ``first`` and on; the same ones each time. Their ids begin at random, and are
    in ascending order as a segment needs them."""
    rng = np.random.default_rng((first, dimension))
    ids = np.empty((count, 2), ">u8")
    ids[:, 0] = np.sort(rng.integers(0, 1 << 63, count, dtype=np.uint64))
    ids[:, 1] = np.arange(first, first + count)
    keys = ids.view(np.uint8).reshape(count, 16)
    columns = _columns(rng, count)
    seed = int(rng.integers(1 << 62))

    def blocks() -> Iterator[tuple[NDArray[np.uint8], FloatArray]]:
        own = np.random.default_rng(seed)
        for start in range(0, count, _BLOCK):
            some = keys[start : start + _BLOCK]
            yield some, strangers(own, len(some), dimension)

    return SegmentSource(count, columns, blocks)


def _columns(rng: np.random.Generator, count: int) -> Columns:
    """Sites of very different sizes, fifty regions, and times spread over a thousand days."""
    words = {name: [""] for name in KEYWORDS}
    codes = {name: np.zeros(count, np.int32) for name in KEYWORDS}
    words["site"] = list(_SITES)
    codes["site"] = rng.choice(len(_SITES), count, p=_SITE_SHARES).astype(np.int32)
    words["region"] = [f"region-{number:02d}" for number in range(_REGIONS)]
    codes["region"] = rng.integers(0, _REGIONS, count, dtype=np.int32)
    posted = _FIRST_MS + rng.integers(0, _DAYS * _DAY_MS, count)
    return Columns(count, None, codes, words, posted)


def _normalised(vectors: FloatArray) -> FloatArray:
    for at in range(0, len(vectors), 65_536):
        part = vectors[at : at + 65_536]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors
