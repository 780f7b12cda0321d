"""What tests of alerts need: a calibration of the small analyser, and short ways to send things."""

from __future__ import annotations

import numpy as np
from sqlalchemy import select

from indexer import ads, cases, jobs
from indexer.catalog.tables import Alert, Candidate, Face
from indexer.records import AdInput, AdReceipt, CaseInput, Upload
from indexer.workspace import Workspace
from models.calibration import Calibration, Curve
from tests.indexer.small import CONTRACT, face_picture

# Two photos of one person score about 0.8, two people about 0 (standard deviation 0.18).
_CURVE = Curve(
    score=np.array([-1.0, 0.2, 0.5, 0.6, 0.7, 0.9]),
    fmr=np.array([1.0, 0.1, 1e-2, 1e-3, 1e-4, 0.0]),
    upper=np.array([1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5]),
)
CALIBRATION = Calibration(CONTRACT, {1: _CURVE, 2: _CURVE, 3: _CURVE, 4: _CURVE}, {})


def open_case(ws: Workspace, person: int, photo: int = 90, **fields: object) -> str:
    """A case with one enrolled photo of this person; its search waits as a job."""
    made = cases.create_case(
        ws,
        CaseInput(case_number=f"case-{person}-{photo}", **fields),  # type: ignore[arg-type]
    )
    cases.add_photo(ws, made.case_id, face_picture(person, photo))
    return made.case_id


def send(ws: Workspace, name: str, *pictures: bytes, **fields: object) -> AdReceipt:
    ad = AdInput(site="site-a.example", external_id=name, **fields)  # type: ignore[arg-type]
    return ads.receive_ad(ws, ad, [Upload(data) for data in pictures])


def show(ws: Workspace, name: str, *pictures: bytes) -> AdReceipt:
    """Send an ad and do what waits."""
    receipt = send(ws, name, *pictures)
    jobs.run_pending(ws)
    return receipt


def alerts_of(ws: Workspace, case_id: str | None = None) -> list[Alert]:
    with ws.catalog.read() as session:
        query = select(Alert).order_by(Alert.seq)
        if case_id is not None:
            query = query.where(Alert.case_id == case_id)
        return list(session.scalars(query))


def candidate_of(ws: Workspace, case_id: str, sha256: str) -> Candidate:
    """The stored candidate of a case in the picture with this digest."""
    with ws.catalog.read() as session:
        return session.scalars(
            select(Candidate)
            .join(Face, Face.face_id == Candidate.face_id)
            .where(Candidate.case_id == case_id, Face.sha256 == sha256)
        ).one()
