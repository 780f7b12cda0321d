"""What has to hold after whatever happened: found out from the catalog, face by face."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import func, select

from indexer.alerting import LEAST_GALLERY
from indexer.catalog import Catalog, open_catalog
from indexer.catalog.engine import sqlite_url
from indexer.catalog.tables import (
    Ad,
    Alert,
    Candidate,
    Capture,
    CaptureImage,
    Case,
    Enrolment,
    Face,
    GalleryMember,
    ImageAnalysis,
    Job,
    Photo,
    RunnerRow,
)
from indexer.vectors.base import exact_scores
from models.calibration import Calibration


@dataclass(frozen=True, slots=True)
class Found:
    """What was counted while checking."""

    ads: int
    faces: int
    told: int
    alerts: int
    jobs: Mapping[str, int]


def open_read(folder: Path, catalog_url: str | None) -> Catalog:
    return open_catalog(catalog_url or sqlite_url(folder / "catalog.sqlite3"))


def open_jobs(catalog: Catalog) -> int:
    """Jobs that are queued or running."""
    with catalog.read() as session:
        query = select(func.count()).where(Job.state.in_(("queued", "running")))
        return session.scalar(query) or 0


def check(
    catalog: Catalog,
    calibration: Calibration,
    contract_id: str,
    acknowledged: Mapping[str, tuple[str, Collection[str]]],
    case_ids: Collection[str],
) -> Found:
    """Every acknowledged ad is there once with all its images; every face was put into the gallery
    and compared with every case; every alert was raised, and once.

    ``acknowledged``: external id to (ad id, SHA-256 of its images). ``case_ids``: acknowledged
    cases, each with one photo.
    """
    with catalog.read() as session:
        jobs = Counter(session.scalars(select(Job.state)))
        assert set(jobs) <= {"done"}, f"jobs are left: {dict(jobs)}"
        ads = {row.external_id: row.ad_id for row in session.scalars(select(Ad))}
        images: dict[str, list[str]] = {}
        for ad_id, sha256 in session.execute(
            select(Capture.ad_id, CaptureImage.sha256).join(
                CaptureImage, CaptureImage.capture_id == Capture.capture_id
            )
        ):
            if sha256 is not None:
                images.setdefault(ad_id, []).append(sha256)
        for external_id, (ad_id, shas) in acknowledged.items():
            assert ads.get(external_id) == ad_id, f"{external_id} is lost or doubled"
            assert sorted(images.get(ad_id, [])) == sorted(shas), f"images of {external_id}"
        captures = session.execute(
            select(Capture.ad_id, func.count()).group_by(Capture.ad_id).having(func.count() > 1)
        ).all()
        assert captures == [], "a capture is doubled"

        analysed = set(session.scalars(select(ImageAnalysis.sha256)))
        shown = {sha256 for group in images.values() for sha256 in group}
        assert shown <= analysed, "an image was not analysed"
        vectors = {
            face_id: vector
            for face_id, sha256, vector in session.execute(
                select(Face.face_id, Face.sha256, Face.vector).where(
                    Face.contract_id == contract_id
                )
            )
            if sha256 in shown and vector is not None
        }
        members = set(
            session.scalars(select(GalleryMember.face_id).where(GalleryMember.gallery == "ads"))
        )
        assert members == set(vectors), "the gallery does not hold the faces of the ads"

        cases = set(session.scalars(select(Case.case_id)))
        assert set(case_ids) <= cases, "a case is lost"
        face_ids = sorted(vectors)
        matrix = np.stack([vectors[face_id] for face_id in face_ids])
        assert len(face_ids) <= LEAST_GALLERY, "the limit would have changed on the way"
        told = alerts = 0
        for case_id, probe in session.execute(
            select(Photo.case_id, Face.vector)
            .join(Enrolment, Enrolment.photo_id == Photo.photo_id)
            .join(Face, Face.face_id == Enrolment.face_id)
        ):
            assert probe is not None
            scores = exact_scores(probe, matrix)
            rare = {
                face_id
                for face_id, score in zip(face_ids, scores, strict=True)
                if calibration.fmr(min(1.0, float(score)), 1).upper * LEAST_GALLERY <= 1.0
            }
            rows = {
                row.face_id: row
                for row in session.scalars(select(Candidate).where(Candidate.case_id == case_id))
            }
            assert rare <= set(rows), "a face was not compared with a case"
            sightings = [
                alert.sighting_id
                for alert in session.scalars(select(Alert).where(Alert.case_id == case_id))
            ]
            assert len(sightings) == len(set(sightings)), "an alert is doubled"
            assert set(sightings) == {rows[face_id].sighting_id for face_id in rare}, (
                "an alert is lost, or one was raised for nothing"
            )
            told += len(rare)
            alerts += len(sightings)
        assert session.scalar(select(func.count()).select_from(Alert)) == alerts
        runners = session.scalar(select(func.count()).select_from(RunnerRow)) or 0
        assert runners <= 4, "rows of dead processes pile up"
    return Found(len(ads), len(face_ids), told, alerts, jobs)
