"""Who may use which route: one line for each, written down apart from the code that decides.

A new route needs a line here, or ``test_access_matrix`` fails. Its key is ``METHOD path`` as in
the router. ``who``: the roles that may use it; the full key always may. Then, where needed:

Where the address names a record of an agency (by the names in ``service.accounts.access.OWNED``),
``Seed.ids`` holds the id of one of the agency "north", and for the other agency it does not exist
(404); the test finds that out by itself.

- ``blind``: roles that hold the permission and still never see this record (404).
- ``installation``: the answer holds ids of all agencies, by design; words of cases it never does.
- ``ok``: the statuses that count as success, also documented answers such as "none is kept".
- ``send``: the body, as a function of the seed and the caller: ``json``, ``form`` (fields),
  ``photo`` (bytes), or what the client takes.
- ``fresh``: makes records that an allowed call may use up, and returns their ids.
- ``everywhere``: only callers who work for all agencies may use it (403 for the others).
- ``open_to_all``: no credentials are needed at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from indexer import holds
from indexer.acting import Acting, begin
from indexer.times import utc_now
from indexer.withheld.rows import FLAG_REASONS, OUTCOMES
from tests.service.access_seed import NOBODY, Body, Caller, Fresh, Seed


def nothing(_seed: Seed, _caller: Caller) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Line:
    """What one route promises."""

    who: tuple[str, ...] = ()
    ok: tuple[int, ...] = (200,)
    send: Body = nothing
    fresh: Fresh | None = None
    blind: tuple[str, ...] = ()
    installation: bool = False
    open_to_all: bool = False
    stream: bool = False
    own_session: bool = False
    everywhere: bool = False


HOLD: Final = get_args(holds.HoldReason)[0]
SUPERVISOR: Final = ("supervisor",)
CASE_WORK: Final = ("investigator", "supervisor")
ADMIN: Final = ("administrator",)
AUDITOR: Final = ("auditor",)
REPORTS: Final = ("supervisor", "auditor", "administrator")
EVERYBODY: Final = ("scraper", *CASE_WORK, "auditor", "administrator")
JOBS: Final = ("scraper", *CASE_WORK, "administrator")
NOT_CASES: Final = ("scraper", "administrator")
"""They may read jobs, but not those of cases."""


def as_json(**values: Any) -> Body:
    return lambda _seed, _caller: {"json": values}


def form(**values: str) -> Body:
    return lambda _seed, _caller: {"form": values}


def fresh_case(seed: Seed, _caller: Caller) -> Mapping[str, str]:
    return seed.case()


def fresh_ad(seed: Seed, _caller: Caller) -> Mapping[str, str]:
    return seed.ad()


def fresh_webhook(seed: Seed, _caller: Caller) -> Mapping[str, str]:
    return seed.webhook()


def held(aim: str) -> Fresh:
    def make(seed: Seed, caller: Caller) -> Mapping[str, str]:
        return seed.hold(caller, seed.ids["case_id"], aim)

    return make


def ended(seed: Seed, _caller: Caller) -> Mapping[str, str]:
    from indexer.cases import update_case

    made = seed.case()
    update_case(seed.ws, made["case_id"], {"status": "closed"})
    return made


def suspended(seed: Seed, _caller: Caller) -> Mapping[str, str]:
    return seed.suspended()


def approval(seed: Seed, _caller: Caller) -> Mapping[str, str]:
    return seed.approval()


def fresh_candidate(seed: Seed, _caller: Caller) -> Mapping[str, str]:
    return seed.candidate(seed.case())


def question(seed: Seed, _caller: Caller) -> Mapping[str, str]:
    return seed.question()


def plain_picture(seed: Seed, _caller: Caller) -> Mapping[str, str]:
    return seed.plain_picture()


def withheld(seed: Seed, _caller: Caller) -> Mapping[str, str]:
    return seed.withheld()


def of_case(seed: Seed, _caller: Caller) -> Mapping[str, Any]:
    return {"params": {"case_id": seed.ids["case_id"]}}


def flagged(seed: Seed, _caller: Caller) -> Mapping[str, Any]:
    return {"json": {"case_id": seed.ids["case_id"], "reason": FLAG_REASONS[0]}}


def flagged_form(seed: Seed, _caller: Caller) -> Mapping[str, Any]:
    return {"form": {"case_id": seed.ids["case_id"], "reason": FLAG_REASONS[0]}}


def on_hold(kind: Literal["case", "ad"]) -> Fresh:
    """A case or an ad with a hold that the caller's agency has set."""

    def make(seed: Seed, caller: Caller) -> Mapping[str, str]:
        made = seed.case() if kind == "case" else seed.ad()
        with begin(Acting(agency=caller.agency)):
            holds.set_hold(seed.ws, kind, made[f"{kind}_id"], HOLD)
        return made

    return make


