"""The service with its originals in an object store: over HTTP, and from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from models.packs.base import FacePack
from service.app import create_app
from service.cli.main import app
from service.config import Settings
from service.opening import open_for, open_object_store
from tests.s3 import REGION, Bucket, Server, running_s3
from tests.service.conftest import AUTH, make_settings, post_ad, problem, wait_for_job


@pytest.fixture
def s3() -> Iterator[Server]:
    with running_s3() as server:
        yield server


@pytest.fixture
def bucket(s3: Server) -> Bucket:
    return s3.bucket()


@pytest.fixture
def settings(tmp_path: Path, bucket: Bucket, pack: FacePack, pack_cache: Path) -> Settings:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "packs").symlink_to(pack_cache)
    return make_settings(
        folder,
        blobs_url=bucket.url,
        blobs_endpoint=bucket.endpoint,
        blobs_region=REGION,
        blobs_allow_http=True,
        model_threads=1,
    )


def test_without_the_setting_there_is_no_object_store(tmp_path: Path) -> None:
    assert open_object_store(make_settings(tmp_path)) is None


def test_an_ad_goes_in_and_out_again(
    settings: Settings, bucket: Bucket, s3: Server, portrait_bytes: bytes
) -> None:
    with (
        open_for(settings) as workspace,
        TestClient(create_app(settings, workspace), headers=AUTH) as client,
    ):
        answer = post_ad(client, "1", [("a.jpg", portrait_bytes)], [("a.html", b"<p>ad</p>")])
        assert answer.status_code == 202, answer.text
        ad = answer.json()
        assert wait_for_job(client, ad["job_id"])["state"] == "done"
        image = f"/v1/images/{ad['images'][0]['sha256']}"
        assert client.get(image).content == portrait_bytes
        assert len(bucket.names()) == 2

        s3.stop()
        problem(client.get(image), 503, "storage_away")
        away = post_ad(client, "2", [("a.jpg", portrait_bytes)])
        problem(away, 503, "storage_away")
        assert away.headers["retry-after"]
        assert client.get("/readyz").status_code == 200, "searching goes on"
        s3.start()

        assert client.delete(f"/v1/ads/{ad['ad_id']}").status_code == 204
        assert bucket.names() == []
        problem(client.get(image), 404, "image_not_found")


def command(settings: Settings, *words: str | Path, folder: Path, url: str) -> Result:
    environment = {
        "HOMEWARD_BLOBS_URL": url,
        "HOMEWARD_BLOBS_ENDPOINT": settings.blobs_endpoint,
        "HOMEWARD_BLOBS_REGION": REGION,
        "HOMEWARD_BLOBS_ALLOW_HTTP": "true",
        "HOMEWARD_MODEL_THREADS": "1",
        "HOMEWARD_MIN_FREE_BYTES": "0",
    }
    given = [*map(str, words), "--data-dir", str(folder)]
    return CliRunner().invoke(app, given, env=environment)


def test_doctor_back_up_and_restore(
    settings: Settings,
    bucket: Bucket,
    s3: Server,
    tmp_path: Path,
    pack_cache: Path,
    portrait_bytes: bytes,
) -> None:
    with (
        open_for(settings) as workspace,
        TestClient(create_app(settings, workspace), headers=AUTH) as client,
    ):
        job = post_ad(client, "1", [("a.jpg", portrait_bytes)]).json()["job_id"]
        assert wait_for_job(client, job)["state"] == "done"
    here, there, file = settings.data_dir, tmp_path / "there", tmp_path / "b.tar"
    there.mkdir(mode=0o700)
    (there / "packs").symlink_to(pack_cache)
    drill = f"s3://{bucket.name}/drill"
    assert command(settings, "backup", file, folder=here, url=bucket.url).exit_code == 0

    words = ("restore", file, "--no-purges")
    refused = command(settings, *words, folder=there, url=bucket.url)
    assert refused.exit_code == 1
    assert "[backup_failed]" in refused.stderr
    restored = command(settings, *words, folder=there, url=drill)
    assert restored.exit_code == 0, restored.output
    doctor = command(settings, "doctor", "--blobs", "--json", folder=there, url=drill)
    found = {item["name"]: item for item in json.loads(doctor.stdout)["items"]}
    assert found["originals"]["ok"], found
    assert found["originals"]["detail"] == "1 originals, all read, 0 damaged"
    assert len(bucket.names()) == 2

    s3.stop()
    doctor = command(settings, "doctor", "--json", folder=there, url=drill)
    assert doctor.exit_code == 1
    found = {item["name"]: item for item in json.loads(doctor.stdout)["items"]}
    assert not found["storage_away"]["ok"]
