"""What is asked over HTTP is on record before the answer leaves (PRACTICE 9)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from indexer.acting import Acting
from indexer.audit import AuditWriter, entry_of
from indexer.audit.reading import Record, Wanted, list_records
from indexer.audit.verify import verify
from indexer.errors import AuditUnavailable
from indexer.workspace import Workspace
from service.app import create_app
from service.audit import recorder
from service.audit.recorder import Recorder
from service.config import Settings
from tests.service.conftest import (
    post_ad,
    post_case,
    post_photo,
    problem,
    wait_for_job,
)
from tests.service.web.browser import Browser

NAME = "Persephone Featherstonehaugh"
NOTE = "was seen near the old mill"
PHONE = "+1 206 555 0142"
NUMBER = "KX-77-PERSONAL"
SECRETS = (NAME, NOTE, PHONE, "2065550142", NUMBER, "mill", "Featherstonehaugh", "attic")


def log(workspace: Workspace, **wanted: str) -> list[Record]:
    """The records, oldest first."""
    return list(list_records(workspace.catalog, Wanted(**wanted), limit=100_000).items[::-1])  # type: ignore[arg-type]


def last(workspace: Workspace) -> Record:
    return log(workspace)[-1]


@pytest.mark.practice(9)
def test_a_read_is_recorded_with_who_what_and_which_request(
    client: TestClient, workspace: Workspace
) -> None:
    case_id = post_case(client)
    answer = client.get(f"/v1/cases/{case_id}", headers={"x-request-id": "request-7"})
    assert answer.status_code == 200
    found = last(workspace)
    assert (found.action, found.outcome, found.channel) == ("case.read", "done", "api")
    assert (found.subject_kind, found.subject_id, found.case_id) == ("case", case_id, case_id)
    assert (found.actor_kind, found.request_id) == ("key", "request-7")
    assert client.get("/v1/cases").status_code == 200
    assert last(workspace).action == "case.list"
    assert last(workspace).details["cases"] == [case_id]


def test_an_act_is_recorded_once(client: TestClient, workspace: Workspace) -> None:
    case_id = post_case(client)
    assert [one.action for one in log(workspace, case_id=case_id)] == ["case.create"]
    assert client.patch(f"/v1/cases/{case_id}", json={"notes": NOTE}).status_code == 200
    found = log(workspace, case_id=case_id)
    assert [one.action for one in found] == ["case.create", "case.update"]
    assert found[-1].details == {"fields": ["notes"], "status": "open"}
    assert all(one.actor_kind == "key" for one in found)


@pytest.mark.practice(9)
def test_candidates_are_recorded_with_gallery_and_contract(
    client: TestClient, workspace: Workspace, portrait_bytes: bytes, mirrored_bytes: bytes
) -> None:
    case_id = post_case(client, default_purpose="locate_missing_person")
    ad = post_ad(client, "a", [("p.jpg", mirrored_bytes)]).json()
    wait_for_job(client, ad["job_id"])
    assert post_photo(client, case_id, portrait_bytes).status_code == 201
    answer = client.get(f"/v1/cases/{case_id}/candidates?k=7")
    assert answer.status_code == 200, answer.text
    found = last(workspace)
    assert found.action == "candidates.read" and found.case_id == case_id
    assert found.details["gallery_size"] == 1
    assert found.details["k"] == 7
    assert found.details["candidates"] == len(answer.json()["items"]) == 1
    assert found.details["contract_id"] == workspace.contract_id
    face_id = answer.json()["items"][0]["face"]["face_id"]
    assert client.get(f"/v1/faces/{face_id}/crop").status_code == 200
    assert (last(workspace).action, last(workspace).subject_id) == ("face.read", face_id)
    accepted = log(workspace, action="ad.accept")
    assert [one.details["capture_id"] for one in accepted] == [ad["capture_id"]]
    # The very same again brings nothing new, and is recorded as what was asked.
    assert post_ad(client, "a", [("p.jpg", mirrored_bytes)]).status_code == 202
    assert "status" in log(workspace, action="ad.accept")[-1].details


def test_refusals_are_recorded_with_their_reason(client: TestClient, workspace: Workspace) -> None:
    case_id = post_case(client)
    problem(client.get("/v1/cases", headers={"authorization": "Bearer no"}), 401, "unauthenticated")
    found = last(workspace)
    assert (found.action, found.outcome) == ("case.list", "unauthenticated")
    assert (found.actor_kind, found.actor) == ("nobody", "nobody")
    assert found.details["address"] == "testclient"
    client.get("/v1/nothing-here", headers={"authorization": "Bearer no"})
    assert (last(workspace).action, last(workspace).outcome) == ("access.refuse", "unauthenticated")
    other = case_id[:-4] + "0000"
    problem(client.get(f"/v1/cases/{other}"), 404, "case_not_found")
    assert (last(workspace).outcome, last(workspace).case_id) == ("case_not_found", other)
    assert client.patch(f"/v1/cases/{case_id}", json={"status": "closed"}).status_code == 200
    problem(client.get(f"/v1/cases/{case_id}/candidates"), 409, "case_closed")
    assert (last(workspace).action, last(workspace).outcome) == ("candidates.read", "case_closed")
    problem(client.post("/v1/cases", json={"case_number": 5}), 422, "validation_failed")
    assert (last(workspace).action, last(workspace).outcome) == ("case.create", "validation_failed")


def test_what_may_not_be_done_is_recorded(client: TestClient, workspace: Workspace) -> None:
    made = client.app.state.service.keys.create("scraper", ("ads:write",))  # type: ignore[attr-defined]
    reader = {"authorization": f"Bearer {made.text}"}
    problem(client.get("/v1/audit", headers=reader), 403, "forbidden")
    found = last(workspace)
    assert (found.action, found.outcome, found.actor) == (
        "audit.read",
        "forbidden",
        made.record.key_id,
    )


def test_what_was_typed_as_an_id_is_not_recorded(client: TestClient, workspace: Workspace) -> None:
    for path in (f"/v1/cases/{NAME}", f"/v1/images/{NAME}", f"/v1/generations/{NAME}/comparison"):
        assert client.get(path).status_code in (404, 422)
        assert last(workspace).subject_id is None
    assert NAME not in str(log(workspace))
    # Each kind of id has its own form: none is too long for its column.
    for path in (f"/v1/cases/{'a' * 64}", "/v1/cases/a_slug-0123456789ab"):
        assert client.get(path).status_code == 404
        assert (last(workspace).case_id, last(workspace).subject_id) == (None, None)
    client.get(f"/v1/images/{'A' * 64}")
    assert last(workspace).subject_id == "a" * 64


def test_nothing_is_shown_that_cannot_be_recorded(
    client: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    case_id = post_case(client, person={"name": NAME})
    with monkeypatch.context() as patched:

        def away(_self: AuditWriter, some: list[Any]) -> None:
            for _, future in some:
                future.set_exception(AuditUnavailable())

        patched.setattr(AuditWriter, "_write", away)
        answer = client.get(f"/v1/cases/{case_id}")
        body = problem(answer, 503, "audit_unavailable")
        assert body["remedy"] and answer.headers["retry-after"]
        assert NAME not in answer.text
        # What is only looked at by machines goes on.
        assert client.get("/healthz").status_code == 200
        page = client.get("/sign-in", headers={"accept": "text/html"})
        assert page.status_code == 200
    assert client.get(f"/v1/cases/{case_id}").status_code == 200


def test_pages_are_recorded_as_calls_are(
    settings: Settings, workspace: Workspace, client: TestClient
) -> None:
    case_id = post_case(client)
    before = last(workspace).seq
    with TestClient(create_app(settings, workspace)) as pages:
        html = {"accept": "text/html"}
        answer = pages.get(f"/cases/{case_id}", headers=html, follow_redirects=False)
        assert answer.status_code == 303
        refused = last(workspace)
        assert (refused.action, refused.outcome) == ("case.read", "unauthenticated")
        assert refused.actor == "nobody" and "address" in refused.details
        browser = Browser(pages)
        browser.sign_in()
        browser.get(f"/cases/{case_id}")
        browser.get("/audit")
        found = [one for one in log(workspace) if one.seq > before]
        actions = [one.action for one in found]
        assert {"case.list", "case.read", "audit.read"} <= set(actions)
        assert all(one.channel == "web" for one in found if one.action == "case.read")
        read = next(one for one in found if (one.action, one.outcome) == ("case.read", "done"))
        assert read.case_id == case_id
        shown = browser.get(f"/audit?case_id={case_id}")
        assert case_id in shown.prose


def test_an_auditor_of_an_agency_sees_its_records_only(
    client: TestClient, workspace: Workspace
) -> None:
    ours = post_case(client, "1", agency="North")
    post_case(client, "2", agency="South")
    keys = client.app.state.service.keys  # type: ignore[attr-defined]
    made = keys.create("auditor", ("audit:read",), agency="North")
    client.get(f"/v1/cases/{ours}")
    auditor = {"authorization": f"Bearer {made.text}"}
    assert client.get("/v1/audit/head", headers=auditor).status_code == 200
    items = client.get("/v1/audit?limit=200", headers=auditor).json()["items"]
    assert items
    assert all(one["case_id"] == ours or one["agency"] == "North" for one in items)
    assert {one["action"] for one in items} >= {"case.create", "case.read", "audit.head"}
    everything = client.get("/v1/audit?limit=200").json()["items"]
    assert len({one["case_id"] for one in everything if one["case_id"]}) == 2


def test_the_log_is_read_in_pages_and_by_filters(client: TestClient, workspace: Workspace) -> None:
    case_id = post_case(client)
    for _ in range(3):
        client.get(f"/v1/cases/{case_id}")
    first = client.get(f"/v1/audit?case_id={case_id}&limit=2").json()
    assert [one["action"] for one in first["items"]] == ["case.read", "case.read"]
    rest = client.get(f"/v1/audit?case_id={case_id}&limit=200&cursor={first['next_cursor']}").json()
    assert [one["action"] for one in rest["items"]] == ["case.read", "case.create"]
    read = last(workspace)
    assert read.action == "audit.read" and read.details["filters"] == ["case_id"]
    only = client.get("/v1/audit?action=case.create").json()["items"]
    assert [one["case_id"] for one in only] == [case_id]
    assert client.get("/v1/audit?until=2000-01-01T00:00:00Z").json()["items"] == []
    problem(client.get("/v1/audit?cursor=x"), 422, "invalid_cursor")


@pytest.mark.practice(9)
def test_no_personal_value_is_in_any_record(
    client: TestClient,
    settings: Settings,
    workspace: Workspace,
    portrait_bytes: bytes,
    mirrored_bytes: bytes,
) -> None:
    person = {"name": NAME, "aliases": ["attic"], "marks": NOTE}
    case_id = post_case(
        client, NUMBER, person=person, notes=NOTE, default_purpose="locate_missing_person"
    )
    client.patch(f"/v1/cases/{case_id}", json={"person": person, "notes": NOTE + "!"})
    post_photo(client, case_id, portrait_bytes)
    ad = post_ad(
        client, NAME, [(f"{NAME}.jpg", mirrored_bytes)], title=NAME, phones=[PHONE], body=NOTE
    ).json()
    wait_for_job(client, ad["job_id"])
    listed = client.get(f"/v1/cases/{case_id}/candidates").json()["items"]
    client.post(
        f"/v1/candidates/{listed[0]['candidate_id']}/judgements",
        json={"conclusion": "inconclusive", "reason": NOTE},
    )
    searched = client.post(
        f"/v1/cases/{case_id}/search",
        files={"file": (f"{NAME}.jpg", portrait_bytes)},
        data={"purpose": "training", "purpose_note": NOTE, "region": NAME},
    )
    assert searched.status_code == 200, searched.text
    client.get("/v1/ads", params={"phone": PHONE, "site": NAME})
    client.get("/v1/cases", params={"text": NUMBER})
    client.get(f"/v1/cases/{NAME}")
    client.get("/v1/audit", params={"actor": NAME, "case_id": NUMBER})
    client.get(f"/v1/{NAME}", headers={"authorization": f"Bearer {NAME}"})
    with TestClient(create_app(settings, workspace)) as pages:
        browser = Browser(pages)
        browser.sign_in()
        browser.get(f"/cases?text={NUMBER}")
        browser.get(f"/cases/{case_id}")
    client.delete(f"/v1/ads/{ad['ad_id']}")
    client.delete(f"/v1/cases/{case_id}")
    found = log(workspace)
    actions = {one.action for one in found}
    assert {
        *("case.create", "case.update", "photo.add", "ad.accept", "candidates.read"),
        *("judgement.create", "search.photo", "ad.list", "case.list", "ad.forget", "case.forget"),
    } <= actions
    with workspace.catalog.read() as session:
        rows = [tuple(row) for row in session.execute(text("SELECT * FROM audit_log"))]
    told = json.dumps(rows, default=str, ensure_ascii=False).casefold()
    assert [secret for secret in SECRETS if secret.casefold() in told] == []
    assert verify(workspace.catalog).problem is None


# --- the bound on refusals ---------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def bounded(workspace: Workspace) -> Iterator[tuple[Recorder, Clock]]:
    writer, clock = AuditWriter(workspace.catalog), Clock()
    made = Recorder(writer, clock)
    yield made, clock
    made.close()
    writer.close()


def test_a_flood_of_refusals_is_counted_and_not_recorded_one_by_one(
    workspace: Workspace, bounded: tuple[Recorder, Clock]
) -> None:
    made, clock = bounded
    entry = entry_of(Acting("api", "nobody", "nobody"), "access.refuse", outcome="unauthenticated")
    for number in range(1_000):
        made.refused(entry, "192.0.2.1")
        made.refused(entry, f"198.51.100.{number % 250}")
    clock.now = recorder.WINDOW_S
    written = made.refused(entry, "192.0.2.1")
    assert written is not None
    written.result(30)
    one_by_one = log(workspace, action="access.refuse")
    assert len(one_by_one) == recorder.IN_ALL + 1
    (many,) = log(workspace, action="access.refuse_many")
    assert many.details["refusals"] == 2_000 - recorder.IN_ALL
    assert many.details["most"][0].startswith("192.0.2.1: ")
    addressed = [one for one in one_by_one if one.details["address"] == "192.0.2.1"]
    assert len(addressed) == recorder.PER_ADDRESS + 1
