"""Approvals and holds over HTTP: who may ask, who may decide, and what the agency limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from indexer.catalog.account_tables import Agency
from indexer.catalog.tables import ApiKey
from indexer.searches import list_searches
from indexer.times import utc_now
from indexer.workspace import Workspace, WorkspaceOptions, open_workspace
from models.pipeline import Analyser
from service.accounts.keys import KeyStore
from service.app import create_app
from service.cli.main import app as command_line
from service.config import Settings
from tests.service.conftest import (
    AUTH,
    make_settings,
    post_ad,
    post_case,
    post_photo,
    problem,
    wait_for_job,
)
from tests.tables import lend_tables

LOOK = {"purpose": "locate_missing_person"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path / "data", approval="required")


@pytest.fixture
def workspace(settings: Settings, analyser: Analyser) -> Iterator[Workspace]:
    lend_tables(settings.data_dir)
    options = WorkspaceOptions(approval_required=True, approval_days=settings.approval_days)
    with open_workspace(
        settings.data_dir, analyser, calibration=analyser.pack.calibration, options=options
    ) as opened:
        yield opened


@pytest.fixture
def client(settings: Settings, workspace: Workspace) -> Iterator[TestClient]:
    with TestClient(create_app(settings, workspace), headers=AUTH) as made:
        yield made


def key(workspace: Workspace, role: str, agency: str | None = None) -> dict[str, str]:
    """The header of a new key of this role."""
    made = KeyStore(workspace.catalog).create(role, (f"role:{role}",))
    with workspace.catalog.write() as session:
        if agency is not None and session.get(Agency, agency) is None:
            session.add(Agency(name=agency, title="", created_at=utc_now()))
        session.get_one(ApiKey, made.record.key_id).agency = agency
    return {"authorization": f"Bearer {made.text}"}


def test_from_asking_to_the_list(
    client: TestClient, workspace: Workspace, portrait_bytes: bytes, mirrored_bytes: bytes
) -> None:
    investigator, supervisor = key(workspace, "investigator"), key(workspace, "supervisor")
    case_id = post_case(client)
    photo = post_photo(client, case_id, portrait_bytes)
    assert photo.status_code == 201
    wait_for_job(client, photo.json()["job_id"])
    wait_for_job(client, post_ad(client, "a", [("a.jpg", mirrored_bytes)]).json()["job_id"])
    assert client.get(f"/v1/cases/{case_id}").json()["suspended"] is True
    refused = client.get(f"/v1/cases/{case_id}/candidates")
    assert "second person" in problem(refused, 409, "approval_required")["remedy"]
    search = client.post(
        f"/v1/cases/{case_id}/search", files={"file": ("x.jpg", portrait_bytes)}, data=LOOK
    )
    problem(search, 409, "approval_required")
    asked = client.post(
        f"/v1/cases/{case_id}/approvals",
        json={**LOOK, "note": "Since Monday"},
        headers=investigator,
    )
    assert asked.status_code == 201, asked.text
    approval_id = asked.json()["approval_id"]
    address = f"/v1/approvals/{approval_id}/decision"
    problem(client.post(address, json={"decision": "approve"}, headers=investigator), 403,
            "forbidden")  # fmt: skip
    waiting = client.get("/v1/approvals", headers=supervisor).json()["items"]
    assert [one["approval_id"] for one in waiting] == [approval_id]
    wrong = client.post(address, json={"decision": "approve", "valid_days": 0}, headers=supervisor)
    problem(wrong, 422, "validation_failed")
    decided = client.post(
        address, json={"decision": "approve", "valid_days": 10}, headers=supervisor
    )
    assert decided.status_code == 200, decided.text
    assert decided.json()["state"] == "approved"
    listed = client.get(
        f"/v1/cases/{case_id}/candidates",
        params={"purpose": "verify_sighting", "purpose_note": "Seen at the station"},
    )
    assert len(listed.json()["items"]) == 1
    (row,) = list_searches(workspace, case_id).items
    assert (row.kind, row.purpose, row.purpose_note) == (
        "list", "verify_sighting", "Seen at the station",
    )  # fmt: skip
    case = client.get(f"/v1/cases/{case_id}").json()
    assert case["suspended"] is False
    assert case["search_until"] == decided.json()["valid_until"]
    history = client.get(f"/v1/cases/{case_id}/approvals", headers=investigator).json()["items"]
    assert [one["state"] for one in history] == ["approved"]
    assert client.get("/v1/approvals", headers=supervisor).json()["items"] == []


def test_nobody_decides_what_they_asked(client: TestClient, workspace: Workspace) -> None:
    supervisor = key(workspace, "supervisor")
    case_id = post_case(client)
    asked = client.post(f"/v1/cases/{case_id}/approvals", json=LOOK, headers=supervisor)
    address = f"/v1/approvals/{asked.json()['approval_id']}/decision"
    own = client.post(address, json={"decision": "approve"}, headers=supervisor)
    problem(own, 403, "approver_is_requester")
    assert client.post(address, json={"decision": "refuse"}).json()["state"] == "refused"


def test_another_agency_sees_and_decides_nothing(client: TestClient, workspace: Workspace) -> None:
    south, north = key(workspace, "supervisor", "south"), key(workspace, "supervisor", "north")
    case_id = post_case(client, agency="north")
    asked = client.post(f"/v1/cases/{case_id}/approvals", json=LOOK).json()
    address = f"/v1/approvals/{asked['approval_id']}/decision"
    for method, where, body in (
        ("GET", f"/v1/cases/{case_id}/approvals", None),
        ("POST", f"/v1/cases/{case_id}/approvals", LOOK),
        ("PUT", f"/v1/cases/{case_id}/hold", {"reason": "litigation"}),
        ("DELETE", f"/v1/cases/{case_id}/hold", None),
    ):
        answer = client.request(method, where, json=body, headers=south)
        problem(answer, 404, "case_not_found")
    foreign = client.post(address, json={"decision": "approve"}, headers=south)
    absent = client.post(
        address.replace(asked["approval_id"], case_id), json={"decision": "approve"}, headers=south
    )
    assert problem(foreign, 404, "approval_not_found").keys() == absent.json().keys()
    assert client.get("/v1/approvals?show=all", headers=south).json()["items"] == []
    assert client.post(address, json={"decision": "approve"}, headers=north).status_code == 200


def test_holds(client: TestClient, workspace: Workspace) -> None:
    supervisor, other = key(workspace, "supervisor"), key(workspace, "supervisor")
    case_id = post_case(client)
    ad_id = post_ad(client, "a").json()["ad_id"]
    for address in (f"/v1/cases/{case_id}", f"/v1/ads/{ad_id}"):
        held = client.put(f"{address}/hold", json={"reason": "court_order"}, headers=supervisor)
        assert held.status_code == 200, held.text
        problem(client.delete(address), 409, "legal_hold")
        problem(client.delete(f"{address}/hold", headers=supervisor), 403, "lifter_is_setter")
    assert len(client.get("/v1/holds", headers=supervisor).json()["items"]) == 2
    for address in (f"/v1/cases/{case_id}", f"/v1/ads/{ad_id}"):
        assert client.delete(f"{address}/hold", headers=other).json()["lifted_at"]
        problem(client.delete(f"{address}/hold", headers=other), 404, "hold_not_found")
        assert client.delete(address).status_code == 204
    assert client.get("/v1/holds", headers=supervisor).json()["items"] == []
    assert len(client.get("/v1/holds?lifted=true", headers=supervisor).json()["items"]) == 2


def test_the_command_line_decides_and_holds(
    client: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEWARD_APPROVAL", "required")
    case_id = post_case(client)
    client.post(f"/v1/cases/{case_id}/approvals", json=LOOK)
    runner = CliRunner()

    def run(*words: str, code: int = 0) -> str:
        result = runner.invoke(command_line, ["--data-dir", str(workspace.data_dir), *words])
        assert result.exit_code == code, result.output
        return result.stdout

    (one,) = json.loads(run("approvals", "list", "--json"))
    run("approvals", "decide", one["approval_id"], code=2)
    assert "approved" in run("approvals", "decide", one["approval_id"], "--approve", "--days", "5")
    assert client.get(f"/v1/cases/{case_id}/candidates").status_code == 200
    run("candidates", "2026-0001", "--purpose", "curiosity", code=2)
    run("hold", "set", "--reason", "litigation", code=2)
    run("hold", "set", "--case", "2026-0001", "--reason", "litigation")
    assert json.loads(run("hold", "list", "--json"))[0]["subject_id"] == case_id
    # The account that set it cannot lift it here.
    run("hold", "lift", "--case", "2026-0001", code=1)
    assert client.delete(f"/v1/cases/{case_id}/hold").status_code == 200
