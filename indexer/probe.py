"""Probing a gallery with several photos of one person, exactly.

Each photo finds its own nearest faces; the fused score of every face found is computed from all
photos. The lists are widened until no face outside of them can reach the answer: its cosine to
each photo is at most the last of that photo's list, and the fused score never falls when a cosine
rises, so the fusion of the last scores bounds it (the threshold algorithm of Fagin, Lotem and
Naor, *Optimal aggregation algorithms for middleware*, 2003).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sqlalchemy import ColumnElement, func

from indexer.catalog.tables import Ad
from indexer.galleries import Gallery
from indexer.records import SearchFilter
from indexer.vectors.tags import EVERYTHING, Filter
from models.calibration import Shares, fuse
from models.types import FloatArray

_SPARE = 16
"""Faces beyond the asked-for ones, so that the bound is mostly met at the first attempt."""


@dataclass(frozen=True, slots=True)
class FusedFace:
    """A face found: its fused ``score`` and the number of the photo that is nearest to it."""

    face_id: str
    score: float
    nearest_photo: int


def fused_search(
    gallery: Gallery,
    vectors: FloatArray,
    joined: Shares,
    count: int,
    *,
    where: Filter = EVERYTHING,
) -> list[FusedFace]:
    """The ``count`` best faces for the photos of one person, best first, equal scores by id.

    ``vectors``: float32 (photos, dimension), L2-normalised; ``joined``: their ``shares``. Fewer
    come back only when the gallery (of those that pass ``where``) holds no more.
    """
    width = count + _SPARE
    fresh = True
    while True:
        lists = gallery.search(vectors, width, where=where, fresh=fresh)
        exhausted = all(len(found) < width for found in lists)
        ids = sorted({face_id for found in lists for face_id in found.ids})
        if not ids:
            return []
        try:
            scores = gallery.scores(vectors, ids)
        except KeyError:
            # Deleted since the search by another thread: start again without it.
            continue
        fused = fuse(scores, joined)
        order = sorted(range(len(ids)), key=lambda i: (-float(fused[i]), ids[i]))[:count]
        if not exhausted:
            last = np.array([[found.scores[-1]] for found in lists], np.float32)
            bound = float(fuse(last, joined)[0])
            # A single photo's list is the answer as it stands; with several, a face outside of
            # the lists must be strictly worse, unless nothing can be better than what is there.
            worst = float(fused[order[-1]])
            settled = len(lists) == 1 or (len(order) == count and (worst > bound or worst >= 1.0))
            if not settled:
                width *= 4
                fresh = False
                continue
        nearest = scores.argmax(axis=0)
        return [FusedFace(ids[i], float(fused[i]), int(nearest[i])) for i in order]


def ad_conditions(filters: SearchFilter) -> list[ColumnElement[bool]]:
    """The filters as conditions on :class:`~indexer.catalog.tables.Ad`."""
    conditions: list[ColumnElement[bool]] = []
    if filters.site is not None:
        conditions.append(func.lower(Ad.site) == func.lower(filters.site))
    if filters.region is not None:
        conditions.append(func.lower(Ad.region) == func.lower(filters.region))
    if filters.posted_after is not None:
        conditions.append(Ad.posted_at >= filters.posted_after)
    if filters.posted_before is not None:
        conditions.append(Ad.posted_at < filters.posted_before)
    return conditions
