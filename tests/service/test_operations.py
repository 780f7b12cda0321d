"""Alive, ready, counted; and the start and end of the application."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from indexer.workspace import Workspace
from models.packs.base import FacePack
from service.accounts.keys import NewKey
from service.app import create_app
from service.config import Settings
from tests.service.conftest import post_case, problem


def test_health_and_readiness_need_no_key(client: TestClient) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        answer = client.get(path, headers={"authorization": ""})
        assert answer.status_code == 200, path
    assert client.get("/readyz").json()["status"] == "ready"


def test_a_stopped_part_ends_readiness(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    monkeypatch.setattr(service.runner, "alive", lambda: False)
    answer = client.get("/readyz")
    problem(answer, 503, "not_ready")
    assert answer.headers["retry-after"]
    assert client.get("/healthz").status_code == 200


def test_metrics_count_without_ids(client: TestClient) -> None:
    case_id = post_case(client)
    client.get(f"/v1/cases/{case_id}")
    client.get("/v1/cases/nonsense")
    text = client.get("/metrics").text
    assert (
        'homeward_http_requests_total{method="GET",route="/v1/cases/{case_id}",status="200"} 1.0'
        in text
    )
    assert "homeward_ad_faces 0.0" in text
    assert "homeward_jobs_waiting 0.0" in text
    assert case_id not in text
    assert "nonsense" not in text


def test_before_the_start_nothing_is_served(settings: Settings, workspace: Workspace) -> None:
    client = TestClient(create_app(settings, workspace))
    problem(client.get("/readyz"), 503, "not_ready")
    answer = client.get("/v1/cases", headers={"authorization": "Bearer whatever-key-it-is"})
    problem(answer, 503, "not_ready")


def test_the_first_start_announces_one_key_that_works(
    settings: Settings, workspace: Workspace
) -> None:
    keyless = settings.model_copy(update={"api_key": None})
    announced: list[NewKey] = []
    for _ in range(2):
        with TestClient(create_app(keyless, workspace, announce=announced.append)) as client:
            key = announced[0].text
            answer = client.get("/v1/cases", headers={"authorization": f"Bearer {key}"})
            assert answer.status_code == 200
    assert len(announced) == 1


def test_the_given_workspace_stays_open(settings: Settings, workspace: Workspace) -> None:
    with TestClient(create_app(settings, workspace)):
        pass
    assert workspace.ads.count() == 0


def test_the_asgi_module_opens_and_closes_its_own_workspace(
    tmp_path: Path,
    pack: FacePack,
    pack_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "packs").symlink_to(pack_cache)
    monkeypatch.setenv("HOMEWARD_DATA_DIR", str(folder))
    monkeypatch.delitem(sys.modules, "service.asgi", raising=False)
    asgi = importlib.import_module("service.asgi")
    for _ in range(2):
        with TestClient(asgi.app) as client:
            assert client.get("/readyz").json()["contract_id"] == pack.contract.id
    keys = re.findall(r"hw_\S+", capsys.readouterr().err)
    assert len(keys) == 1
    # Closed in the end: nobody holds the folder any more.
    assert not list((folder / "locks").glob("runner-*"))
