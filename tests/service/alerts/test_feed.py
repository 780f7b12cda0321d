"""Alerts over HTTP: read once, read on, and what is told to whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from indexer import cases, forget
from indexer.records import CaseInput
from indexer.workspace import Workspace
from service.accounts.keys import KeyStore
from service.app import create_app
from tests.indexer.raising import add_candidate, raise_alert
from tests.service.conftest import AUTH, make_settings, problem


@pytest.fixture
def client(ws: Workspace) -> Iterator[TestClient]:
    with TestClient(create_app(make_settings(ws.data_dir), ws), headers=AUTH) as made:
        yield made


def read(client: TestClient, **query: Any) -> dict[str, Any]:
    answer = client.get("/v1/alerts", params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert body["notice"]
    return body


def ids(body: dict[str, Any]) -> list[str]:
    return [item["alert_id"] for item in body["items"]]


def key_with(ws: Workspace, *scopes: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KeyStore(ws.catalog).create('some', scopes).text}"}


def test_reading_on_gives_each_alert_once(client: TestClient, ws: Workspace, case_id: str) -> None:
    empty = read(client)
    assert empty["items"] == [] and empty["next_cursor"] is None
    raised = [raise_alert(ws, case_id) for _ in range(5)]
    first = read(client, limit=3, cursor=empty["resume_cursor"])
    assert ids(first) == raised[:3] and first["next_cursor"] == first["resume_cursor"]
    rest = read(client, limit=3, cursor=first["next_cursor"])
    assert ids(rest) == raised[3:] and rest["next_cursor"] is None
    assert ids(read(client, cursor=rest["resume_cursor"])) == []
    late = raise_alert(ws, case_id)
    assert ids(read(client, cursor=rest["resume_cursor"])) == [late]


def test_an_alert_in_full(client: TestClient, ws: Workspace, case_id: str) -> None:
    candidate_id = add_candidate(ws, case_id, 1, "7", title="An ad", region="North")
    alert_id = raise_alert(ws, case_id, candidate_id, tightened=True, expected_false=0.004)
    (item,) = read(client)["items"]
    alone = client.get(f"/v1/alerts/{alert_id}").json()
    assert alone.pop("notice") and alone == item
    stored = client.get(f"/v1/cases/{case_id}").json()
    assert set(item) == {
        "alert_id", "created_at", "case_id", "case_number", "case_status", "candidate_id",
        "lead_id", "score", "false_match_rate_upper", "expected_false_candidates_upper",
        "expected_false_limit", "tightened", "band", "rate_notes", "gallery_size", "photos_fused",
        "contract_id", "status", "face", "image_sha256", "ad", "lead", "budget",
    }  # fmt: skip
    assert (item["case_id"], item["case_number"], item["case_status"]) == (case_id, "A-1", "open")
    assert item["candidate_id"] == candidate_id and item["status"] == "unreviewed"
    assert -1 <= item["score"] <= 1
    assert item["false_match_rate_upper"] is None  # nothing is calibrated here
    assert (item["band"], item["tightened"]) == ("very_strong", True)
    assert item["expected_false_candidates_upper"] == 0.004
    assert (item["gallery_size"], item["expected_false_limit"]) == (1000, 1.0)
    assert item["face"]["box"]["width"] == 80 and item["face"]["quality"]["score"] == 0.5
    assert item["ad"]["external_id"] == "7" and item["ad"]["region"] == "North"
    assert item["lead"]["ads"] == 1 and item["lead"]["lead_id"] == item["lead_id"]
    assert item["budget"] == {"this_week": 1, "budget": 20}
    assert stored["alert_budget"] is None
    image = client.get(f"/v1/images/{item['image_sha256']}")
    assert image.status_code == 200


def test_scores_are_told_only_to_who_may_see_them(
    client: TestClient, ws: Workspace, case_id: str
) -> None:
    alert_id = raise_alert(ws, case_id)
    plain = key_with(ws, "alerts:read")
    for path in ("/v1/alerts", f"/v1/alerts/{alert_id}"):
        body = client.get(path, headers=plain).json()
        (item,) = body.get("items", [body])
        assert item["score"] is None and item["false_match_rate_upper"] is None
        assert item["expected_false_candidates_upper"] is None
        assert item["band"] == "strong"
    item = read(client)["items"][0]
    assert (item["score"], item["expected_false_candidates_upper"]) == (0.75, 0.05)
    wrong = key_with(ws, "cases:read", "scores:read", "ads:read")
    for path in ("/v1/alerts", f"/v1/alerts/{alert_id}", "/v1/alerts/events"):
        problem(client.get(path, headers=wrong), 403, "forbidden")


def test_cases_that_are_over_are_no_new_work(
    client: TestClient, ws: Workspace, case_id: str
) -> None:
    other = cases.create_case(ws, CaseInput(case_number="A-2", alert_budget=5)).case_id
    gone = raise_alert(ws, case_id, add_candidate(ws, case_id, 1, "7"))
    kept = raise_alert(ws, other)
    cases.update_case(ws, case_id, {"status": "found"})
    body = read(client)
    assert ids(body) == [kept] and body["items"][0]["budget"]["budget"] == 5
    everything = read(client, include_closed=True)
    assert ids(everything) == [gone, kept]
    over = everything["items"][0]
    assert over["case_status"] == "found"
    assert over["face"] is over["ad"] is over["lead"] is over["status"] is None
    assert ids(read(client, case_id=case_id)) == []
    assert ids(read(client, case_id=case_id, include_closed=True)) == [gone]
    assert ids(read(client, case_id="no case")) == []
    assert client.get(f"/v1/alerts/{gone}").json()["case_status"] == "found"
    forget.forget_case(ws, case_id)
    assert ids(read(client, include_closed=True)) == [kept]
    problem(client.get(f"/v1/alerts/{gone}"), 404, "alert_not_found")


@pytest.mark.parametrize("cursor", ["x", "", "djE6MQ", "a" * 201, "\x00"])
def test_other_text_is_no_cursor(client: TestClient, cursor: str) -> None:
    answer = client.get("/v1/alerts", params={"cursor": cursor})
    assert answer.status_code == 422
    assert answer.json()["code"] in ("invalid_cursor", "validation_failed")


@pytest.mark.parametrize("alert_id", ["01890a5d-ac96-774b-bcce-b302099a8057", "nonsense", "0" * 36])
def test_an_alert_that_is_not_there(client: TestClient, alert_id: str) -> None:
    problem(client.get(f"/v1/alerts/{alert_id}"), 404, "alert_not_found")
