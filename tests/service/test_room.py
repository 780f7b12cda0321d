"""Below the watermark the service takes nothing in and says so; the rest goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from indexer.workspace import Workspace, WorkspaceOptions, open_workspace
from models.pipeline import Analyser
from service.app import create_app
from service.config import Settings
from tests.service.conftest import AUTH, post_ad, post_case, post_photo, problem


@pytest.fixture
def workspace(settings: Settings, analyser: Analyser) -> Iterator[Workspace]:
    options = WorkspaceOptions(min_free_bytes=10**15)
    with open_workspace(settings.data_dir, analyser, options=options) as opened:
        yield opened


@pytest.fixture
def client(settings: Settings, workspace: Workspace) -> Iterator[TestClient]:
    with TestClient(create_app(settings, workspace), headers=AUTH) as made:
        yield made


def test_nothing_is_taken_in(
    client: TestClient, workspace: Workspace, portrait_bytes: bytes
) -> None:
    case_id = post_case(client)
    sha256 = hashlib.sha256(portrait_bytes).hexdigest()
    answers = [
        post_ad(client, "1", [("a.jpg", portrait_bytes)]),
        post_photo(client, case_id, portrait_bytes),
        client.put(f"/v1/images/{sha256}", content=portrait_bytes),
    ]
    for answer in answers:
        body = problem(answer, 507, "storage_full")
        assert "of disk are free" in body["detail"]
        assert body["remedy"]
    assert list(workspace.blobs.digests()) == []
    assert client.get("/readyz").status_code == 200
    assert client.delete(f"/v1/cases/{case_id}").status_code == 204
    free = [line for line in client.get("/metrics").text.splitlines() if "disk_free" in line]
    assert float(free[-1].split()[1]) > 0
