"""Which faces of ads are thought to show one unknown person, for display only.

Precision comes first: a face that is left out costs a longer list, a wrong one hides a person
behind another. A face joins the cluster of its nearest face only where it is as near to what that
cluster holds, so that no chain of neighbours leads from one person to the next; clusters are never
merged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from indexer.batches import chunks
from indexer.catalog.tables import Face, FaceCluster, GalleryMember
from indexer.catalog.types import stacked
from indexer.ids import new_id
from indexer.vectors.base import exact_scores
from indexer.workspace import Workspace
from models.calibration import Calibration
from models.types import FloatArray

IDENTICAL: Final = 0.995
"""The cosine from which faces are clustered where nothing is calibrated."""

WRONG_JOINS: Final = 0.01
"""Strangers that may be expected above the threshold, for each face that is compared."""

_NEIGHBOURS: Final = 16
_SAMPLE: Final = 16


def cluster_threshold(calibration: Calibration | None, gallery_size: int) -> float:
    """The cosine from which two faces in a gallery of so many may be clustered."""
    if calibration is None:
        return IDENTICAL
    return min(calibration.threshold(WRONG_JOINS / max(1, gallery_size)), IDENTICAL)


def join_clusters(ws: Workspace, faces: Mapping[str, FloatArray]) -> None:
    """Put new faces of the ads gallery (id to vector) into clusters, where they belong to one.

    Call it after the faces are in the gallery. A face that has a cluster keeps it, so it may be
    repeated, and several workers may call it at once.
    """
    if not faces:
        return
    face_ids = sorted(faces)
    near = ws.ads.search(np.stack([faces[one] for one in face_ids]), _NEIGHBOURS)
    threshold = cluster_threshold(ws.calibration, ws.ads.count())
    close = {
        face_id: [
            other
            for other, score in zip(found.ids, found.scores, strict=True)
            if other != face_id and score >= threshold
        ]
        for face_id, found in zip(face_ids, near, strict=True)
    }
    close = {face_id: others for face_id, others in close.items() if others}
    if not close:
        return
    with ws.catalog.write() as session:
        _join(session, ws.contract_id, faces, close, threshold)


def _join(
    session: Session,
    contract_id: str,
    faces: Mapping[str, FloatArray],
    close: Mapping[str, Sequence[str]],
    threshold: float,
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
        elif not _belongs(faces[face_id], _sample(session, cluster_id), threshold):
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
        .limit(_SAMPLE)
    )
    return stacked(rows)


def _belongs(vector: FloatArray, members: FloatArray, threshold: float) -> bool:
    """Whether a face is near to what a cluster holds, not only to the one face nearest to it."""
    return bool(exact_scores(vector, members).min() >= threshold)
