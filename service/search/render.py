"""Candidate lists as plain JSON values, the same wherever they are shown."""

from __future__ import annotations

from typing import Any

from indexer.links import Link
from indexer.records import AdSummary, FaceSummary, LeadRecord
from indexer.times import moment_text
from models.types import Box, Quality
from service.search.rank import Candidate, CandidateList, PhotoSearchList


def box_json(box: Box) -> dict[str, float]:
    """Pixels of the upright image."""
    return {"x": box.x, "y": box.y, "width": box.width, "height": box.height}


def quality_json(quality: Quality) -> dict[str, Any]:
    """Score, components and the reasons among them."""
    return {
        "score": quality.score,
        "components": [
            {
                "name": part.name,
                "value": part.value,
                "unit": part.unit,
                "score": part.score,
                "reason": part.reason,
            }
            for part in quality.components
        ],
        "reasons": list(quality.reasons),
    }


def face_json(face: FaceSummary) -> dict[str, Any]:
    """A face that was found in a picture, with its number."""
    return {
        "face_index": face.face_index,
        "box": box_json(face.box),
        "detection_score": face.detection_score,
        "quality": quality_json(face.quality),
    }


def candidates_json(found: CandidateList) -> dict[str, Any]:
    """The list with the names that the HTTP interface uses."""
    values: dict[str, Any] = {
        "case_id": found.case_id,
        "contract_id": found.contract_id,
        "gallery_size": found.gallery_size,
        "k": found.k,
        "threshold": found.threshold,
        "alert_expected_false_candidates": found.alert_expected_false_candidates,
        "alert_tightened": found.alert_tightened,
        "alerts_this_week": found.alerts_this_week,
        "alert_budget": found.alert_budget,
        "search_state": {
            "state": found.search_state.state,
            "up_to": moment_text(found.search_state.up_to),
        },
        "items": [_candidate(item) for item in found.items],
        "calibrated": found.calibrated,
        "calibration": found.calibration,
        "notice": found.notice,
    }
    if isinstance(found, PhotoSearchList):
        values |= {
            "search_id": found.search_id,
            "purpose": found.purpose,
            "faces": [face_json(face) for face in found.faces],
            "face_index": found.face_index,
        }
    return values


def _candidate(item: Candidate) -> dict[str, Any]:
    return {
        "candidate_id": item.candidate_id,
        "rank": item.rank,
        "score": item.score,
        "false_match_rate": item.false_match_rate,
        "false_match_rate_upper": item.false_match_rate_upper,
        "false_match_rate_resolved": item.false_match_rate_resolved,
        "expected_false_candidates": item.expected_false_candidates,
        "expected_false_candidates_upper": item.expected_false_candidates_upper,
        "band": item.band,
        "calibrated": item.calibrated,
        "rate_notes": list(item.rate_notes),
        "status": item.status,
        "photos_fused": item.photos_fused,
        "person_face_id": item.person_face_id,
        "face": {
            "face_id": item.face.face_id,
            "box": box_json(item.face.box),
            "quality": quality_json(item.face.quality),
        },
        "image_sha256": item.image_sha256,
        "ad": _ad(item.ad),
        "lead": _lead(item.lead),
        "links": [_link(link) for link in item.links],
    }


def _link(link: Link) -> dict[str, Any]:
    return {
        "link_id": link.link_id,
        "kind": link.kind,
        "agency": link.agency,
        "since": moment_text(link.since),
        "request_id": link.request_id,
        "state": link.state,
    }


def _ad(ad: AdSummary) -> dict[str, Any]:
    return {
        "ad_id": ad.ad_id,
        "site": ad.site,
        "external_id": ad.external_id,
        "url": ad.url,
        "title": ad.title,
        "posted_at": moment_text(ad.posted_at),
        "city": ad.city,
        "region": ad.region,
    }


def _lead(lead: LeadRecord) -> dict[str, Any]:
    return {
        "lead_id": lead.lead_id,
        "ads": lead.ads,
        "images": lead.images,
        "first_seen": moment_text(lead.first_seen),
        "last_seen": moment_text(lead.last_seen),
    }
