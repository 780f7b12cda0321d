"""Clusters of unknown faces: who joins, who does not, and that no chain leads to another person."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from sqlalchemy import delete, select

from indexer import forget, images, jobs
from indexer.catalog.tables import Face, FaceCluster
from indexer.clusters import IDENTICAL, cluster_limits, join_clusters
from indexer.galleries import add_faces
from indexer.workspace import Workspace, open_workspace
from models.calibration import Calibration, Curve
from models.types import FloatArray
from tests.indexer.conftest import Reopen, url_of
from tests.indexer.small import CONTRACT, DIMENSION, SmallAnalyser, face_picture
from tests.indexer.test_candidates import make_case, send


def curve(*points: tuple[float, float]) -> Calibration:
    """A calibration of scores and their rates."""
    score, rate = np.array(points).T
    return Calibration(CONTRACT, {1: Curve(score, rate, rate)})


def towards(first: FloatArray, second: FloatArray, cosine: float) -> FloatArray:
    """A unit vector at ``cosine`` to ``first``, in the plane of both."""
    across = second - (second @ first) * first
    across /= np.linalg.norm(across)
    found = cosine * first + np.sqrt(1 - cosine**2) * across
    return np.asarray(found / np.linalg.norm(found), np.float32)


def axes() -> FloatArray:
    return np.eye(DIMENSION, dtype=np.float32)


def add(ws: Workspace, vectors: Sequence[FloatArray], start: int = 0) -> list[str]:
    """Faces in the gallery of ads with the given vectors, each shown by an ad of its own."""
    pictures = [face_picture(1000 + start + i) for i in range(len(vectors))]
    for i, data in enumerate(pictures):
        send(ws, f"ad-{start + i}", data)
    jobs.run_pending(ws)
    with ws.catalog.write() as session:
        session.execute(delete(FaceCluster))
        found = [
            session.scalars(select(Face).where(Face.sha256 == ws.blobs.put(data))).one()
            for data in pictures
        ]
        for row, vector in zip(found, vectors, strict=True):
            row.vector = vector
    ws.ads.rebuild()
    return [row.face_id for row in found]


def joined(ws: Workspace, face_ids: Sequence[str]) -> list[str | None]:
    """The cluster of each face."""
    with ws.catalog.read() as session:
        rows = session.execute(select(FaceCluster.face_id, FaceCluster.cluster_id))
        clusters = {row.face_id: row.cluster_id for row in rows}
    return [clusters.get(face_id) for face_id in face_ids]


def join(ws: Workspace, face_ids: Sequence[str]) -> None:
    with ws.catalog.read() as session:
        rows = session.scalars(select(Face).where(Face.face_id.in_(face_ids)))
        vectors = {row.face_id: row.vector for row in rows if row.vector is not None}
    for face_id in face_ids:
        join_clusters(ws, {face_id: vectors[face_id]})


STEEP = curve((0.5, 1e-2), (0.8, 1e-3), (0.9, 1e-4), (0.95, 1e-9))


@pytest.fixture
def calibrated(ws: Workspace) -> Workspace:
    """Faces join at 0.95 with the nearest and 0.9 with the others."""
    ws.calibration = curve((0.5, 1e-2), (0.9, 2e-4), (0.95, 1e-9))
    limits = cluster_limits(ws.calibration, 3)
    assert (limits.nearest, limits.member) == (0.95, 0.9)
    return ws


def test_copies_join_and_others_do_not(calibrated: Workspace) -> None:
    one, other, third = axes()[:3]
    near = towards(one, other, 0.97)
    faces = add(calibrated, [one, near, third, towards(third, other, 0.949)])
    join(calibrated, faces)
    clusters = joined(calibrated, faces)
    assert clusters[0] == clusters[1] is not None
    assert clusters[2:] == [None, None]


def test_no_chain_leads_to_another_person(calibrated: Workspace) -> None:
    """Each step is small enough; together they are too far."""
    one, other = axes()[:2]
    steps = np.linspace(0, np.pi / 2, 8)
    chain = [np.asarray(np.cos(t) * one + np.sin(t) * other, np.float32) for t in steps]
    assert min(float(a @ b) for a, b in itertools.pairwise(chain)) >= 0.95
    faces = add(calibrated, chain)
    join(calibrated, faces)
    vectors = dict(zip(faces, chain, strict=True))
    groups: dict[str, list[FloatArray]] = {}
    for face_id, cluster_id in zip(faces, joined(calibrated, faces), strict=True):
        if cluster_id is not None:
            groups.setdefault(cluster_id, []).append(vectors[face_id])
    assert groups
    for members in groups.values():
        assert min(float(a @ b) for a in members for b in members) >= 0.9


def test_repeating_it_changes_nothing(calibrated: Workspace) -> None:
    one, other = axes()[:2]
    faces = add(calibrated, [one, towards(one, other, 0.98), towards(one, other, 0.96)])
    join(calibrated, faces)
    first = joined(calibrated, faces)
    assert len(set(first)) == 1
    join(calibrated, faces[::-1])
    join_clusters(calibrated, {})
    assert joined(calibrated, faces) == first


def test_two_workers_at_once(calibrated: Workspace, opened: Reopen) -> None:
    other_worker = opened()
    other_worker.calibration = calibrated.calibration
    base = axes()
    vectors = [
        towards(base[person], base[20 + photo], 0.985) for photo in (0, 1) for person in range(8)
    ]
    faces = add(calibrated, vectors)
    other_worker.ads.rebuild()
    start = threading.Barrier(2)
    parts = [(calibrated, range(8)), (other_worker, range(8, 16))]

    def work(ws: Workspace, rows: range) -> None:
        start.wait()
        join_clusters(ws, {faces[i]: vectors[i] for i in rows})

    threads = [threading.Thread(target=work, args=part) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clusters = joined(calibrated, faces)
    assert None not in clusters
    assert clusters[:8] == clusters[8:]
    assert len(set(clusters)) == 8


def test_without_a_calibration_only_the_nearly_identical_join(ws: Workspace) -> None:
    one, other = axes()[:2]
    faces = add(ws, [one, towards(one, other, 0.999), towards(one, other, 0.99)])
    join(ws, faces)
    clusters = joined(ws, faces)
    assert clusters[0] == clusters[1] is not None
    assert clusters[2] is None


def test_two_contracts_never_mix(calibrated: Workspace) -> None:
    one, other = axes()[:2]
    old = add(calibrated, [one, towards(one, other, 0.98)])
    join(calibrated, old)
    renewed = SmallAnalyser("small-ffffffffffff")
    url = url_of(calibrated)
    with open_workspace(calibrated.data_dir, renewed, catalog_url=url, take_over=True) as ws:
        with ws.catalog.write() as session:
            for face_id in old:
                row = session.get_one(Face, face_id)
                session.add(
                    Face(
                        **{
                            column.key: getattr(row, column.key)
                            for column in Face.__table__.columns
                            if column.key not in ("face_id", "contract_id")
                        },
                        face_id=f"new-{face_id}"[:36],
                        contract_id=ws.contract_id,
                    )
                )
            session.flush()
            new = [f"new-{face_id}"[:36] for face_id in old]
            add_faces(session, "ads", ws.contract_id, new)
        join(ws, [new[0]])
        assert joined(ws, new) == [None, None], "uncalibrated, and the old ones are not looked at"
        ws.calibration = Calibration("small-ffffffffffff", calibrated.calibration.curves)  # type: ignore[union-attr]
        join(ws, new)
        assert joined(ws, new)[0] == joined(ws, new)[1] is not None
        assert set(joined(ws, new)).isdisjoint(joined(ws, old))


def test_clusters_go_with_their_faces(calibrated: Workspace) -> None:
    one, other = axes()[:2]
    case_id = make_case(calibrated, face_picture(1000))
    faces = add(calibrated, [one, towards(one, other, 0.98), towards(one, other, 0.97)])
    join(calibrated, faces)
    assert None not in joined(calibrated, faces)
    ads_of = [ad_of(calibrated, face_id) for face_id in faces]
    # The case keeps the first picture and its face, yet no ad shows it any more.
    forget.forget_ad(calibrated, ads_of[0])
    assert images.get_face(calibrated, faces[0]).face_id == faces[0]
    assert joined(calibrated, faces)[0] is None
    forget.forget_ad(calibrated, ads_of[1])
    assert joined(calibrated, faces)[1] is None
    assert joined(calibrated, faces)[2] is not None
    assert case_id


def ad_of(ws: Workspace, face_id: str) -> str:
    return next(iter(images.owners(ws, images.get_face(ws, face_id).sha256).ad_ids))


def test_a_face_that_left_the_gallery_is_not_joined(calibrated: Workspace) -> None:
    one, other = axes()[:2]
    near = towards(one, other, 0.98)
    faces = add(calibrated, [one, near])
    forget.forget_ad(calibrated, ad_of(calibrated, faces[0]))
    join_clusters(calibrated, {faces[0]: one, faces[1]: near})
    assert joined(calibrated, faces) == [None, None]


def test_the_nearest_is_forgotten_between_search_and_decision(calibrated: Workspace) -> None:
    one, other = axes()[:2]
    near = towards(one, other, 0.98)
    faces = add(calibrated, [one, near])
    known = calibrated.calibration
    assert known is not None

    class Slow(Calibration):
        """Asked for its limits after the search: meanwhile the ad is forgotten."""

        def threshold(self, fmr: float, photos: int = 1) -> float:
            if calibrated.ads.count() == 2:
                forget.forget_ad(calibrated, ad_of(calibrated, faces[0]))
            return super().threshold(fmr, photos)

    calibrated.calibration = Slow(known.contract_id, known.curves)
    join_clusters(calibrated, {faces[1]: near})
    assert calibrated.ads.count() == 1
    assert joined(calibrated, faces) == [None, None]


@pytest.mark.parametrize("size", [0, 10, 1_000])
def test_limits_rise_with_the_gallery(size: int) -> None:
    assert cluster_limits(STEEP, size) == cluster_limits(STEEP, 1_000)
    larger = [cluster_limits(STEEP, n) for n in (1_000, 10_000, 10**6, 10**9)]
    assert all(a.nearest <= b.nearest for a, b in itertools.pairwise(larger))
    assert all(a.member <= a.nearest <= IDENTICAL for a in larger)


def test_limits_beyond_the_calibration_are_stricter_never_looser() -> None:
    short = curve((0.5, 1e-2), (0.7, 1e-3), (0.72, 1e-4), (0.8, 5e-5))
    # Drawn on at 0.02 a decade from 0.72, and never below the highest score that was measured.
    assert cluster_limits(short, 1_000).nearest == 0.8
    assert cluster_limits(short, 10**9).nearest == pytest.approx(
        0.72 + 0.02 * (8 + np.log10(1 / 3))
    )
    poor = curve((0.5, 1e-1), (0.9, 5e-3))
    assert cluster_limits(poor, 10).nearest == IDENTICAL
    assert cluster_limits(None, 10).member == IDENTICAL
