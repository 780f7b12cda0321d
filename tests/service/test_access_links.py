"""Agencies: whose a new case is, and what one learns of a lead that another has too."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from indexer import jobs
from indexer.catalog.account_tables import Agency
from indexer.catalog.audit_tables import AuditRecord
from indexer.times import utc_now
from indexer.workspace import Workspace
from service.accounts.keys import KeyStore
from tests.postgres import TestServer
from tests.service.conftest import make_settings, post_ad, post_case, post_photo, problem

SECRET = ("N-55-0001", "Zephyrine Quillfeather", "violet umbrella", "only our reviewers read this")


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(tmp_path: Any, request: pytest.FixtureRequest) -> Any:
    if request.param == "sqlite":
        yield make_settings(tmp_path / "data", jobs_in_server=False)
        return
    server = request.getfixturevalue("postgresql")
    assert isinstance(server, TestServer)
    with server.database() as url:
        yield make_settings(tmp_path / "data", catalog_url=url, jobs_in_server=False)


def keys_of(ws: Workspace, *agencies: str) -> list[dict[str, str]]:
    """Headers with the key of a supervisor of each agency, which are made."""
    made = []
    for name in agencies:
        with ws.catalog.write() as session:
            session.add(Agency(name=name, created_at=utc_now()))
        key = KeyStore(ws.catalog).create(name, ("role:supervisor",), agency=name)
        made.append({"authorization": f"Bearer {key.text}"})
    return made


def test_a_case_is_made_in_the_agency_of_the_caller(
    client: TestClient, workspace: Workspace
) -> None:
    north, south = keys_of(workspace, "north", "south")

    def make(headers: dict[str, str], **fields: Any) -> Any:
        return client.post("/v1/cases", json={"person": {}, **fields}, headers=headers)

    made = make(north, case_number="1").json()
    assert made["agency"] == "north"
    assert make(south, case_number="1", agency="south").status_code == 201
    for other in ("south", "nowhere", ""):
        problem(make(north, case_number="2", agency=other), 403, "agency_not_yours")
        move = client.patch(f"/v1/cases/{made['case_id']}", json={"agency": other}, headers=north)
        problem(move, 403, "agency_not_yours")
    listed = client.get("/v1/cases", headers=south).json()["items"]
    assert [(one["agency"], one["case_number"]) for one in listed] == [("south", "1")]
    wish = client.get("/v1/cases", params={"agency": "north"}, headers=south).json()
    assert wish["items"] == []
    assert len(client.get("/v1/cases").json()["items"]) == 2, "the full key sees all"


def test_a_lead_of_two_agencies_tells_the_linking_facts_alone(
    client: TestClient, workspace: Workspace, portrait_bytes: bytes, mirrored_bytes: bytes
) -> None:
    north, south = keys_of(workspace, "north", "south")
    theirs = post_case(
        client,
        SECRET[0],
        agency="north",
        person={"name": SECRET[1]},
        notes=SECRET[2],
    )
    mine = post_case(client, "S-1", agency="south")
    assert post_ad(client, "1", [("a.jpg", mirrored_bytes)]).status_code == 202
    for case_id in (theirs, mine):
        assert post_photo(client, case_id, portrait_bytes).status_code == 201
    jobs.run_pending(workspace)

    def candidate(case_id: str, headers: dict[str, str]) -> dict[str, Any]:
        found = client.get(f"/v1/cases/{case_id}/candidates", headers=headers)
        assert found.status_code == 200, found.text
        item: dict[str, Any] = found.json()["items"][0]
        return item

    def judge(conclusion: str) -> None:
        answer = client.post(
            f"/v1/candidates/{candidate(theirs, north)['candidate_id']}/judgements",
            json={"conclusion": conclusion, "reason": SECRET[3]},
            headers=north,
        )
        assert answer.status_code == 201, answer.text

    judge("inconclusive")
    lead = candidate(mine, south)
    assert lead["links"] == []
    asking = f"/v1/candidates/{lead['candidate_id']}/link-requests"
    problem(client.post(asking, json={}, headers=south), 404, "link_not_found")
    judge("supports_same")
    (link,) = candidate(mine, south)["links"]
    assert set(link) == {"link_id", "kind", "agency", "since", "request_id", "state"}
    assert (link["kind"], link["agency"], link["state"]) == ("same_picture", "north", None)
    assert link["since"].endswith("Z")

    asked = client.post(asking, json={"note": "Who is this?"}, headers=south)
    assert asked.status_code == 201, asked.text
    problem(client.post(asking, json={}, headers=south), 409, "link_state_invalid")
    place = f"/v1/link-requests/{asked.json()['link_request_id']}/answer"
    share = {"decision": "share", "answer": "Ask for Detective Rowan."}
    problem(client.post(place, json=share, headers=south), 403, "link_not_yours")

    def seen_by_south() -> str:
        """Everything that south can read of it."""
        paths = [
            *("/v1/cases", "/v1/link-requests", "/v1/alerts", f"/v1/cases/{mine}"),
            *(f"/v1/cases/{mine}/candidates", f"/v1/ads/{lead['ad']['ad_id']}"),
        ]
        answers = [client.get(path, headers=south) for path in paths]
        assert {one.status_code for one in answers} == {200}
        return asked.text + "".join(one.text for one in answers)

    hidden = (*SECRET, theirs, candidate(theirs, north)["candidate_id"])
    assert [word for word in hidden if word in seen_by_south()] == []
    (received,) = client.get("/v1/link-requests", headers=north).json()["items"]
    assert (received["side"], received["agency"]) == ("received", "south")
    assert received["note"] == "Who is this?" and received["case_number"] == SECRET[0]
    assert mine not in str(received) and "S-1" not in str(received)

    assert client.post(place, json=share, headers=north).status_code == 200
    problem(client.post(place, json=share, headers=north), 409, "link_state_invalid")
    told = seen_by_south()
    assert [word for word in hidden if word in told] == [SECRET[0]], "the number, and that alone"
    assert share["answer"] in told
    problem(client.get(f"/v1/cases/{theirs}", headers=south), 404, "case_not_found")
    with workspace.catalog.read() as session:
        acts = session.scalars(
            select(AuditRecord.action).where(AuditRecord.action.like("link.%"))
        ).all()
        assert {"link.ask", "link.answer"} <= set(acts)
    client.patch(f"/v1/cases/{theirs}", json={"status": "found"}, headers=north)
    assert candidate(mine, south)["links"] == [], "only open cases are linked"


def test_a_picture_of_an_ad_is_seen_by_all_a_photo_by_its_agency(
    client: TestClient, workspace: Workspace, portrait_bytes: bytes
) -> None:
    north, south = keys_of(workspace, "north", "south")
    case_id = post_case(client, "1", agency="north")
    photo = post_photo(client, case_id, portrait_bytes).json()
    picture = f"/v1/images/{photo['sha256']}"
    assert client.get(picture, headers=north).status_code == 200
    problem(client.get(picture, headers=south), 404, "image_not_found")
    assert post_ad(client, "1", [("a.jpg", portrait_bytes)]).status_code == 202
    assert client.get(picture, headers=south).status_code == 200
    problem(client.get(f"/v1/cases/{case_id}", headers=south), 404, "case_not_found")