def new_case(seed: Seed, _caller: Caller) -> Mapping[str, Any]:
    return {"json": {"case_number": f"made-{next(seed.numbers)}", "person": {}}}


def new_case_form(seed: Seed, _caller: Caller) -> Mapping[str, Any]:
    return {"form": {"case_number": f"made-{next(seed.numbers)}"}}


def edited(seed: Seed, caller: Caller) -> Mapping[str, Any]:
    return {"form": {"case_number": f"edited-{next(seed.numbers)}"}}


def photo(**values: str) -> Body:
    def make(seed: Seed, _caller: Caller) -> Mapping[str, Any]:
        return {"form": values, "photo": seed.pictures["portrait"]}

    return make


def an_ad(seed: Seed, _caller: Caller) -> Mapping[str, Any]:
    ad = {"site": "site-a.example", "external_id": f"sent-{next(seed.numbers)}"}
    return {"files": [("ad", (None, json.dumps(ad), "application/json"))]}


def a_batch(seed: Seed, _caller: Caller) -> Mapping[str, Any]:
    line = {"site": "site-a.example", "external_id": f"line-{next(seed.numbers)}"}
    return {
        "content": json.dumps(line).encode(),
        "headers": {"content-type": "application/x-ndjson"},
    }


def new_user(seed: Seed, _caller: Caller) -> Mapping[str, Any]:
    return {"json": {"login": f"made{next(seed.numbers)}", "roles": ["administrator"]}}


def new_user_form(seed: Seed, caller: Caller) -> Mapping[str, Any]:
    values = {"login": f"made{next(seed.numbers)}", "agency": caller.agency or "*"}
    return {"form": {**values, "role_administrator": "yes"}}


def new_key_form(seed: Seed, caller: Caller) -> Mapping[str, Any]:
    return {"form": {"name": "made", "agency": caller.agency or "*", "role_administrator": "yes"}}


def new_agency(seed: Seed, _caller: Caller) -> Mapping[str, Any]:
    return {"json": {"name": f"made-{next(seed.numbers)}"}}


def new_agency_form(seed: Seed, _caller: Caller) -> Mapping[str, Any]:
    return {"form": {"agency_name": f"made-{next(seed.numbers)}", "agency_title": ""}}


def person(seed: Seed, caller: Caller) -> Mapping[str, str]:
    return seed.person(caller)


def key(seed: Seed, caller: Caller) -> Mapping[str, str]:
    return seed.key(caller)


def agency(_seed: Seed, _caller: Caller) -> Mapping[str, str]:
    return {"name": "north"}


def own_session(seed: Seed, caller: Caller) -> Mapping[str, str]:
    return seed.own_session(caller)


def forgotten_session(seed: Seed, caller: Caller) -> Mapping[str, str]:
    """The session that the other lines use ends with this one."""
    seed.cookies.pop(caller, None)
    return {}


def a_picture(seed: Seed, _caller: Caller) -> Mapping[str, Any]:
    return {
        "content": seed.pictures["other"],
        "headers": {"content-type": "application/octet-stream"},
    }


def its_digest(seed: Seed, _caller: Caller) -> Mapping[str, str]:
    return {"sha256": seed.other_sha256}


