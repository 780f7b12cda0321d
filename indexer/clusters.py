"""Which faces of ads are thought to show one unknown person, for display only.

Precision comes first: a face that is left out costs a longer list, a wrong one hides a person
behind another. A face joins the cluster of its nearest face, and only where every face sampled of
that cluster is near to it as well, so that no chain of neighbours leads from one person to the
next. Clusters are never merged. The thresholds rise with the gallery, because the number of
strangers who look alike does; how well that works is measured in ``docs/accuracy.md``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from indexer.batches import chunks
from indexer.catalog.tables import Face, FaceCluster, GalleryMember
from indexer.catalog.types import stacked
from indexer.ids import new_id
from indexer.kept_faces import compared_size
from indexer.vectors.base import exact_scores
from indexer.workspace import Workspace
from models.calibration import Calibration
from models.types import FloatArray

NEAREST_STRANGERS: Final = 0.003
"""Strangers to expect in the whole gallery at the score that a face and its nearest must reach."""

MEMBER_STRANGERS: Final = 0.3
"""The same for the score with every other face of the cluster."""

IDENTICAL: Final = 0.995
"""The cosine from which faces are clustered where no calibration says what a score is worth."""

MEMBERS_COMPARED: Final = 16

_SMALLEST_GALLERY: Final = 1_000
_NEIGHBOURS: Final = 16
_DECADE: Final = (1e-3, 1e-4)


@dataclass(frozen=True, slots=True)
class ClusterLimits:
    """The cosines that a face must reach: with its nearest face, and with the cluster's others."""

    nearest: float
    member: float


def cluster_limits(calibration: Calibration | None, gallery_size: int) -> ClusterLimits:
    """What holds in a gallery of so many faces; a small one is taken for one of 1,000."""
    size = max(_SMALLEST_GALLERY, gallery_size)
    return ClusterLimits(
        _score_for(calibration, NEAREST_STRANGERS / size),
        _score_for(calibration, MEMBER_STRANGERS / size),
    )


def _score_for(calibration: Calibration | None, fmr: float) -> float:
    """The score whose false match rate is at most ``fmr``, at most ``IDENTICAL``.

    Where the calibration's sample is too small to know such a rate, its last well measured decade
    is drawn on in a straight line, and never below its highest score. Rates of strangers fall
    faster than that, so the line errs to the strict side.
    """
    if calibration is None:
        return IDENTICAL
    reached = calibration.threshold(fmr)
    if reached < 1.0:
        return min(reached, IDENTICAL)
    upper, lower = (calibration.threshold(rate) for rate in _DECADE)
    if lower >= 1.0:
        return IDENTICAL
    drawn = lower + (lower - upper) * math.log10(_DECADE[1] / fmr)
    highest = max(float(curve.score[-1]) for curve in calibration.curves.values())
    return min(max(drawn, highest), IDENTICAL)


def belongs(vector: FloatArray, members: FloatArray, limit: float) -> bool:
    """Whether a face (d,) scores at least ``limit`` with each of a cluster's ``members`` (n, d)."""
    return bool(exact_scores(vector, members).min() >= limit)


def join_clusters(ws: Workspace, faces: Mapping[str, FloatArray]) -> None:
    """Put new faces of the ads gallery (id to vector) into clusters, where they belong to one.

    Call it after the faces are in the gallery. A face that has a cluster keeps it, so it may be
    repeated, and several workers may call it at once.
    """
    if not faces:
        return
    face_ids = sorted(faces)
    near = ws.ads.search(np.stack([faces[one] for one in face_ids]), _NEIGHBOURS)
    limits = cluster_limits(ws.calibration, compared_size(ws))
    close: dict[str, list[str]] = {}
    for face_id, found in zip(face_ids, near, strict=True):
        scored = zip(found.ids, found.scores, strict=True)
        others = [one for one, score in scored if one != face_id and score >= limits.nearest]
        if others:
            close[face_id] = others
    if not close:
        return
    # Whoever searches after both faces are in the gallery sees the other, and takes it in though
    # its own worker has not come to it; so two workers at once miss nothing.
    with ws.catalog.write() as session:
        _join(session, ws.contract_id, faces, close, limits.member)


def _join(
    session: Session,
    contract_id: str,
    faces: Mapping[str, FloatArray],
    close: Mapping[str, Sequence[str]],
    member_limit: float,
) -> None:
    touched = {*close, *(other for others in close.values() for other in others)}
    present, clusters = _state(session, contract_id, touched)
    for face_id, others in close.items():
        nearest = next((other for other in others if other in present), None)
        if face_id in clusters or face_id not in present or nearest is None:
            continue
        joining = [face_id]
        cluster_id = clusters.get(nearest)
        if cluster_id is None:
            cluster_id = new_id()
            joining.append(nearest)
        elif not belongs(faces[face_id], _sample(session, cluster_id), member_limit):
            continue
        clusters.update(dict.fromkeys(joining, cluster_id))
        session.execute(
            insert(FaceCluster),
            [
                {"face_id": one, "contract_id": contract_id, "cluster_id": cluster_id}
                for one in joining
            ],
        )


def _state(
    session: Session, contract_id: str, face_ids: Collection[str]
) -> tuple[set[str], dict[str, str]]:
    """Which of the faces are in the ads gallery now, and the clusters of those that have one."""
    present: set[str] = set()
    clusters: dict[str, str] = {}
    for some in chunks(face_ids):
        rows = session.execute(
            select(GalleryMember.face_id, FaceCluster.cluster_id)
            .outerjoin(FaceCluster, FaceCluster.face_id == GalleryMember.face_id)
            .where(
                GalleryMember.gallery == "ads",
                GalleryMember.contract_id == contract_id,
                GalleryMember.face_id.in_(some),
            )
        )
        for face_id, cluster_id in rows:
            present.add(face_id)
            if cluster_id is not None:
                clusters[face_id] = cluster_id
    return present, clusters


def _sample(session: Session, cluster_id: str) -> FloatArray:
    """Vectors of some faces of a cluster. Face ids are random, so the first are a fair sample."""
    rows = session.scalars(
        select(Face.vector)
        .join(FaceCluster, FaceCluster.face_id == Face.face_id)
        .where(FaceCluster.cluster_id == cluster_id, Face.vector.is_not(None))
        .order_by(Face.face_id)
        .limit(MEMBERS_COMPARED)
    )
    return stacked(rows)
