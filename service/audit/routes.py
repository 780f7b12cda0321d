"""Which act each route is: the one table that the audit of requests goes by.

A new route of the API or the pages gets its line here; a test fails until it has one. The name is
recorded for a read, for every refusal, and for an act that did not record itself in its own
transaction. A line of :data:`UNRECORDED` says why nothing is recorded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

ACTIONS: Final[Mapping[str, str]] = {
    # --- the API
    "POST /v1/cases": "case.create",
    "GET /v1/cases": "case.list",
    "GET /v1/cases/{case_id}": "case.read",
    "PATCH /v1/cases/{case_id}": "case.update",
    "DELETE /v1/cases/{case_id}": "case.forget",
    "POST /v1/cases/{case_id}/photos": "photo.add",
    "DELETE /v1/cases/{case_id}/photos/{photo_id}": "photo.forget",
    "GET /v1/cases/{case_id}/candidates": "candidates.read",
    "POST /v1/cases/{case_id}/search": "search.photo",
    "POST /v1/candidates/{candidate_id}/judgements": "judgement.create",
    "POST /v1/ads": "ad.accept",
    "POST /v1/ads/batch": "ad.accept",
    "GET /v1/ads": "ad.list",
    "GET /v1/ads/{ad_id}": "ad.read",
    "DELETE /v1/ads/{ad_id}": "ad.forget",
    "GET /v1/jobs/{job_id}": "job.read",
    "GET /v1/jobs/{job_id}/events": "job.stream",
    "GET /v1/images/{sha256}": "image.read",
    "PUT /v1/images/{sha256}": "image.stage",
    "GET /v1/faces/{face_id}/crop": "face.read",
    "GET /v1/alerts": "alert.list",
    "GET /v1/alerts/{alert_id}": "alert.read",
    "GET /v1/alerts/events": "alert.stream",
    "POST /v1/webhooks": "webhook.create",
    "GET /v1/webhooks": "webhook.list",
    "DELETE /v1/webhooks/{webhook_id}": "webhook.remove",
    "GET /v1/generations": "generation.list",
    "GET /v1/generations/{contract_id}/comparison": "comparison.read",
    "POST /v1/generations/{contract_id}/activate": "generation.switch",
    "POST /v1/generations/rollback": "generation.roll_back",
    "GET /v1/approvals": "approval.list",
    "GET /v1/cases/{case_id}/approvals": "approval.list",
    "POST /v1/cases/{case_id}/approvals": "approval.ask",
    "POST /v1/approvals/{approval_id}/decision": "approval.decide",
    "GET /v1/holds": "hold.list",
    "PUT /v1/cases/{case_id}/hold": "hold.set",
    "DELETE /v1/cases/{case_id}/hold": "hold.lift",
    "PUT /v1/ads/{ad_id}/hold": "hold.set",
    "DELETE /v1/ads/{ad_id}/hold": "hold.lift",
    "POST /v1/images/{sha256}/flag": "picture.flag",
    "GET /v1/withheld": "withheld.list",
    "POST /v1/withheld/{withheld_sha256}/settle": "picture.settle",
    "POST /v1/candidates/{candidate_id}/link-requests": "link.ask",
    "GET /v1/link-requests": "link.list",
    "POST /v1/link-requests/{link_request_id}/answer": "link.answer",
    "GET /v1/audit": "audit.read",
    "GET /v1/audit/head": "audit.head",
    "GET /v1/reports/transparency/{year}": "report.read",
    "POST /v1/users": "user.create",
    "GET /v1/users": "user.list",
    "GET /v1/users/{user_id}": "user.read",
    "PATCH /v1/users/{user_id}": "user.change",
    "POST /v1/users/{user_id}/reset": "user.reset",
    "GET /v1/users/{user_id}/sessions": "session.list",
    "DELETE /v1/users/{user_id}/sessions": "session.end",
    "DELETE /v1/users/{user_id}/sessions/{session_id}": "session.end",
    "POST /v1/agencies": "agency.create",
    "GET /v1/agencies": "agency.list",
    "PATCH /v1/agencies/{name}": "agency.change",
    "POST /v1/keys": "key.create",
    "GET /v1/keys": "key.list",
    "DELETE /v1/keys/{key_id}": "key.revoke",
    # --- the pages
    "POST /sign-in": "sign_in.try",
    "GET /sign-in/provider/back": "sign_in.try",
    "POST /sign-in/provider/code": "sign_in.try",
    "POST /sign-out": "sign_out.done",
    "GET /sign-in/provider": "sign_in.try",
    "POST /welcome": "session.begin",
    "GET /setup": "user.set_up_form",
    "POST /setup": "user.create",
    "GET /account/set-up": "user.set_up_form",
    "POST /account/set-up": "user.set_up",
    "GET /account/second-factor.svg": "user.set_up_form",
    "GET /account": "account.read",
    "POST /account/password": "user.change",
    "GET /account/second-factor": "user.set_up_form",
    "POST /account/second-factor": "user.change",
    "POST /account/recovery-codes": "user.change",
    "POST /account/sessions/end": "session.end",
    "POST /account/sessions/{session_id}/end": "session.end",
    "GET /people": "user.list",
    "POST /people": "user.create",
    "POST /people/agencies": "agency.create",
    "POST /people/agencies/retire": "agency.change",
    "GET /people/{user_id}": "user.read",
    "POST /people/{user_id}": "user.change",
    "POST /people/{user_id}/disabled": "user.change",
    "POST /people/{user_id}/reset": "user.reset",
    "POST /people/{user_id}/sessions/end": "session.end",
    "GET /keys": "key.list",
    "POST /keys": "key.create",
    "POST /keys/{key_id}/revoke": "key.revoke",
    "GET /cases": "case.list",
    "GET /cases/new": "case.create_form",
    "POST /cases/new": "case.create",
    "GET /cases/{case_id}": "case.read",
    "GET /cases/{case_id}/edit": "case.update_form",
    "POST /cases/{case_id}/edit": "case.update",
    "GET /cases/{case_id}/end": "case.update_form",
    "POST /cases/{case_id}/end": "case.update",
    "GET /cases/{case_id}/reopen": "case.update_form",
    "POST /cases/{case_id}/reopen": "case.update",
    "GET /cases/{case_id}/delete": "case.forget_form",
    "POST /cases/{case_id}/delete": "case.forget",
    "POST /cases/{case_id}/photos": "photo.add",
    "GET /cases/{case_id}/photos/choose/{held_id}": "photo.add_form",
    "POST /cases/{case_id}/photos/choose/{held_id}": "photo.add",
    "GET /cases/{case_id}/photos/{photo_id}/delete": "photo.forget_form",
    "POST /cases/{case_id}/photos/{photo_id}/delete": "photo.forget",
    "GET /cases/{case_id}/photos/{photo_id}/whole": "photo.read_form",
    "GET /cases/{case_id}/photos/{photo_id}/whole.jpg": "photo.read",
    "GET /cases/{case_id}/search": "search.form",
    "POST /cases/{case_id}/search": "search.photo",
    "GET /cases/{case_id}/search/choose/{held_id}": "search.form",
    "POST /cases/{case_id}/search/choose/{held_id}": "search.photo",
    "GET /cases/{case_id}/candidates/{candidate_id}/picture": "picture.reveal_form",
    "POST /cases/{case_id}/candidates/{candidate_id}/picture": "picture.reveal",
    "GET /cases/{case_id}/candidates/{candidate_id}/picture.jpg": "picture.read",
    "GET /cases/{case_id}/approvals": "approval.list",
    "POST /cases/{case_id}/approvals": "approval.ask",
    "GET /approvals": "approval.list",
    "GET /approvals/{approval_id}": "approval.decide_form",
    "POST /approvals/{approval_id}": "approval.decide",
    "GET /holds": "hold.list",
    "GET /cases/{case_id}/hold": "hold.set_form",
    "POST /cases/{case_id}/hold": "hold.change",
    "GET /ads/{ad_id}/hold": "hold.set_form",
    "POST /ads/{ad_id}/hold": "hold.change",
    "GET /reports/transparency": "report.read",
    "GET /faces/{face_id}": "face.read",
    "GET /held/{held_id}/preview": "held.read",
    "GET /held/{held_id}/faces/{index}": "held.read",
    "GET /alerts": "alert.list",
    "GET /jobs": "job.list",
    "GET /generations": "generation.list",
    "GET /generations/{contract_id}/comparison": "comparison.read",
    "GET /generations/{contract_id}/comparison/{case_id}": "comparison.read_case",
    "GET /generations/{contract_id}/switch": "generation.switch_form",
    "POST /generations/{contract_id}/switch": "generation.switch",
    "GET /generations/rollback": "generation.roll_back_form",
    "POST /generations/rollback": "generation.roll_back",
    "GET /faces/{face_id}/flag": "picture.flag_form",
    "GET /pictures/{sha256}/flag": "picture.flag_form",
    "POST /pictures/{sha256}/flag": "picture.flag",
    "GET /withheld": "withheld.list",
    "POST /withheld/{withheld_sha256}/settle": "picture.settle",
    "GET /links": "link.list",
    "GET /links/{link_request_id}": "link.read",
    "POST /links/{link_request_id}": "link.answer",
    "GET /cases/{case_id}/candidates/{candidate_id}/link": "link.ask_form",
    "POST /cases/{case_id}/candidates/{candidate_id}/link": "link.ask",
    "GET /audit": "audit.read",
}

UNRECORDED: Final[Mapping[str, str]] = {
    "GET /": "It leads to the list of cases.",
    "GET /sign-in": "The form shows nothing; what is sent with it is recorded.",
    "GET /welcome": "The form shows nothing; what is sent with it is recorded.",
    "GET /static/{name}": "Style and script, the same for everybody.",
    "GET /about": "Versions and licences.",
    "GET /healthz": "It says that the process answers.",
    "GET /readyz": "It is asked every few seconds and shows two counts.",
    "GET /metrics": "It is asked every few seconds and shows counts.",
    "GET /openapi.json": "The description of the interface.",
}

SUBJECTS: Final[Mapping[str, str]] = {
    "case_id": "case",
    "photo_id": "photo",
    "candidate_id": "candidate",
    "ad_id": "ad",
    "job_id": "job",
    "sha256": "image",
    "face_id": "face",
    "alert_id": "alert",
    "webhook_id": "webhook",
    "approval_id": "approval",
    "link_request_id": "link_request",
    "contract_id": "generation",
}
"""What an id in an address is the id of; others, such as those of held uploads, are not recorded:
they open what is held."""


def _pattern(template: str) -> re.Pattern[str]:
    words = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(
            re.escape(word) if place % 2 == 0 else f"(?P<{word}>[^/]+)"
            for place, word in enumerate(words)
        )
    )


def _by_method() -> dict[str, list[tuple[re.Pattern[str], str]]]:
    found: dict[str, list[tuple[re.Pattern[str], str]]] = {}
    # Addresses without ids first: `/cases/new` is no case.
    for line in sorted([*ACTIONS, *UNRECORDED], key=lambda line: (line.count("{"), line)):
        method, _, template = line.partition(" ")
        found.setdefault(method, []).append((_pattern(template), line))
    return found


_PATTERNS: Final = _by_method()


def line_of(method: str, path: str) -> tuple[str, dict[str, str]] | None:
    """The line of the table that a request is for, and the ids in its address; ``None`` if there
    is no such address."""
    for pattern, line in _PATTERNS.get("GET" if method == "HEAD" else method, ()):
        found = pattern.fullmatch(path)
        if found is not None:
            return line, found.groupdict()
    return None
