"""A real service over a real workspace, with the real default pack and small real pictures."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageOps

from indexer.workspace import Workspace, WorkspaceOptions, open_workspace
from models.pipeline import Analyser
from models.types import RgbImage
from service.app import create_app
from service.config import Settings
from tests.remembering import RememberingAnalyser
from tests.tables import lend_tables

KEY = "a-key-that-only-these-tests-use"
AUTH = {"authorization": f"Bearer {KEY}"}
Picture = tuple[str, bytes]
SendAd = Callable[..., Any]


def jpeg(picture: Image.Image, quality: int = 88) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def make_settings(folder: Path, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "data_dir": folder,
        "api_key": KEY,
        "rate_limit_per_minute": 100_000,
        "failures_per_minute": 100_000,
        "compute_threads": 2,
        **changes,
    }
    return Settings(**values)


def open_with(settings: Settings, analyser: Analyser) -> Workspace:
    if settings.catalog_url is None:
        lend_tables(settings.data_dir)
    return open_workspace(
        settings.data_dir,
        analyser,
        catalog_url=settings.catalog_url,
        calibration=analyser.pack.calibration,
        limits=settings.decode_limits,
        options=WorkspaceOptions(max_queued_jobs=settings.max_queued_jobs),
    )


@pytest.fixture(scope="session")
def analyser(analyser: Analyser) -> Analyser:
    """The real one; a picture that was shown before in this process is not looked at again."""
    return RememberingAnalyser(analyser)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path / "data")


@pytest.fixture
def workspace(settings: Settings, analyser: Analyser) -> Iterator[Workspace]:
    with open_with(settings, analyser) as opened:
        yield opened


@pytest.fixture
def client(settings: Settings, workspace: Workspace) -> Iterator[TestClient]:
    with TestClient(create_app(settings, workspace), headers=AUTH) as made:
        yield made


@pytest.fixture(scope="session")
def portrait(astronaut: RgbImage) -> Image.Image:
    """Head and shoulders of the one person."""
    return Image.fromarray(astronaut).crop((60, 0, 400, 340))


@pytest.fixture(scope="session")
def portrait_bytes(portrait: Image.Image) -> bytes:
    return jpeg(portrait)


@pytest.fixture(scope="session")
def mirrored_bytes(portrait: Image.Image) -> bytes:
    """Another picture of the same person: mirrored, smaller, recompressed."""
    return jpeg(ImageOps.mirror(portrait).resize((240, 240)), quality=60)


@pytest.fixture(scope="session")
def other_bytes(group_photo: RgbImage) -> bytes:
    """Another person: one of the six of the group picture."""
    return jpeg(Image.fromarray(group_photo).crop((425, 200, 655, 430)))


@pytest.fixture(scope="session")
def nobody_bytes() -> bytes:
    """A picture without a face."""
    gradient = Image.linear_gradient("L").resize((200, 160))
    return jpeg(gradient)


def post_case(client: httpx2.Client, number: str = "2026-0001", **fields: Any) -> str:
    answer = client.post("/v1/cases", json={"case_number": number, "person": {}, **fields})
    assert answer.status_code == 201, answer.text
    case_id = answer.json()["case_id"]
    assert isinstance(case_id, str)
    return case_id


def post_photo(client: TestClient, case_id: str, data: bytes, **fields: str) -> Any:
    return client.post(
        f"/v1/cases/{case_id}/photos", files={"file": ("photo.jpg", data)}, data=fields
    )


def post_ad(
    client: httpx2.Client,
    external_id: str,
    pictures: Sequence[Picture] = (),
    pages: Sequence[Picture] = (),
    **fields: Any,
) -> Any:
    ad = {"site": "site-a.example", "external_id": external_id, **fields}
    files: list[tuple[str, tuple[str | None, bytes | str, str]]] = [
        ("ad", (None, json.dumps(ad), "application/json"))
    ]
    files += [("images", (name, data, "image/jpeg")) for name, data in pictures]
    files += [("page", (name, data, "text/html")) for name, data in pages]
    return client.post("/v1/ads", files=files)


def wait_for_job(client: TestClient, job_id: str, seconds: float = 60) -> dict[str, Any]:
    """The job once it is over; a job that never ends fails the test."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = client.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        if job["state"] in ("done", "failed"):
            return job
        time.sleep(0.05)
    pytest.fail(f"job {job_id} did not end within {seconds} s")


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The problem document, which has to have this status and code."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["type"] and body["title"] and body["detail"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return body
