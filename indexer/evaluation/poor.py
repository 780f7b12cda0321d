"""The same photos as an ad might show them: each one changed in one of the ways of ads.

A gallery of ads is poor throughout, strangers included, and that is what decides how far a person
stands out in it. So every photo of the sample gets a poor version, not only the probes. Which of
``AD_LIKE`` it suffers is drawn by a hash of its name and never changes.
"""

from __future__ import annotations

import hashlib
from typing import Final

from indexer.evaluation.cache import FaceCache
from indexer.evaluation.degrade import DEGRADATIONS
from indexer.evaluation.photos import (
    FaceAnalyser,
    LabelledFaces,
    Progress,
    centre_face,
    load_batches,
)
from models.decode import DecodeLimits
from models.types import Face

AD_LIKE: Final = (
    *("face_40px", "jpeg_20", "watermark", "eye_bar", "lower_face"),
    *("blur_2", "blur_4", "dark", "overexposed"),
)
"""The degradations drawn from, all equally likely: those that cost something on the default pack,
and the two most common ones (small faces, strong compression)."""


def degradation_of(name: str) -> str:
    """Which of ``AD_LIKE`` the photo called ``name`` ("identity/file") suffers."""
    digest = hashlib.sha256(f"poor:{name}".encode()).digest()
    return AD_LIKE[int.from_bytes(digest[:8], "big") % len(AD_LIKE)]


def poor_faces(
    analyser: FaceAnalyser,
    faces: LabelledFaces,
    *,
    limits: DecodeLimits | None = None,
    cache: FaceCache | None = None,
    progress: Progress | None = None,
) -> LabelledFaces:
    """The faces of the poor versions of all photos, in the order of ``faces``.

    A photo without a face when clean has none when poor. Nothing is written but the cache.
    """
    photos = faces.photos.photos
    found: list[Face | None] = [None] * len(photos)
    done = 0
    for batch in load_batches(photos, limits or DecodeLimits()):
        changed = []
        for item in batch:
            clean = faces.faces[item.row]
            if clean is None or item.pixels is None:
                continue
            name = degradation_of(photos[item.row].name)
            key = f"{item.digest}-{name}"
            known = None if cache is None else cache.get(key)
            if known is not None:
                found[item.row] = known[0]
            else:
                changed.append((item.row, key, DEGRADATIONS[name].apply(item.pixels, clean)))
        analysed = analyser.analyse([image for _, _, image in changed]) if changed else []
        for (row, key, image), candidates in zip(changed, analysed, strict=True):
            found[row] = centre_face(candidates, image.shape[1], image.shape[0])
            if cache is not None:
                cache.put(key, found[row])
        done += len(batch)
        if progress is not None:
            progress("poor photos", done, len(photos))
    return LabelledFaces(
        faces.photos, tuple(found), faces.unreadable, faces.contract_id, faces.dimension
    )
