"""The whole service on a PostgreSQL catalog: over HTTP, by the command line, and with the server
gone for a while."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from indexer.workspace import Workspace
from models.pipeline import Analyser
from service.app import create_app
from service.cli.main import app
from service.config import Settings
from tests.postgres import TestServer
from tests.service.conftest import (
    AUTH,
    make_settings,
    open_with,
    post_ad,
    post_case,
    post_photo,
    problem,
    wait_for_job,
)


@pytest.fixture
def settings(tmp_path: Path, postgresql: TestServer) -> Iterator[Settings]:
    with postgresql.database() as url:
        yield make_settings(tmp_path / "data", catalog_url=url)


def test_from_a_photo_to_candidates_and_out_again(
    client: TestClient,
    workspace: Workspace,
    portrait_bytes: bytes,
    mirrored_bytes: bytes,
    other_bytes: bytes,
) -> None:
    case_id = post_case(client, person={"name": "Zebulon Quillfeather"})
    for number, data in enumerate((other_bytes, mirrored_bytes)):
        answer = post_ad(client, str(number), [("a.jpg", data)], region="ÎLE-DE-FRANCE")
        assert answer.status_code == 202, answer.text
        wait_for_job(client, answer.json()["job_id"])
    photo = post_photo(client, case_id, portrait_bytes)
    assert photo.status_code == 201, photo.text
    wait_for_job(client, photo.json()["job_id"])

    found = client.get(f"/v1/cases/{case_id}/candidates", params={"region": "île-de-france"})
    assert found.status_code == 200, found.text
    assert found.json()["items"][0]["ad"]["external_id"] == "1"
    listed = client.get("/v1/ads", params={"place": "Île"}).json()["items"]
    assert [ad["external_id"] for ad in listed] == ["1", "0"]
    nul = client.post("/v1/cases", json={"case_number": "a\0b"})
    problem(nul, 422, "validation_failed")

    ad_id = found.json()["items"][0]["ad"]["ad_id"]
    assert client.delete(f"/v1/ads/{ad_id}").status_code == 204
    assert client.get(f"/v1/ads/{ad_id}").status_code == 404
    left = client.get(f"/v1/cases/{case_id}/candidates").json()["items"]
    assert ad_id not in {item["ad"]["ad_id"] for item in left}
    assert client.delete(f"/v1/cases/{case_id}").status_code == 204
    assert workspace.cases.count() == 0
    assert client.get("/readyz").status_code == 200


def test_the_server_goes_away_and_comes_back(
    settings: Settings,
    analyser: Analyser,
    postgresql: TestServer,
    portrait_bytes: bytes,
) -> None:
    with (
        open_with(settings, analyser) as workspace,
        TestClient(create_app(settings, workspace), headers=AUTH) as client,
    ):
        case_id = post_case(client)
        name = workspace.catalog.engine.url.database
        postgresql.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        postgresql.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        away = client.get(f"/v1/cases/{case_id}")
        body = problem(away, 503, "catalog_away")
        assert away.headers["retry-after"]
        assert str(name) not in body["detail"], "what the server is called is nobody's business"
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        refused = post_ad(client, "1", [("a.jpg", portrait_bytes)])
        assert refused.status_code == 503, refused.text
        postgresql.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert client.get(f"/v1/cases/{case_id}").status_code == 200
        taken = post_ad(client, "1", [("a.jpg", portrait_bytes)])
        assert wait_for_job(client, taken.json()["job_id"])["state"] == "done"
        _until_ready(client)


def _until_ready(client: TestClient) -> None:
    deadline = time.monotonic() + 60
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < deadline, client.get("/readyz").text
        time.sleep(0.1)


def test_the_command_line_takes_the_database_from_the_environment(
    settings: Settings,
    tmp_path: Path,
    pack_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    portrait_bytes: bytes,
    mirrored_bytes: bytes,
) -> None:
    settings.data_dir.mkdir(mode=0o700)
    (settings.data_dir / "packs").symlink_to(pack_cache)
    monkeypatch.setenv("HOMEWARD_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("HOMEWARD_CATALOG_URL", settings.catalog_url or "")
    files = tmp_path / "files"
    files.mkdir()
    (files / "photo.jpg").write_bytes(portrait_bytes)
    (files / "ad.jpg").write_bytes(mirrored_bytes)
    ads, cases = files / "ads.jsonl", files / "cases.jsonl"
    ads.write_text(json.dumps({"site": "s", "external_id": "1", "images": ["ad.jpg"]}))
    cases.write_text(json.dumps({"case_number": "1", "photos": ["photo.jpg"]}))

    made = json.loads(_ok("keys", "create", "scraper", "--json"))
    assert [key["key_id"] for key in json.loads(_ok("keys", "list", "--json"))] == [made["key_id"]]
    _ok("ingest", "ads", str(ads), "--images", str(files))
    _ok("ingest", "cases", str(cases), "--photos", str(files))
    listed = json.loads(_ok("candidates", "1", "--json"))
    assert [item["ad"]["external_id"] for item in listed["items"]] == ["1"]
    health = _ok("doctor")
    assert "postgresql 1" in health
    assert not (settings.data_dir / "catalog.sqlite3").exists()

    monkeypatch.setenv("HOMEWARD_CATALOG_URL", "postgresql://role:s3cretword@127.0.0.1:1/homeward")
    for words in (("doctor",), ("candidates", "1"), ("keys", "list")):
        result = CliRunner().invoke(app, words)
        assert result.exit_code != 0
        assert "does not answer" in result.output
        assert "s3cretword" not in result.output
        assert "Traceback" not in result.output


def _ok(*words: str) -> str:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return result.stdout
