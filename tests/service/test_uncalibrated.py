"""A face pack without a calibration: everywhere a score is shown, it is said that nothing is known
of what it is worth; and no alert is raised, which is said as well."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from indexer import alerts, candidates
from indexer.ads import receive_ad
from indexer.alerting import LEAST_GALLERY
from indexer.cases import add_photo, create_case
from indexer.jobs import run_pending
from indexer.records import AdInput, CaseInput, Upload
from indexer.workspace import Workspace
from models.packs.base import FacePack
from models.pipeline import Analyser
from service.app import create_app
from service.cli.main import app
from service.config import Settings
from service.doctor import examine
from service.opening import open_for
from service.search.explain import NO_ALERTS, UNCALIBRATED
from service.web.texts.pages import TEXTS
from tests.service.conftest import AUTH, make_settings
from tests.service.web.browser import Browser
from tests.tables import lend_tables

CASE = "2026-0001"


@pytest.fixture
def settings(
    tmp_path: Path, pack: FacePack, pack_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """The default pack as it would be without the table that it brings."""
    monkeypatch.setattr("models.packs.dlib.pack._shipped_calibration", lambda: None)
    made = make_settings(tmp_path / "data")
    made.data_dir.mkdir(mode=0o700)
    made.packs_dir.symlink_to(pack_cache)
    lend_tables(made.data_dir)
    return made


@pytest.fixture
def workspace(settings: Settings, analyser: Analyser) -> Iterator[Workspace]:
    with open_for(settings) as opened:
        assert opened.calibration is None
        assert opened.contract_id == analyser.contract_id
        yield opened


@pytest.fixture
def case_id(
    workspace: Workspace, analyser: Analyser, portrait_bytes: bytes, mirrored_bytes: bytes
) -> str:
    """A case whose person is plainly in an ad: with rates, an alert would be raised."""
    case_id = create_case(workspace, CaseInput(case_number=CASE)).case_id
    add_photo(workspace, case_id, portrait_bytes)
    receive_ad(
        workspace, AdInput(site="a.example", external_id="1"), [Upload(mirrored_bytes, "m.jpg")]
    )
    run_pending(workspace)
    rates = analyser.pack.calibration
    assert rates is not None
    score = candidates.ranked(workspace, case_id, 5).items[0].score
    assert rates.fmr(score).upper * LEAST_GALLERY < workspace.options.alert_expected_false
    return case_id


def test_http(
    settings: Settings, workspace: Workspace, case_id: str, portrait_bytes: bytes
) -> None:
    with TestClient(create_app(settings, workspace), headers=AUTH) as client:
        listed = client.get(f"/v1/cases/{case_id}/candidates").json()
        searched = client.post(
            f"/v1/cases/{case_id}/search",
            files={"file": ("p.jpg", portrait_bytes)},
            data={"purpose": "training"},
        ).json()
        for body in (listed, searched):
            assert body["calibrated"] is False
            assert body["calibration"] == UNCALIBRATED
            assert body["threshold"] is None
            (item,) = body["items"]
            assert item["score"] > 0.9
            assert item["calibrated"] is False
            for name in (
                "band", "false_match_rate", "false_match_rate_upper", "false_match_rate_resolved",
                "expected_false_candidates", "expected_false_candidates_upper",
            ):  # fmt: skip
                assert item[name] is None, name
        assert client.get("/v1/alerts").json()["items"] == []


def test_no_alert_is_raised(workspace: Workspace, case_id: str) -> None:
    standing = alerts.standing(workspace, case_id)
    assert standing.limit.raised == standing.held == 0


def test_pages(settings: Settings, workspace: Workspace, case_id: str) -> None:
    with TestClient(create_app(settings, workspace)) as client:
        browser = Browser(client)
        browser.sign_in()
        page = browser.get(f"/cases/{case_id}")
        for name in (
            "band.uncalibrated",
            "expect.unknown",
            "state.uncalibrated",
            "standing.silent",
        ):
            assert TEXTS[name] in page.prose, name
        assert TEXTS["band.about.very_strong"] not in page.prose
        for shown in ("Very strong", "Strong", "Moderate", "Weak"):
            assert shown not in page.prose
        assert TEXTS["figure.fmr"] not in page.prose
        assert TEXTS["standing.silent"] in browser.get("/alerts").prose
        assert TEXTS["about.calibration_no"] in browser.get("/about").prose


def test_an_empty_list_says_it_too(settings: Settings, workspace: Workspace) -> None:
    made = create_case(workspace, CaseInput(case_number=CASE))
    with TestClient(create_app(settings, workspace)) as client:
        browser = Browser(client)
        browser.sign_in()
        page = browser.get(f"/cases/{made.case_id}")
        assert TEXTS["standing.silent"] in page.prose


def test_command_line_and_doctor(
    settings: Settings, workspace: Workspace, case_id: str, tmp_path: Path, portrait_bytes: bytes
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(portrait_bytes)
    where = ["--data-dir", str(settings.data_dir)]
    for words in (
        ["candidates", CASE],
        ["search", str(photo), "--case", CASE, "--purpose", "training"],
        ["packs", "verify"],
    ):
        result = CliRunner().invoke(app, [*words, *where])
        assert result.exit_code == 0, result.output
        assert UNCALIBRATED in result.stdout
        assert NO_ALERTS in result.stdout
    result = CliRunner().invoke(app, ["candidates", CASE, *where])
    row = result.stdout.splitlines()[1]
    assert row.split()[1] == "uncalibrated"
    assert row.count("uncalibrated") == 2  # the band and the strangers to expect

    found = {finding.name: finding for finding in examine(settings)}
    assert not found["calibration"].ok
    assert "NO ALERTS ARE RAISED" in found["calibration"].detail
    assert "homeward calibrate" in found["calibration"].remedy
    assert found["face pack"].detail.endswith("uncalibrated")
    assert CliRunner().invoke(app, ["doctor", *where]).exit_code == 1


def test_serving_warns(settings: Settings) -> None:
    program = (
        "import models.packs.dlib.pack as pack; pack._shipped_calibration = lambda: None;"
        "from service.cli import main; main()"
    )
    words = ["serve", "--port", "0", "--data-dir", str(settings.data_dir)]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        while "Stop with" not in (line := process.stdout.readline()):
            assert line, process.stderr.read() if process.stderr else ""
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert errors == f"Warning: {UNCALIBRATED} {NO_ALERTS}\n"