def sealed(seed: Seed, caller: Caller) -> Mapping[str, Any]:
    """The seal that the page of the picture carries, for the session that gave its reason."""
    import hashlib
    import hmac

    if caller.role == NOBODY:
        return {"params": {"seal": "x"}}
    text = seed.ids["candidate_id"].encode()
    seal = hmac.new(seed.cookie(caller).encode(), text, hashlib.sha256).hexdigest()
    return {"params": {"seal": seal}}


def this_year(_seed: Seed, _caller: Caller) -> Mapping[str, str]:
    return {"year": str(utc_now().year)}


TABLE: Final[dict[str, Line]] = {
    # --- the interface -----------------------------------------------------------------------
    "GET /openapi.json": Line(open_to_all=True),
    "GET /healthz": Line(open_to_all=True),
    "GET /readyz": Line(open_to_all=True),
    "GET /metrics": Line(open_to_all=True),
    "POST /v1/cases": Line(CASE_WORK, (201,), new_case),
    "GET /v1/cases": Line(CASE_WORK),
    "GET /v1/cases/{case_id}": Line(CASE_WORK),
    "PATCH /v1/cases/{case_id}": Line(CASE_WORK, send=as_json(alert_budget=50), fresh=fresh_case),
    "DELETE /v1/cases/{case_id}": Line(CASE_WORK, (204,), fresh=fresh_case),
    "POST /v1/cases/{case_id}/photos": Line(CASE_WORK, (201,), photo()),
    "DELETE /v1/cases/{case_id}/photos/{photo_id}": Line(CASE_WORK, (204,), fresh=fresh_case),
    "GET /v1/cases/{case_id}/candidates": Line(CASE_WORK),
    "POST /v1/candidates/{candidate_id}/judgements": Line(
        CASE_WORK, (201,), as_json(conclusion="inconclusive", reason="too dark")
    ),
    "POST /v1/cases/{case_id}/search": Line(CASE_WORK, send=photo(purpose="verify_sighting")),
    "POST /v1/ads": Line(("scraper",), (202,), an_ad),
    "POST /v1/ads/batch": Line(("scraper",), send=a_batch),
    "GET /v1/ads": Line(("scraper", *CASE_WORK)),
    "GET /v1/ads/{ad_id}": Line(("scraper", *CASE_WORK)),
    "DELETE /v1/ads/{ad_id}": Line(ADMIN, (204,), fresh=fresh_ad, everywhere=True),
    "GET /v1/jobs/{job_id}": Line(JOBS, blind=NOT_CASES),
    "GET /v1/jobs/{job_id}/events": Line(JOBS, blind=NOT_CASES),
    "GET /v1/alerts": Line(CASE_WORK),
    "GET /v1/alerts/events": Line(CASE_WORK, stream=True),
    "GET /v1/alerts/{alert_id}": Line(CASE_WORK),
    "POST /v1/webhooks": Line(ADMIN, (201,), as_json(url="https://8.8.8.8/in")),
    "GET /v1/webhooks": Line(ADMIN),
    "DELETE /v1/webhooks/{webhook_id}": Line(ADMIN, (204,), fresh=fresh_webhook),
    "GET /v1/images/{sha256}": Line(CASE_WORK),
    "PUT /v1/images/{sha256}": Line(("scraper",), (200, 201), a_picture, its_digest),
    "GET /v1/faces/{face_id}/crop": Line(CASE_WORK),
    "POST /v1/images/{sha256}/flag": Line(CASE_WORK, send=flagged, fresh=plain_picture),
    "GET /v1/withheld": Line(SUPERVISOR),
    "POST /v1/withheld/{sha256}/settle": Line(
        SUPERVISOR, send=as_json(outcome=OUTCOMES[0]), fresh=withheld
    ),
    "GET /v1/generations": Line(ADMIN, everywhere=True),
    # No comparison was made; three permissions at once, which no single role holds.
    "GET /v1/generations/{contract_id}/comparison": Line((), (404,)),
    # It is in use already; and none before it is kept.
    "POST /v1/generations/{contract_id}/activate": Line(ADMIN, (200, 409), everywhere=True),
    "POST /v1/generations/rollback": Line(ADMIN, (409,), everywhere=True),
    "POST /v1/cases/{case_id}/approvals": Line(
        CASE_WORK, (201,), as_json(purpose="locate_missing_person"), suspended
    ),
    "GET /v1/cases/{case_id}/approvals": Line(CASE_WORK),
    "GET /v1/approvals": Line(SUPERVISOR),
    "POST /v1/approvals/{approval_id}/decision": Line(
        SUPERVISOR, send=as_json(decision="refuse"), fresh=approval
    ),
    "PUT /v1/cases/{case_id}/hold": Line(SUPERVISOR, send=as_json(reason=HOLD), fresh=fresh_case),
    "DELETE /v1/cases/{case_id}/hold": Line(SUPERVISOR, fresh=on_hold("case")),
    "PUT /v1/ads/{ad_id}/hold": Line(SUPERVISOR, send=as_json(reason=HOLD), fresh=fresh_ad),
    "DELETE /v1/ads/{ad_id}/hold": Line(SUPERVISOR, fresh=on_hold("ad")),
    "GET /v1/holds": Line(SUPERVISOR),
    "POST /v1/users": Line(ADMIN, (201,), new_user),
    "GET /v1/users": Line(ADMIN),
    "GET /v1/users/{user_id}": Line(ADMIN, fresh=person),
    "PATCH /v1/users/{user_id}": Line(ADMIN, send=as_json(disabled=True), fresh=person),
    "POST /v1/users/{user_id}/reset": Line(ADMIN, fresh=person),
    "GET /v1/users/{user_id}/sessions": Line(ADMIN, fresh=person),
    "DELETE /v1/users/{user_id}/sessions": Line(ADMIN, (204,), fresh=person),
    "DELETE /v1/users/{user_id}/sessions/{session_id}": Line(ADMIN, (204,), fresh=person),
    # Agencies are made and changed by those who work for all of them.
    "POST /v1/agencies": Line((), (201,), new_agency),
    "GET /v1/agencies": Line(ADMIN),
    "PATCH /v1/agencies/{name}": Line((), send=as_json(title="North"), fresh=agency),
    "POST /v1/keys": Line(ADMIN, (201,), as_json(name="made", roles=["administrator"])),
    "GET /v1/keys": Line(ADMIN),
    "DELETE /v1/keys/{key_id}": Line(ADMIN, (204,), fresh=key),
    "POST /v1/candidates/{candidate_id}/link-requests": Line(
        CASE_WORK, (201,), as_json(note="Who is this?"), fresh_candidate
    ),
    "GET /v1/link-requests": Line(CASE_WORK),
    "POST /v1/link-requests/{link_request_id}/answer": Line(
        SUPERVISOR, send=as_json(decision="share"), fresh=question
    ),
    "GET /v1/audit": Line(("auditor",), installation=True),
    "GET /v1/audit/head": Line(("auditor",)),
    # The year is not over.
    "GET /v1/reports/transparency/{year}": Line(REPORTS, (409,), fresh=this_year),
    # --- the pages ---------------------------------------------------------------------------
    "GET /": Line(open_to_all=True, ok=(303,)),
    "GET /sign-in": Line(open_to_all=True, ok=(200, 303)),
    # Without the form's own cookie, whoever sends it.
    "POST /sign-in": Line(open_to_all=True, ok=(403,)),
    "GET /welcome": Line(open_to_all=True, ok=(200, 303)),
    "POST /welcome": Line(open_to_all=True, ok=(403,)),
    # For keys while nobody has an account; others have one already.
    "GET /setup": Line(EVERYBODY, (303,)),
    "POST /setup": Line(EVERYBODY, (409,)),
    "GET /account/set-up": Line(EVERYBODY, (303,)),
    "POST /account/set-up": Line(EVERYBODY, (303,)),
    "GET /account/second-factor.svg": Line(EVERYBODY),
    "GET /account": Line(EVERYBODY),
    # The current password is not given.
    "POST /account/password": Line(EVERYBODY, (403,)),
    "GET /account/second-factor": Line(EVERYBODY),
    "POST /account/second-factor": Line(EVERYBODY, (403,)),
    "POST /account/recovery-codes": Line(EVERYBODY, (403,)),
    "POST /account/sessions/end": Line(
        EVERYBODY, (303,), fresh=forgotten_session, own_session=True
    ),
    "POST /account/sessions/{session_id}/end": Line(EVERYBODY, (303,), fresh=own_session),
    "GET /people": Line(ADMIN),
    "POST /people": Line(ADMIN, send=new_user_form),
    "POST /people/agencies": Line((), (303,), new_agency_form),
    "POST /people/agencies/retire": Line((), (303,), form(name="north", retired="no")),
    "GET /people/{user_id}": Line(ADMIN, fresh=person),
    "POST /people/{user_id}": Line(ADMIN, (303,), form(role_administrator="yes"), person),
    "POST /people/{user_id}/disabled": Line(ADMIN, (303,), form(disabled="yes"), person),
    "POST /people/{user_id}/reset": Line(ADMIN, fresh=person),
    "POST /people/{user_id}/sessions/end": Line(ADMIN, (303,), fresh=person),
    "GET /keys": Line(ADMIN),
    "POST /keys": Line(ADMIN, send=new_key_form),
    "POST /keys/{key_id}/revoke": Line(ADMIN, (303,), fresh=key),
    "GET /static/{name}": Line(open_to_all=True, ok=(404,)),
    "POST /sign-out": Line(EVERYBODY, (303,), own_session=True),
    # No provider is set up here.
    "GET /sign-in/provider": Line(open_to_all=True, ok=(404,)),
    "GET /sign-in/provider/back": Line(open_to_all=True, ok=(404,)),
    "POST /sign-in/provider/code": Line(open_to_all=True, ok=(403, 404)),
    "GET /audit": Line(("auditor",), installation=True),
    "GET /reports/transparency": Line(REPORTS),
    "GET /about": Line(EVERYBODY),
    "GET /jobs": Line(JOBS),
    "GET /alerts": Line(CASE_WORK),
    "GET /cases": Line(CASE_WORK),
    "GET /cases/new": Line(CASE_WORK),
    "POST /cases/new": Line(CASE_WORK, (303,), new_case_form),
    "GET /cases/{case_id}": Line(CASE_WORK),
    "GET /cases/{case_id}/edit": Line(CASE_WORK),
    "POST /cases/{case_id}/edit": Line(CASE_WORK, (303,), edited, fresh_case),
    "POST /cases/{case_id}/photos": Line(CASE_WORK, (303,), photo()),
    "GET /cases/{case_id}/photos/choose/{held_id}": Line(CASE_WORK, fresh=held("enrol")),
    "POST /cases/{case_id}/photos/choose/{held_id}": Line(
        CASE_WORK, (303,), form(face_index="0"), held("enrol")
    ),
    "GET /cases/{case_id}/photos/{photo_id}/whole": Line(CASE_WORK),
    "GET /cases/{case_id}/photos/{photo_id}/whole.jpg": Line(CASE_WORK),
    "GET /cases/{case_id}/photos/{photo_id}/delete": Line(CASE_WORK),
    "POST /cases/{case_id}/photos/{photo_id}/delete": Line(
        CASE_WORK, (303,), form(confirm="yes"), fresh_case
    ),
    "GET /cases/{case_id}/search": Line(CASE_WORK),
    "POST /cases/{case_id}/search": Line(CASE_WORK, send=photo(purpose="verify_sighting")),
    "GET /cases/{case_id}/search/choose/{held_id}": Line(CASE_WORK, fresh=held("search")),
    "POST /cases/{case_id}/search/choose/{held_id}": Line(
        CASE_WORK, send=form(face_index="0"), fresh=held("search")
    ),
    "GET /cases/{case_id}/candidates/{candidate_id}/picture": Line(CASE_WORK),
    "POST /cases/{case_id}/candidates/{candidate_id}/picture": Line(
        CASE_WORK, send=form(reason="check_face")
    ),
    "GET /cases/{case_id}/candidates/{candidate_id}/picture.jpg": Line(CASE_WORK, send=sealed),
    "GET /cases/{case_id}/end": Line(CASE_WORK),
    "POST /cases/{case_id}/end": Line(
        CASE_WORK, (303,), form(status="closed", confirm="yes"), fresh_case
    ),
    "GET /cases/{case_id}/reopen": Line(CASE_WORK),
    "POST /cases/{case_id}/reopen": Line(CASE_WORK, (303,), fresh=ended),
    "GET /cases/{case_id}/delete": Line(CASE_WORK),
    "POST /cases/{case_id}/delete": Line(CASE_WORK, (303,), form(confirm="yes"), fresh_case),
    "GET /faces/{face_id}": Line(CASE_WORK),
    "GET /faces/{face_id}/flag": Line(CASE_WORK, (303,), of_case),
    "GET /pictures/{sha256}/flag": Line(CASE_WORK, send=of_case),
    "POST /pictures/{sha256}/flag": Line(CASE_WORK, (303,), flagged_form, plain_picture),
    "GET /withheld": Line(SUPERVISOR),
    "POST /withheld/{sha256}/settle": Line(SUPERVISOR, (303,), form(outcome=OUTCOMES[0]), withheld),
    # Held for one session: whoever did not bring the photo finds nothing.
    "GET /held/{held_id}/preview": Line(CASE_WORK, fresh=held("enrol")),
    "GET /held/{held_id}/faces/{index}": Line(CASE_WORK, fresh=held("enrol")),
    "GET /cases/{case_id}/approvals": Line(CASE_WORK),
    "POST /cases/{case_id}/approvals": Line(
        CASE_WORK, (303,), form(purpose="locate_missing_person"), suspended
    ),
    "GET /approvals": Line(SUPERVISOR),
    "GET /approvals/{approval_id}": Line(SUPERVISOR),
    "POST /approvals/{approval_id}": Line(SUPERVISOR, (303,), form(decision="refuse"), approval),
    "GET /holds": Line(SUPERVISOR),
    "GET /links": Line(CASE_WORK),
    "GET /links/{link_request_id}": Line(CASE_WORK),
    "POST /links/{link_request_id}": Line(SUPERVISOR, (303,), form(decision="decline"), question),
    "GET /cases/{case_id}/candidates/{candidate_id}/link": Line(CASE_WORK),
    "POST /cases/{case_id}/candidates/{candidate_id}/link": Line(
        CASE_WORK, (303,), form(note="Who is this?"), fresh_candidate
    ),
    "GET /cases/{case_id}/hold": Line(SUPERVISOR),
    "POST /cases/{case_id}/hold": Line(
        SUPERVISOR, (303,), form(action="set", reason=HOLD), fresh_case
    ),
    "GET /ads/{ad_id}/hold": Line(SUPERVISOR),
    "POST /ads/{ad_id}/hold": Line(SUPERVISOR, (303,), form(action="set", reason=HOLD), fresh_ad),
    "GET /generations": Line(ADMIN, everywhere=True),
    "GET /generations/{contract_id}/comparison": Line((), (404,)),
    "GET /generations/{contract_id}/comparison/{case_id}": Line((), (404,)),
    "GET /generations/rollback": Line(ADMIN, (409,), everywhere=True),
    "POST /generations/rollback": Line(ADMIN, (409,), form(confirm="yes"), everywhere=True),
    "GET /generations/{contract_id}/switch": Line(ADMIN, everywhere=True),
    "POST /generations/{contract_id}/switch": Line(
        ADMIN, (303, 409), form(confirm="yes"), everywhere=True
    ),
}
